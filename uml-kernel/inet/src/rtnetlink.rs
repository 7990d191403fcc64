//! NETLINK_ROUTE (rtnetlink(7)): interfaces, addresses, routes, rules and neighbours, as iproute2, glibc and
//! systemd-networkd ask for them.
//!
//! One module a family of messages, `watch` the notifications. A dump is
//! answered whole when it is asked for.

mod addr;
mod bridge;
pub(crate) mod create;
mod link;
mod neigh;
mod netns;
mod route;
mod rule;
mod watch;

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ns::NetNs;
use uml_core::task::{Cap, Task};
use uml_ipc::netlink::{NetlinkSocket, OpenTo, Protocol, register_protocol};
use uml_net::stack::Stack;

use crate::nlmsg::{Header, Reply, answer_all, flag, kind};

pub(crate) use link::operstate;
pub(crate) use watch::watch;

/// One request of a program.
pub(crate) struct Request<'a> {
    pub stack: Arc<Stack>,
    pub task: &'a Task,
    /// The namespace of the socket, which may be another one than the task's.
    pub net: &'a NetNs,
    pub head: Header,
    /// What follows the header.
    pub body: &'a [u8],
}

impl Request<'_> {
    /// True when everything is asked for.
    pub fn dump(&self) -> bool {
        self.head.flags & flag::DUMP == flag::DUMP
    }

    /// Address family that the body begins with.
    pub fn family(&self) -> i32 {
        i32::from(self.body.first().copied().unwrap_or(0))
    }
}

struct Rtnetlink;

impl Protocol for Rtnetlink {
    fn groups(&self) -> u32 {
        36
    }

    fn open_to_all(&self) -> OpenTo {
        OpenTo { receiving: true, sending: false }
    }

    fn received(&self, from: &Arc<NetlinkSocket>, task: &Task, data: &[u8]) -> Result<()> {
        let stack = crate::stack_in(&from.net);
        let dump = |h: &Header| h.flags & flag::DUMP == flag::DUMP && h.kind % 4 == 2;
        answer_all(from, data, dump, |head, body, reply| {
            dispatch(&Request { stack: stack.clone(), task, net: &from.net, head, body }, reply)
        });
        Ok(())
    }
}

fn dispatch(r: &Request<'_>, out: &mut Reply) -> Result<()> {
    // Kinds come in fours: new, delete, get, set; only getting is for everybody.
    if r.head.kind % 4 != 2 {
        r.task.require_in(&r.net.owner, Cap::NetAdmin)?;
    }
    match r.head.kind {
        kind::GETLINK if r.family() == libc::AF_BRIDGE => bridge::links(r, out),
        kind::SETLINK if r.family() == libc::AF_BRIDGE => bridge::set_port(r),
        kind::DELLINK if r.family() == libc::AF_BRIDGE => bridge::leave_vlans(r),
        kind::GETLINK => link::get(r, out),
        kind::NEWLINK | kind::SETLINK => link::change(r),
        kind::DELLINK => link::delete(r),
        kind::NEWLINKPROP | kind::DELLINKPROP => link::properties(r),
        kind::GETADDR => addr::get(r, out),
        kind::NEWADDR => addr::add(r),
        kind::DELADDR => addr::delete(r),
        kind::GETROUTE => route::get(r, out),
        kind::NEWROUTE => route::add(r),
        kind::DELROUTE => route::delete(r),
        kind::GETNEIGH if r.family() == libc::AF_BRIDGE => bridge::stations(r, out),
        kind::NEWNEIGH if r.family() == libc::AF_BRIDGE => bridge::enter(r),
        kind::DELNEIGH if r.family() == libc::AF_BRIDGE => bridge::forget(r),
        kind::GETNEIGH => neigh::get(r, out),
        kind::NEWNEIGH => neigh::add(r),
        kind::DELNEIGH => neigh::delete(r),
        kind::GETRULE => rule::get(r, out),
        kind::NEWRULE => rule::add(r),
        kind::DELRULE => rule::delete(r),
        kind::NEWNSID => netns::set_number(r),
        kind::GETNSID if !r.dump() => netns::number(r, out),
        // No queueing disciplines, labels or namespace numbers: an empty list.
        kind::GETQDISC
        | kind::GETTCLASS
        | kind::GETTFILTER
        | kind::GETADDRLABEL
        | kind::GETNEIGHTBL
        | kind::GETNETCONF
            if r.dump() =>
        {
            Ok(())
        }
        _ => Err(EOPNOTSUPP),
    }
}

/// Enters the protocol.
pub fn register() {
    register_protocol(libc::NETLINK_ROUTE, Arc::new(Rtnetlink));
}
