//! Communication between processes, and readiness of files.
//!
//! Key types: [`pipe::Pipe`] (pipes and FIFOs), [`unix::UnixSocket`] behind the family-independent
//! [`socket::Socket`], [`netlink`], [`epoll::Epoll`], [`poll::PollItem`], the readable objects [`eventfd::EventFd`],
//! [`timerfd::TimerFd`], [`signalfd::SignalFd`] and [`pidfd::PidFd`], [`futex`], [`sysv`] and [`mqueue`].
//!
//! Neighbours: `uml-core` below (tasks, open files), `uml-fs` beside, `uml-syscalls` above, whose handlers
//! decode arguments and call in here. Network protocols other than AF_UNIX do not belong here.
//!
//! Lock order: `STREAM_READ`, `STREAM_WRITE` (held while bytes move between an object and guest
//! memory, never while a task sleeps), then the object's own short lock (`PIPE`, `SOCKET`, `EPOLL`).
#![forbid(unsafe_code)]

pub mod epoll;
pub mod eventfd;
pub mod fifo;
pub mod futex;
pub mod mqueue;
pub mod netlink;
pub mod pidfd;
pub mod pipe;
pub mod poll;
pub mod signalfd;
pub mod socket;
pub mod sysv;
pub mod timerfd;
pub mod unix;

pub use pipe::Pipe;

use std::sync::Arc;

use uml_core::kernel::Kernel;

/// Enters what this crate provides in the machine's registries; called once at boot.
pub fn init(kernel: &Arc<Kernel>) {
    kernel.vfs.registry.set_fifo(Arc::new(fifo::Opener));
    socket::register_socket_family(libc::AF_UNIX, Arc::new(unix::Family));
    socket::register_socket_family(libc::AF_NETLINK, Arc::new(netlink::Family));
    netlink::uevent::init(kernel);
    kernel.vfs.registry.add_fs(Arc::new(mqueue::fs::MqueueType));
    kernel.hooks.on_exit_process.add(sysv::sem::exit_process);
    kernel.hooks.on_leave_ipc.add(sysv::sem::exit_process);
    let _ = kernel.hooks.make_pidfd.set(pidfd::make);
    let _ = kernel.hooks.pidfd_of.set(pidfd::target);
    let _ = kernel.hooks.on_exit_memory.set(futex::exit_memory);
}
