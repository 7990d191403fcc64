//! What is sent, from slots that the program has filled (PACKET_TX_RING).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_host::fs::pread;
use uml_net::tap::RingShape;

use super::{Version, store, word};

/// TP_STATUS_* of a slot: the program may fill it; it has; its frame was no good.
const AVAILABLE: u32 = 0;
const SEND_REQUEST: u32 = 1;
const WRONG_FORMAT: u32 = 4;

/// What the slot at the head has.
pub enum Next {
    /// Nothing to be sent.
    Nothing,
    Frame(Vec<u8>),
    /// Something that cannot be sent.
    Bad(Errno),
}

/// Slots with frames of the program.
pub struct TxRing {
    file: Arc<OwnedFd>,
    /// Where it begins in the file.
    base: u64,
    version: Version,
    shape: RingShape,
    head: u64,
}

impl TxRing {
    /// Empty slots at `base` of `file`.
    pub fn new(file: Arc<OwnedFd>, base: u64, shape: RingShape, version: Version) -> TxRing {
        TxRing { file, base, version, shape, head: 0 }
    }

    /// The bytes are elsewhere now.
    pub fn moved(&mut self, file: Arc<OwnedFd>, base: u64) {
        (self.file, self.base) = (file, base);
    }

    /// Where it begins.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Bytes of it.
    pub fn size(&self) -> u64 {
        super::size(&self.shape)
    }

    /// Its shape.
    pub fn shape(&self) -> RingShape {
        self.shape
    }

    fn at(&self) -> u64 {
        let s = &self.shape;
        let per_block = u64::from(s.block_size / s.frame_size);
        let (block, slot) = (self.head / per_block, self.head % per_block);
        self.base + block * u64::from(s.block_size) + slot * u64::from(s.frame_size)
    }

    /// Where the status of a slot is: first, but in version 3.
    fn status(&self) -> u64 {
        self.at() + if self.version == Version::Three { 20 } else { 0 }
    }

    /// The frame at the head, if it is of at most `most` bytes: else `EMSGSIZE`. Where it begins is the program's to say with
    /// `anywhere` (PACKET_TX_HAS_OFF): with its network header if it is `cooked`. `EINVAL` for a place outside.
    pub fn next(&self, most: usize, anywhere: bool, cooked: bool) -> Next {
        if word(&self.file, self.status()) != Some(SEND_REQUEST) {
            return Next::Nothing;
        }
        match self.frame(most, anywhere, cooked) {
            Ok(f) => Next::Frame(f),
            Err(e) => Next::Bad(e),
        }
    }

    fn frame(&self, most: usize, anywhere: bool, cooked: bool) -> Result<Vec<u8>> {
        let at = self.at();
        let mut h = [0; 32];
        if pread(self.file.as_fd(), at, &mut h) != Ok(h.len()) {
            return Err(EIO);
        }
        let word = |at: usize| u32::from_le_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
        let half = |at: usize| usize::from(u16::from_le_bytes([h[at], h[at + 1]]));
        // Length, tp_mac and tp_net of the three headers.
        let (len, mac, net) = match self.version {
            Version::One => (word(8), half(16), half(18)),
            Version::Two => (word(4), half(12), half(14)),
            Version::Three if word(0) != 0 => return Err(EINVAL),
            Version::Three => (word(16), half(24), half(26)),
        };
        let (len, header) = (len as usize, self.version.header());
        let room = self.shape.frame_size as usize;
        if len > most.min(room.saturating_sub(header)) {
            return Err(EMSGSIZE);
        }
        let mut from = header;
        if anywhere {
            from = if cooked { net } else { mac };
            if from < header || from > room - len {
                return Err(EINVAL);
            }
        }
        let mut b = vec![0; len];
        match pread(self.file.as_fd(), at + from as u64, &mut b) {
            Ok(n) if n == len => Ok(b),
            _ => Err(EIO),
        }
    }

    /// The slot at the head is the program's again, and the next one is the head.
    pub fn done(&mut self) {
        store(&self.file, self.status(), &AVAILABLE.to_le_bytes());
        self.head = (self.head + 1) % u64::from(self.shape.frames);
    }

    /// The slot at the head is marked as no good, and stays the head.
    pub fn refuse(&mut self) {
        store(&self.file, self.status(), &WRONG_FORMAT.to_le_bytes());
    }
}
