//! Which local ports are taken, and by whom (bind(2), SO_REUSEADDR, SO_REUSEPORT).

use std::collections::HashMap;
use std::net::IpAddr;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};

/// A socket's claim to a port.
#[derive(Clone, Debug)]
pub struct Claim {
    pub addr: IpAddr,
    /// An IPv6 socket that takes no IPv4 traffic.
    pub v6only: bool,
    pub reuse_addr: bool,
    pub reuse_port: bool,
    pub uid: u32,
    pub iface: u32,
    pub listening: bool,
}

impl Claim {
    fn takes_v4(&self) -> bool {
        match self.addr {
            IpAddr::V4(_) => true,
            IpAddr::V6(a) => a.is_unspecified() && !self.v6only,
        }
    }

    fn overlaps(&self, o: &Claim) -> bool {
        if self.iface != 0 && o.iface != 0 && self.iface != o.iface {
            return false;
        }
        match (self.addr, o.addr) {
            (IpAddr::V6(a), IpAddr::V6(b)) => a == b || a.is_unspecified() || b.is_unspecified(),
            (IpAddr::V4(a), IpAddr::V4(b)) => a == b || a.is_unspecified() || b.is_unspecified(),
            _ => self.takes_v4() && o.takes_v4(),
        }
    }

    fn conflicts(&self, o: &Claim) -> bool {
        if !self.overlaps(o) {
            return false;
        }
        let by_addr = self.reuse_addr && o.reuse_addr && !self.listening && !o.listening;
        let by_port = self.reuse_port && o.reuse_port && self.uid == o.uid;
        !by_addr && !by_port
    }
}

/// The ports of one protocol.
pub struct Ports(Mutex<HashMap<u16, HashMap<u64, Claim>>>);

impl Default for Ports {
    fn default() -> Self {
        Ports(Mutex::new(Rank::LEAF, HashMap::new()))
    }
}

impl Ports {
    /// Claims `port` for the socket `id`: `EADDRINUSE`.
    pub fn claim(&self, port: u16, id: u64, c: Claim) -> Result<()> {
        let mut t = self.0.lock();
        let there = t.entry(port).or_default();
        if there.iter().any(|(i, o)| *i != id && c.conflicts(o)) {
            return Err(EADDRINUSE);
        }
        there.insert(id, c);
        Ok(())
    }

    /// Claims some free port of `lo..=hi`, starting at a random one; `usable` may refuse. `EADDRINUSE`
    /// when none is left (connect(2) makes it `EADDRNOTAVAIL`).
    pub fn claim_any(
        &self,
        range: (u16, u16),
        random: u64,
        id: u64,
        c: &Claim,
        usable: impl Fn(u16) -> bool,
    ) -> Result<u16> {
        let (lo, hi) = (u32::from(range.0), u32::from(range.1.max(range.0)));
        let n = hi - lo + 1;
        let start = (random % u64::from(n)) as u32;
        let mut t = self.0.lock();
        for i in 0..n {
            // Even distances first, as Linux keeps odd and even apart; any order is right.
            let port = (lo + (start + i) % n) as u16;
            let taken = t.get(&port).is_some_and(|m| !m.is_empty());
            if !taken && usable(port) {
                t.entry(port).or_default().insert(id, c.clone());
                return Ok(port);
            }
        }
        Err(EADDRINUSE)
    }

    /// As [`Ports::claim`] without a check: an accepted connection shares its listener's port.
    pub fn share(&self, port: u16, id: u64, c: Claim) {
        self.0.lock().entry(port).or_default().insert(id, c);
    }

    /// The socket begins to listen: `EADDRINUSE` when another does already.
    pub fn listen(&self, port: u16, id: u64) -> Result<()> {
        let mut t = self.0.lock();
        let there = t.get_mut(&port).ok_or(EINVAL)?;
        let mut mine = there.get(&id).cloned().ok_or(EINVAL)?;
        mine.listening = true;
        // Claims of connections that came from a listener do not stand in the way of the next one.
        if there.iter().any(|(i, o)| *i != id && o.listening && mine.conflicts(o)) {
            return Err(EADDRINUSE);
        }
        there.insert(id, mine);
        Ok(())
    }

    /// Changes the claim of a socket.
    pub fn change(&self, port: u16, id: u64, f: impl FnOnce(&mut Claim)) {
        if let Some(c) = self.0.lock().get_mut(&port).and_then(|m| m.get_mut(&id)) {
            f(c);
        }
    }

    /// Gives a claim back.
    pub fn release(&self, port: u16, id: u64) {
        let mut t = self.0.lock();
        if let Some(m) = t.get_mut(&port) {
            m.remove(&id);
            if m.is_empty() {
                t.remove(&port);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(addr: &str) -> Claim {
        Claim {
            addr: addr.parse().unwrap(),
            v6only: false,
            reuse_addr: false,
            reuse_port: false,
            uid: 0,
            iface: 0,
            listening: false,
        }
    }

    #[test]
    fn wildcards_families_and_reuse_decide_conflicts() {
        let p = Ports::default();
        assert_eq!(p.claim(80, 1, claim("10.0.0.1")), Ok(()));
        assert_eq!(p.claim(80, 2, claim("10.0.0.2")), Ok(()));
        assert_eq!(p.claim(80, 3, claim("10.0.0.1")), Err(EADDRINUSE));
        assert_eq!(p.claim(80, 3, claim("0.0.0.0")), Err(EADDRINUSE));
        assert_eq!(p.claim(80, 3, claim("::")), Err(EADDRINUSE), "dual stack");
        let only = Claim { v6only: true, ..claim("::") };
        assert_eq!(p.claim(80, 3, only), Ok(()));
        assert_eq!(p.claim(80, 4, claim("::1")), Err(EADDRINUSE));
        let again = Claim { reuse_addr: true, ..claim("10.0.0.9") };
        assert_eq!(p.claim(81, 1, again.clone()), Ok(()));
        assert_eq!(p.claim(81, 2, again.clone()), Ok(()));
        assert_eq!(p.listen(81, 1), Ok(()));
        assert_eq!(p.listen(81, 2), Err(EADDRINUSE));
        assert_eq!(p.claim(81, 3, again.clone()), Err(EADDRINUSE), "one listens");
        p.release(81, 1);
        assert_eq!(p.listen(81, 2), Ok(()));
        let group = Claim { reuse_port: true, ..claim("0.0.0.0") };
        assert_eq!(p.claim(82, 1, group.clone()), Ok(()));
        assert_eq!(p.claim(82, 2, group.clone()), Ok(()));
        assert_eq!(p.claim(82, 3, Claim { uid: 7, ..group }), Err(EADDRINUSE));
    }

    #[test]
    fn a_range_is_used_up_and_then_refused() {
        let p = Ports::default();
        let c = claim("0.0.0.0");
        let mut got: Vec<u16> =
            (0..4).map(|i| p.claim_any((10, 14), i * 77, i, &c, |n| n != 12).unwrap()).collect();
        got.sort_unstable();
        assert_eq!(got, [10, 11, 13, 14]);
        assert_eq!(p.claim_any((10, 14), 5, 9, &c, |n| n != 12), Err(EADDRINUSE));
    }
}
