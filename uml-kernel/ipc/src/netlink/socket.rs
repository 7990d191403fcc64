//! A netlink socket.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, PollRegistrar, Rank, WaitQueue};
use uml_core::ctx::Ctx;
use uml_core::io::take_vec;
use uml_core::ns::NetNs;
use uml_core::task::{Cap, Task};
use uml_core::user;
use uml_core::vfs::anon::AnonInode;

use super::{ADDR_LEN, Origin, Protocol, Row, TABLE, multicast, sockets};
use crate::socket::filter::Filter;
use crate::socket::{Address, Control, Options, Received, RecvArgs, SendArgs, Shutdown, Socket};

/// Options at level SOL_NETLINK that are switches: they are kept and reported.
const PKTINFO: i32 = 3;
const BROADCAST_ERROR: i32 = 4;
const NO_ENOBUFS: i32 = 5;
const LISTEN_ALL_NSID: i32 = 8;
const LIST_MEMBERSHIPS: i32 = 9;
const CAP_ACK: i32 = 10;
const EXT_ACK: i32 = 11;
const GET_STRICT_CHK: i32 = 12;
const ADD_MEMBERSHIP: i32 = 1;
const DROP_MEMBERSHIP: i32 = 2;

/// What a message costs beyond its bytes.
const OVERHEAD: usize = 512;

struct Message {
    data: Vec<u8>,
    origin: Origin,
}

#[derive(Default)]
struct Inner {
    /// 0 until bound.
    portid: u32,
    /// Bit n-1 is group n.
    groups: u64,
    /// Default destination: port, groups (connect(2)).
    to: Option<(u32, u32)>,
    queue: VecDeque<Message>,
    bytes: usize,
    /// Messages were lost: the next receive says ENOBUFS.
    overrun: bool,
    /// Bit n of option n.
    switches: u32,
    filter: Option<Filter>,
    filter_locked: bool,
}

/// An AF_NETLINK socket.
pub struct NetlinkSocket {
    me: Weak<NetlinkSocket>,
    kind: i32,
    pub protocol: i32,
    /// The namespace that it was made in, and stays in.
    pub net: Arc<NetNs>,
    part: Arc<dyn Protocol>,
    options: Options,
    ino: AtomicU64,
    wait: Arc<WaitQueue>,
    inner: Mutex<Inner>,
}

/// Port and groups of a `struct sockaddr_nl`.
fn parse(addr: &[u8]) -> Result<(u32, u32)> {
    if addr.len() < ADDR_LEN {
        return Err(EINVAL);
    }
    if u16::from_le_bytes([addr[0], addr[1]]) != libc::AF_NETLINK as u16 {
        return Err(EINVAL);
    }
    let word = |i: usize| u32::from_le_bytes([addr[i], addr[i + 1], addr[i + 2], addr[i + 3]]);
    Ok((word(4), word(8)))
}

fn address(portid: u32, groups: u32) -> Address {
    let mut a = vec![0; ADDR_LEN];
    a[..2].copy_from_slice(&(libc::AF_NETLINK as u16).to_le_bytes());
    a[4..8].copy_from_slice(&portid.to_le_bytes());
    a[8..].copy_from_slice(&groups.to_le_bytes());
    a
}

/// The mask form of a group number, which only the first 32 have.
fn mask(group: u32) -> u32 {
    if (1..=32).contains(&group) { 1 << (group - 1) } else { 0 }
}

fn int(value: &[u8]) -> Result<i32> {
    let b = value.get(..4).ok_or(EINVAL)?;
    Ok(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

impl NetlinkSocket {
    pub(super) fn new(
        kind: i32,
        protocol: i32,
        part: Arc<dyn Protocol>,
        net: Arc<NetNs>,
    ) -> Arc<NetlinkSocket> {
        Arc::new_cyclic(|me| NetlinkSocket {
            me: me.clone(),
            kind,
            protocol,
            net,
            part,
            options: Options::default(),
            ino: AtomicU64::new(0),
            wait: WaitQueue::shared(),
            inner: Mutex::new(Rank::SOCKET, Inner::default()),
        })
    }

    pub(super) fn row(&self) -> Row {
        let i = self.inner.lock();
        Row {
            kind: self.kind,
            protocol: self.protocol,
            portid: i.portid,
            to: i.to,
            groups: i.groups,
            ino: self.ino.load(Ordering::Relaxed),
            used: i.bytes,
            rcvbuf: self.options.rcvbuf.load(Ordering::Relaxed),
            sndbuf: self.options.sndbuf.load(Ordering::Relaxed),
        }
    }

    /// Its address: 0 until it is bound.
    pub fn portid(&self) -> u32 {
        self.inner.lock().portid
    }

    /// Whether acknowledgements leave out the request (NETLINK_CAP_ACK), and have attributes (NETLINK_EXT_ACK).
    pub fn acknowledged_with(&self) -> (bool, bool) {
        let s = self.inner.lock().switches;
        (s & 1 << CAP_ACK != 0, s & 1 << EXT_ACK != 0)
    }

    /// Queues the answer to one question, however long it is: its length is what the kernel holds, not what
    /// others send. `ENOBUFS` when earlier messages fill the buffer.
    pub fn deliver_answer(&self, datagrams: &[Vec<u8>]) -> Result<()> {
        let mut rest = datagrams.iter();
        if let Some(first) = rest.next() {
            self.deliver(first, Origin::default())?;
        }
        let mut i = self.inner.lock();
        for d in rest {
            let keep = i.filter.as_ref().map_or(d.len(), |f| f.run(d).min(d.len()));
            if keep == 0 && i.filter.is_some() {
                continue;
            }
            i.bytes += keep + OVERHEAD;
            i.queue.push_back(Message { data: d[..keep].to_vec(), origin: Origin::default() });
        }
        drop(i);
        self.wait.wake_all(Events::READABLE);
        Ok(())
    }

    /// True when it is a member of the group.
    pub fn in_group(&self, group: u32) -> bool {
        (1..=64).contains(&group) && self.inner.lock().groups & 1 << (group - 1) != 0
    }

    /// Queues a message. `ENOBUFS` when the receive buffer is full, which the receiver is told too.
    pub fn deliver(&self, data: &[u8], origin: Origin) -> Result<()> {
        let mut i = self.inner.lock();
        let keep = i.filter.as_ref().map_or(data.len(), |f| f.run(data).min(data.len()));
        if keep == 0 && i.filter.is_some() {
            return Ok(());
        }
        let cost = keep + OVERHEAD;
        if i.bytes + cost > self.options.rcvbuf.load(Ordering::Relaxed) && i.bytes != 0 {
            if i.switches & 1 << NO_ENOBUFS == 0 {
                i.overrun = true;
            }
            drop(i);
            self.wait.wake_all(Events::ERR | Events::READABLE);
            return Err(ENOBUFS);
        }
        i.bytes += cost;
        i.queue.push_back(Message { data: data[..keep].to_vec(), origin });
        drop(i);
        self.wait.wake_all(Events::READABLE);
        Ok(())
    }

    /// Takes the address `portid`, or one of the kernel's choice: the process id, then negative numbers.
    fn take_port(&self, task: &Task, portid: u32) -> Result<()> {
        // One bind at a time, so that two sockets never get the same port.
        static BINDING: Mutex<()> = Mutex::new(Rank(209), ());
        let _one = BINDING.lock();
        let used: Vec<u32> = sockets(self.protocol).iter().map(|s| s.portid()).collect();
        let mut i = self.inner.lock();
        if i.portid != 0 {
            return if portid == 0 || portid == i.portid { Ok(()) } else { Err(EINVAL) };
        }
        i.portid = if portid != 0 {
            if used.contains(&portid) {
                return Err(EADDRINUSE);
            }
            portid
        } else {
            let pid = task.show_pid(task.process.pid) as u32;
            let free = |p: &u32| !used.contains(p);
            Some(pid)
                .filter(free)
                .or_else(|| (1..=u32::MAX / 2).map(|n| n.wrapping_neg() - 4096).find(free))
                .ok_or(EADDRINUSE)?
        };
        Ok(())
    }

    fn may_receive(&self, task: &Task) -> Result<()> {
        if self.part.open_to_all().receiving { Ok(()) } else { task.require(Cap::NetAdmin) }
    }

    fn membership(&self, task: &Task, value: &[u8], join: bool) -> Result<()> {
        self.may_receive(task)?;
        let group = int(value)? as u32;
        if !(1..=self.part.groups().min(64)).contains(&group) {
            return Err(EINVAL);
        }
        let mut i = self.inner.lock();
        let bit = 1 << (group - 1);
        i.groups = if join { i.groups | bit } else { i.groups & !bit };
        drop(i);
        self.part.groups_changed(self);
        Ok(())
    }

    fn take(&self, peek: bool, out: &mut dyn uml_core::io::Sink) -> Result<(usize, usize, Origin)> {
        let mut i = self.inner.lock();
        if std::mem::take(&mut i.overrun) {
            return Err(ENOBUFS);
        }
        let m = i.queue.pop_front().ok_or(EAGAIN)?;
        if peek {
            let (data, origin) = (m.data.clone(), m.origin);
            i.queue.push_front(m);
            drop(i);
            let n = out.put(&data[..data.len().min(out.remaining())])?;
            return Ok((n, data.len(), origin));
        }
        i.bytes -= m.data.len() + OVERHEAD;
        drop(i);
        let n = out.put(&m.data[..m.data.len().min(out.remaining())])?;
        Ok((n, m.data.len(), m.origin))
    }
}

impl Socket for NetlinkSocket {
    fn identity(&self) -> (i32, i32, i32) {
        (libc::AF_NETLINK, self.kind, self.protocol)
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn bind(&self, task: &Task, addr: &[u8]) -> Result<()> {
        let (portid, groups) = parse(addr)?;
        if groups != 0 {
            self.may_receive(task)?;
        }
        self.take_port(task, portid)?;
        let mut i = self.inner.lock();
        // The mask form replaces the first 32 groups.
        i.groups = i.groups >> 32 << 32 | u64::from(groups);
        drop(i);
        self.part.groups_changed(self);
        Ok(())
    }

    fn connect(&self, task: &Task, addr: &[u8], _: bool) -> Result<()> {
        if addr.len() >= 2 && i32::from(u16::from_le_bytes([addr[0], addr[1]])) == libc::AF_UNSPEC {
            self.inner.lock().to = None;
            return Ok(());
        }
        let (portid, groups) = parse(addr)?;
        if (portid != 0 || groups != 0) && !self.part.open_to_all().sending {
            task.require(Cap::NetAdmin)?;
        }
        self.take_port(task, 0)?;
        self.inner.lock().to = Some((portid, groups));
        Ok(())
    }

    fn local(&self) -> Result<Address> {
        let i = self.inner.lock();
        Ok(address(i.portid, i.groups as u32))
    }

    fn peer(&self) -> Result<Address> {
        let (portid, groups) = self.inner.lock().to.unwrap_or_default();
        Ok(address(portid, groups))
    }

    fn shutdown(&self, _: Shutdown) -> Result<()> {
        Err(EOPNOTSUPP)
    }

    fn send(&self, args: &mut SendArgs<'_>) -> Result<usize> {
        if args.flags & libc::MSG_OOB != 0 {
            return Err(EOPNOTSUPP);
        }
        let (portid, groups) = match args.addr {
            Some(a) => parse(a)?,
            None => self.inner.lock().to.unwrap_or_default(),
        };
        let task = args.task;
        if (portid != 0 || groups != 0) && !self.part.open_to_all().sending {
            task.require(Cap::NetAdmin)?;
        }
        self.take_port(task, 0)?;
        let limit = self.options.sndbuf.load(Ordering::Relaxed);
        if args.data.remaining() > limit {
            return Err(EMSGSIZE);
        }
        let data = take_vec(args.data, limit)?;
        let cred = task.cred();
        // A mask names one group: the lowest.
        let group = if groups == 0 { 0 } else { groups.trailing_zeros() + 1 };
        let origin = Origin {
            portid: self.portid(),
            group,
            pid: task.process.pid,
            uid: cred.euid,
            gid: cred.egid,
            net: self.net.id,
        };
        if group != 0 {
            multicast(self.protocol, &data, origin, Some(self));
        }
        if portid != 0 {
            let to = sockets(self.protocol)
                .into_iter()
                .find(|s| s.portid() == portid && s.net.id == self.net.id);
            to.ok_or(ECONNREFUSED)?
                .deliver(&data, Origin { group: 0, ..origin })
                .map_err(|_| EAGAIN)?;
        } else if group == 0 {
            self.part.received(&self.me.upgrade().ok_or(EBADF)?, task, &data)?;
        }
        Ok(data.len())
    }

    fn recv(&self, args: &mut RecvArgs<'_>) -> Result<Received> {
        if args.flags & libc::MSG_OOB != 0 {
            return Err(EOPNOTSUPP);
        }
        let peek = args.flags & libc::MSG_PEEK != 0;
        let (task, data) = (args.task, &mut *args.data);
        let (n, full, origin) = task.retry(
            &self.wait,
            Events::READABLE | Events::ERR,
            args.nonblock,
            self.options.recv_deadline(),
            "netlink_recvmsg",
            || self.take(peek, data),
        )?;
        let mut out = Received {
            len: if args.flags & libc::MSG_TRUNC != 0 { full } else { n },
            addr: Some(address(origin.portid, mask(origin.group))),
            ..Received::default()
        };
        if n < full {
            out.flags |= libc::MSG_TRUNC;
        }
        if self.inner.lock().switches & 1 << PKTINFO != 0 {
            let data = origin.group.to_le_bytes().to_vec();
            out.control.push(Control::Bytes { level: libc::SOL_NETLINK, kind: PKTINFO, data });
        }
        if self.options.passcred.load(Ordering::Relaxed) {
            let o = origin;
            let ns = args.task.cred().user_ns.clone();
            let (pid, uid, gid) = (args.task.show_pid(o.pid), ns.uid(o.uid), ns.gid(o.gid));
            let data = [pid.to_le_bytes(), uid.to_le_bytes(), gid.to_le_bytes()].concat();
            let kind = libc::SCM_CREDENTIALS;
            out.control.push(Control::Bytes { level: libc::SOL_SOCKET, kind, data });
        }
        Ok(out)
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(r) = reg {
            r.register(&self.wait);
        }
        let i = self.inner.lock();
        Events::READABLE.when(!i.queue.is_empty())
            | Events::ERR.when(i.overrun)
            | Events::WRITABLE
            | Events::WRBAND
    }

    fn set_option(&self, task: &Task, level: i32, name: i32, value: &[u8]) -> Result<()> {
        if level == libc::SOL_SOCKET {
            let mut i = match name {
                libc::SO_ATTACH_FILTER => {
                    let f = Filter::from_option(task, value)?;
                    let mut i = self.inner.lock();
                    if i.filter_locked {
                        return Err(EPERM);
                    }
                    i.filter = Some(f);
                    return Ok(());
                }
                libc::SO_DETACH_FILTER | libc::SO_LOCK_FILTER => self.inner.lock(),
                _ => return Err(ENOPROTOOPT),
            };
            if name == libc::SO_LOCK_FILTER {
                let on = int(value)? != 0;
                if i.filter_locked && !on {
                    return Err(EPERM);
                }
                i.filter_locked = on;
                return Ok(());
            }
            if i.filter_locked {
                return Err(EPERM);
            }
            return i.filter.take().map(|_| ()).ok_or(ENOENT);
        }
        if level != libc::SOL_NETLINK {
            return Err(ENOPROTOOPT);
        }
        match name {
            ADD_MEMBERSHIP | DROP_MEMBERSHIP => {
                self.membership(task, value, name == ADD_MEMBERSHIP)
            }
            PKTINFO | BROADCAST_ERROR | NO_ENOBUFS | CAP_ACK | EXT_ACK | GET_STRICT_CHK => {
                let on = int(value)? != 0;
                let mut i = self.inner.lock();
                i.switches = if on { i.switches | 1 << name } else { i.switches & !(1 << name) };
                Ok(())
            }
            LISTEN_ALL_NSID => {
                task.require(Cap::NetAdmin)?;
                // There is one network namespace: every message is heard already.
                let _ = int(value)?;
                Ok(())
            }
            _ => Err(ENOPROTOOPT),
        }
    }

    fn get_option(&self, _: &Task, level: i32, name: i32, _: usize) -> Result<Vec<u8>> {
        let i = self.inner.lock();
        let flag = |on: bool| Ok(i32::from(on).to_le_bytes().to_vec());
        match (level, name) {
            (libc::SOL_SOCKET, libc::SO_LOCK_FILTER) => flag(i.filter_locked),
            (
                libc::SOL_NETLINK,
                PKTINFO | BROADCAST_ERROR | NO_ENOBUFS | CAP_ACK | EXT_ACK | GET_STRICT_CHK,
            ) => flag(i.switches & 1 << name != 0),
            (libc::SOL_NETLINK, LIST_MEMBERSHIPS) => {
                let words = self.part.groups().div_ceil(32) as usize;
                Ok(i.groups.to_le_bytes()[..(words * 4).min(8)].to_vec())
            }
            _ => Err(ENOPROTOOPT),
        }
    }

    fn take_error(&self) -> Option<Errno> {
        std::mem::take(&mut self.inner.lock().overrun).then_some(ENOBUFS)
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, cmd: u32, arg: u64) -> Result<u64> {
        if cmd != libc::FIONREAD as u32 {
            return Err(ENOTTY);
        }
        let n = self.inner.lock().queue.front().map_or(0, |m| m.data.len() as i32);
        user::write_obj(&cx.task, arg, &n)?;
        Ok(0)
    }

    fn net_ns(&self, _: &Task) -> Option<Arc<NetNs>> {
        Some(self.net.clone())
    }

    fn opened(&self, inode: &Arc<AnonInode>) {
        self.ino.store(inode.ino(), Ordering::Relaxed);
    }

    fn close(&self) {
        let gone = std::mem::take(&mut *self.inner.lock());
        drop(gone);
        TABLE.sockets.lock().retain(|s| !std::ptr::eq(s.as_ptr(), self));
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
