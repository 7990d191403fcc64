//! Other network namespaces in messages (ip-netns(8)).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ns::nsfs::NsFile;
use uml_core::ns::{Namespace, NetNs};
use uml_core::task::Cap;
use uml_net::stack::Stack;

use super::Request;
use crate::nlmsg::{Attrs, Reply, kind};
use crate::stack_in;

const IFLA_NET_NS_PID: u16 = 19;
const IFLA_NET_NS_FD: u16 = 28;
const NSID: u16 = 1;
const PID: u16 = 2;
const FD: u16 = 3;
/// `struct rtgenmsg`, padded.
const FIXED: usize = 4;

/// The namespace of a process or a descriptor: `ESRCH` without such a process, `EBADF`, `EINVAL` for a descriptor
/// of something else.
fn named(r: &Request<'_>, pid: Option<u32>, fd: Option<u32>) -> Result<Option<Arc<NetNs>>> {
    if let Some(fd) = fd {
        let file = r.task.file(fd as i32)?;
        return match file.downcast::<NsFile>().map(|f| &f.ns) {
            Some(Namespace::Net(n)) => Ok(Some(n.clone())),
            _ => Err(EINVAL),
        };
    }
    let Some(pid) = pid else { return Ok(None) };
    let own = r.task.process.pid_ns.kernel_pid(pid as i32).ok_or(ESRCH)?;
    let task = r.task.kernel().tree.read().leader(own).ok_or(ESRCH)?;
    Ok(Some(task.ns().net.clone()))
}

/// Where an interface is to be (IFLA_NET_NS_PID, IFLA_NET_NS_FD); `EPERM` without CAP_NET_ADMIN there.
pub fn target(r: &Request<'_>, a: &Attrs<'_>) -> Result<Option<Arc<Stack>>> {
    let Some(n) = named(r, a.word(IFLA_NET_NS_PID)?, a.word(IFLA_NET_NS_FD)?)? else {
        return Ok(None);
    };
    r.task.require_in(&n.owner, Cap::NetAdmin)?;
    Ok(Some(stack_in(&n)))
}

fn asked(r: &Request<'_>) -> Result<(Arc<Stack>, Option<u32>)> {
    let a = Attrs::parse(r.body, FIXED)?;
    let n = named(r, a.word(PID)?, a.word(FD)?)?.ok_or(EINVAL)?;
    Ok((stack_in(&n), a.word(NSID)?))
}

/// RTM_GETNSID: the number by which a namespace is known here, -1 without one.
pub fn number(r: &Request<'_>, out: &mut Reply) -> Result<()> {
    let (other, _) = asked(r)?;
    let mut m = out.message(kind::NEWNSID, false, &[0; FIXED]);
    m.word(NSID, r.stack.known_as(&other).unwrap_or(-1) as u32);
    out.push(m);
    Ok(())
}

/// RTM_NEWNSID: gives it one.
pub fn set_number(r: &Request<'_>) -> Result<()> {
    let (other, n) = asked(r)?;
    r.stack.set_number(&other, n.ok_or(EINVAL)? as i32)
}
