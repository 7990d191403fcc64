//! Notifications of changes to the groups of rtnetlink(7).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_ipc::netlink::{Origin, has_listeners, multicast};
use uml_net::stack::{Change, Stack, Watcher};

use super::{addr, link, neigh, route, rule};
use crate::nlmsg::kind;

const LINK: u32 = 1;
const NEIGH: u32 = 3;
const IPV4_IFADDR: u32 = 5;
const IPV4_ROUTE: u32 = 7;
const IPV4_RULE: u32 = 8;
const IPV6_IFADDR: u32 = 9;
const IPV6_ROUTE: u32 = 11;
const IPV6_RULE: u32 = 19;

struct Teller;

fn send_to(net: u64, group: u32, data: impl FnOnce() -> Vec<u8>) {
    // Nobody can listen to a namespace that no task has ever been in.
    if net != 0 && has_listeners(libc::NETLINK_ROUTE, group, net) {
        multicast(libc::NETLINK_ROUTE, &data(), Origin { group, net, ..Origin::default() }, None);
    }
}

impl Watcher for Teller {
    fn changed(&self, stack: &Stack, change: &Change) {
        let net = stack.id.load(Ordering::Relaxed);
        let send = |group, data: &dyn Fn() -> Vec<u8>| send_to(net, group, data);
        match change {
            Change::Link(index) => {
                if let Some(i) = stack.interface(*index) {
                    send(LINK, &|| link::notice(kind::NEWLINK, stack, &i));
                }
            }
            // Its name is all that is left to tell.
            Change::LinkGone(index, name) => send(LINK, &|| {
                let mut fixed = [0; 16];
                fixed[4..8].copy_from_slice(&index.to_le_bytes());
                let mut m = crate::nlmsg::Message::new(kind::DELLINK, 0, 0, 0, &fixed);
                m.text(3, name);
                m.finish()
            }),
            Change::Address(index, a) | Change::AddressGone(index, a) => {
                let k = if matches!(change, Change::Address(..)) {
                    kind::NEWADDR
                } else {
                    kind::DELADDR
                };
                let group = if a.addr.is_ipv4() { IPV4_IFADDR } else { IPV6_IFADDR };
                if let Some(i) = stack.interface(*index) {
                    send(group, &|| addr::notice(k, stack, &i, a));
                }
            }
            Change::Route(r) | Change::RouteGone(r) => {
                let k = if matches!(change, Change::Route(_)) {
                    kind::NEWROUTE
                } else {
                    kind::DELROUTE
                };
                let group = if r.dst.addr.is_ipv4() { IPV4_ROUTE } else { IPV6_ROUTE };
                send(group, &|| route::notice(k, stack, r));
            }
            Change::Rule(r) | Change::RuleGone(r) => {
                let k =
                    if matches!(change, Change::Rule(_)) { kind::NEWRULE } else { kind::DELRULE };
                send(if r.v6 { IPV6_RULE } else { IPV4_RULE }, &|| rule::notice(k, r));
            }
            Change::Neighbour(index, a) => {
                let found =
                    stack.neighbours.list().into_iter().find(|n| n.iface == *index && n.addr == *a);
                if let Some(n) = found {
                    send(NEIGH, &|| neigh::notice(kind::NEWNEIGH, stack, &n));
                }
            }
            Change::NeighbourGone(..) => {}
        }
    }
}

/// Tells of the changes of a namespace from now on; called once for each.
pub fn watch(stack: &Arc<Stack>) {
    stack.watch(Arc::new(Teller));
}
