//! NETLINK_SOCK_DIAG (sock_diag(7)): lists of sockets, as ss(8) asks for them.
//!
//! One module a family. Of Linux's there are not: the multicast groups that tell of closed sockets.

mod bytecode;
mod inet;
mod netlink;
mod packet;
mod unix;

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::{Cap, Task};
use uml_ipc::netlink::{NetlinkSocket, Protocol, register_protocol};
use uml_net::stack::Stack;

use crate::nlmsg::{Header, Reply, answer_all, flag};

/// SOCK_DIAG_BY_FAMILY and SOCK_DESTROY.
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;

/// More families than this there are not.
const AF_MAX: i32 = 46;

/// One request.
struct Query<'a> {
    stack: Arc<Stack>,
    /// Number of the socket's namespace.
    net: u64,
    /// CAP_NET_ADMIN there.
    privileged: bool,
    /// Every socket is asked for.
    dump: bool,
    body: &'a [u8],
}

struct SockDiag;

impl Protocol for SockDiag {
    fn groups(&self) -> u32 {
        0
    }

    fn received(&self, from: &Arc<NetlinkSocket>, task: &Task, data: &[u8]) -> Result<()> {
        let stack = crate::stack_in(&from.net);
        let privileged = task.require_in(&from.net.owner, Cap::NetAdmin).is_ok();
        let is_dump = |h: &Header| h.kind == BY_FAMILY && h.flags & flag::DUMP == flag::DUMP;
        answer_all(from, data, is_dump, |head, body, reply| {
            let (stack, net, dump) = (stack.clone(), from.net.id, is_dump(&head));
            serve(&head, &Query { stack, net, privileged, dump, body }, reply)
        });
        Ok(())
    }
}

/// `ENOENT` for a family or protocol that there is not, `EPERM` for who may not end sockets, `EOPNOTSUPP` for those
/// that cannot be ended, `EINVAL` for another kind of message.
fn serve(head: &Header, q: &Query<'_>, out: &mut Reply) -> Result<()> {
    if q.body.len() < 2 {
        return Err(EINVAL);
    }
    match head.kind {
        BY_FAMILY => match i32::from(q.body[0]) {
            libc::AF_INET | libc::AF_INET6 => inet::answer(q, out),
            libc::AF_UNIX => unix::answer(q, out),
            libc::AF_NETLINK => netlink::answer(q, out),
            libc::AF_PACKET => packet::answer(q, out),
            AF_MAX.. => Err(EINVAL),
            _ => Err(ENOENT),
        },
        DESTROY => match i32::from(q.body[0]) {
            libc::AF_INET | libc::AF_INET6 => inet::destroy(q),
            libc::AF_UNIX | libc::AF_NETLINK | libc::AF_PACKET => Err(EOPNOTSUPP),
            AF_MAX.. => Err(EINVAL),
            _ => Err(ENOENT),
        },
        _ => Err(EINVAL),
    }
}

/// Enters the protocol.
pub fn register() {
    register_protocol(libc::NETLINK_SOCK_DIAG, Arc::new(SockDiag));
}
