//! What is received, in blocks with frames of any length behind each other (TPACKET_V3). A block is the program's once it is full,
//! or a while after its first frame.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use uml_net::tap::{Frame, Put, Ring, RingShape, Room, flow_hash};
use uml_net::{Time, time};

use super::{LOSING, USER, Version, places, split, store, tag, word};

/// `struct tpacket_block_desc`.
const DESCRIPTOR: u64 = 48;
/// Where its status is.
const STATUS: u64 = 8;
/// What is in a block begins at multiples of this.
const ALIGNMENT: u64 = 8;
/// The block was not full, but old (TP_STATUS_BLK_TMO).
const TIMEOUT: u32 = 0x20;
/// TP_FT_REQ_FILL_RXHASH.
const FILL_HASH: u32 = 1;
/// Milliseconds that a block waits where the program does not say. Linux derives more from the speed of fast links, which
/// interfaces here do not have.
const RETIRE: u32 = 8;

/// Where the first frame of a block is, behind the program's own part of it.
pub fn first_frame(private: u32) -> u64 {
    DESCRIPTOR + u64::from(private).next_multiple_of(ALIGNMENT)
}

/// Blocks that receives put frames in.
pub struct Blocks {
    file: Arc<OwnedFd>,
    reserve: usize,
    size: u64,
    count: u64,
    first: u64,
    /// Nanoseconds.
    patience: u64,
    hash: bool,
    secret: u64,
    /// The block that is filled, or will be once the program gives it back.
    active: u64,
    /// There is none: `active` was the program's when it was its turn.
    frozen: bool,
    freezes: u32,
    sequence: u64,
    /// When the block was opened, since the epoch.
    opened: u64,
    packets: u32,
    /// Bytes of frames and what is before them.
    length: u64,
    /// Where the last frame begins and when it came.
    last: u64,
    last_stamp: u64,
    deadline: Time,
    slot: Vec<u8>,
}

impl Blocks {
    /// Empty blocks at the front of `file`, the first of them open since `realtime`.
    pub fn new(
        file: Arc<OwnedFd>,
        s: &RingShape,
        reserve: u32,
        realtime: u64,
        secret: u64,
    ) -> Blocks {
        let retire = if s.retire == 0 { RETIRE } else { s.retire };
        let mut b = Blocks {
            file,
            reserve: reserve as usize,
            size: s.block_size.into(),
            count: s.blocks.into(),
            first: first_frame(s.private),
            patience: u64::from(retire) * time::MS,
            hash: s.features & FILL_HASH != 0,
            secret,
            active: 0,
            frozen: false,
            freezes: 0,
            sequence: 0,
            opened: 0,
            packets: 0,
            length: 0,
            last: 0,
            last_stamp: 0,
            deadline: Time::NEVER,
            slot: Vec::new(),
        };
        b.open(realtime);
        b
    }

    fn at(&self, block: u64) -> u64 {
        block % self.count * self.size
    }

    fn is_users(&self, block: u64) -> bool {
        word(&self.file, self.at(block) + STATUS).is_none_or(|s| s & USER != 0)
    }

    fn open(&mut self, realtime: u64) {
        self.sequence += 1;
        self.frozen = false;
        (self.opened, self.packets, self.length, self.last) = (realtime, 0, self.first, 0);
        self.deadline = Time::NEVER;
    }

    /// Gives the active block to the program.
    fn close(&mut self, status: u32, realtime: u64) {
        let at = self.at(self.active);
        if self.packets != 0 {
            store(&self.file, at + self.last, &0u32.to_le_bytes());
        }
        let ended = if self.packets == 0 { realtime } else { self.last_stamp };
        let mut d = Vec::with_capacity(DESCRIPTOR as usize);
        for n in [Version::Three.number() as u32, DESCRIPTOR as u32, 0] {
            d.extend_from_slice(&n.to_le_bytes());
        }
        for n in [self.packets, self.first as u32, self.length as u32] {
            d.extend_from_slice(&n.to_le_bytes());
        }
        d.extend_from_slice(&self.sequence.to_le_bytes());
        for moment in [self.opened, ended] {
            let (sec, ns) = split(moment);
            d.extend_from_slice(&sec.to_le_bytes());
            d.extend_from_slice(&ns.to_le_bytes());
        }
        store(&self.file, at, &d);
        // The program looks at the status alone.
        store(&self.file, at + STATUS, &(status | USER).to_le_bytes());
        self.active = (self.active + 1) % self.count;
        self.deadline = Time::NEVER;
    }

    /// Opens the block whose turn it is; false, and all is full, when it is the program's.
    fn next(&mut self, realtime: u64) -> bool {
        if self.is_users(self.active) {
            self.frozen = true;
            self.freezes = self.freezes.wrapping_add(1);
            return false;
        }
        self.open(realtime);
        true
    }

    /// Puts a frame behind the last one: `kept` bytes of it.
    fn append(&mut self, f: &Frame, mac: usize, net: usize, kept: usize) -> bool {
        let whole = (mac + kept) as u64;
        let step = whole.next_multiple_of(ALIGNMENT);
        let (sec, ns) = split(f.stamp);
        let (tci, tpid) = tag(f);
        let hash = match self.hash {
            true => flow_hash(&f.data[f.net.min(f.data.len())..], f.protocol, self.secret),
            false => 0,
        };
        let status = crate::packet::status_of(f) | USER;
        let b = &mut self.slot;
        b.clear();
        for n in [step as u32, sec, ns, kept as u32, f.len as u32, status] {
            b.extend_from_slice(&n.to_le_bytes());
        }
        for n in [mac as u16, net as u16] {
            b.extend_from_slice(&n.to_le_bytes());
        }
        for n in [hash, tci.into()] {
            b.extend_from_slice(&n.to_le_bytes());
        }
        b.extend_from_slice(&tpid.to_le_bytes());
        b.resize(Version::Three.header(), 0);
        b.extend_from_slice(&crate::packet::address_of(f));
        b.resize(mac, 0);
        b.extend_from_slice(&f.data[..kept]);
        // A frame as large as a block may not reach beyond it.
        let room = (self.size - self.length.min(self.size)) as usize;
        b.truncate(room);
        if !store(&self.file, self.at(self.active) + self.length, &self.slot) {
            return false;
        }
        self.last = self.length;
        self.last_stamp = f.stamp;
        self.length += step;
        self.packets += 1;
        true
    }
}

impl Ring for Blocks {
    fn put(&mut self, f: &Frame, lost: bool, now: Time) -> Put {
        let mut put = Put::default();
        let Some((mut mac, net)) = places(f, Version::Three, self.reserve) else { return put };
        // The largest frame is as large as a block without what is before its frames.
        let most = (self.size - self.first) as usize;
        let mut kept = f.data.len();
        if mac + kept > most {
            kept = most.saturating_sub(mac);
            mac = mac.min(most);
        }
        if self.frozen {
            if self.is_users(self.active) {
                return put;
            }
            self.open(f.stamp);
        }
        let step = ((mac + kept) as u64).next_multiple_of(ALIGNMENT);
        if self.length + step >= self.size {
            self.close(if lost { LOSING } else { 0 }, f.stamp);
            put.readable = true;
            if !self.next(f.stamp) {
                return put;
            }
        }
        put.stored = self.append(f, mac, net, kept);
        if self.deadline == Time::NEVER {
            self.deadline = now + self.patience;
            put.retire_at = Some(self.deadline);
        }
        put
    }

    fn is_readable(&self) -> bool {
        self.is_users(self.active + self.count - 1)
    }

    fn room(&self) -> Room {
        if !self.is_users(self.active + self.count / 4) {
            Room::Normal
        } else if !self.is_users(self.active) {
            Room::Low
        } else {
            Room::None
        }
    }

    fn retire(&mut self, lost: bool, now: Time) -> Put {
        if self.frozen || self.packets == 0 {
            return Put::default();
        }
        if now < self.deadline {
            return Put { retire_at: Some(self.deadline), ..Put::default() };
        }
        let at = self.last_stamp + now.since(self.deadline) + self.patience;
        self.close(TIMEOUT | if lost { LOSING } else { 0 }, at);
        self.next(at);
        Put { readable: true, ..Put::default() }
    }

    fn freezes(&mut self) -> u32 {
        std::mem::take(&mut self.freezes)
    }

    fn moved(&mut self, file: Arc<OwnedFd>) {
        self.file = file;
    }
}
