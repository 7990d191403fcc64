//! PACKET_FANOUT (packet(7)): each frame goes to one socket of a group.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};

use super::{PacketSocket, Room, flow_hash};
use crate::bpf::{Aux, Program};
use crate::fragment::{self, Reassembly};
use crate::interface::Interface;
use crate::packet::Packet;
use crate::stack::{Cx, Stack};
use crate::wire::ethernet::ethertype;
use crate::wire::ipv4::Ipv4;

/// PACKET_FANOUT_FLAG_*.
mod flag {
    pub const ROLLOVER: u16 = 0x1000;
    pub const UNIQUE_ID: u16 = 0x2000;
    pub const IGNORE_OUTGOING: u16 = 0x4000;
    pub const DEFRAG: u16 = 0x8000;
}

/// Members of a group that does not say how many (and may not say so in the older structure).
const MEMBERS: u32 = 256;
/// Members that a group may say.
const MEMBERS_MAX: u32 = 1 << 16;
/// Recent flows that a rolling socket remembers, to tell a large one by.
const HISTORY: usize = 16;

/// How the socket is chosen (PACKET_FANOUT_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By flow.
    Hash,
    /// Each in its turn.
    Balance,
    /// By processor.
    Cpu,
    /// The first that has room.
    Rollover,
    Random,
    /// By the queue that the frame came through.
    Queue,
    /// By a program: the classic kind, or the extended one, of which there are none here.
    Program,
    Extended,
}

impl Kind {
    /// The kind of this number: `EINVAL`.
    pub fn from_number(n: u8) -> Result<Kind> {
        use Kind::*;
        let all = [Hash, Balance, Cpu, Rollover, Random, Queue, Program, Extended];
        all.get(usize::from(n)).copied().ok_or(EINVAL)
    }
}

/// What a socket knows of its rolling over.
struct Rollover {
    /// Where the search begins.
    at: AtomicUsize,
    /// Frames that went to another socket, those of them for the size of their flow, and those that had nowhere to go.
    all: AtomicU64,
    huge: AtomicU64,
    failed: AtomicU64,
    /// Hashes of the flows of recent frames.
    history: Mutex<[u32; HISTORY]>,
}

/// A socket's part in a group.
pub(super) struct Fanout {
    part: Mutex<Option<(Arc<Group>, Option<Arc<Rollover>>)>>,
}

impl Default for Fanout {
    fn default() -> Fanout {
        Fanout { part: Mutex::new(Rank::LEAF, None) }
    }
}

impl Fanout {
    /// The group.
    pub fn group(&self) -> Option<Arc<Group>> {
        self.part.lock().as_ref().map(|p| p.0.clone())
    }

    fn rollover(&self) -> Option<Arc<Rollover>> {
        self.part.lock().as_ref().and_then(|p| p.1.clone())
    }
}

/// A group of sockets.
pub struct Group {
    pub id: u16,
    pub kind: Kind,
    /// PACKET_FANOUT_FLAG_* without the one for a new number.
    pub flags: u16,
    most: u32,
    /// Interface and protocol that all of them are bound to.
    bound: (u32, u16),
    members: Mutex<Vec<Weak<PacketSocket>>>,
    turn: AtomicU32,
    program: Mutex<Option<Program>>,
    fragments: Arc<Reassembly>,
}

/// The groups of a namespace.
pub struct Groups {
    list: Mutex<Vec<Arc<Group>>>,
    count: AtomicUsize,
    next_id: AtomicU32,
}

impl Default for Groups {
    fn default() -> Groups {
        Groups {
            list: Mutex::new(Rank::LEAF, Vec::new()),
            count: AtomicUsize::new(0),
            next_id: AtomicU32::new(0),
        }
    }
}

impl Groups {
    /// Shows a frame to one member of each group.
    pub(crate) fn offer(&self, cx: &mut Cx, i: &Arc<Interface>, p: &Packet, outgoing: bool) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let list = self.list.lock().clone();
        for g in list {
            g.offer(cx, i, p, outgoing);
        }
    }

    /// A number that no group has: `ENOMEM` when all are taken.
    fn free_id(&self, list: &[Arc<Group>]) -> Result<u16> {
        let from = self.next_id.load(Ordering::Relaxed) as u16;
        let free = (0..=u16::MAX).map(|n| from.wrapping_add(n));
        let id = free.into_iter().find(|id| list.iter().all(|g| g.id != *id)).ok_or(ENOMEM)?;
        self.next_id.store(u32::from(id) + 1, Ordering::Relaxed);
        Ok(id)
    }
}

impl Group {
    /// Members whose sockets are there.
    fn members(&self) -> Vec<Arc<PacketSocket>> {
        self.members.lock().iter().filter_map(Weak::upgrade).collect()
    }

    fn offer(&self, cx: &mut Cx, i: &Arc<Interface>, p: &Packet, outgoing: bool) {
        let (iface, protocol) = self.bound;
        let kind = if p.kind == 0 { ethertype::IPV4 } else { p.kind };
        if (iface != 0 && iface != i.index)
            || !(protocol == ethertype::ALL || (protocol == kind && !outgoing))
            || (outgoing && self.flags & flag::IGNORE_OUTGOING != 0)
        {
            return;
        }
        let members = self.members();
        if members.is_empty() {
            return;
        }
        let whole;
        let mut p = p;
        if self.flags & flag::DEFRAG != 0 && kind == ethertype::IPV4 {
            match self.whole(cx, p) {
                Piece::Missing => return,
                Piece::Whole(w) => {
                    whole = w;
                    p = &whole;
                }
                Piece::No => {}
            }
        }
        let n = members.len();
        let mut at = match self.kind {
            Kind::Hash => scale(hash_of(cx.stack(), p, kind), n),
            Kind::Balance => self.turn.fetch_add(1, Ordering::Relaxed).wrapping_add(1) as usize % n,
            Kind::Cpu => cx.stack().processor() as usize % n,
            Kind::Rollover => roll(cx.stack(), &members, 0, false, p, kind),
            Kind::Random => scale((cx.stack().random() >> 32) as u32, n),
            // Devices have one queue here.
            Kind::Queue => 0,
            Kind::Program => self.by_program(p, kind, i.index) as usize % n,
            Kind::Extended => 0,
        };
        if self.flags & flag::ROLLOVER != 0 {
            at = roll(cx.stack(), &members, at, true, p, kind);
        }
        if let Some(s) = members.get(at) {
            s.offer(cx, i, p, outgoing);
        }
    }

    fn by_program(&self, p: &Packet, protocol: u16, ifindex: u32) -> u32 {
        let program = self.program.lock();
        let Some(f) = program.as_ref() else { return 0 };
        let aux = Aux { protocol, ifindex, vlan: p.vlan, mark: p.mark, ..Aux::default() };
        // Programs see what programs of sockets without link headers see.
        f.run(&p.to_vec()[p.link_len()..], &aux)
    }

    /// The datagram that a piece of one completes.
    fn whole(&self, cx: &mut Cx, p: &Packet) -> Piece {
        let mut copy = p.clone();
        let header = match copy.pull(crate::wire::ipv4::HEADER) {
            true => usize::from(copy.net()[0] & 15) * 4,
            false => return Piece::No,
        };
        if !copy.pull(header) {
            return Piece::No;
        }
        let Ok(h) = Ipv4::parse(copy.net(), copy.net_len()) else { return Piece::No };
        if !h.mf && h.frag_off == 0 {
            return Piece::No;
        }
        copy.truncate_net(h.total_len);
        match fragment::reassemble_v4(&self.fragments, cx, &h, copy) {
            Some(w) => Piece::Whole(w),
            None => Piece::Missing,
        }
    }
}

/// What a frame is to the group that puts datagrams together.
enum Piece {
    No,
    /// Others are not there yet.
    Missing,
    Whole(Packet),
}

fn scale(hash: u32, n: usize) -> usize {
    ((u64::from(hash) * n as u64) >> 32) as usize
}

fn hash_of(stack: &Stack, p: &Packet, kind: u16) -> u32 {
    /// Enough for the headers that have a flow in them.
    const HEADERS: usize = 256;
    let mut copy;
    let net = match p.data.is_empty() || p.net().len() >= HEADERS {
        true => p.net(),
        false => {
            copy = p.clone();
            copy.pull(copy.net_len().min(HEADERS));
            copy.net()
        }
    };
    flow_hash(net, kind, stack.secret[2])
}

/// The member that has room, beginning with the one at `at` if that is wanted, then where the last search ended.
fn roll(
    stack: &Stack,
    members: &[Arc<PacketSocket>],
    at: usize,
    itself: bool,
    p: &Packet,
    kind: u16,
) -> usize {
    let Some(own) = members.get(at) else { return 0 };
    let Some(r) = own.fanout.rollover() else { return at };
    let mut room = Room::None;
    if itself {
        room = own.room(p.len());
        if room == Room::Normal || (room == Room::Low && !r.is_huge(hash_of(stack, p, kind), stack))
        {
            return at;
        }
    }
    let first = r.at.load(Ordering::Relaxed).min(members.len() - 1);
    for n in 0..members.len() {
        let i = (first + n) % members.len();
        if (itself && i == at) || members[i].room(p.len()) != Room::Normal {
            continue;
        }
        if n != 0 {
            r.at.store(i, Ordering::Relaxed);
        }
        r.all.fetch_add(1, Ordering::Relaxed);
        if room == Room::Low {
            r.huge.fetch_add(1, Ordering::Relaxed);
        }
        return i;
    }
    r.failed.fetch_add(1, Ordering::Relaxed);
    at
}

impl Rollover {
    /// Whether more than half of the recent frames were of this flow, too.
    fn is_huge(&self, hash: u32, stack: &Stack) -> bool {
        let mut h = self.history.lock();
        let same = h.iter().filter(|o| **o == hash).count();
        h[stack.random() as usize % HISTORY] = hash;
        same > HISTORY / 2
    }
}

impl PacketSocket {
    /// True in a group.
    pub(crate) fn in_fanout(&self) -> bool {
        self.fanout.part.lock().is_some()
    }

    /// PACKET_FANOUT: joins the group `id`, which is made if there is none, for at most `most` members (0: as many as there are by
    /// itself). `EALREADY` in a group; `EINVAL` for an impossible kind, flags or number, without a protocol, and where the group
    /// is of another kind or bound to something else; `ENOSPC` when it is full.
    pub fn join_fanout(&self, id: u16, kind: u8, flags: u16, most: u32) -> Result<()> {
        let kind = Kind::from_number(kind)?;
        if kind == Kind::Rollover && flags & flag::ROLLOVER != 0 {
            return Err(EINVAL);
        }
        let groups = &self.stack.fanouts;
        let mut list = groups.list.lock();
        // The list is what joining is serialized by.
        if self.in_fanout() {
            return Err(EALREADY);
        }
        let (mut id, mut flags) = (id, flags);
        if flags & flag::UNIQUE_ID != 0 {
            if id != 0 {
                return Err(EINVAL);
            }
            id = groups.free_id(&list)?;
            flags &= !flag::UNIQUE_ID;
        }
        let bound = self.bound();
        let group = match list.iter().find(|g| g.id == id) {
            Some(g) => {
                if g.flags != flags || (most != 0 && most != g.most) {
                    return Err(EINVAL);
                }
                g.clone()
            }
            None if most > MEMBERS_MAX => return Err(EINVAL),
            None => Arc::new(Group {
                id,
                kind,
                flags,
                most: if most == 0 { MEMBERS } else { most },
                bound,
                members: Mutex::new(Rank::LEAF, Vec::new()),
                turn: AtomicU32::new(0),
                program: Mutex::new(Rank::LEAF, None),
                fragments: Reassembly::of_copies(),
            }),
        };
        if bound.1 == 0 || group.kind != kind || group.bound != bound {
            return Err(EINVAL);
        }
        {
            let mut members = group.members.lock();
            if members.len() >= group.most as usize {
                return Err(ENOSPC);
            }
            members.push(self.me.clone());
        }
        let rolls = kind == Kind::Rollover || flags & flag::ROLLOVER != 0;
        let rollover = rolls.then(|| {
            Arc::new(Rollover {
                at: AtomicUsize::new(0),
                all: AtomicU64::new(0),
                huge: AtomicU64::new(0),
                failed: AtomicU64::new(0),
                history: Mutex::new(Rank::LEAF, [0; HISTORY]),
            })
        });
        if !list.iter().any(|g| Arc::ptr_eq(g, &group)) {
            list.push(group.clone());
            groups.count.store(list.len(), Ordering::SeqCst);
        }
        *self.fanout.part.lock() = Some((group, rollover));
        Ok(())
    }

    /// The socket ends: the last of the others takes its place, and a group without members ends.
    pub(super) fn leave_fanout(&self) {
        let groups = &self.stack.fanouts;
        let mut list = groups.list.lock();
        let Some((group, _)) = self.fanout.part.lock().take() else { return };
        let mut members = group.members.lock();
        if let Some(at) = members.iter().position(|m| Weak::ptr_eq(m, &self.me)) {
            members.swap_remove(at);
        }
        if members.is_empty() {
            list.retain(|g| !Arc::ptr_eq(g, &group));
            groups.count.store(list.len(), Ordering::SeqCst);
        }
    }

    /// The value of getsockopt(2): number, kind and flags of the group; 0 without one.
    pub fn fanout_value(&self) -> u32 {
        self.fanout
            .group()
            .map_or(0, |g| u32::from(g.id) | (g.kind as u32) << 16 | u32::from(g.flags) << 16)
    }

    /// The group.
    pub fn fanout_group(&self) -> Option<Arc<Group>> {
        self.fanout.group()
    }

    /// PACKET_FANOUT_DATA: the program that chooses. `EINVAL` in a group of another kind, `EPERM` where filters are locked.
    pub fn set_fanout_program(&self, f: Program) -> Result<()> {
        let g = self.fanout.group().filter(|g| g.kind == Kind::Program).ok_or(EINVAL)?;
        if self.inner.lock().filter_locked {
            return Err(EPERM);
        }
        *g.program.lock() = Some(f);
        Ok(())
    }

    /// PACKET_ROLLOVER_STATS: all, those of large flows, and failures. `EINVAL` where nothing rolls over.
    pub fn rollover_statistics(&self) -> Result<[u64; 3]> {
        let r = self.fanout.rollover().ok_or(EINVAL)?;
        Ok([&r.all, &r.huge, &r.failed].map(|n| n.load(Ordering::Relaxed)))
    }
}
