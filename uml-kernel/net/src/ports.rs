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
    /// connect(2) chose the port: others may be connected from it to somewhere else.
    pub by_connect: bool,
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

    /// Claims some port of `range` for bind(2): one that no overlapping claim has. `EADDRINUSE` when there is none.
    pub fn claim_any(&self, range: (u16, u16), random: u64, id: u64, c: &Claim) -> Result<u16> {
        let mut t = self.0.lock();
        let free = |p: &u16| t.get(p).is_none_or(|there| !there.values().any(|o| c.overlaps(o)));
        let port = candidates(range, random, 1).find(free).ok_or(EADDRINUSE)?;
        t.entry(port).or_default().insert(id, c.clone());
        Ok(port)
    }

    /// Claims some port of `range` for connect(2): one that only connect(2) gave to others, and for which `enter` finds
    /// the connection's numbers free. It is called with the ports locked. `EADDRNOTAVAIL` when there is none.
    pub fn claim_shared(
        &self,
        range: (u16, u16),
        random: u64,
        id: u64,
        c: Claim,
        mut enter: impl FnMut(u16) -> bool,
    ) -> Result<u16> {
        let mut t = self.0.lock();
        let open = |p: &u16| t.get(p).is_none_or(|there| there.values().all(|o| o.by_connect));
        let port =
            candidates(range, random, 0).find(|p| open(p) && enter(*p)).ok_or(EADDRNOTAVAIL)?;
        t.entry(port).or_default().insert(id, Claim { by_connect: true, ..c });
        Ok(port)
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

/// The ports of a range, each once: first those at distances from its begin that are even (`first` = 0) or odd (1), from a
/// random one on, then the others. So what connect(2) uses up, of which closed connections keep much for a minute, leaves
/// bind(2) its half.
fn candidates(range: (u16, u16), random: u64, first: u32) -> impl Iterator<Item = u16> {
    let (lo, hi) = (u32::from(range.0), u32::from(range.1.max(range.0)));
    let all = hi - lo + 1;
    let half = move |odd: u32| {
        let n = (all + 1 - odd) / 2;
        let start = (random % u64::from(n.max(1))) as u32;
        (0..n).map(move |i| (start + i) % n * 2 + odd)
    };
    half(first).chain(half(1 - first)).map(move |d| (lo + d) as u16)
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
            by_connect: false,
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
            (0..5).map(|i| p.claim_any((10, 14), i * 77, i, &c).unwrap()).collect();
        assert!(got[..2].iter().all(|p| p % 2 == 1), "{got:?}");
        got.sort_unstable();
        assert_eq!(got, [10, 11, 12, 13, 14]);
        assert_eq!(p.claim_any((10, 14), 5, 9, &c), Err(EADDRINUSE));
        assert_eq!(p.claim_any((20, 20), 5, 9, &c), Ok(20));
    }

    #[test]
    fn an_address_of_its_own_gets_a_port_that_another_has() {
        let p = Ports::default();
        assert_eq!(p.claim_any((10, 10), 0, 1, &claim("10.0.0.1")), Ok(10));
        assert_eq!(p.claim_any((10, 10), 0, 2, &claim("10.0.0.2")), Ok(10));
        assert_eq!(p.claim_any((10, 10), 0, 3, &claim("::")), Err(EADDRINUSE));
    }

    #[test]
    fn connections_share_ports_that_nobody_bound() {
        let p = Ports::default();
        let c = claim("10.0.0.1");
        let connect = |id, used: &[u16]| {
            p.claim_shared((10, 13), 0, id, c.clone(), |port| !used.contains(&port))
        };
        assert_eq!(connect(1, &[]), Ok(10));
        assert_eq!(connect(2, &[]), Ok(10), "to another place");
        assert_eq!(connect(3, &[10]), Ok(12));
        assert_eq!(connect(4, &[10, 11, 12, 13]), Err(EADDRNOTAVAIL));
        assert_eq!(p.claim(10, 5, claim("10.0.0.1")), Err(EADDRINUSE));
        let other = Claim { addr: "10.0.0.2".parse().unwrap(), ..c.clone() };
        assert_eq!(p.claim(10, 6, other), Ok(()));
        assert_eq!(connect(7, &[]), Ok(12), "bound by bind(2)");
        p.release(10, 6);
        assert_eq!(connect(8, &[]), Ok(10));
    }
}
