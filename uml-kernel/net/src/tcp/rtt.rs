//! Round-trip time and the retransmission timeout (RFC 6298), and the windowed minimum RTT.

use crate::time::{MS, SEC, Time, US};

/// Bounds of the retransmission timeout; the minimum is Linux's, not the RFC's.
pub const RTO_MIN: u64 = 200 * MS;
pub const RTO_MAX: u64 = 120 * SEC;
/// Before there is a sample.
pub const RTO_INITIAL: u64 = SEC;
/// How long a minimum counts.
const MIN_WINDOW: u64 = 300 * SEC;

/// Estimator of one connection. All in nanoseconds.
#[derive(Clone, Debug)]
pub struct Rtt {
    pub srtt: u64,
    pub var: u64,
    pub min: u64,
    min_at: Time,
    pub last: u64,
    /// Doublings because of timeouts.
    pub backoff: u32,
}

impl Default for Rtt {
    fn default() -> Self {
        Rtt { srtt: 0, var: 0, min: u64::MAX, min_at: Time(0), last: 0, backoff: 0 }
    }
}

impl Rtt {
    /// Takes a sample.
    pub fn sample(&mut self, rtt: u64, now: Time) {
        let rtt = rtt.max(US);
        self.last = rtt;
        if rtt <= self.min || now.since(self.min_at) > MIN_WINDOW {
            self.min = rtt;
            self.min_at = now;
        }
        if self.srtt == 0 {
            self.srtt = rtt;
            self.var = rtt / 2;
        } else {
            let diff = self.srtt.abs_diff(rtt);
            self.var = self.var - self.var / 4 + diff / 4;
            self.srtt = self.srtt - self.srtt / 8 + rtt / 8;
        }
    }

    /// True once there was a sample.
    pub fn known(&self) -> bool {
        self.srtt != 0
    }

    /// The timeout without backoff.
    pub fn base_rto(&self) -> u64 {
        if self.srtt == 0 {
            return RTO_INITIAL;
        }
        // As Linux: the variation counts for at least the minimum.
        (self.srtt + (4 * self.var).max(RTO_MIN)).min(RTO_MAX)
    }

    /// The timeout.
    pub fn rto(&self) -> u64 {
        self.base_rto().saturating_mul(1 << self.backoff.min(20)).min(RTO_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_follows_samples_within_its_bounds() {
        let mut r = Rtt::default();
        assert_eq!(r.rto(), RTO_INITIAL);
        for i in 0..100 {
            r.sample(50 * MS, Time(i * 50 * MS));
        }
        assert!(r.srtt.abs_diff(50 * MS) < MS && r.rto() <= 260 * MS && r.rto() >= 250 * MS);
        r.backoff = 3;
        assert!(r.rto() >= 2 * SEC);
        r.backoff = 30;
        assert_eq!(r.rto(), RTO_MAX);
        assert_eq!(r.min, 50 * MS);
    }
}
