//! AF_PACKET sockets of programs (packet(7)), with rings and groups (fanout).

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, PollRegistrar, Rank};
use uml_core::ctx::Ctx;
use uml_core::io::take_vec;
use uml_core::task::Task;
use uml_core::user;
use uml_core::vfs::anon::AnonInode;
use uml_ipc::socket::options::{SO_RCVBUFFORCE, SO_TIMESTAMPING_NEW};
use uml_ipc::socket::{Address, Control, Options, Received, RecvArgs, SendArgs, Shutdown, Socket};
use uml_net::bpf::{Insn, Program};
use uml_net::packet::Csum;
use uml_net::stack::Stack;
use uml_net::stamp::flag;
use uml_net::tap::{Frame, Kind, PacketSocket, RingShapes, hardware_type};
use uml_net::wire::ethernet::Mac;

use crate::packet_ring::{self, Memory, Next, Request, TxRing, Version};
use crate::{ioctl, ip_options, wait};

/// Length of `struct sockaddr_ll`.
const ADDR_LEN: usize = packet_ring::ADDRESS;
const PACKET_ADD_MEMBERSHIP: i32 = 1;
const PACKET_DROP_MEMBERSHIP: i32 = 2;
const PACKET_STATISTICS: i32 = 6;
const PACKET_AUXDATA: i32 = 8;
const PACKET_VERSION: i32 = 10;
const PACKET_HDRLEN: i32 = 11;
const PACKET_RESERVE: i32 = 12;
const PACKET_TX_RING: i32 = 13;
const PACKET_RX_RING: i32 = 5;
const PACKET_LOSS: i32 = 14;
const PACKET_VNET_HDR: i32 = 15;
const PACKET_FANOUT: i32 = 18;
const PACKET_TX_HAS_OFF: i32 = 19;
const PACKET_QDISC_BYPASS: i32 = 20;
const PACKET_ROLLOVER_STATS: i32 = 21;
const PACKET_FANOUT_DATA: i32 = 22;
const PACKET_IGNORE_OUTGOING: i32 = 23;
const SO_LOCK_FILTER: i32 = 44;

/// A packet socket.
pub struct PacketSock {
    tap: Arc<PacketSocket>,
    options: Options,
    /// Held while a ring is made or ends, and while what is in one is sent.
    rings: Mutex<Rings>,
}

/// The rings, and what the program has said of those to come.
struct Rings {
    version: Version,
    reserve: u32,
    /// Frames that cannot be sent are passed over.
    loss: bool,
    /// Frames to be sent are where their slots say.
    anywhere: bool,
    memory: Option<Arc<Memory>>,
    rx: Option<Request>,
    tx: Option<TxRing>,
}

impl Rings {
    /// `EBUSY` once there is a ring.
    fn change(&mut self) -> Result<&mut Rings> {
        if self.memory.is_some() { Err(EBUSY) } else { Ok(self) }
    }

    fn shapes(&self) -> RingShapes {
        RingShapes {
            version: self.version.number() as u32,
            reserve: self.reserve,
            loss: self.loss,
            rx: self.rx.map(|r| r.shape()),
            tx: self.tx.as_ref().map(|t| t.shape()),
        }
    }
}

impl PacketSock {
    /// A socket for `protocol`.
    pub fn create(task: &Task, stack: &Arc<Stack>, cooked: bool, protocol: u16) -> Arc<PacketSock> {
        let tap = PacketSocket::new(stack, cooked, protocol);
        tap.set_owner(task.cred().fsuid, 0);
        let none = Rings {
            version: Version::One,
            reserve: 0,
            loss: false,
            anywhere: false,
            memory: None,
            rx: None,
            tx: None,
        };
        let rings = Mutex::new(Rank::STREAM_WRITE, none);
        Arc::new(PacketSock { tap, options: Options::default(), rings })
    }

    /// Notes something about rings to come. `EBUSY` once there is one.
    fn before_rings(&self, f: impl FnOnce(&mut Rings)) -> Result<()> {
        let mut s = self.rings.lock();
        f(s.change()?);
        self.tap.set_shapes(s.shapes());
        Ok(())
    }

    /// PACKET_RX_RING, PACKET_TX_RING (`sent`): both rings are in one block of memory, which is made anew for the one that stays.
    fn set_ring(&self, v: &[u8], sent: bool) -> Result<()> {
        let mut s = self.rings.lock();
        let r = Request::parse(v, s.version)?;
        let there = if sent { s.tx.is_some() } else { s.rx.is_some() };
        if s.memory.as_ref().is_some_and(|m| m.is_mapped()) || (there && r.shape().blocks != 0) {
            return Err(EBUSY);
        }
        let wanted = !r.is_none()?;
        if !wanted && !there {
            return Ok(());
        }
        if wanted {
            r.check(s.version, s.reserve, sent)?;
        }
        let new = if wanted { r.size() } else { 0 };
        let received = if sent { s.rx.map_or(0, |r| r.size()) } else { new };
        let all = if sent { received + new } else { new + s.tx.as_ref().map_or(0, |t| t.size()) };
        let memory = if all == 0 { None } else { Some(Memory::new(all)?) };
        if let (Some(to), Some(from)) = (&memory, s.memory.clone()) {
            if !sent && let Some(t) = &mut s.tx {
                from.copy(t.base(), to, received, t.size())?;
                t.moved(to.file().clone(), received);
            } else if sent {
                let moved: Option<Result<()>> = self.tap.with_ring(|r| {
                    from.copy(0, to, 0, received)?;
                    r.moved(to.file().clone());
                    Ok(())
                });
                moved.transpose()?;
            }
        }
        let (version, reserve) = (s.version, s.reserve);
        let made = memory.as_ref().filter(|_| wanted);
        if sent {
            s.tx = made.map(|m| TxRing::new(m.file().clone(), received, r.shape(), version));
        } else {
            let stack = &self.tap.stack;
            let ring = made.map(|m| {
                let (now, secret) = (stack.realtime(), stack.random());
                packet_ring::receiving(&r, version, reserve, m, now, secret)
            });
            self.tap.set_ring(ring);
            s.rx = wanted.then_some(r);
        }
        s.memory = memory;
        self.tap.set_shapes(s.shapes());
        Ok(())
    }

    /// Sends what is in the ring, at most once around: how many bytes. Errors as of [`PacketSocket::send`]; a frame that cannot be sent
    /// ends it, unless such are passed over.
    fn send_ring(&self, s: &mut Rings, to: Option<(u32, u16, Mac)>) -> Result<usize> {
        let (loss, anywhere) = (s.loss, s.anywhere);
        let Some(ring) = &mut s.tx else { return Err(EBUSY) };
        let iface = self.tap.way_out(to.map_or(0, |t| t.0))?;
        let most = self.tap.most(&iface);
        let mut sent = 0;
        for _ in 0..ring.shape().frames {
            let done = match ring.next(most, anywhere, self.tap.cooked) {
                Next::Nothing => break,
                Next::Frame(b) => self.tap.send(to, &b).map(|()| b.len()),
                Next::Bad(e) => Err(e),
            };
            match done {
                Err(e) if !loss => {
                    ring.refuse();
                    return Err(e);
                }
                done => {
                    ring.done();
                    sent += done.unwrap_or(0);
                }
            }
        }
        Ok(sent)
    }

    /// PACKET_FANOUT: `struct fanout_args`, whose last member older programs do not know.
    fn join_fanout(&self, v: &[u8]) -> Result<()> {
        if !matches!(v.len(), 4 | 8) {
            return Err(EINVAL);
        }
        let word = ip_options::int(v)? as u32;
        let most = match v.get(4..8) {
            Some(b) => u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            None => 0,
        };
        let (id, kind, flags) = (word as u16, (word >> 16) as u8, (word >> 16) as u16 & 0xff00);
        self.tap.join_fanout(id, kind, flags, most)
    }
}

fn parse(a: &[u8]) -> Result<(u32, u16, Mac)> {
    if a.len() < 12 {
        return Err(EINVAL);
    }
    let protocol = u16::from_be_bytes([a[2], a[3]]);
    let index = i32::from_le_bytes([a[4], a[5], a[6], a[7]]);
    let mut mac = [0; 6];
    if let Some(b) = a.get(12..18) {
        mac.copy_from_slice(b);
    }
    Ok((index.max(0) as u32, protocol, Mac(mac)))
}

fn format(index: u32, protocol: u16, hatype: u16, pkttype: u8, mac: Option<Mac>) -> Address {
    let mut b = vec![0; ADDR_LEN];
    b[..2].copy_from_slice(&(libc::AF_PACKET as u16).to_le_bytes());
    b[2..4].copy_from_slice(&protocol.to_be_bytes());
    b[4..8].copy_from_slice(&index.to_le_bytes());
    b[8..10].copy_from_slice(&hatype.to_le_bytes());
    b[10] = pkttype;
    if let Some(m) = mac {
        b[11] = 6;
        b[12..18].copy_from_slice(&m.0);
    }
    b
}

/// `struct sockaddr_ll` of where a frame came from.
pub(crate) fn address_of(f: &Frame) -> Address {
    format(f.iface, f.protocol, f.hatype, f.pkttype, Some(f.addr))
}

/// TP_STATUS_* of a frame.
pub(crate) fn status_of(f: &Frame) -> u32 {
    let mut status = 0;
    match f.csum {
        Csum::Partial { .. } => status |= 8,
        Csum::Valid => status |= 128,
        Csum::None => {}
    }
    if f.vlan.is_some() {
        status |= 0x10 | 0x40;
    }
    status
}

/// `struct tpacket_auxdata`.
fn auxdata(f: &Frame) -> Control {
    let mut b = (status_of(f) | 1).to_le_bytes().to_vec();
    b.extend_from_slice(&(f.len as u32).to_le_bytes());
    b.extend_from_slice(&(f.data.len() as u32).to_le_bytes());
    b.extend_from_slice(&0u16.to_le_bytes());
    b.extend_from_slice(&(f.net as u16).to_le_bytes());
    b.extend_from_slice(&f.vlan.unwrap_or(0).to_le_bytes());
    b.extend_from_slice(&(if f.vlan.is_some() { 0x8100u16 } else { 0 }).to_le_bytes());
    Control::Bytes { level: libc::SOL_PACKET, kind: PACKET_AUXDATA, data: b }
}

/// The program of SO_ATTACH_FILTER.
fn filter(task: &Task, v: &[u8]) -> Result<Program> {
    if v.len() < 16 {
        return Err(EINVAL);
    }
    let n = usize::from(u16::from_le_bytes([v[0], v[1]]));
    let mut at = [0; 8];
    at.copy_from_slice(&v[8..16]);
    if n == 0 || n > uml_net::bpf::MAX {
        return Err(EINVAL);
    }
    let b = user::read_bytes(task, u64::from_le_bytes(at), n * 8)?;
    let insns = b.chunks_exact(8).map(|c| Insn {
        code: u16::from_le_bytes([c[0], c[1]]),
        jt: c[2],
        jf: c[3],
        k: u32::from_le_bytes([c[4], c[5], c[6], c[7]]),
    });
    Program::new(insns.collect())
}

impl Socket for PacketSock {
    fn identity(&self) -> (i32, i32, i32) {
        let kind = if self.tap.cooked { libc::SOCK_DGRAM } else { libc::SOCK_RAW };
        (libc::AF_PACKET, kind, i32::from(self.tap.bound().1.swap_bytes()))
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn bind(&self, _task: &Task, a: &[u8]) -> Result<()> {
        if crate::addr::family(a)? != libc::AF_PACKET || a.len() < 12 {
            return Err(EINVAL);
        }
        let (index, protocol, _) = parse(a)?;
        self.tap.bind(index, protocol)
    }

    fn connect(&self, _task: &Task, _a: &[u8], _nonblock: bool) -> Result<()> {
        Err(EOPNOTSUPP)
    }

    fn local(&self) -> Result<Address> {
        let (index, protocol) = self.tap.bound();
        let i = self.tap.stack.interface(index);
        let hatype = i.as_ref().map_or(0, |i| hardware_type(i.link));
        Ok(format(index, protocol, hatype, 0, i.map(|i| i.mac())))
    }

    fn peer(&self) -> Result<Address> {
        Err(EOPNOTSUPP)
    }

    fn shutdown(&self, _how: Shutdown) -> Result<()> {
        Err(EOPNOTSUPP)
    }

    fn send(&self, args: &mut SendArgs<'_>) -> Result<usize> {
        let to = args.addr.map(parse).transpose()?;
        let mut rings = self.rings.lock();
        if rings.tx.is_some() {
            return self.send_ring(&mut rings, to);
        }
        drop(rings);
        if to.is_none() && self.tap.cooked {
            return Err(EDESTADDRREQ);
        }
        let b = take_vec(args.data, 70_000)?;
        self.tap.send(to, &b)?;
        Ok(b.len())
    }

    fn recv(&self, args: &mut RecvArgs<'_>) -> Result<Received> {
        if args.flags & libc::MSG_ERRQUEUE != 0 {
            return Err(EAGAIN);
        }
        let peek = args.flags & libc::MSG_PEEK != 0;
        let deadline = self.options.recv_deadline();
        let f = loop {
            match self.tap.recv(peek) {
                Err(EAGAIN) if !args.nonblock => {}
                other => break other?,
            }
            let mask = Events::READABLE | Events::ERR;
            let ready = || self.tap.ready();
            wait::until(
                args.task,
                &self.tap.wait,
                mask,
                deadline,
                "__skb_wait_for_more_packets",
                ready,
            )?;
        };
        let n = f.data.len().min(args.data.remaining());
        let mut out = Received::default();
        if n > 0 {
            out.len = args.data.put(&f.data[..n])?;
        }
        if f.data.len() > n {
            out.flags |= libc::MSG_TRUNC;
            if args.flags & libc::MSG_TRUNC != 0 {
                out.len = f.data.len();
            }
        }
        if args.want_control {
            crate::control::stamps_of_arrival(&self.options, f.stamp, &mut out.control);
            if self.tap.auxdata() {
                out.control.push(auxdata(&f));
            }
        }
        out.addr = Some(address_of(&f));
        Ok(out)
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(r) = reg {
            r.register(&self.tap.wait);
        }
        self.tap.events()
    }

    fn option_changed(&self, _task: &Task, name: i32) -> Result<()> {
        if matches!(name, libc::SO_RCVBUF | SO_RCVBUFFORCE) {
            self.tap.set_rcvbuf(self.options.rcvbuf.load(Ordering::Relaxed));
        }
        Ok(())
    }

    fn set_option(&self, task: &Task, level: i32, name: i32, v: &[u8]) -> Result<()> {
        match (level, name) {
            (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER) => {
                self.tap.set_filter(Some(filter(task, v)?))
            }
            (libc::SOL_SOCKET, libc::SO_TIMESTAMPING | SO_TIMESTAMPING_NEW) => {
                let f = crate::control::stamping(v)?;
                // Frames that are sent have no queue to be told of in.
                if f & (flag::TX_SOFTWARE | flag::TX_SCHED) != 0 {
                    return Err(EOPNOTSUPP);
                }
                self.options.set_stamping(name, f);
                Ok(())
            }
            (libc::SOL_SOCKET, libc::SO_DETACH_FILTER) => self.tap.set_filter(None),
            (libc::SOL_SOCKET, SO_LOCK_FILTER) => {
                self.tap.lock_filter();
                Ok(())
            }
            (libc::SOL_PACKET, PACKET_ADD_MEMBERSHIP | PACKET_DROP_MEMBERSHIP) => {
                if v.len() < 16 {
                    return Err(EINVAL);
                }
                let index = ip_options::int(v)? as u32;
                let kind = u16::from_le_bytes([v[4], v[5]]);
                match (name, kind) {
                    (PACKET_ADD_MEMBERSHIP, 1) => self.tap.add_promisc(index),
                    (_, 1) => self.tap.drop_promisc(index),
                    // Frames are not filtered by address below, so the other kinds have nothing to do.
                    (_, 0 | 2) => self.tap.stack.interface(index).map(drop).ok_or(ENODEV),
                    _ => Err(EINVAL),
                }
            }
            (libc::SOL_PACKET, PACKET_AUXDATA) => {
                self.tap.set_auxdata(ip_options::int(v)? != 0);
                Ok(())
            }
            (libc::SOL_PACKET, PACKET_IGNORE_OUTGOING) => {
                self.tap.set_ignore_outgoing(ip_options::int(v)? != 0);
                Ok(())
            }
            (libc::SOL_PACKET, PACKET_QDISC_BYPASS) => {
                ip_options::int(v)?;
                Ok(())
            }
            (libc::SOL_PACKET, PACKET_LOSS) => {
                let on = ip_options::int(v)? != 0;
                self.before_rings(|s| s.loss = on)
            }
            (libc::SOL_PACKET, PACKET_TX_HAS_OFF) => {
                let on = ip_options::int(v)? != 0;
                // With a ring it is not heard, and no error.
                if let Ok(s) = self.rings.lock().change() {
                    s.anywhere = on;
                }
                Ok(())
            }
            (libc::SOL_PACKET, PACKET_VERSION) => {
                let version = Version::from_number(ip_options::int(v)?)?;
                self.before_rings(|s| s.version = version)
            }
            (libc::SOL_PACKET, PACKET_RESERVE) => {
                let n = u32::try_from(ip_options::int(v)?).map_err(|_| EINVAL)?;
                self.before_rings(|s| s.reserve = n)
            }
            (libc::SOL_PACKET, PACKET_RX_RING) => self.set_ring(v, false),
            (libc::SOL_PACKET, PACKET_TX_RING) => self.set_ring(v, true),
            (libc::SOL_PACKET, PACKET_FANOUT) => self.join_fanout(v),
            (libc::SOL_PACKET, PACKET_FANOUT_DATA) => {
                let group = self.tap.fanout_group().ok_or(EINVAL)?;
                match group.kind {
                    Kind::Program => self.tap.set_fanout_program(filter(task, v)?),
                    Kind::Extended => {
                        // There are no descriptors of such programs.
                        task.file(ip_options::int(v)?)?;
                        Err(EINVAL)
                    }
                    _ => Err(EINVAL),
                }
            }
            (libc::SOL_PACKET, PACKET_VNET_HDR) => Err(ENOPROTOOPT),
            _ => Err(ENOPROTOOPT),
        }
    }

    fn get_option(&self, _task: &Task, level: i32, name: i32, _max: usize) -> Result<Vec<u8>> {
        if level != libc::SOL_PACKET {
            return Err(ENOPROTOOPT);
        }
        let flag = |on: bool| ip_options::one(i32::from(on));
        match name {
            PACKET_STATISTICS => {
                let (packets, drops, freezes) = self.tap.statistics();
                let mut b = [packets.to_le_bytes(), drops.to_le_bytes()].concat();
                if self.rings.lock().version == Version::Three {
                    b.extend_from_slice(&freezes.to_le_bytes());
                }
                Ok(b)
            }
            PACKET_AUXDATA => flag(self.tap.auxdata()),
            PACKET_VERSION => ip_options::one(self.rings.lock().version.number()),
            PACKET_RESERVE => ip_options::one(self.rings.lock().reserve as i32),
            PACKET_LOSS => flag(self.rings.lock().loss),
            PACKET_TX_HAS_OFF => flag(self.rings.lock().anywhere),
            PACKET_IGNORE_OUTGOING => flag(self.tap.ignores_outgoing()),
            PACKET_FANOUT => ip_options::one(self.tap.fanout_value() as i32),
            PACKET_ROLLOVER_STATS => {
                let s = self.tap.rollover_statistics()?;
                Ok(s.iter().flat_map(|n| n.to_le_bytes()).collect())
            }
            _ => Err(ENOPROTOOPT),
        }
    }

    fn query(&self, task: &Task, level: i32, name: i32, at: u64, max: usize) -> Result<Vec<u8>> {
        if (level, name) != (libc::SOL_PACKET, PACKET_HDRLEN) {
            return self.get_option(task, level, name, max);
        }
        if max < 4 {
            return Err(EINVAL);
        }
        let version = Version::from_number(user::read_obj(task, at)?)?;
        ip_options::one(version.header() as i32)
    }

    fn mappable(&self) -> Result<Arc<dyn uml_mm::Mappable>> {
        let memory = self.rings.lock().memory.clone();
        memory.map(|m| m as Arc<dyn uml_mm::Mappable>).ok_or(EINVAL)
    }

    fn take_error(&self) -> Option<Errno> {
        self.tap.take_error()
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, cmd: u32, arg: u64) -> Result<u64> {
        match u64::from(cmd) {
            libc::FIONREAD => {
                user::write_obj(&cx.task, arg, &(self.tap.next_len() as i32))?;
                Ok(0)
            }
            libc::TIOCOUTQ => {
                user::write_obj(&cx.task, arg, &0i32)?;
                Ok(0)
            }
            _ => ioctl::device(cx, &self.tap.stack, cmd, arg),
        }
    }

    fn opened(&self, inode: &Arc<AnonInode>) {
        self.tap.set_owner(self.tap.owner().0, inode.ino());
    }

    fn close(&self) {
        self.tap.close();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
