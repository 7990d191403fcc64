//! IPv6 addresses that come by themselves: link-local ones, duplicate address detection, and router
//! advertisements (RFC 4862, RFC 4861 6.3).

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use uml_base::{Mutex, Rank};

use crate::icmp;
use crate::interface::{Address, Interface, Link, ifa, is_link_local};
use crate::neighbour::Learned;
use crate::route::{self, Mode, PROTO_RA, Prefix, Route};
use crate::stack::{Change, Cx, Stack};
use crate::time::{MS, SEC, Time};
use crate::timer::{Armed, Expire};
use crate::wire::ethernet::Mac;
use crate::wire::ndp::{self, RouterAdvert};

/// Wait for an objection (RetransTimer).
const DAD_WAIT: u64 = SEC;
/// Router solicitations and the time between them.
const SOLICITS: u32 = 3;
const SOLICIT_WAIT: u64 = 4 * SEC;

enum Job {
    /// An address is used after `due` unless somebody objects.
    Dad {
        iface: u32,
        addr: Ipv6Addr,
        left: u32,
        due: Time,
    },
    Solicit {
        iface: u32,
        left: u32,
        due: Time,
    },
}

/// The jobs of a namespace.
pub(crate) struct Addrconf {
    stack: Weak<Stack>,
    jobs: Mutex<Vec<Job>>,
    armed: Armed,
}

impl Addrconf {
    pub fn new(stack: Weak<Stack>) -> Arc<Addrconf> {
        Arc::new(Addrconf {
            stack,
            jobs: Mutex::new(Rank::LEAF, Vec::new()),
            armed: Armed::default(),
        })
    }

    fn arm(&self, stack: &Stack, at: Time) {
        self.armed.arm(&stack.timers, at, || {
            Arc::downgrade(&(stack.addrconf.clone() as Arc<dyn Expire>))
        });
    }

    /// A lifetime ends then.
    pub fn look_at(&self, stack: &Stack, at: Time) {
        if at != Time::NEVER {
            self.arm(stack, at);
        }
    }

    fn add(&self, stack: &Stack, job: Job) {
        let due = match &job {
            Job::Dad { due, .. } | Job::Solicit { due, .. } => *due,
        };
        self.jobs.lock().push(job);
        self.arm(stack, due);
    }

    /// The link is up: a link-local address, and routers are asked.
    pub fn went_up(&self, stack: &Stack, i: &Arc<Interface>) {
        if i.link != Link::Ethernet || i.v6.disabled.load(Ordering::Relaxed) {
            return;
        }
        // addr_gen_mode 1 leaves it to programs.
        if i.v6.addr_gen.load(Ordering::Relaxed) == 1 {
            return;
        }
        let mut a = Address::new(
            from_mac(Ipv6Addr::from([0xfe80, 0, 0, 0, 0, 0, 0, 0]), i.mac()).into(),
            64,
        );
        a.proto = 3;
        let _ = stack.add_address(i, with_dad(i, a), true);
        if i.v6.accept_ra.load(Ordering::Relaxed) != 0 {
            let due = stack.now() + DAD_WAIT + 100 * MS;
            self.add(stack, Job::Solicit { iface: i.index, left: SOLICITS, due });
        }
    }

    /// An address was entered: its group is joined, and it is tried unless that is not wanted.
    pub fn added(&self, stack: &Stack, i: &Arc<Interface>, a: &Address) {
        let IpAddr::V6(addr) = a.addr else { return };
        stack.enter(|cx| stack.join_group(cx, i, ndp::solicited_node(addr).into()));
        if a.flags & ifa::TENTATIVE == 0 {
            return;
        }
        let probes = i.v6.dad.load(Ordering::Relaxed).max(1);
        stack.enter(|cx| icmp::solicit(cx, i, addr, None, true));
        let due = stack.now() + DAD_WAIT;
        self.add(stack, Job::Dad { iface: i.index, addr, left: probes - 1, due });
    }

    /// An address is gone.
    pub fn removed(&self, stack: &Stack, i: &Arc<Interface>, a: &Address) {
        let IpAddr::V6(addr) = a.addr else { return };
        self.jobs.lock().retain(
            |j| !matches!(j, Job::Dad { iface, addr: x, .. } if *iface == i.index && *x == addr),
        );
        stack.enter(|cx| stack.leave_group(cx, i, ndp::solicited_node(addr).into()));
    }

    /// Somebody else has the address.
    pub fn duplicate(&self, stack: &Stack, i: &Arc<Interface>, addr: Ipv6Addr) {
        self.jobs.lock().retain(
            |j| !matches!(j, Job::Dad { iface, addr: x, .. } if *iface == i.index && *x == addr),
        );
        uml_base::pr_info!("IPv6: {}: IPv6 duplicate address {addr} detected!", i.name());
        let changed = {
            let mut list = i.addrs.write();
            list.iter_mut().find(|a| a.addr == IpAddr::V6(addr)).map(|a| {
                a.flags |= ifa::DADFAILED;
                a.clone()
            })
        };
        if let Some(a) = changed {
            stack.tell(&Change::Address(i.index, a));
        }
    }

    /// A router advertisement (RFC 4861 6.3.4, RFC 4862 5.5.3).
    pub fn router(
        &self,
        stack: &Stack,
        cx: &mut Cx,
        i: &Arc<Interface>,
        from: Ipv6Addr,
        ra: &RouterAdvert,
    ) {
        let accept = i.v6.accept_ra.load(Ordering::Relaxed);
        let forwarding = stack.conf.v6_forwarding.get() != 0;
        if !is_link_local(from) || accept == 0 || (forwarding && accept < 2) {
            return;
        }
        self.jobs.lock().retain(|j| !matches!(j, Job::Solicit { iface, .. } if *iface == i.index));
        if let Some(mac) = ra.options.source_mac {
            let how =
                Learned { solicited: false, overrides: true, create: true, router: Some(true) };
            stack.neighbours.learn(cx, i, from.into(), mac, how);
        }
        let now = cx.now;
        let any = Prefix::any(IpAddr::V6(from));
        let ours =
            |r: &Route| r.proto == PROTO_RA && r.oif == i.index && r.gateway == Some(from.into());
        if ra.lifetime == 0 {
            if let Ok(r) = stack.routes.remove(route::TABLE_MAIN, any, ours) {
                stack.tell(&Change::RouteGone(r));
            }
        } else {
            let mut r = Route::new(any, i.index);
            (r.gateway, r.proto, r.metric) = (Some(from.into()), PROTO_RA, 1024);
            r.expires = Some(now + u64::from(ra.lifetime) * SEC);
            let _ = stack.routes.remove(route::TABLE_MAIN, any, ours);
            let mode = Mode { create: true, append: true, ..Mode::default() };
            if stack.routes.add(r.clone(), mode).is_ok() {
                self.look_at(stack, r.expires.unwrap_or(Time::NEVER));
                stack.tell(&Change::Route(r));
            }
        }
        if ra.hop_limit != 0 {
            i.v6.hop_limit.store(u32::from(ra.hop_limit), Ordering::Relaxed);
        }
        if let Some(m) = ra.options.mtu.map(|m| m as usize).filter(|m| (1280..=i.mtu()).contains(m))
        {
            i.v6.mtu.store(m, Ordering::Relaxed);
            stack.routes.touch();
        }
        for p in &ra.options.prefixes {
            self.prefix(stack, i, p, now);
        }
    }

    fn prefix(&self, stack: &Stack, i: &Arc<Interface>, p: &ndp::Prefix, now: Time) {
        if is_link_local(p.addr) || p.addr.is_multicast() || p.preferred > p.valid || p.len > 128 {
            return;
        }
        let end =
            |secs: u32| if secs == u32::MAX { Time::NEVER } else { now + u64::from(secs) * SEC };
        if p.on_link && p.valid > 0 {
            let mut r = Route::new(Prefix::new(p.addr.into(), p.len), i.index);
            (r.proto, r.metric) = (PROTO_RA, 256);
            r.expires = Some(end(p.valid)).filter(|t| *t != Time::NEVER);
            let dst = r.dst;
            let _ = stack
                .routes
                .remove(route::TABLE_MAIN, dst, |o| o.proto == PROTO_RA && o.oif == i.index);
            let mode = Mode { create: true, append: true, ..Mode::default() };
            if stack.routes.add(r.clone(), mode).is_ok() {
                self.look_at(stack, r.expires.unwrap_or(Time::NEVER));
                stack.tell(&Change::Route(r));
            }
        }
        if !p.autonomous || p.len != 64 || !i.v6.autoconf.load(Ordering::Relaxed) || p.valid == 0 {
            return;
        }
        let addr = IpAddr::V6(from_mac(p.addr, i.mac()));
        let known = i.with_addresses(|l| l.iter().find(|a| a.addr == addr).cloned());
        let mut a = known.clone().unwrap_or_else(|| Address::new(addr, 64));
        a.preferred = end(p.preferred);
        // The two-hour rule (RFC 4862 5.5.3 e).
        let valid = end(p.valid);
        let left = a.valid.since(now);
        a.valid = if known.is_none() || u64::from(p.valid) * SEC > 7200 * SEC || valid > a.valid {
            valid
        } else if left <= 7200 * SEC {
            a.valid
        } else {
            now + 7200 * SEC
        };
        a.flags = (a.flags & !ifa::PERMANENT) | ifa::MANAGETEMPADDR | ifa::NOPREFIXROUTE;
        if valid == Time::NEVER {
            a.flags |= ifa::PERMANENT;
        }
        a.proto = 2;
        let fresh = known.is_none();
        let a = if fresh { with_dad(i, a) } else { a };
        let _ = stack.add_address(i, a, !fresh);
    }
}

/// Marks an address as not yet tried, where trying is on.
pub fn with_dad(i: &Interface, mut a: Address) -> Address {
    let tries = i.v6.dad.load(Ordering::Relaxed) > 0 && i.link == Link::Ethernet;
    if a.addr.is_ipv6() && tries && a.flags & ifa::NODAD == 0 {
        a.flags |= ifa::TENTATIVE;
    }
    a
}

fn from_mac(prefix: Ipv6Addr, mac: Mac) -> Ipv6Addr {
    let mut o = prefix.octets();
    o[8..].copy_from_slice(&mac.eui64());
    Ipv6Addr::from(o)
}

impl Expire for Addrconf {
    fn expired(self: Arc<Self>, cx: &mut Cx) {
        let now = cx.now;
        if !self.armed.due(now) {
            return;
        }
        let Some(stack) = self.stack.upgrade() else { return };
        let mut probes = Vec::new();
        let mut solicits = Vec::new();
        let mut done = Vec::new();
        {
            let mut jobs = self.jobs.lock();
            jobs.retain_mut(|j| match j {
                Job::Dad { iface, addr, left, due } if *due <= now => {
                    if *left == 0 {
                        done.push((*iface, *addr));
                        return false;
                    }
                    *left -= 1;
                    *due = now + DAD_WAIT;
                    probes.push((*iface, *addr));
                    true
                }
                Job::Solicit { iface, left, due } if *due <= now => {
                    solicits.push(*iface);
                    *left -= 1;
                    *due = now + SOLICIT_WAIT;
                    *left > 0
                }
                _ => true,
            });
        }
        for (i, addr) in done {
            let Some(i) = stack.interface(i) else { continue };
            let changed = {
                let mut list = i.addrs.write();
                list.iter_mut().find(|a| a.addr == IpAddr::V6(addr)).map(|a| {
                    a.flags &= !ifa::TENTATIVE;
                    a.clone()
                })
            };
            if let Some(a) = changed {
                stack.routes.touch();
                stack.tell(&Change::Address(i.index, a));
            }
        }
        for (i, addr) in probes {
            if let Some(i) = stack.interface(i) {
                icmp::solicit(cx, &i, addr, None, true);
            }
        }
        for i in solicits {
            if let Some(i) = stack.interface(i) {
                icmp::solicit_routers(cx, &i);
            }
        }
        let next = self.lifetimes(&stack, now);
        let jobs = self.jobs.lock();
        let due = jobs.iter().map(|j| match j {
            Job::Dad { due, .. } | Job::Solicit { due, .. } => *due,
        });
        let next = due.chain([next]).min().unwrap_or(Time::NEVER);
        drop(jobs);
        self.look_at(&stack, next);
    }
}

impl Addrconf {
    /// Ends addresses and routes whose time has come; returns the next such moment.
    fn lifetimes(&self, stack: &Stack, now: Time) -> Time {
        let mut next = Time::NEVER;
        for i in stack.interfaces() {
            for a in i.addresses() {
                if a.valid <= now {
                    let _ = stack.remove_address(&i, a.addr, a.prefix);
                    continue;
                }
                next = next.min(a.valid);
                if a.preferred <= now && a.flags & ifa::DEPRECATED == 0 {
                    let mut list = i.addrs.write();
                    let found = list.iter_mut().find(|x| x.addr == a.addr && x.prefix == a.prefix);
                    if let Some(x) = found {
                        x.flags |= ifa::DEPRECATED;
                    }
                } else if a.preferred > now {
                    next = next.min(a.preferred);
                }
            }
        }
        for r in stack.routes.remove_all(|r| r.expires.is_some_and(|t| t <= now)) {
            stack.tell(&Change::RouteGone(r));
        }
        for r in stack.routes.list() {
            next = next.min(r.expires.unwrap_or(Time::NEVER));
        }
        next
    }
}
