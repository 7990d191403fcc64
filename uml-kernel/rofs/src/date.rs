//! Points in time from calendar dates.

/// Seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds, below 10^9.
    pub nsec: u32,
}

impl Timestamp {
    pub(crate) const fn seconds(sec: i64) -> Timestamp {
        Timestamp { sec, nsec: 0 }
    }
}

/// Seconds since 1970 of a time of the Gregorian calendar without a zone. Months count from 1; what lies outside its range
/// runs over.
pub(crate) fn seconds(year: i64, month: i64, day: i64, hour: i64, min: i64, sec: i64) -> i64 {
    // Years from March on, so that the leap day is the last of its year.
    let y = if month <= 2 { year - 1 } else { year };
    let m = (month + 9).rem_euclid(12);
    let era = y.div_euclid(400);
    let of_era = y.rem_euclid(400);
    let of_year = (153 * m + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    days * 86_400 + hour * 3600 + min * 60 + sec
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn known_days() {
        assert_eq!(seconds(1970, 1, 1, 0, 0, 0), 0);
        assert_eq!(seconds(2000, 2, 29, 12, 30, 15), 951_827_415);
        assert_eq!(seconds(1969, 12, 31, 23, 59, 59), -1);
        assert_eq!(seconds(2038, 1, 19, 3, 14, 7), i64::from(i32::MAX));
    }
}
