//! AF_NETLINK (netlink(7)): datagrams between programs and parts of the kernel, and multicast groups.
//!
//! This module is the family and the delivery of messages; a protocol is a [`Protocol`] in the table at
//! [`register_protocol`], which answers what programs send to the kernel. [`uevent`] is
//! NETLINK_KOBJECT_UEVENT; rtnetlink registers its own.
//!
//! Lock order: the table of sockets (`SOCKET_TABLE`), then one socket (`SOCKET`).

mod socket;
pub mod uevent;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank, RwLock};
use uml_core::task::Task;

use crate::socket::{Socket, SocketFamily};
pub use socket::NetlinkSocket;

/// Length of `struct sockaddr_nl`.
const ADDR_LEN: usize = 12;

/// One part of the kernel that is spoken to.
pub trait Protocol: Send + Sync {
    /// Multicast groups there are.
    fn groups(&self) -> u32;

    /// Whether anybody may join a group or send to another program; otherwise CAP_NET_ADMIN is needed.
    fn open_to_all(&self) -> OpenTo {
        OpenTo { receiving: false, sending: false }
    }

    /// The socket is in other groups than before; called without locks.
    fn groups_changed(&self, of: &NetlinkSocket) {
        let _ = of;
    }

    /// A program sent `data` to the kernel. Answers go through [`NetlinkSocket::deliver`].
    fn received(&self, from: &Arc<NetlinkSocket>, task: &Task, data: &[u8]) -> Result<()> {
        let _ = (from, task, data);
        Err(ECONNREFUSED)
    }
}

/// What unprivileged programs may do.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenTo {
    pub receiving: bool,
    pub sending: bool,
}

/// Where a message comes from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin {
    /// 0 is the kernel.
    pub portid: u32,
    /// Number of the multicast group, 0 for none.
    pub group: u32,
    /// For SCM_CREDENTIALS; zeros for the kernel.
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
    /// Number of the network namespace that it is about; 0 is about the machine.
    pub net: u64,
}

struct Table {
    protocols: RwLock<BTreeMap<i32, Arc<dyn Protocol>>>,
    sockets: Mutex<Vec<Weak<NetlinkSocket>>>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| Table {
    protocols: RwLock::new(Rank::LEAF, BTreeMap::new()),
    sockets: Mutex::new(Rank::SOCKET_TABLE, Vec::new()),
});

/// Makes a protocol (NETLINK_*) known.
pub fn register_protocol(number: i32, p: Arc<dyn Protocol>) {
    TABLE.protocols.write().insert(number, p);
}

fn protocol(number: i32) -> Result<Arc<dyn Protocol>> {
    TABLE.protocols.read().get(&number).cloned().ok_or(EPROTONOSUPPORT)
}

/// Sockets of one protocol.
fn sockets(number: i32) -> Vec<Arc<NetlinkSocket>> {
    let mut all: Vec<_> = {
        let mut v = TABLE.sockets.lock();
        v.retain(|s| s.strong_count() != 0);
        v.iter().filter_map(Weak::upgrade).collect()
    };
    // Without the lock: one of another protocol may be the last of its network namespace.
    all.retain(|s: &Arc<NetlinkSocket>| s.protocol == number);
    all
}

/// A socket in a list of them.
pub struct Row {
    /// SOCK_RAW or SOCK_DGRAM.
    pub kind: i32,
    pub protocol: i32,
    pub portid: u32,
    /// Port and groups that it is connected to.
    pub to: Option<(u32, u32)>,
    /// Bit n-1 is group n.
    pub groups: u64,
    pub ino: u64,
    /// Memory of waiting messages, and the buffers' sizes.
    pub used: usize,
    pub rcvbuf: usize,
    pub sndbuf: usize,
}

/// The sockets of a network namespace.
pub fn all(net: u64) -> Vec<Row> {
    let all: Vec<_> = TABLE.sockets.lock().iter().filter_map(Weak::upgrade).collect();
    all.iter().filter(|s| s.net.id == net).map(|s| s.row()).collect()
}

/// Sends `data` to every socket of the protocol and the origin's namespace that is in its group, except `but`; true
/// when there was one.
pub fn multicast(number: i32, data: &[u8], origin: Origin, but: Option<&NetlinkSocket>) -> bool {
    let mut any = false;
    for s in sockets(number) {
        let there = origin.net == 0 || s.net.id == origin.net;
        if there && !but.is_some_and(|b| std::ptr::eq(b, &*s)) && s.in_group(origin.group) {
            any = true;
            // A slow receiver loses messages and is told by ENOBUFS; the others get theirs.
            let _ = s.deliver(data, origin);
        }
    }
    any
}

/// True when somebody in a namespace (0: in any) listens to a group.
pub fn has_listeners(number: i32, group: u32, net: u64) -> bool {
    sockets(number).iter().any(|s| (net == 0 || s.net.id == net) && s.in_group(group))
}

/// AF_NETLINK.
pub struct Family;

impl SocketFamily for Family {
    fn create(&self, task: &Task, kind: i32, number: i32) -> Result<Arc<dyn Socket>> {
        if kind != libc::SOCK_RAW && kind != libc::SOCK_DGRAM {
            return Err(ESOCKTNOSUPPORT);
        }
        let p = protocol(number)?;
        let s = NetlinkSocket::new(kind, number, p, task.ns().net.clone());
        TABLE.sockets.lock().push(Arc::downgrade(&s));
        Ok(s)
    }
}
