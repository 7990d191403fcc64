//! Sockets independent of the address family (socket(2)): what a family provides, the open file around
//! it, and options common to all.

mod file;
pub mod filter;
pub mod message;
pub mod options;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, OnceLock};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, PollRegistrar, Rank, RwLock};
use uml_core::ctx::Ctx;
use uml_core::ns::NetNs;
use uml_core::task::Task;
use uml_core::vfs::anon::AnonInode;

pub use file::SocketFile;
pub use message::{Control, Received, RecvArgs, SendArgs};
pub use options::Options;

/// Longest address (`struct sockaddr_storage`).
pub const ADDR_MAX: usize = 128;

/// An address as its bytes in guest memory, family first.
pub type Address = Vec<u8>;

/// Which half of a connection shutdown(2) ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    Read,
    Write,
    Both,
}

/// ioctl(2) about the devices of a network namespace (netdevice(7)).
pub type DeviceIoctl = fn(&mut Ctx<'_>, &Arc<NetNs>, u32, u64) -> Result<u64>;

static DEVICE_IOCTL: OnceLock<DeviceIoctl> = OnceLock::new();

/// Sets what answers netdevice(7) on sockets of families without devices, once: any socket will do for those calls.
pub fn set_device_ioctl(f: DeviceIoctl) {
    let _ = DEVICE_IOCTL.set(f);
}

/// ioctl(2) of a socket: the family's own, or one about devices.
fn ioctl(socket: &dyn Socket, cx: &mut Ctx<'_>, cmd: u32, arg: u64) -> Result<u64> {
    const SIOC: std::ops::Range<u32> = 0x8900..0x8a00;
    match socket.ioctl(cx, cmd, arg) {
        Err(ENOTTY) if SIOC.contains(&cmd) => {}
        done => return done,
    }
    let net = socket.net_ns(&cx.task).ok_or(ENOTTY)?;
    DEVICE_IOCTL.get().ok_or(ENOTTY)?(cx, &net, cmd, arg)
}

/// Makes sockets of one address family.
pub trait SocketFamily: Send + Sync {
    /// socket(2): `kind` is SOCK_* without flags. `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`.
    fn create(&self, task: &Task, kind: i32, protocol: i32) -> Result<Arc<dyn Socket>>;

    /// socketpair(2).
    fn pair(
        &self,
        task: &Task,
        kind: i32,
        protocol: i32,
    ) -> Result<(Arc<dyn Socket>, Arc<dyn Socket>)> {
        let _ = (task, kind, protocol);
        Err(EOPNOTSUPP)
    }
}

/// A socket. Defaults return what Linux gives when a family lacks the operation.
pub trait Socket: Any + Send + Sync {
    /// SO_DOMAIN, SO_TYPE and SO_PROTOCOL.
    fn identity(&self) -> (i32, i32, i32);

    /// The options every family has.
    fn options(&self) -> &Options;

    fn bind(&self, task: &Task, addr: &[u8]) -> Result<()> {
        let _ = (task, addr);
        Err(EOPNOTSUPP)
    }

    fn listen(&self, task: &Task, backlog: i32) -> Result<()> {
        let _ = (task, backlog);
        Err(EOPNOTSUPP)
    }

    /// The next connection and its peer's address.
    fn accept(&self, task: &Task, nonblock: bool) -> Result<(Arc<dyn Socket>, Address)> {
        let _ = (task, nonblock);
        Err(EOPNOTSUPP)
    }

    fn connect(&self, task: &Task, addr: &[u8], nonblock: bool) -> Result<()>;

    /// getsockname(2).
    fn local(&self) -> Result<Address>;

    /// getpeername(2).
    fn peer(&self) -> Result<Address>;

    fn shutdown(&self, how: Shutdown) -> Result<()>;

    /// Sends one message, or bytes of a stream.
    fn send(&self, args: &mut SendArgs<'_>) -> Result<usize>;

    /// Receives one message, or bytes of a stream.
    fn recv(&self, args: &mut RecvArgs<'_>) -> Result<Received>;

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events;

    /// setsockopt(2) for what [`Options`] does not know.
    fn set_option(&self, task: &Task, level: i32, name: i32, value: &[u8]) -> Result<()> {
        let _ = (task, level, name, value);
        Err(ENOPROTOOPT)
    }

    /// An option that [`Options`] keeps was changed by `task`: the family may have to act on it.
    fn option_changed(&self, task: &Task, name: i32) -> Result<()> {
        let _ = (task, name);
        Ok(())
    }

    /// getsockopt(2) for what the family keeps although [`Options`] knows it: `None` for the common value.
    fn own_option(&self, name: i32) -> Option<Vec<u8>> {
        let _ = name;
        None
    }

    /// getsockopt(2) for what [`Options`] does not know; `max` is the caller's room.
    fn get_option(&self, task: &Task, level: i32, name: i32, max: usize) -> Result<Vec<u8>> {
        let _ = (task, level, name, max);
        Err(ENOPROTOOPT)
    }

    /// getsockopt(2) for options whose question is in the caller's buffer, at `at`.
    fn query(&self, task: &Task, level: i32, name: i32, at: u64, max: usize) -> Result<Vec<u8>> {
        let _ = at;
        self.get_option(task, level, name, max)
    }

    /// What mmap(2) maps: `ENODEV`, as for most sockets.
    fn mappable(&self) -> Result<Arc<dyn uml_mm::Mappable>> {
        Err(ENODEV)
    }

    /// SO_ERROR: the pending error, which is cleared.
    fn take_error(&self) -> Option<Errno> {
        None
    }

    /// SO_ACCEPTCONN.
    fn listening(&self) -> bool {
        false
    }

    /// ioctl(2) for what the family knows itself; `ENOTTY` for the rest.
    fn ioctl(&self, cx: &mut Ctx<'_>, cmd: u32, arg: u64) -> Result<u64> {
        let _ = (cx, cmd, arg);
        Err(ENOTTY)
    }

    /// The network namespace whose devices its ioctl(2) is about, for a family that does not know them itself.
    fn net_ns(&self, task: &Task) -> Option<Arc<NetNs>> {
        Some(task.ns().net.clone())
    }

    /// The inode of its descriptor, told once when that is made.
    fn opened(&self, inode: &Arc<AnonInode>) {
        let _ = inode;
    }

    /// The last descriptor was closed.
    fn close(&self);

    /// A program closed a descriptor: waits, if it was the last one and SO_LINGER says so, until what was sent has arrived
    /// or the time is up (socket(7)). A signal ends the wait.
    fn linger(&self, task: &Task) {
        let _ = task;
    }

    fn as_any(&self) -> &dyn Any;

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

static FAMILIES: LazyLock<RwLock<BTreeMap<i32, Arc<dyn SocketFamily>>>> =
    LazyLock::new(|| RwLock::new(Rank::LEAF, BTreeMap::new()));

/// Makes an address family (AF_*) known; a later registration replaces an earlier one.
pub fn register_socket_family(family: i32, f: Arc<dyn SocketFamily>) {
    FAMILIES.write().insert(family, f);
}

/// The family's maker; `EAFNOSUPPORT` when it is not known.
pub fn family(family: i32) -> Result<Arc<dyn SocketFamily>> {
    FAMILIES.read().get(&family).cloned().ok_or(EAFNOSUPPORT)
}
