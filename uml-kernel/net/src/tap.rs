//! Packet sockets: every frame of an interface, both ways (packet(7)).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, Rank, WaitQueue};

use crate::bpf::{Aux, Insn, Program};
use crate::interface::{Interface, Link, iff};
use crate::neighbour;
use crate::packet::{Csum, Data, Packet};
use crate::stack::{Cx, Stack};
use crate::wire::ethernet::{self, Ethernet, Mac, ethertype};

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

/// Memory of a program that frames go to instead of the queue.
pub trait Ring: Send {
    /// Puts a frame in, with a mark when others were lost; false when there is no room.
    fn put(&mut self, f: &Frame, lost: bool) -> bool;

    /// Whether the program has something to read.
    fn is_readable(&self) -> bool;
}

const OVERHEAD: usize = 768;

/// A packet socket.
pub struct PacketSocket {
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
        let s = Arc::new(PacketSocket {
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
        });
        // One that takes nothing yet is listed, too.
        if !hidden {
            stack.add_tap(&s);
        }
        s
    }

    /// bind(2): `ENODEV` for an unknown interface, `ENETDOWN` is reported later.
    pub fn bind(&self, iface: u32, protocol: u16) -> Result<()> {
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

    /// PACKET_STATISTICS: frames, those that were dropped among them, and drops, since it was last asked.
    pub fn statistics(&self) -> (u32, u32) {
        let mut i = self.inner.lock();
        (std::mem::take(&mut i.packets), std::mem::take(&mut i.drops))
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
        match &mut i.ring {
            Some(r) => {
                if !r.put(&frame, lost) {
                    i.drops = i.drops.wrapping_add(1);
                }
            }
            None => {
                i.bytes += keep + OVERHEAD;
                i.queue.push_back(frame);
            }
        }
        drop(i);
        cx.notify(&self.wait, Events::READABLE);
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

    /// Sends a frame: with its header, or (cooked) to a link address. `ENXIO` without an interface,
    /// `ENETDOWN`, `EMSGSIZE`, `EINVAL` for less than a header.
    pub fn send(&self, to: Option<(u32, u16, Mac)>, data: &[u8]) -> Result<()> {
        let (bound, proto) = self.bound();
        let index = to.map(|t| t.0).filter(|i| *i != 0).unwrap_or(bound);
        let iface = self.stack.interface(index).ok_or(ENXIO)?;
        if !iface.is_up() {
            return Err(ENETDOWN);
        }
        let protocol = to.map(|t| t.1).filter(|p| *p != 0).unwrap_or(proto);
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
        let header = if iface.link == Link::None { 0 } else { ethernet::HEADER };
        if data.len() < header {
            return Err(EINVAL);
        }
        if data.len() > iface.mtu() + header + 4 {
            return Err(EMSGSIZE);
        }
        p.head_mut().extend_from_slice(data);
        p.set_link_len(header);
        p.kind = match Ethernet::parse(data) {
            Ok(h) if header != 0 => h.kind,
            _ => protocol,
        };
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
        for i in promisc {
            let _ = self.drop_promisc(i);
        }
        self.stack.remove_tap(self);
    }
}
