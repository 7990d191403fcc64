//! Routing: tables, rules, and lookup by the longest prefix (ip-route(8), ip-rule(8)).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Rank, RwLock};

use crate::packet::Packet;

/// Well-known tables.
pub const TABLE_DEFAULT: u32 = 253;
pub const TABLE_MAIN: u32 = 254;
pub const TABLE_LOCAL: u32 = 255;

/// Who made a route (rtnetlink(7) RTPROT_*).
pub const PROTO_KERNEL: u8 = 2;
pub const PROTO_BOOT: u8 = 3;
pub const PROTO_RA: u8 = 9;

/// What a route does (rtnetlink(7) RTN_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Unicast = 1,
    Local = 2,
    Broadcast = 3,
    Anycast = 4,
    Multicast = 5,
    Blackhole = 6,
    Unreachable = 7,
    Prohibit = 8,
    Throw = 9,
}

impl Kind {
    /// By its RTN_* number.
    pub fn from_number(n: u8) -> Option<Kind> {
        [
            Kind::Unicast,
            Kind::Local,
            Kind::Broadcast,
            Kind::Anycast,
            Kind::Multicast,
            Kind::Blackhole,
            Kind::Unreachable,
            Kind::Prohibit,
            Kind::Throw,
        ]
        .into_iter()
        .find(|k| *k as u8 == n)
    }
}

/// An address and how many of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    pub addr: IpAddr,
    pub len: u8,
}

/// Bits of an address, left-aligned.
fn bits(a: IpAddr) -> u128 {
    match a {
        IpAddr::V4(a) => u128::from(u32::from(a)) << 96,
        IpAddr::V6(a) => u128::from(a),
    }
}

fn mask(len: u8) -> u128 {
    if len == 0 { 0 } else { u128::MAX << (128 - u32::from(len.min(128))) }
}

/// Address length of a family in bits.
pub fn width(a: IpAddr) -> u8 {
    if a.is_ipv4() { 32 } else { 128 }
}

impl Prefix {
    /// A prefix; bits beyond `len` are cleared, a length beyond the family's is cut.
    pub fn new(addr: IpAddr, len: u8) -> Prefix {
        let len = len.min(width(addr));
        let b = bits(addr) & mask(len);
        let addr = match addr {
            IpAddr::V4(_) => IpAddr::V4(((b >> 96) as u32).into()),
            IpAddr::V6(_) => IpAddr::V6(b.into()),
        };
        Prefix { addr, len }
    }

    /// Every address of the family of `like`.
    pub fn any(like: IpAddr) -> Prefix {
        Prefix::new(like, 0)
    }

    /// True when the address is inside.
    pub fn contains(&self, a: IpAddr) -> bool {
        a.is_ipv4() == self.addr.is_ipv4() && bits(a) & mask(self.len) == bits(self.addr)
    }
}

/// Number of leading bits that two addresses of a family share.
pub fn common_bits(a: IpAddr, b: IpAddr) -> u32 {
    (bits(a) ^ bits(b)).leading_zeros()
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub table: u32,
    pub dst: Prefix,
    pub kind: Kind,
    pub gateway: Option<IpAddr>,
    /// Interface; 0 for routes that go nowhere.
    pub oif: u32,
    pub prefsrc: Option<IpAddr>,
    pub metric: u32,
    pub scope: u8,
    pub proto: u8,
    pub tos: u8,
    /// RTNH_F_ONLINK and the like.
    pub flags: u32,
    pub mtu: Option<u32>,
    /// Of routes that router advertisements made: when they end.
    pub expires: Option<crate::time::Time>,
}

impl Route {
    /// A unicast route in the main table.
    pub fn new(dst: Prefix, oif: u32) -> Route {
        Route {
            table: TABLE_MAIN,
            dst,
            kind: Kind::Unicast,
            gateway: None,
            oif,
            prefsrc: None,
            metric: 0,
            scope: 0,
            proto: PROTO_BOOT,
            tos: 0,
            flags: 0,
            mtu: None,
            expires: None,
        }
    }
}

/// What a packet is looked up by.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub dst: IpAddr,
    pub src: Option<IpAddr>,
    /// Interface it must leave by; 0 for any.
    pub oif: u32,
    /// Interface it came from; 0 for packets made here.
    pub iif: u32,
    pub mark: u32,
    pub tos: u8,
}

impl Flow {
    /// A packet made here for `dst`.
    pub fn to(dst: IpAddr) -> Flow {
        Flow { dst, src: None, oif: 0, iif: 0, mark: 0, tos: 0 }
    }

    /// A packet that arrived, with what its network header says.
    pub(crate) fn arrived(p: &Packet, src: IpAddr, dst: IpAddr, tos: u8) -> Flow {
        Flow { dst, src: Some(src), oif: 0, iif: p.iface, mark: p.mark, tos }
    }
}

/// What a rule does when it matches (FR_ACT_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Table(u32),
    Blackhole,
    Unreachable,
    Prohibit,
}

/// A rule of the policy database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub v6: bool,
    pub priority: u32,
    pub from: Option<Prefix>,
    pub to: Option<Prefix>,
    pub iif: u32,
    pub oif: u32,
    pub iif_name: String,
    pub oif_name: String,
    pub mark: u32,
    pub mask: u32,
    pub tos: u8,
    pub invert: bool,
    pub action: Action,
}

impl Rule {
    /// A rule that always matches.
    pub fn table(v6: bool, priority: u32, table: u32) -> Rule {
        Rule {
            v6,
            priority,
            from: None,
            to: None,
            iif: 0,
            oif: 0,
            iif_name: String::new(),
            oif_name: String::new(),
            mark: 0,
            mask: 0,
            tos: 0,
            invert: false,
            action: Action::Table(table),
        }
    }

    fn matches(&self, f: &Flow) -> bool {
        let unspecified = if f.dst.is_ipv4() {
            IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)
        } else {
            IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)
        };
        let src = f.src.unwrap_or(unspecified);
        let m = self.from.is_none_or(|p| p.contains(src))
            && self.to.is_none_or(|p| p.contains(f.dst))
            && (self.iif == 0 && self.iif_name.is_empty() || (self.iif != 0 && self.iif == f.iif))
            && (self.oif == 0 && self.oif_name.is_empty() || (self.oif != 0 && self.oif == f.oif))
            && f.mark & self.mask == self.mark & self.mask
            && (self.tos == 0 || self.tos == f.tos);
        m != self.invert
    }
}

/// Routes of one table and family, by prefix length.
#[derive(Default)]
struct Table {
    lens: BTreeMap<u8, HashMap<u128, Vec<Route>>>,
}

impl Table {
    fn find(&self, f: &Flow) -> Option<&Route> {
        let b = bits(f.dst);
        for (len, map) in self.lens.iter().rev() {
            let Some(list) = map.get(&(b & mask(*len))) else { continue };
            let fits = |r: &&Route| {
                (f.oif == 0 || r.oif == f.oif || r.kind == Kind::Local)
                    && (r.tos == 0 || r.tos == f.tos)
            };
            if let Some(r) = list.iter().find(fits) {
                return Some(r);
            }
        }
        None
    }

    fn iter(&self) -> impl Iterator<Item = &Route> {
        self.lens.values().flat_map(|m| m.values()).flatten()
    }
}

struct Fib {
    tables: BTreeMap<(bool, u32), Table>,
    rules: Vec<Rule>,
}

/// The routing state of a namespace.
pub struct Routes {
    fib: RwLock<Fib>,
    generation: AtomicU64,
}

/// How an addition treats routes that are there (NLM_F_*).
#[derive(Clone, Copy, Debug, Default)]
pub struct Mode {
    pub create: bool,
    pub exclusive: bool,
    pub replace: bool,
    pub append: bool,
}

impl Default for Routes {
    fn default() -> Self {
        let mut rules = Vec::new();
        // In order of family and priority, as lookups expect.
        for v6 in [false, true] {
            rules.push(Rule::table(v6, 0, TABLE_LOCAL));
            rules.push(Rule::table(v6, 32_766, TABLE_MAIN));
            if !v6 {
                rules.push(Rule::table(v6, 32_767, TABLE_DEFAULT));
            }
        }
        Routes {
            fib: RwLock::new(Rank::LEAF, Fib { tables: BTreeMap::new(), rules }),
            generation: AtomicU64::new(1),
        }
    }
}

impl Routes {
    /// Changes whenever a lookup may have another result: what caches compare.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Something that lookups depend on has changed (addresses, interfaces).
    pub fn touch(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Enters a route: `EEXIST` when one of the same destination, priority and type of service is there
    /// and `mode` does not say otherwise, `ENOENT` when it is to be replaced only.
    pub fn add(&self, r: Route, mode: Mode) -> Result<()> {
        let v6 = r.dst.addr.is_ipv6();
        let mut fib = self.fib.write();
        let t = fib.tables.entry((v6, r.table)).or_default();
        let list = t.lens.entry(r.dst.len).or_default().entry(bits(r.dst.addr)).or_default();
        // IPv4 tells routes apart by metric and tos, IPv6 by next hop as well (several are one multipath
        // route there).
        let same = |o: &Route| o.metric == r.metric && o.tos == r.tos;
        let identical = |o: &Route| {
            same(o)
                && o.oif == r.oif
                && o.gateway == r.gateway
                && o.kind == r.kind
                && o.prefsrc == r.prefsrc
        };
        let found = list.iter().position(same);
        let result = match found {
            Some(_) if mode.exclusive => Err(EEXIST),
            Some(i) if mode.replace => {
                list[i] = r.clone();
                Ok(())
            }
            Some(_) if list.iter().any(identical) => Err(EEXIST),
            Some(_) if mode.append || r.kind != Kind::Unicast || v6 => {
                let at = list.partition_point(|o| o.metric <= r.metric);
                list.insert(at, r.clone());
                Ok(())
            }
            // NLM_F_CREATE alone prepends.
            Some(i) if mode.create => {
                list.insert(i, r.clone());
                Ok(())
            }
            None if mode.replace && !mode.create => Err(ENOENT),
            None => {
                let at = list.partition_point(|o| o.metric <= r.metric);
                list.insert(at, r.clone());
                Ok(())
            }
            Some(_) => Err(EEXIST),
        };
        drop(fib);
        self.touch();
        result
    }

    /// Removes the first route in `table` for `dst` that `wanted` accepts: `ESRCH` when there is none.
    pub fn remove(
        &self,
        table: u32,
        dst: Prefix,
        wanted: impl Fn(&Route) -> bool,
    ) -> Result<Route> {
        let v6 = dst.addr.is_ipv6();
        let mut fib = self.fib.write();
        let t = fib.tables.get_mut(&(v6, table)).ok_or(ESRCH)?;
        let map = t.lens.get_mut(&dst.len).ok_or(ESRCH)?;
        let list = map.get_mut(&bits(dst.addr)).ok_or(ESRCH)?;
        let i = list.iter().position(&wanted).ok_or(ESRCH)?;
        let r = list.remove(i);
        if list.is_empty() {
            map.remove(&bits(dst.addr));
            if map.is_empty() {
                t.lens.remove(&dst.len);
            }
        }
        drop(fib);
        self.touch();
        Ok(r)
    }

    /// Removes every route that `unwanted` accepts and returns them.
    pub fn remove_all(&self, unwanted: impl Fn(&Route) -> bool) -> Vec<Route> {
        let mut gone = Vec::new();
        let mut fib = self.fib.write();
        for t in fib.tables.values_mut() {
            t.lens.retain(|_, map| {
                map.retain(|_, list| {
                    list.retain(|r| {
                        let out = unwanted(r);
                        if out {
                            gone.push(r.clone());
                        }
                        !out
                    });
                    !list.is_empty()
                });
                !map.is_empty()
            });
        }
        drop(fib);
        if !gone.is_empty() {
            self.touch();
        }
        gone
    }

    /// Every route, by table and destination.
    pub fn list(&self) -> Vec<Route> {
        let fib = self.fib.read();
        let mut v: Vec<Route> = Vec::new();
        for t in fib.tables.values() {
            let mut part: Vec<Route> = t.iter().cloned().collect();
            part.sort_by_key(|r| (bits(r.dst.addr), r.dst.len, r.metric));
            v.extend(part);
        }
        v
    }

    /// The rules in order.
    pub fn rules(&self) -> Vec<Rule> {
        self.fib.read().rules.clone()
    }

    /// Adds a rule; `EEXIST` for one that is there.
    pub fn add_rule(&self, mut r: Rule, explicit: bool) -> Result<()> {
        let mut fib = self.fib.write();
        if !explicit {
            // One before the first that is not the local table's (as ip-rule(8) documents).
            let first =
                fib.rules.iter().filter(|o| o.v6 == r.v6 && o.priority > 0).map(|o| o.priority);
            r.priority = first.min().map_or(32_765, |p| p.saturating_sub(1));
        }
        if fib.rules.contains(&r) {
            return Err(EEXIST);
        }
        let at = fib.rules.partition_point(|o| (o.v6, o.priority) <= (r.v6, r.priority));
        fib.rules.insert(at, r);
        drop(fib);
        self.touch();
        Ok(())
    }

    /// Removes the first rule that `wanted` accepts; `ENOENT` when there is none.
    pub fn remove_rule(&self, wanted: impl Fn(&Rule) -> bool) -> Result<Rule> {
        let mut fib = self.fib.write();
        let i = fib.rules.iter().position(wanted).ok_or(ENOENT)?;
        let r = fib.rules.remove(i);
        drop(fib);
        self.touch();
        Ok(r)
    }

    /// The route of a packet: `ENETUNREACH` without one, and what blackhole, unreachable and prohibit
    /// routes say (`EINVAL`, `EHOSTUNREACH`, `EACCES`).
    pub fn lookup(&self, f: &Flow) -> Result<Route> {
        let v6 = f.dst.is_ipv6();
        let fib = self.fib.read();
        for rule in fib.rules.iter().filter(|r| r.v6 == v6 && r.matches(f)) {
            let table = match rule.action {
                Action::Table(t) => t,
                Action::Blackhole => return Err(EINVAL),
                Action::Unreachable => return Err(ENETUNREACH),
                Action::Prohibit => return Err(EACCES),
            };
            let Some(r) = fib.tables.get(&(v6, table)).and_then(|t| t.find(f)) else { continue };
            return match r.kind {
                Kind::Throw => continue,
                Kind::Blackhole => Err(EINVAL),
                Kind::Unreachable => Err(EHOSTUNREACH),
                Kind::Prohibit => Err(EACCES),
                _ => Ok(r.clone()),
            };
        }
        Err(ENETUNREACH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn p(s: &str) -> Prefix {
        let (a, l) = s.split_once('/').unwrap();
        Prefix::new(a.parse().unwrap(), l.parse().unwrap())
    }

    const CREATE: Mode = Mode { create: true, exclusive: true, replace: false, append: false };

    #[test]
    fn the_longest_prefix_and_then_the_metric_wins() {
        let r = Routes::default();
        for (dst, oif, metric) in [
            ("0.0.0.0/0", 1, 0),
            ("10.0.0.0/8", 2, 5),
            ("10.0.0.0/8", 3, 1),
            ("10.1.0.0/16", 4, 100),
        ] {
            r.add(Route { metric, ..Route::new(p(dst), oif) }, CREATE).unwrap();
        }
        let oif =
            |a: &str, oif| r.lookup(&Flow { oif, ..Flow::to(a.parse().unwrap()) }).map(|r| r.oif);
        assert_eq!(oif("10.1.2.3", 0), Ok(4));
        assert_eq!(oif("10.2.2.3", 0), Ok(3));
        assert_eq!(oif("10.2.2.3", 2), Ok(2));
        assert_eq!(oif("9.9.9.9", 0), Ok(1));
        assert_eq!(oif("9.9.9.9", 4), Err(ENETUNREACH));
        assert_eq!(oif("::1", 0), Err(ENETUNREACH));
        assert_eq!(
            r.add(Route { metric: 5, ..Route::new(p("10.0.0.0/8"), 9) }, CREATE),
            Err(EEXIST)
        );
        assert_eq!(r.remove(TABLE_MAIN, p("10.1.0.0/16"), |_| true).map(|r| r.oif), Ok(4));
        assert_eq!(r.remove(TABLE_MAIN, p("10.1.0.0/16"), |_| true), Err(ESRCH));
    }

    #[test]
    fn rules_choose_tables_and_refuse() {
        let r = Routes::default();
        r.add(Route { table: 7, ..Route::new(p("0.0.0.0/0"), 7) }, CREATE).unwrap();
        r.add(Route::new(p("0.0.0.0/0"), 1), CREATE).unwrap();
        r.add_rule(Rule { mark: 5, mask: 0xff, ..Rule::table(false, 100, 7) }, true).unwrap();
        r.add_rule(
            Rule {
                to: Some(p("8.0.0.0/8")),
                action: Action::Prohibit,
                ..Rule::table(false, 50, 0)
            },
            true,
        )
        .unwrap();
        let f =
            |mark, a: &str| r.lookup(&Flow { mark, ..Flow::to(a.parse().unwrap()) }).map(|r| r.oif);
        assert_eq!(f(5, "1.2.3.4"), Ok(7));
        assert_eq!(f(6, "1.2.3.4"), Ok(1));
        assert_eq!(f(0, "8.8.8.8"), Err(EACCES));
        r.add(Route { kind: Kind::Throw, table: 7, ..Route::new(p("2.0.0.0/8"), 0) }, CREATE)
            .unwrap();
        assert_eq!(f(5, "2.2.2.2"), Ok(1));
    }

    proptest! {
        #[test]
        fn lookup_agrees_with_a_search_of_all_routes(
            routes in proptest::collection::vec((any::<u32>(), 0u8..33, 0u32..4), 1..40),
            dst: u32, near in any::<proptest::sample::Index>(), flip in 0u32..32,
        ) {
            let r = Routes::default();
            let mut all = Vec::new();
            for (i, (a, l, m)) in routes.iter().enumerate() {
                let route = Route { metric: *m, ..Route::new(Prefix::new(IpAddr::V4((*a).into()), *l), i as u32 + 1) };
                if r.add(route.clone(), CREATE).is_ok() {
                    all.push(route);
                }
            }
            for d in [dst, routes[near.index(routes.len())].0 ^ (1 << flip)] {
                let a = IpAddr::V4(d.into());
                let best = all.iter().filter(|x| x.dst.contains(a))
                    .max_by_key(|x| (x.dst.len, std::cmp::Reverse(x.metric)));
                prop_assert_eq!(r.lookup(&Flow::to(a)).ok().map(|x| x.oif), best.map(|x| x.oif));
            }
        }
    }
}
