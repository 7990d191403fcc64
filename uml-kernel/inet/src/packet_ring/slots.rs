//! What is received, in slots of one size (TPACKET_V1, TPACKET_V2).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use uml_net::Time;
use uml_net::tap::{Frame, Put, Ring, RingShape, Room};

use super::{LOSING, USER, Version, places, split, store, tag, word};

/// What receives puts frames in.
pub struct Slots {
    file: Arc<OwnedFd>,
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

impl Slots {
    /// An empty ring at the front of `file`.
    pub fn new(file: Arc<OwnedFd>, s: &RingShape, version: Version, reserve: u32) -> Slots {
        Slots {
            file,
            version,
            reserve: reserve as usize,
            block_size: s.block_size.into(),
            frame_size: s.frame_size as usize,
            per_block: (s.block_size / s.frame_size).into(),
            frames: s.frames.into(),
            head: 0,
            slot: Vec::new(),
        }
    }

    fn at(&self, slot: u64) -> u64 {
        slot / self.per_block * self.block_size + slot % self.per_block * self.frame_size as u64
    }

    /// Whether the kernel may write a slot.
    fn is_free(&self, slot: u64) -> bool {
        word(&self.file, self.at(slot)) == Some(0)
    }

    /// Puts together what follows the status in a slot.
    fn fill(&mut self, f: &Frame, (mac, net): (usize, usize)) {
        let kept = f.data.len().min(self.frame_size.saturating_sub(mac));
        let (sec, ns) = split(f.stamp);
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
        if self.version == Version::One {
            b.extend_from_slice(&(ns / 1000).to_le_bytes());
        } else {
            let (tci, tpid) = tag(f);
            b.extend_from_slice(&ns.to_le_bytes());
            b.extend_from_slice(&tci.to_le_bytes());
            b.extend_from_slice(&tpid.to_le_bytes());
        }
        b.resize(self.version.header() - 4, 0);
        b.extend_from_slice(&crate::packet::address_of(f));
        b.resize(mac - 4, 0);
        b.extend_from_slice(&f.data[..kept]);
        b.truncate(self.frame_size - 4);
    }
}

impl Ring for Slots {
    fn put(&mut self, f: &Frame, lost: bool, _: Time) -> Put {
        let full = Put { readable: true, ..Put::default() };
        let places = places(f, self.version, self.reserve);
        let Some(places) = places.filter(|_| self.is_free(self.head)) else { return full };
        self.fill(f, places);
        let at = self.at(self.head);
        let status = crate::packet::status_of(f) | USER | if lost { LOSING } else { 0 };
        // What is in the slot first: the program looks at the status alone.
        if !store(&self.file, at + 4, &self.slot) || !store(&self.file, at, &status.to_le_bytes()) {
            return full;
        }
        self.head = (self.head + 1) % self.frames;
        Put { stored: true, ..full }
    }

    fn is_readable(&self) -> bool {
        !self.is_free((self.head + self.frames - 1) % self.frames)
    }

    fn room(&self) -> Room {
        if self.is_free((self.head + self.frames / 4) % self.frames) {
            Room::Normal
        } else if self.is_free(self.head) {
            Room::Low
        } else {
            Room::None
        }
    }

    fn moved(&mut self, file: Arc<OwnedFd>) {
        self.file = file;
    }
}
