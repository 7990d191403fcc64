//! The Internet families for programs: sockets over the network stack.
//!
//! Key types: [`stream::StreamSocket`] (TCP), [`dgram::DgramSocket`] (UDP, ping and raw), [`packet::PacketSock`]
//! (AF_PACKET), [`rtnetlink`] (NETLINK_ROUTE), `nfnetlink` (NETLINK_NETFILTER), `sock_diag` (NETLINK_SOCK_DIAG), [`ioctl`] (netdevice(7)), [`proc`] (/proc/net, /proc/sys/net).
//! [`stack_of`] is the network namespace of a task.
//!
//! Neighbours: `uml-net` below (protocols, without tasks), `uml-ipc` beside (the family-independent socket
//! calls, AF_NETLINK); the binary above. Protocols do not belong here, devices neither.
//!
//! Lock order: `STREAM_READ`, `STREAM_WRITE` while bytes move to and from guest memory; then the stack's
//! own (see there). Nothing is held while a task sleeps.
#![forbid(unsafe_code)]

pub mod addr;
mod clock;
mod control;
pub mod dgram;
pub mod family;
mod genetlink;
pub mod ioctl;
mod ioctl6;
mod ioctl_bridge;
mod ip_options;
mod nfnetlink;
mod nlmsg;
pub mod packet;
mod packet_ring;
pub mod proc;
pub mod rtnetlink;
mod snmp6;
mod sock_diag;
pub mod stream;
mod sysfs;
mod tcp_options;
mod wait;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_core::kernel::Kernel;
use uml_core::ns::NetNs;
use uml_core::task::{Cap, Task};
use uml_net::interface::iff;
use uml_net::stack::Stack;
use uml_procfs::ProcFs;

pub use clock::NetPart;

/// The network namespace of a task.
pub fn stack_of(task: &Task) -> Arc<Stack> {
    stack_in(&task.ns().net)
}

/// The stack of a network namespace.
pub fn stack_in(net: &NetNs) -> Arc<Stack> {
    let stack = net.parts.get::<NetPart>().stack.clone();
    // Notifications go to listeners of the namespace, which they are told by its number.
    stack.id.store(net.id, Ordering::Relaxed);
    stack
}

/// `EPERM` unless the task has `cap` in the user namespace that its network namespace belongs to.
pub(crate) fn require_net(task: &Task, cap: Cap) -> uml_abi::Result<()> {
    task.require_in(&task.ns().net.owner, cap)
}

/// Enters the families, netlink's routing protocol and files of /proc; called once at boot. Returns the
/// initial namespace, whose loopback is up.
pub fn init(kernel: &Arc<Kernel>, proc: &ProcFs) -> Arc<Stack> {
    clock::install(kernel);
    family::register();
    uml_ipc::socket::set_device_ioctl(ioctl::of_any_socket);
    rtnetlink::register();
    genetlink::register();
    nfnetlink::register();
    sock_diag::register();
    proc::register(proc);
    let stack = stack_in(&kernel.namespaces.net);
    if let Some(lo) = stack.loopback() {
        // Linux leaves it down for init to raise; a machine whose init is a program of its own would
        // have no localhost, so it is up from the start.
        let _ = stack.set_flags(&lo, iff::UP, iff::UP);
    }
    sysfs::install(kernel, &stack);
    stack
}
