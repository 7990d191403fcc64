//! NETLINK_SOCK_DIAG (sock_diag(7)): lists of sockets, as ss(8) asks for them.
//!
//! One module a family. [`ended`] is the groups that tell of sockets that end.

mod bytecode;
mod ended;
mod inet;
mod netlink;
mod packet;
mod unix;

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::{Cap, Task};
use uml_ipc::netlink::{NetlinkSocket, OpenTo, Protocol, register_protocol};
use uml_net::stack::Stack;

use crate::nlmsg::{Header, Reply, answer_all, flag};

/// SOCK_DIAG_BY_FAMILY and SOCK_DESTROY.
const BY_FAMILY: u16 = 20;
/// TCPDIAG_GETSOCK, what TCP was asked by before there were families.
const OF_TCP: u16 = 18;
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
    /// Kind of the question, and of the answers.
    kind: u16,
    body: &'a [u8],
}

struct SockDiag;

impl Protocol for SockDiag {
    fn groups(&self) -> u32 {
        // Four are told to; as many as there are bits can be joined, as on Linux.
        32
    }

    fn open_to_all(&self) -> OpenTo {
        OpenTo { receiving: true, sending: false }
    }

    fn groups_changed(&self, of: &NetlinkSocket) {
        if ended::GROUPS.into_iter().any(|g| of.in_group(g)) {
            crate::stack_in(&of.net).ends.want();
        }
    }

    fn received(&self, from: &Arc<NetlinkSocket>, task: &Task, data: &[u8]) -> Result<()> {
        let stack = crate::stack_in(&from.net);
        let privileged = task.require_in(&from.net.owner, Cap::NetAdmin).is_ok();
        let lists = |kind: u16| matches!(kind, BY_FAMILY | OF_TCP);
        let is_dump = |h: &Header| lists(h.kind) && h.flags & flag::DUMP == flag::DUMP;
        answer_all(from, data, is_dump, |head, body, reply| {
            let (stack, net, dump) = (stack.clone(), from.net.id, is_dump(&head));
            if dump {
                reply.end_apart();
            }
            let kind = head.kind;
            serve(&head, &Query { stack, net, privileged, dump, kind, body }, reply)
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
        OF_TCP => inet::answer_old(q, out),
        DESTROY => match i32::from(q.body[0]) {
            libc::AF_INET | libc::AF_INET6 => inet::destroy(q),
            libc::AF_UNIX | libc::AF_NETLINK | libc::AF_PACKET => Err(EOPNOTSUPP),
            AF_MAX.. => Err(EINVAL),
            _ => Err(ENOENT),
        },
        _ => Err(EINVAL),
    }
}

/// Tells of the sockets of a namespace that end; called once for each.
pub fn watch(stack: &Arc<Stack>) {
    stack.ends.set_teller(Box::new(ended::tell));
}

/// Enters the protocol.
pub fn register() {
    register_protocol(libc::NETLINK_SOCK_DIAG, Arc::new(SockDiag));
}
