//! Stalled time and its averages, without clocks or tasks.

use std::time::{Duration, Instant};

/// What averages are over, in seconds.
const SPANS: [f64; 3] = [10.0, 60.0, 300.0];
/// Averages are brought up to date at the end of each such period.
const PERIOD: Duration = Duration::from_secs(2);

/// One line of a pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Line {
    /// Part of the time over the last 10, 60 and 300 seconds, in per cent.
    pub averages: [f64; 3],
    /// Stalled time in all.
    pub total: Duration,
}

/// One kind of stall.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    line: Line,
    /// Stalled time of the present period.
    now: Duration,
}

impl Share {
    /// `for_` has passed, in which it was stalled or not, within one period.
    fn pass(&mut self, for_: Duration, stalled: bool) {
        if stalled {
            self.now += for_;
            self.line.total += for_;
        }
    }

    /// A period is over.
    fn close(&mut self) {
        let part = 100.0 * self.now.as_secs_f64() / PERIOD.as_secs_f64();
        self.decay(part, 1);
        self.now = Duration::ZERO;
    }

    /// `periods` whole ones have passed, all of them stalled or none.
    fn skip(&mut self, periods: u32, stalled: bool) {
        if stalled {
            self.line.total += PERIOD.saturating_mul(periods);
        }
        self.decay(if stalled { 100.0 } else { 0.0 }, periods);
    }

    fn decay(&mut self, to: f64, periods: u32) {
        for (v, span) in self.line.averages.iter_mut().zip(SPANS) {
            let keep = (-PERIOD.as_secs_f64() * f64::from(periods) / span).exp();
            *v = *v * keep + to * (1.0 - keep);
        }
    }
}

/// Kinds of stalls, which go on or not.
#[derive(Debug)]
pub struct Account<const N: usize> {
    shares: [Share; N],
    /// Bit n: kind n goes on, since `until`.
    mask: u8,
    /// Up to here everything is counted.
    until: Instant,
    /// When the present period ends.
    end: Instant,
}

impl<const N: usize> Account<N> {
    /// Nothing is stalled.
    pub fn new(now: Instant) -> Account<N> {
        Account { shares: [Share::default(); N], mask: 0, until: now, end: now + PERIOD }
    }

    /// Counts up to `now`; from then on the kinds of `mask` go on.
    pub fn advance(&mut self, now: Instant, mask: u8) {
        let old = self.mask;
        let each = |shares: &mut [Share; N], f: &dyn Fn(&mut Share, bool)| {
            for (n, s) in shares.iter_mut().enumerate() {
                f(s, old >> n & 1 != 0);
            }
        };
        if now >= self.end {
            let rest = self.end.saturating_duration_since(self.until);
            each(&mut self.shares, &|s, on| {
                s.pass(rest, on);
                s.close();
            });
            let whole = now.saturating_duration_since(self.end).as_nanos() / PERIOD.as_nanos();
            let whole = u32::try_from(whole).unwrap_or(u32::MAX);
            each(&mut self.shares, &|s, on| s.skip(whole, on));
            self.until = self.end + PERIOD.saturating_mul(whole);
            self.end = self.until + PERIOD;
        }
        let part = now.saturating_duration_since(self.until);
        each(&mut self.shares, &|s, on| s.pass(part, on));
        self.until = self.until.max(now);
        self.mask = mask;
    }

    /// What goes on.
    pub fn mask(&self) -> u8 {
        self.mask
    }

    /// The line of kind `n`, as of the last [`Account::advance`].
    pub fn line(&self, n: usize) -> Line {
        self.shares.get(n).map_or(Line::default(), |s| s.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 0.01
    }

    #[test]
    fn time_is_counted_while_a_kind_goes_on() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut a = Account::<2>::new(start);
        a.advance(at(100), 0b01);
        a.advance(at(150), 0b11);
        a.advance(at(400), 0b10);
        a.advance(at(1000), 0);
        a.advance(at(1900), 0);
        assert_eq!(a.line(0).total, Duration::from_millis(300));
        assert_eq!(a.line(1).total, Duration::from_millis(850));
        assert_eq!(a.line(0).averages, [0.0; 3], "the first period is not over");
        a.advance(at(2000), 0);
        let keep = (-0.2f64).exp();
        assert!(near(a.line(0).averages[0], 15.0 * (1.0 - keep)), "{:?}", a.line(0));
    }

    #[test]
    fn averages_do_not_depend_on_who_looks_when() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let (mut often, mut rarely) = (Account::<1>::new(start), Account::<1>::new(start));
        for a in [&mut often, &mut rarely] {
            a.advance(at(500), 1);
        }
        for ms in (600..60_500).step_by(100) {
            often.advance(at(ms), 1);
        }
        for a in [&mut often, &mut rarely] {
            a.advance(at(60_500), 0);
        }
        for ms in (61_000..200_000).step_by(700) {
            often.advance(at(ms), 0);
        }
        for a in [&mut often, &mut rarely] {
            a.advance(at(200_000), 0);
        }
        let (o, r) = (often.line(0), rarely.line(0));
        assert_eq!(o.total, r.total);
        assert_eq!(o.total, Duration::from_secs(60));
        assert!(o.averages.iter().zip(r.averages).all(|(a, b)| near(*a, b)), "{o:?} {r:?}");
        // About 1 - exp(-60/300), and what is left of that 140 seconds later.
        let left = (1.0 - (-0.2f64).exp()) * (-139.5f64 / 300.0).exp();
        assert!((o.averages[2] - 100.0 * left).abs() < 0.1, "{o:?} {left}");
    }

    #[test]
    fn long_stalls_and_long_rests_end_at_the_bounds() {
        let start = Instant::now();
        let mut a = Account::<1>::new(start);
        a.advance(start, 1);
        a.advance(start + Duration::from_secs(1_000_000), 0);
        assert!(a.line(0).averages.iter().all(|v| near(*v, 100.0)));
        assert_eq!(a.line(0).total, Duration::from_secs(1_000_000));
        a.advance(start + Duration::from_secs(2_000_000), 0);
        assert!(a.line(0).averages.iter().all(|v| near(*v, 0.0)));
    }
}
