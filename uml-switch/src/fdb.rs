//! The table of addresses: which port a station is behind.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::time::{Duration, Instant};

use crate::engine::PortId;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether it is a group (multicast or broadcast) address.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

/// An address is forgotten when it was not seen for longer than this.
pub const MAX_AGE: Duration = Duration::from_secs(100);
/// Addresses in the whole table, and behind one port: a station that invents addresses fills its own share only.
const MAX_ADDRESSES: usize = 65536;
const MAX_PER_PORT: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Station {
    port: PortId,
    seen: Instant,
}

/// What learning an address changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// Nothing, or there is no room.
    Known,
    New,
    Moved {
        from: PortId,
    },
}

/// The table. A station is known by VLAN and address.
#[derive(Debug, Default)]
pub struct Fdb {
    stations: HashMap<(u16, Mac), Station>,
    per_port: HashMap<PortId, usize>,
}

impl Fdb {
    /// Notes that `mac` of VLAN `vid` was seen on `port`.
    pub fn learn(&mut self, vid: u16, mac: Mac, port: PortId, now: Instant) -> Learned {
        let full = self.stations.len() >= MAX_ADDRESSES
            || self.per_port.get(&port).copied().unwrap_or(0) >= MAX_PER_PORT;
        match self.stations.entry((vid, mac)) {
            Entry::Occupied(mut e) if e.get().port == port => {
                e.get_mut().seen = now;
                Learned::Known
            }
            _ if full => Learned::Known,
            Entry::Occupied(mut e) => {
                let from = std::mem::replace(e.get_mut(), Station { port, seen: now }).port;
                self.forget_one(from);
                *self.per_port.entry(port).or_default() += 1;
                Learned::Moved { from }
            }
            Entry::Vacant(e) => {
                e.insert(Station { port, seen: now });
                *self.per_port.entry(port).or_default() += 1;
                Learned::New
            }
        }
    }

    fn forget_one(&mut self, port: PortId) {
        if let Some(n) = self.per_port.get_mut(&port) {
            *n = n.saturating_sub(1);
        }
    }

    /// The port that `mac` is behind.
    pub fn lookup(&self, vid: u16, mac: Mac, now: Instant) -> Option<PortId> {
        let station = self.stations.get(&(vid, mac))?;
        (now.saturating_duration_since(station.seen) <= MAX_AGE).then_some(station.port)
    }

    /// Forgets what was not seen for [`MAX_AGE`].
    pub fn sweep(&mut self, now: Instant) {
        let per_port = &mut self.per_port;
        self.stations.retain(|_, s| {
            let keep = now.saturating_duration_since(s.seen) <= MAX_AGE;
            if !keep && let Some(n) = per_port.get_mut(&s.port) {
                *n = n.saturating_sub(1);
            }
            keep
        });
    }

    /// Forgets all that is behind a port that closed.
    pub fn remove_port(&mut self, port: PortId) {
        self.stations.retain(|_, s| s.port != port);
        self.per_port.remove(&port);
    }

    /// Whether nothing is known, so that nothing can age.
    pub fn is_empty(&self) -> bool {
        self.stations.is_empty()
    }

    /// Every station: VLAN, address, port, time since it was seen; in order.
    pub fn list(&self, now: Instant) -> Vec<(u16, Mac, PortId, Duration)> {
        let mut all: Vec<_> = self
            .stations
            .iter()
            .map(|((vid, mac), s)| (*vid, *mac, s.port, now.saturating_duration_since(s.seen)))
            .collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: u32) -> Mac {
        let b = n.to_be_bytes();
        Mac([2, 0, b[0], b[1], b[2], b[3]])
    }

    #[test]
    fn stations_move_age_and_leave() {
        let (mut t, t0) = (Fdb::default(), Instant::now());
        assert_eq!(t.learn(0, mac(1), 5, t0), Learned::New);
        assert_eq!(t.learn(0, mac(1), 5, t0), Learned::Known);
        assert_eq!(t.learn(1, mac(1), 6, t0), Learned::New);
        assert_eq!(t.learn(0, mac(1), 6, t0), Learned::Moved { from: 5 });
        assert_eq!(t.lookup(0, mac(1), t0 + MAX_AGE), Some(6));
        assert_eq!(t.lookup(0, mac(1), t0 + MAX_AGE + Duration::from_secs(1)), None);
        t.learn(0, mac(2), 7, t0 + MAX_AGE);
        t.sweep(t0 + MAX_AGE + Duration::from_secs(1));
        assert_eq!(t.list(t0 + MAX_AGE).len(), 1);
        t.remove_port(7);
        assert!(t.is_empty());
    }

    #[test]
    fn one_port_cannot_take_the_whole_table() {
        let (mut t, now) = (Fdb::default(), Instant::now());
        for n in 0..MAX_PER_PORT as u32 + 10 {
            t.learn(0, mac(n), 1, now);
        }
        assert_eq!(t.list(now).len(), MAX_PER_PORT);
        assert_eq!(t.learn(0, mac(1 << 20), 2, now), Learned::New);
        // Room comes back with age.
        t.sweep(now + MAX_AGE + Duration::from_secs(1));
        assert_eq!(
            t.learn(0, mac(1 << 21), 1, now + MAX_AGE + Duration::from_secs(1)),
            Learned::New
        );
    }
}
