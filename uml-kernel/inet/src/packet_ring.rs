//! Rings of packet sockets (packet(7), Documentation/networking/packet_mmap.rst): frames go to memory that the program has
//! mapped, and are taken from there. In versions 1 and 2 each has a slot, with a word that tells whose the slot is; in version 3
//! received ones are in blocks ([`blocks`]), which change hands as a whole.

mod blocks;
mod slots;
mod tx;

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_host::fs::{pread, pwrite};
use uml_mm::{MapAccess, Mappable};
use uml_net::tap::{Frame, Ring, RingShape};

pub use tx::{Next, TxRing};

/// Slots begin at multiples of this, and so does what is in them.
const ALIGNMENT: usize = 16;
/// `struct sockaddr_ll`, behind the header.
pub const ADDRESS: usize = 20;
/// Room for the link header before the network one, at least.
const LINK: usize = 16;
/// The slot (or block) is the program's; else the kernel's.
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
    Three,
}

impl Version {
    /// PACKET_VERSION's number. `EINVAL` for others.
    pub fn from_number(n: i32) -> Result<Version> {
        match n {
            0 => Ok(Version::One),
            1 => Ok(Version::Two),
            2 => Ok(Version::Three),
            _ => Err(EINVAL),
        }
    }

    /// PACKET_VERSION's number.
    pub fn number(self) -> i32 {
        self as i32
    }

    /// Length of `struct tpacket_hdr`, `struct tpacket2_hdr` or `struct tpacket3_hdr`.
    pub fn header(self) -> usize {
        match self {
            Version::One | Version::Two => 32,
            Version::Three => 48,
        }
    }
}

/// `struct tpacket_req`, or `struct tpacket_req3`.
#[derive(Clone, Copy, Debug)]
pub struct Request(RingShape);

impl Request {
    /// `EINVAL` for less than the structure of the version.
    pub fn parse(v: &[u8], version: Version) -> Result<Request> {
        let word = |n: usize| -> Result<u32> {
            let b = v.get(n * 4..n * 4 + 4).ok_or(EINVAL)?;
            Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        };
        let mut s = RingShape {
            block_size: word(0)?,
            blocks: word(1)?,
            frame_size: word(2)?,
            frames: word(3)?,
            ..RingShape::default()
        };
        if version == Version::Three {
            (s.retire, s.private, s.features) = (word(4)?, word(5)?, word(6)?);
        }
        Ok(Request(s))
    }

    /// The ring is not wanted any more. `EINVAL` where there would be frames without blocks.
    pub fn is_none(&self) -> Result<bool> {
        match (self.0.blocks, self.0.frames) {
            (0, 0) => Ok(true),
            (0, _) => Err(EINVAL),
            _ => Ok(false),
        }
    }

    /// What it says.
    pub fn shape(&self) -> RingShape {
        self.0
    }

    /// Whether the shape is right, for frames that are sent or received. `EINVAL`, `ENOMEM`.
    pub fn check(&self, version: Version, reserve: u32, sent: bool) -> Result<()> {
        let r = &self.0;
        let least = (version.header() + ADDRESS) as u64 + u64::from(reserve);
        let odd = |n: u32, of: usize| n as usize % of != 0;
        if i32::try_from(r.block_size).map_or(true, |n| n == 0)
            || odd(r.block_size, uml_mm::PAGE as usize)
            || (version == Version::Three
                && u64::from(r.block_size) < blocks::first_frame(r.private) + least)
            || u64::from(r.frame_size) < least
            || odd(r.frame_size, ALIGNMENT)
            || r.frame_size > r.block_size
            || u64::from(r.block_size / r.frame_size) * u64::from(r.blocks) != u64::from(r.frames)
            // Blocks of any content are for what is received.
            || (sent && (r.retire, r.private, r.features) != (0, 0, 0))
        {
            return Err(EINVAL);
        }
        if self.size() > MAX { Err(ENOMEM) } else { Ok(()) }
    }

    /// Bytes of the ring.
    pub fn size(&self) -> u64 {
        size(&self.0)
    }
}

fn size(s: &RingShape) -> u64 {
    u64::from(s.block_size) * u64::from(s.blocks)
}

/// The memory of the rings of a socket, as mmap(2) sees it: what is received, then what is sent.
pub struct Memory {
    object: Arc<dyn Mappable>,
    file: Arc<OwnedFd>,
    size: u64,
    mappings: AtomicI64,
}

impl Memory {
    /// Zeros. `ENOMEM`.
    pub fn new(size: u64) -> Result<Arc<Memory>> {
        let (object, file) = uml_core::shm::anonymous_file(size)?;
        let mappings = AtomicI64::new(0);
        Ok(Arc::new(Memory { object, file: Arc::new(file), size, mappings }))
    }

    /// Whether a program has it mapped.
    pub fn is_mapped(&self) -> bool {
        self.mappings.load(Ordering::SeqCst) > 0
    }

    /// The bytes.
    pub fn file(&self) -> &Arc<OwnedFd> {
        &self.file
    }

    /// Copies `len` bytes from here at `from` to `other` at `to`; what is zero stays no memory. `EIO`.
    pub fn copy(&self, from: u64, other: &Memory, to: u64, len: u64) -> Result<()> {
        let mut b = vec![0; 65_536];
        let mut at = 0;
        while at < len {
            let part = &mut b[..(len - at).min(65_536) as usize];
            if pread(self.file.as_fd(), from + at, part)? != part.len() {
                return Err(EIO);
            }
            if part.iter().any(|x| *x != 0)
                && pwrite(other.file.as_fd(), to + at, part)? != part.len()
            {
                return Err(EIO);
            }
            at += part.len() as u64;
        }
        Ok(())
    }
}

impl Mappable for Memory {
    fn host_fd(&self, off: u64, len: u64, access: MapAccess) -> Result<RawFd> {
        self.object.host_fd(off, len, access)
    }

    fn check_range(&self, off: u64, len: u64) -> Result<()> {
        if (off, len) == (0, self.size) { Ok(()) } else { Err(EINVAL) }
    }

    fn mapped(&self, delta: i64) {
        self.mappings.fetch_add(delta, Ordering::SeqCst);
    }

    fn key(&self) -> u64 {
        self.object.key()
    }
}

/// A ring of this (checked) shape at the front of `memory` for what is received, from the moment `realtime` on. Numbers of flows are
/// made with `secret`.
pub fn receiving(
    r: &Request,
    version: Version,
    reserve: u32,
    memory: &Memory,
    realtime: u64,
    secret: u64,
) -> Box<dyn Ring> {
    let (file, shape) = (memory.file.clone(), &r.0);
    match version {
        Version::Three => Box::new(blocks::Blocks::new(file, shape, reserve, realtime, secret)),
        _ => Box::new(slots::Slots::new(file, shape, version, reserve)),
    }
}

/// Where in a slot the frame and its network header begin; none where the header cannot tell.
fn places(f: &Frame, version: Version, reserve: usize) -> Option<(usize, usize)> {
    let align = |n: usize| n.next_multiple_of(ALIGNMENT);
    let before = version.header() + ADDRESS;
    let net = match f.cooked {
        true => align(before) + LINK + reserve,
        false => align(before + f.net.max(LINK)) + reserve,
    };
    (net <= usize::from(u16::MAX)).then_some((net - f.net, net))
}

/// Seconds and nanoseconds of a moment since the epoch.
fn split(ns: u64) -> (u32, u32) {
    ((ns / 1_000_000_000) as u32, (ns % 1_000_000_000) as u32)
}

/// The VLAN tag of a frame and its EtherType.
fn tag(f: &Frame) -> (u16, u16) {
    (f.vlan.unwrap_or(0), if f.vlan.is_some() { 0x8100 } else { 0 })
}

/// A word of the file.
fn word(file: &OwnedFd, at: u64) -> Option<u32> {
    let mut b = [0; 4];
    (pread(file.as_fd(), at, &mut b) == Ok(4)).then(|| u32::from_le_bytes(b))
}

/// Writes all of `b`.
fn store(file: &OwnedFd, at: u64, b: &[u8]) -> bool {
    pwrite(file.as_fd(), at, b) == Ok(b.len())
}
