//! The groups that are told of sockets that end (`ss -E`): one message each, as a listing's with what an ended socket still has.

use std::sync::atomic::Ordering;

use uml_ipc::netlink::{Origin, has_listeners, multicast};
use uml_net::ended::Ended;
use uml_net::stack::Stack;
use uml_net::tcp::State;

use super::BY_FAMILY;
use super::inet::{attr, bytes};
use crate::nlmsg::Message;
use crate::tcp_options;

/// SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET_UDP_DESTROY, and those of INET6.
pub(super) const GROUPS: [u32; 4] = [1, 2, 3, 4];

fn group(e: &Ended) -> u32 {
    GROUPS[usize::from(e.v6) * 2 + usize::from(e.tcp.is_none())]
}

/// Sends the messages; false when nobody is in any of the groups.
pub(super) fn tell(stack: &Stack, list: Vec<Ended>) -> bool {
    let net = stack.id.load(Ordering::Relaxed);
    let heard = GROUPS.map(|g| has_listeners(libc::NETLINK_SOCK_DIAG, g, net));
    for e in list {
        let group = group(&e);
        if heard[group as usize - 1] {
            let origin = Origin { group, net, ..Origin::default() };
            multicast(libc::NETLINK_SOCK_DIAG, &message(&e), origin, None);
        }
    }
    heard.contains(&true)
}

/// `struct inet_diag_msg`, the protocol, and `struct tcp_info`.
fn message(e: &Ended) -> Vec<u8> {
    let state = match (&e.tcp, e.remote) {
        // Who was connected still is.
        (None, Some(_)) => State::Established,
        _ => State::Closed,
    };
    let family = if e.v6 { libc::AF_INET6 } else { libc::AF_INET };
    let mut b = vec![family as u8, state as u8, 0, 0];
    b.extend_from_slice(&e.local.port().to_be_bytes());
    b.extend_from_slice(&e.remote.map_or(0, |r| r.port()).to_be_bytes());
    b.extend_from_slice(&bytes(e.local.ip(), e.v6));
    b.extend_from_slice(&e.remote.map_or([0; 16], |r| bytes(r.ip(), e.v6)));
    b.extend_from_slice(&e.device.to_le_bytes());
    b.extend_from_slice(&e.id.to_le_bytes());
    // Nothing waits any more. The count of what UDP has sent is one below its least then, as on Linux.
    let sent = if e.tcp.is_some() { 0 } else { u32::MAX };
    for word in [0, 0, sent, 0, 0] {
        b.extend_from_slice(&word.to_le_bytes());
    }
    let mut m = Message::new(BY_FAMILY, 0, 0, 0, &b);
    let protocol = if e.tcp.is_some() { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP };
    m.byte(attr::PROTOCOL, protocol as u8);
    if let Some(info) = &e.tcp {
        m.put(attr::INFO, &tcp_options::info(info, usize::MAX));
    }
    m.finish()
}
