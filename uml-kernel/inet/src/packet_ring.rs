//! PACKET_RX_RING (packet(7)): frames go to memory that the program has mapped, each into a slot with a word that tells
//! whose the slot is. Versions 1 and 2 of the layout; programs that would like version 3, whose blocks have slots of any size,
//! fall back to 2 (pcap(3) does, and has no other way to capture).

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_host::fs::{pread, pwrite};
use uml_mm::{MapAccess, Mappable};
use uml_net::tap::{Frame, Ring};

/// Slots begin at multiples of this, and so does what is in them.
const ALIGNMENT: usize = 16;
/// `struct tpacket_hdr` and `struct tpacket2_hdr` are as long as each other.
pub const HEADER: usize = 32;
/// `struct sockaddr_ll`, behind the header.
const ADDRESS: usize = 20;
/// Room for the link header before the network one, at least.
const LINK: usize = 16;
/// The slot is the program's; else the kernel's.
const USER: u32 = 1;
/// Frames were lost since the program asked for the statistics.
const LOSING: u32 = 4;
/// More would not be had from a real kernel either.
const MAX: u64 = 512 << 20;

/// Which layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    One,
    Two,
}

impl Version {
    /// PACKET_VERSION's number. `EINVAL` for others.
    pub fn from_number(n: i32) -> Result<Version> {
        match n {
            0 => Ok(Version::One),
            1 => Ok(Version::Two),
            _ => Err(EINVAL),
        }
    }

    /// PACKET_VERSION's number.
    pub fn number(self) -> i32 {
        self as i32
    }
}

/// `struct tpacket_req`.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    block_size: u32,
    blocks: u32,
    frame_size: u32,
    frames: u32,
}

impl Request {
    /// `EINVAL` for less than the structure.
    pub fn parse(v: &[u8]) -> Result<Request> {
        let word = |n: usize| -> Result<u32> {
            let b = v.get(n * 4..n * 4 + 4).ok_or(EINVAL)?;
            Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        };
        let r = Request {
            block_size: word(0)?,
            blocks: word(1)?,
            frame_size: word(2)?,
            frames: word(3)?,
        };
        // Without blocks there is no ring, and nothing can be in it.
        if r.blocks == 0 && r.frames != 0 { Err(EINVAL) } else { Ok(r) }
    }

    /// The ring is not wanted any more.
    pub fn is_none(&self) -> bool {
        self.blocks == 0
    }

    /// Bytes of the ring, when its shape is right. `EINVAL`, `ENOMEM`.
    fn size(&self, reserve: u32) -> Result<u64> {
        let least = (HEADER + ADDRESS) as u64 + u64::from(reserve);
        let odd = |n: u32, of: usize| n as usize % of != 0;
        if i32::try_from(self.block_size).map_or(true, |n| n == 0)
            || odd(self.block_size, uml_mm::PAGE as usize)
            || u64::from(self.frame_size) < least
            || odd(self.frame_size, ALIGNMENT)
            || self.frame_size > self.block_size
            || u64::from(self.block_size / self.frame_size) * u64::from(self.blocks)
                != u64::from(self.frames)
        {
            return Err(EINVAL);
        }
        let size = u64::from(self.block_size) * u64::from(self.blocks);
        if size > MAX { Err(ENOMEM) } else { Ok(size) }
    }
}

/// The memory of a ring, as mmap(2) sees it.
pub struct Memory {
    object: Arc<dyn Mappable>,
    mappings: AtomicI64,
}

impl Memory {
    /// Whether a program has it mapped.
    pub fn is_mapped(&self) -> bool {
        self.mappings.load(Ordering::SeqCst) > 0
    }
}

impl Mappable for Memory {
    fn host_fd(&self, off: u64, len: u64, access: MapAccess) -> Result<RawFd> {
        self.object.host_fd(off, len, access)
    }

    fn mapped(&self, delta: i64) {
        self.mappings.fetch_add(delta, Ordering::SeqCst);
    }

    fn key(&self) -> u64 {
        self.object.key()
    }
}

/// What receives puts frames in.
pub struct RxRing {
    file: OwnedFd,
    version: Version,
    reserve: usize,
    block_size: u64,
    frame_size: usize,
    per_block: u64,
    frames: u64,
    /// The next slot.
    head: u64,
    /// What a slot is put together in.
    slot: Vec<u8>,
}

/// A ring of this shape: where frames go, and the memory for the program.
pub fn make(r: &Request, version: Version, reserve: u32) -> Result<(RxRing, Arc<Memory>)> {
    let size = r.size(reserve)?;
    let (object, file) = uml_core::shm::anonymous_file(size)?;
    let ring = RxRing {
        file,
        version,
        reserve: reserve as usize,
        block_size: r.block_size.into(),
        frame_size: r.frame_size as usize,
        per_block: (r.block_size / r.frame_size).into(),
        frames: r.frames.into(),
        head: 0,
        slot: Vec::new(),
    };
    Ok((ring, Arc::new(Memory { object, mappings: AtomicI64::new(0) })))
}

impl RxRing {
    fn at(&self, slot: u64) -> u64 {
        slot / self.per_block * self.block_size + slot % self.per_block * self.frame_size as u64
    }

    /// Whether the kernel may write a slot.
    fn is_free(&self, slot: u64) -> bool {
        let mut b = [0; 4];
        let read = pread(self.file.as_fd(), self.at(slot), &mut b);
        read == Ok(4) && u32::from_le_bytes(b) == 0
    }

    /// Where in a slot the frame and its network header begin; none where the header cannot tell.
    fn places(&self, f: &Frame) -> Option<(usize, usize)> {
        let align = |n: usize| n.next_multiple_of(ALIGNMENT);
        let net = match f.cooked {
            true => align(HEADER + ADDRESS) + LINK + self.reserve,
            false => align(HEADER + ADDRESS + f.net.max(LINK)) + self.reserve,
        };
        (net <= usize::from(u16::MAX)).then_some((net - f.net, net))
    }

    /// Puts together what follows the status in a slot.
    fn fill(&mut self, f: &Frame, (mac, net): (usize, usize)) {
        let kept = f.data.len().min(self.frame_size.saturating_sub(mac));
        let (sec, ns) = ((f.stamp / 1_000_000_000) as u32, (f.stamp % 1_000_000_000) as u32);
        let b = &mut self.slot;
        b.clear();
        if self.version == Version::One {
            b.extend_from_slice(&[0; 4]);
        }
        for n in [f.len as u32, kept as u32] {
            b.extend_from_slice(&n.to_le_bytes());
        }
        for n in [mac as u16, net as u16] {
            b.extend_from_slice(&n.to_le_bytes());
        }
        b.extend_from_slice(&sec.to_le_bytes());
        match self.version {
            Version::One => b.extend_from_slice(&(ns / 1000).to_le_bytes()),
            Version::Two => {
                b.extend_from_slice(&ns.to_le_bytes());
                b.extend_from_slice(&f.vlan.unwrap_or(0).to_le_bytes());
                b.extend_from_slice(&(if f.vlan.is_some() { 0x8100u16 } else { 0 }).to_le_bytes());
            }
        }
        b.resize(HEADER - 4, 0);
        b.extend_from_slice(&crate::packet::address_of(f));
        b.resize(mac - 4, 0);
        b.extend_from_slice(&f.data[..kept]);
        b.truncate(self.frame_size - 4);
    }
}

impl Ring for RxRing {
    fn put(&mut self, f: &Frame, lost: bool) -> bool {
        let Some(places) = self.places(f).filter(|_| self.is_free(self.head)) else { return false };
        self.fill(f, places);
        let at = self.at(self.head);
        let status = crate::packet::status_of(f) | USER | if lost { LOSING } else { 0 };
        // What is in the slot first: the program looks at the status alone.
        let done = pwrite(self.file.as_fd(), at + 4, &self.slot) == Ok(self.slot.len())
            && pwrite(self.file.as_fd(), at, &status.to_le_bytes()) == Ok(4);
        if done {
            self.head = (self.head + 1) % self.frames;
        }
        done
    }

    fn is_readable(&self) -> bool {
        !self.is_free((self.head + self.frames - 1) % self.frames)
    }
}
