//! Packet sockets: every frame of an interface, both ways (packet(7)).

mod fanout;
mod flow;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, Rank, WaitQueue};

use crate::bpf::{Aux, Insn, Program};
use crate::interface::{Interface, Link, iff};
use crate::neighbour;
use crate::packet::{Csum, Data, Packet};
use crate::stack::{Cx, Stack};
use crate::time::Time;
use crate::timer::{Armed, Expire};
use crate::wire::ethernet::{self, Ethernet, Mac, ethertype};

use fanout::Fanout;
pub(crate) use fanout::Groups;
pub use fanout::{Group, Kind};
pub use flow::flow_hash;

/// sll_pkttype (packet(7)).
pub mod pkttype {
    pub const HOST: u8 = 0;
    pub const BROADCAST: u8 = 1;
    pub const MULTICAST: u8 = 2;
    pub const OTHERHOST: u8 = 3;
    pub const OUTGOING: u8 = 4;
}

/// ARPHRD_* of an interface.
pub fn hardware_type(l: Link) -> u16 {
    match l {
        Link::Ethernet => 1,
        Link::Loopback => 772,
        Link::None => 65_534,
    }
}

/// A frame for a reader.
#[derive(Clone)]
pub struct Frame {
    pub data: Vec<u8>,
    /// Length before the filter cut it.
    pub len: usize,
    pub protocol: u16,
    pub iface: u32,
    pub hatype: u16,
    pub pkttype: u8,
    pub addr: Mac,
    pub stamp: u64,
    pub vlan: Option<u16>,
    /// The checksum is not there yet, or was verified (TP_STATUS_CSUMNOTREADY, TP_STATUS_CSUM_VALID).
    pub csum: Csum,
    /// Bytes before the network header.
    pub net: usize,
    /// Without link header.
    pub cooked: bool,
}

/// What became of a frame that was offered to a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// It is in; else there was no room.
    pub stored: bool,
    /// The program has something new to read.
    pub readable: bool,
    /// When [`Ring::retire`] is to be called, at the latest.
    pub retire_at: Option<Time>,
}

/// How much room a socket has for frames (fanout's rollover asks).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Normal,
    /// Less than a quarter.
    Low,
    None,
}

/// Memory of a program that frames go to instead of the queue.
pub trait Ring: Send {
    /// Puts a frame in at `now`, with a mark when others were lost.
    fn put(&mut self, f: &Frame, lost: bool, now: Time) -> Put;

    /// Whether the program has something to read.
    fn is_readable(&self) -> bool;

    /// How much room there is.
    fn room(&self) -> Room;

    /// Gives the program what has waited for more long enough, with a mark when frames were lost: `stored` is whether anything had.
    fn retire(&mut self, lost: bool, now: Time) -> Put {
        let _ = (lost, now);
        Put::default()
    }

    /// How often everything was full since it was last asked (`tp_freeze_q_cnt`).
    fn freezes(&mut self) -> u32 {
        0
    }

    /// The bytes are at the front of another file now.
    fn moved(&mut self, file: Arc<std::os::fd::OwnedFd>);
}

/// What lists of sockets tell of a ring (`struct packet_diag_ring`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingShape {
    pub block_size: u32,
    pub blocks: u32,
    pub frame_size: u32,
    pub frames: u32,
    /// Milliseconds, bytes and TP_FT_REQ_* of version 3.
    pub retire: u32,
    pub private: u32,
    pub features: u32,
}

/// What they tell of the rings of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingShapes {
    /// PACKET_VERSION's number.
    pub version: u32,
    pub reserve: u32,
    pub loss: bool,
    pub rx: Option<RingShape>,
    pub tx: Option<RingShape>,
}

const OVERHEAD: usize = 768;
/// Bytes of a VLAN tag.
const VLAN_TAG: usize = 4;

/// A packet socket.
pub struct PacketSocket {
    me: Weak<PacketSocket>,
    pub stack: Arc<Stack>,
    pub id: u64,
    /// SOCK_DGRAM: without link headers.
    pub cooked: bool,
    pub wait: Arc<WaitQueue>,
    /// Not a program's: the guest does not see it.
    hidden: bool,
    uid: AtomicU32,
    inode: AtomicU64,
    auxdata: AtomicBool,
    inner: Mutex<Inner>,
    shapes: Mutex<RingShapes>,
    /// Its group, once it is in one: it stays there.
    fanout: Fanout,
    armed: Armed,
}

struct Inner {
    protocol: u16,
    iface: u32,
    filter: Option<Program>,
    filter_locked: bool,
    queue: VecDeque<Frame>,
    bytes: usize,
    rcvbuf: usize,
    packets: u32,
    drops: u32,
    error: Option<Errno>,
    ignore_outgoing: bool,
    promisc: Vec<u32>,
    ring: Option<Box<dyn Ring>>,
    closed: bool,
}

impl PacketSocket {
    /// A socket for frames of `protocol` (EtherType, [`ethertype::ALL`], or 0 for none until bound).
    pub fn new(stack: &Arc<Stack>, cooked: bool, protocol: u16) -> Arc<PacketSocket> {
        PacketSocket::build(stack, cooked, protocol, false)
    }

    /// A socket for every frame of an interface (0 is any), both ways, once on the loopback, that belongs to no program: listings of the
    /// guest do not show it. Frames are cut at `snap_len`; as many wait as fit into `buffer` bytes. `ENODEV`.
    pub fn outside(
        stack: &Arc<Stack>,
        iface: u32,
        cooked: bool,
        snap_len: u32,
        buffer: usize,
    ) -> Result<Arc<PacketSocket>> {
        if iface != 0 && stack.interface(iface).is_none() {
            return Err(ENODEV);
        }
        let s = PacketSocket::build(stack, cooked, 0, true);
        {
            let mut i = s.inner.lock();
            (i.iface, i.rcvbuf, i.protocol) = (iface, buffer, ethertype::ALL);
            i.filter = Some(Program::accept(snap_len)?);
        }
        stack.add_tap(&s);
        Ok(s)
    }

    fn build(stack: &Arc<Stack>, cooked: bool, protocol: u16, hidden: bool) -> Arc<PacketSocket> {
        let s = Arc::new_cyclic(|me: &Weak<PacketSocket>| PacketSocket {
            me: me.clone(),
            stack: stack.clone(),
            id: crate::sock::new_id(),
            cooked,
            wait: WaitQueue::shared(),
            hidden,
            uid: AtomicU32::new(0),
            inode: AtomicU64::new(0),
            auxdata: AtomicBool::new(false),
            inner: Mutex::new(
                Rank::LEAF,
                Inner {
                    protocol,
                    iface: 0,
                    filter: None,
                    filter_locked: false,
                    queue: VecDeque::new(),
                    bytes: 0,
                    rcvbuf: 212_992,
                    packets: 0,
                    drops: 0,
                    error: None,
                    ignore_outgoing: false,
                    promisc: Vec::new(),
                    ring: None,
                    closed: false,
                },
            ),
            shapes: Mutex::new(Rank::LEAF, RingShapes::default()),
            fanout: Fanout::default(),
            armed: Armed::default(),
        });
        // One that takes nothing yet is listed, too.
        if !hidden {
            stack.add_tap(&s);
        }
        s
    }

    /// bind(2): `ENODEV` for an unknown interface, `ENETDOWN` is reported later; `EINVAL` in a fanout group.
    pub fn bind(&self, iface: u32, protocol: u16) -> Result<()> {
        if self.fanout.group().is_some() {
            return Err(EINVAL);
        }
        let up = match iface {
            0 => true,
            n => self.stack.interface(n).ok_or(ENODEV)?.is_up(),
        };
        let mut i = self.inner.lock();
        i.iface = iface;
        if protocol != 0 {
            i.protocol = protocol;
        }
        if !up {
            i.error = Some(ENETDOWN);
        }
        Ok(())
    }

    /// Whether it is none of a program.
    pub fn is_hidden(&self) -> bool {
        self.hidden
    }

    /// PACKET_AUXDATA: control messages tell more of each frame.
    pub fn set_auxdata(&self, on: bool) {
        self.auxdata.store(on, Ordering::Relaxed);
    }

    /// PACKET_AUXDATA.
    pub fn auxdata(&self) -> bool {
        self.auxdata.load(Ordering::Relaxed)
    }

    /// Notes whose socket it is: a user, and the number of its inode.
    pub fn set_owner(&self, uid: u32, inode: u64) {
        self.uid.store(uid, Ordering::Relaxed);
        self.inode.store(inode, Ordering::Relaxed);
    }

    /// User and inode.
    pub fn owner(&self) -> (u32, u64) {
        (self.uid.load(Ordering::Relaxed), self.inode.load(Ordering::Relaxed))
    }

    /// Frames come: it has a protocol, and its interface is up.
    pub fn running(&self) -> bool {
        let (iface, protocol) = self.bound();
        protocol != 0 && (iface == 0 || self.stack.interface(iface).is_some_and(|i| i.is_up()))
    }

    /// Interfaces whose every frame it asked for (PACKET_MR_PROMISC), and how often.
    pub fn promiscuous(&self) -> BTreeMap<u32, u32> {
        let mut all = BTreeMap::new();
        for i in &self.inner.lock().promisc {
            *all.entry(*i).or_insert(0) += 1;
        }
        all
    }

    /// Frames that were dropped for want of room since it was last asked (PACKET_STATISTICS), and the receive buffer.
    pub fn drops_and_buffer(&self) -> (u32, usize) {
        let i = self.inner.lock();
        (i.drops, i.rcvbuf)
    }

    /// The instructions of its filter; none without one.
    pub fn filter(&self) -> Vec<Insn> {
        self.inner.lock().filter.as_ref().map_or(Vec::new(), |f| f.instructions().to_vec())
    }

    /// Interface (0 is any) and protocol.
    pub fn bound(&self) -> (u32, u16) {
        let i = self.inner.lock();
        (i.iface, i.protocol)
    }

    /// Memory of waiting frames.
    pub fn used(&self) -> usize {
        self.inner.lock().bytes
    }

    /// SO_ATTACH_FILTER, SO_DETACH_FILTER: `EPERM` when locked.
    pub fn set_filter(&self, f: Option<Program>) -> Result<()> {
        let mut i = self.inner.lock();
        if i.filter_locked {
            return Err(EPERM);
        }
        if f.is_none() && i.filter.is_none() {
            return Err(ENOENT);
        }
        i.filter = f;
        Ok(())
    }

    /// SO_LOCK_FILTER.
    pub fn lock_filter(&self) {
        self.inner.lock().filter_locked = true;
    }

    /// SO_RCVBUF.
    pub fn set_rcvbuf(&self, n: usize) {
        self.inner.lock().rcvbuf = n;
    }

    /// PACKET_IGNORE_OUTGOING.
    pub fn set_ignore_outgoing(&self, on: bool) {
        self.inner.lock().ignore_outgoing = on;
    }

    /// PACKET_IGNORE_OUTGOING.
    pub fn ignores_outgoing(&self) -> bool {
        self.inner.lock().ignore_outgoing
    }

    /// PACKET_ADD_MEMBERSHIP with PACKET_MR_PROMISC.
    pub fn add_promisc(&self, iface: u32) -> Result<()> {
        let i = self.stack.interface(iface).ok_or(ENODEV)?;
        self.inner.lock().promisc.push(iface);
        if i.promisc.fetch_add(1, Ordering::SeqCst) == 0 {
            let _ = self.stack.set_flags(&i, iff::PROMISC, iff::PROMISC);
        }
        Ok(())
    }

    /// PACKET_DROP_MEMBERSHIP.
    pub fn drop_promisc(&self, iface: u32) -> Result<()> {
        {
            let mut s = self.inner.lock();
            let at = s.promisc.iter().position(|i| *i == iface).ok_or(EADDRNOTAVAIL)?;
            s.promisc.remove(at);
        }
        if let Some(i) = self.stack.interface(iface)
            && i.promisc.fetch_sub(1, Ordering::SeqCst) == 1
        {
            let _ = self.stack.set_flags(&i, 0, iff::PROMISC);
        }
        Ok(())
    }

    /// PACKET_RX_RING: where frames go instead of the queue, and what waits there goes.
    pub fn set_ring(&self, ring: Option<Box<dyn Ring>>) {
        let mut i = self.inner.lock();
        i.ring = ring;
        i.queue.clear();
        i.bytes = 0;
    }

    /// Runs `f` on the ring while no frame comes.
    pub fn with_ring<R>(&self, f: impl FnOnce(&mut dyn Ring) -> R) -> Option<R> {
        let mut i = self.inner.lock();
        i.ring.as_mut().map(|r| f(&mut **r))
    }

    /// What lists of sockets tell of its rings.
    pub fn shapes(&self) -> RingShapes {
        *self.shapes.lock()
    }

    /// Notes that.
    pub fn set_shapes(&self, s: RingShapes) {
        *self.shapes.lock() = s;
    }

    /// PACKET_STATISTICS: frames, those that were dropped among them, drops, and how often a ring of blocks was full, since it
    /// was last asked.
    pub fn statistics(&self) -> (u32, u32, u32) {
        let mut i = self.inner.lock();
        let freezes = i.ring.as_deref_mut().map_or(0, |r| r.freezes());
        (std::mem::take(&mut i.packets), std::mem::take(&mut i.drops), freezes)
    }

    /// How much room there is for a frame of `len` bytes.
    pub(crate) fn room(&self, len: usize) -> Room {
        let i = self.inner.lock();
        match &i.ring {
            Some(r) => r.room(),
            None => match i.rcvbuf.saturating_sub(i.bytes + len + OVERHEAD) {
                0 => Room::None,
                n if n > i.rcvbuf / 4 => Room::Normal,
                _ => Room::Low,
            },
        }
    }

    /// Offers a frame that passes an interface.
    pub(crate) fn offer(&self, cx: &mut Cx, iface: &Arc<Interface>, p: &Packet, outgoing: bool) {
        let mut i = self.inner.lock();
        let protocol = if p.kind == 0 { ethertype::IPV4 } else { p.kind };
        let wanted = i.protocol == ethertype::ALL || (i.protocol == protocol && !outgoing);
        if i.closed
            || !wanted
            || (i.iface != 0 && i.iface != iface.index)
            || (outgoing && i.ignore_outgoing)
            // The loopback shows every packet twice, on its way out and in; pcap(3) takes the latter.
            || (outgoing && self.hidden && iface.is_loopback())
        {
            return;
        }
        let mut data = p.to_vec();
        let mut net = p.link_len();
        if iface.is_loopback() {
            // Loopback frames have an Ethernet header of zeros.
            let h = Ethernet { dst: Mac::ZERO, src: Mac::ZERO, kind: protocol };
            data.drain(..net);
            net = ethernet::HEADER;
            data.splice(0..0, h.bytes());
        }
        let header = Ethernet::parse(&data).ok().filter(|_| iface.link != Link::None);
        let kind = match &header {
            _ if outgoing => pkttype::OUTGOING,
            None => pkttype::HOST,
            Some(h) if h.dst == Mac::BROADCAST => pkttype::BROADCAST,
            Some(h) if h.dst.is_multicast() => pkttype::MULTICAST,
            Some(h) if h.dst == iface.mac() || iface.is_loopback() => pkttype::HOST,
            Some(_) => pkttype::OTHERHOST,
        };
        if let (Some(_), false) = (p.vlan, outgoing)
            && net == ethernet::HEADER + 4
        {
            // Tags are told aside, as devices that strip them do.
            data.drain(12..16);
            net -= 4;
        }
        let aux = Aux {
            protocol,
            pkttype: kind,
            ifindex: iface.index,
            vlan: p.vlan,
            mark: p.mark,
            hatype: hardware_type(iface.link),
            net: if self.cooked { 0 } else { net },
        };
        if self.cooked {
            data.drain(..net.min(data.len()));
        }
        let seen = &data[..];
        let len = seen.len();
        let keep = match &i.filter {
            Some(f) => (f.run(seen, &aux) as usize).min(len),
            None => len,
        };
        if keep == 0 && len != 0 {
            return;
        }
        i.packets = i.packets.wrapping_add(1);
        if i.ring.is_none() && i.bytes + keep + OVERHEAD > i.rcvbuf {
            i.drops = i.drops.wrapping_add(1);
            return;
        }
        // What is cut off is not kept in memory either.
        let data = if keep < len { seen[..keep].to_vec() } else { data };
        let frame = Frame {
            data,
            len,
            protocol,
            iface: iface.index,
            hatype: hardware_type(iface.link),
            pkttype: kind,
            addr: header.map_or(Mac::ZERO, |h| h.src),
            stamp: if p.stamp != 0 { p.stamp } else { cx.stack().realtime() },
            vlan: p.vlan,
            csum: p.csum,
            net: if self.cooked { 0 } else { net },
            cooked: self.cooked,
        };
        let lost = i.drops != 0;
        let mut put = Put { stored: true, readable: true, retire_at: None };
        match &mut i.ring {
            Some(r) => {
                put = r.put(&frame, lost, cx.now);
                if !put.stored {
                    i.drops = i.drops.wrapping_add(1);
                }
            }
            None => {
                i.bytes += keep + OVERHEAD;
                i.queue.push_back(frame);
            }
        }
        drop(i);
        self.after(cx, put);
    }

    fn after(&self, cx: &mut Cx, put: Put) {
        if put.readable {
            cx.notify(&self.wait, Events::READABLE);
        }
        if let Some(at) = put.retire_at {
            let me = self.me.clone();
            self.armed.arm(&self.stack.timers, at, || me);
        }
    }

    /// The next frame: `EAGAIN`, or the pending error.
    pub fn recv(&self, peek: bool) -> Result<Frame> {
        let mut i = self.inner.lock();
        if let Some(e) = i.error.take() {
            return Err(e);
        }
        if peek {
            return i.queue.front().cloned().ok_or(EAGAIN);
        }
        let f = i.queue.pop_front().ok_or(EAGAIN)?;
        i.bytes -= f.data.len() + OVERHEAD;
        Ok(f)
    }

    /// Every frame that waits.
    pub fn take_all(&self) -> VecDeque<Frame> {
        let mut i = self.inner.lock();
        i.bytes = 0;
        std::mem::take(&mut i.queue)
    }

    /// True when a receive has something to do.
    pub fn ready(&self) -> bool {
        let i = self.inner.lock();
        !i.queue.is_empty() || i.error.is_some()
    }

    /// FIONREAD.
    pub fn next_len(&self) -> usize {
        self.inner.lock().queue.front().map_or(0, |f| f.data.len())
    }

    /// Readiness.
    pub fn events(&self) -> Events {
        let i = self.inner.lock();
        let mut e = Events::WRITABLE | Events::WRBAND;
        let in_ring = i.ring.as_ref().is_some_and(|r| r.is_readable());
        e |= Events::READABLE.when(in_ring || !i.queue.is_empty());
        e | Events::ERR.when(i.error.is_some())
    }

    /// SO_ERROR.
    pub fn take_error(&self) -> Option<Errno> {
        self.inner.lock().error.take()
    }

    /// The interface that frames to `to` leave by (0 is the one it is bound to): `ENXIO` without one, `ENETDOWN`.
    pub fn way_out(&self, to: u32) -> Result<Arc<Interface>> {
        let index = if to != 0 { to } else { self.bound().0 };
        let iface = self.stack.interface(index).ok_or(ENXIO)?;
        if iface.is_up() { Ok(iface) } else { Err(ENETDOWN) }
    }

    /// Bytes of the longest frame that a program may send by the interface, a VLAN tag in it.
    pub fn most(&self, iface: &Interface) -> usize {
        iface.mtu() + self.header_of(iface) + VLAN_TAG
    }

    /// Bytes of the link header that a program writes.
    fn header_of(&self, iface: &Interface) -> usize {
        if self.cooked || iface.link == Link::None { 0 } else { ethernet::HEADER }
    }

    /// Sends a frame: with its header, or (cooked) to a link address. `ENXIO` without an interface,
    /// `ENETDOWN`, `EMSGSIZE`, `EINVAL` for less than a header.
    pub fn send(&self, to: Option<(u32, u16, Mac)>, data: &[u8]) -> Result<()> {
        let iface = self.way_out(to.map_or(0, |t| t.0))?;
        let protocol = to.map(|t| t.1).filter(|p| *p != 0).unwrap_or(self.bound().1);
        let mut p = Packet::new(Data::new());
        p.csum = Csum::Valid;
        if self.cooked {
            if data.len() > iface.mtu() {
                return Err(EMSGSIZE);
            }
            p.kind = protocol;
            p.head_mut().extend_from_slice(data);
            let mac = to.map_or(Mac::BROADCAST, |t| t.2);
            self.stack.enter(|cx| neighbour::send_to(cx, &iface, mac, p));
            return Ok(());
        }
        let header = self.header_of(&iface);
        if data.len() < header {
            return Err(EINVAL);
        }
        p.kind = match Ethernet::parse(data) {
            Ok(h) if header != 0 => h.kind,
            _ => protocol,
        };
        let tagged = header != 0 && p.kind == ethertype::VLAN;
        if data.len() > self.most(&iface) - if tagged { 0 } else { VLAN_TAG } {
            return Err(EMSGSIZE);
        }
        p.head_mut().extend_from_slice(data);
        p.set_link_len(header);
        if iface.is_loopback() {
            p.strip_link();
        }
        self.stack.enter(|cx| iface.enqueue(cx, p));
        Ok(())
    }

    /// The last descriptor is closed.
    pub fn close(&self) {
        let promisc = {
            let mut i = self.inner.lock();
            i.closed = true;
            i.ring = None;
            i.queue.clear();
            i.bytes = 0;
            i.promisc.clone()
        };
        self.leave_fanout();
        for i in promisc {
            let _ = self.drop_promisc(i);
        }
        self.stack.remove_tap(self);
    }
}

impl Expire for PacketSocket {
    fn expired(self: Arc<Self>, cx: &mut Cx) {
        if !self.armed.due(cx.now) {
            return;
        }
        let put = {
            let mut i = self.inner.lock();
            let lost = i.drops != 0;
            i.ring.as_deref_mut().map_or(Put::default(), |r| r.retire(lost, cx.now))
        };
        self.after(cx, put);
    }
}
