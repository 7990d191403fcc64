//! How many ICMP errors are sent (icmp(7); RFC 4443 2.4 f): to everybody in a second, and to one host.

use std::collections::HashMap;
use std::net::IpAddr;

use uml_base::{Mutex, Rank};

use crate::time::{MS, SEC, Time};

/// Errors that a host which had none for a while may get at once, for each of its kind and for all together.
const HOST_BURST: u64 = 6;
const ALL_BURST: u64 = 50;
/// Hosts that are remembered. Beyond them only the limit for all holds.
const HOSTS_MAX: usize = 4096;

/// A bucket that fills with time: nanoseconds that were not used, and when that was reckoned.
#[derive(Clone, Copy)]
struct Bucket {
    unused: u64,
    at: Time,
}

impl Bucket {
    fn full(each: u64, burst: u64, now: Time) -> Bucket {
        Bucket { unused: each.saturating_mul(burst), at: now }
    }

    /// Takes one of what is worth `each` nanoseconds.
    fn take(&mut self, each: u64, burst: u64, now: Time) -> bool {
        let most = each.saturating_mul(burst);
        self.unused = self.unused.saturating_add(now.since(self.at)).min(most);
        self.at = now;
        let enough = self.unused >= each;
        if enough {
            self.unused -= each;
        }
        enough
    }
}

/// The limits of a namespace.
pub struct IcmpLimit {
    all: Mutex<Option<Bucket>>,
    hosts: Mutex<HashMap<IpAddr, Bucket>>,
}

impl Default for IcmpLimit {
    fn default() -> IcmpLimit {
        let hosts = Mutex::new(Rank::LEAF, HashMap::new());
        IcmpLimit { all: Mutex::new(Rank::LEAF, None), hosts }
    }
}

impl IcmpLimit {
    /// Whether one more may go out when `per_second` may (icmp_msgs_per_sec).
    pub fn all(&self, per_second: u64, now: Time) -> bool {
        let Some(each) = SEC.checked_div(per_second) else { return false };
        let mut all = self.all.lock();
        all.get_or_insert(Bucket::full(each, ALL_BURST, now)).take(each, ALL_BURST, now)
    }

    /// Whether one more may go to `host` when one may every `interval` milliseconds (icmp_ratelimit); 0 is no limit.
    pub fn host(&self, host: IpAddr, interval: u64, now: Time) -> bool {
        let each = interval.saturating_mul(MS);
        if each == 0 {
            return true;
        }
        let mut hosts = self.hosts.lock();
        if hosts.len() >= HOSTS_MAX && !hosts.contains_key(&host) {
            // Those whose buckets are full again are as good as unknown.
            hosts.retain(|_, b| now.since(b.at) < each.saturating_mul(HOST_BURST));
            if hosts.len() >= HOSTS_MAX {
                return true;
            }
        }
        let full = Bucket::full(each, HOST_BURST, now);
        hosts.entry(host).or_insert(full).take(each, HOST_BURST, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_gets_a_burst_and_then_one_an_interval() {
        let l = IcmpLimit::default();
        let [a, b] = [1, 2].map(|n| IpAddr::from([10, 0, 0, n]));
        let t = |ms: u64| Time(SEC + ms * MS);
        let count = |h, at| (0..20).filter(|_| l.host(h, 1000, at)).count();
        assert_eq!((count(a, t(0)), count(b, t(0))), (6, 6));
        assert_eq!((count(a, t(999)), count(a, t(1000)), count(a, t(3000))), (0, 1, 2));
        assert_eq!(count(a, t(60_000)), 6);
        assert!((0..100).all(|_| l.host(a, 0, t(60_000))));
    }

    #[test]
    fn all_together_have_a_rate() {
        let l = IcmpLimit::default();
        let count = |rate, at| (0..200).filter(|_| l.all(rate, Time(at))).count();
        assert_eq!(
            (count(1000, SEC), count(1000, SEC + 10 * MS), count(1000, 9 * SEC)),
            (50, 10, 50)
        );
        assert_eq!(count(0, 99 * SEC), 0);
    }

    #[test]
    fn memory_is_bounded() {
        let l = IcmpLimit::default();
        for n in 0..2 * HOSTS_MAX as u32 {
            assert!(l.host(IpAddr::from(n.to_be_bytes()), 1000, Time(SEC)));
        }
        assert_eq!(l.hosts.lock().len(), HOSTS_MAX);
        assert!(l.host(IpAddr::from([250, 0, 0, 1]), 1000, Time(60 * SEC)));
        assert_eq!(l.hosts.lock().len(), 1);
    }
}
