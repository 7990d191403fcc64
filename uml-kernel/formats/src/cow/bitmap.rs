//! The bitmap in memory: loaded in chunks on first use, so that a large image
//! costs memory only where it is touched.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;

use super::header::Layout;
use crate::store::{Store, read_zero_filled};

/// Bytes of bitmap per chunk; one chunk of 512-byte sectors describes 16 MiB of disk.
const CHUNK: u64 = 4096;
/// Chunks kept in memory unless configured otherwise: 16 MiB of bitmap.
pub const CHUNK_LIMIT_DEFAULT: usize = 4096;

#[derive(Debug)]
struct Chunk {
    bytes: Box<[u8]>,
    /// Byte range changed since it was last handed out for writing, 8-byte aligned.
    dirty: Option<(usize, usize)>,
    /// Handed out and not yet known to be on disk: must not be reloaded.
    writing: bool,
}

/// A stretch of bitmap to be written at an absolute file offset.
#[derive(Debug)]
pub(super) struct Piece {
    pub offset: u64,
    pub bytes: Vec<u8>,
    chunk: u64,
    start: usize,
}

/// Cached bitmap of one image. Bits are only ever set, never cleared.
#[derive(Debug)]
pub(super) struct Bitmap {
    layout: Layout,
    chunks: HashMap<u64, Chunk>,
    /// Load order, for eviction of clean chunks beyond `limit`.
    order: VecDeque<u64>,
    dirty: BTreeSet<u64>,
    limit: usize,
}

impl Bitmap {
    pub fn new(layout: Layout, limit: usize) -> Self {
        Self {
            layout,
            chunks: HashMap::new(),
            order: VecDeque::new(),
            dirty: BTreeSet::new(),
            limit: limit.max(1),
        }
    }

    fn evict(&mut self) {
        // One round at most: chunks that are dirty or being written stay.
        let mut attempts = self.order.len();
        while self.chunks.len() >= self.limit && attempts > 0 {
            attempts -= 1;
            let Some(index) = self.order.pop_front() else { break };
            match self.chunks.get(&index) {
                Some(chunk) if chunk.dirty.is_some() || chunk.writing => {
                    self.order.push_back(index);
                }
                _ => {
                    self.chunks.remove(&index);
                }
            }
        }
    }

    fn chunk<S: Store>(&mut self, store: &S, index: u64) -> io::Result<&mut Chunk> {
        if !self.chunks.contains_key(&index) {
            self.evict();
            let start = index.saturating_mul(CHUNK);
            let len = self.layout.bitmap_len.saturating_sub(start).min(CHUNK) as usize;
            let mut bytes = vec![0; len].into_boxed_slice();
            read_zero_filled(store, &mut bytes, self.layout.bitmap_offset + start)?;
            self.chunks.insert(index, Chunk { bytes, dirty: None, writing: false });
            self.order.push_back(index);
        }
        self.chunks.get_mut(&index).ok_or_else(|| io::Error::other("bitmap chunk vanished"))
    }

    /// Whether sector `first` is in the COW file, and for how many sectors (at
    /// least 1, at most `max`) that answer holds. The run may be cut short;
    /// the caller merges equal neighbours.
    pub fn run<S: Store>(&mut self, store: &S, first: u64, max: u64) -> io::Result<(bool, u64)> {
        let mapped = self.layout.mapped_sectors();
        if first >= mapped {
            return Ok((false, max));
        }
        let byte = first / 8;
        let chunk = self.chunk(store, byte / CHUNK)?;
        let base = byte / CHUNK * CHUNK * 8;
        let max = max.min(mapped - first);
        Ok(run_in(&chunk.bytes, first - base, max))
    }

    /// Sets the bits of a sector range; true if any was clear before.
    pub fn set<S: Store>(&mut self, store: &S, first: u64, count: u64) -> io::Result<bool> {
        let mut changed = false;
        let end = first.saturating_add(count).min(self.layout.mapped_sectors());
        let mut at = first;
        while at < end {
            let index = at / 8 / CHUNK;
            let base = index * CHUNK * 8;
            let stop = end.min(base + CHUNK * 8);
            let chunk = self.chunk(store, index)?;
            let (mut low, mut high) = (usize::MAX, 0);
            while at < stop {
                let bit = at - base;
                let position = (bit / 8) as usize;
                let Some(byte) = chunk.bytes.get_mut(position) else { break };
                let take = (8 - bit % 8).min(stop - at);
                let mask = (((1u16 << take) - 1) << (bit % 8)) as u8;
                if *byte & mask != mask {
                    *byte |= mask;
                    low = low.min(position);
                    high = high.max(position + 1);
                }
                at += take;
            }
            if low < high {
                changed = true;
                chunk.mark(low / 8 * 8, high.next_multiple_of(8));
                self.dirty.insert(index);
            }
            at = stop;
        }
        Ok(changed)
    }

    /// Hands out everything changed since the last call. Each piece must be
    /// given back through [`Self::written`] or [`Self::failed`].
    pub fn take_dirty(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::with_capacity(self.dirty.len());
        for index in std::mem::take(&mut self.dirty) {
            let Some(chunk) = self.chunks.get_mut(&index) else { continue };
            let Some((start, end)) = chunk.dirty.take() else { continue };
            chunk.writing = true;
            pieces.push(Piece {
                offset: self.layout.bitmap_offset + index * CHUNK + start as u64,
                bytes: chunk.bytes.get(start..end).unwrap_or_default().to_vec(),
                chunk: index,
                start,
            });
        }
        pieces
    }

    pub fn written(&mut self, pieces: &[Piece]) {
        for piece in pieces {
            if let Some(chunk) = self.chunks.get_mut(&piece.chunk) {
                chunk.writing = false;
            }
        }
    }

    /// The pieces did not reach the disk: they stay to be written later.
    pub fn failed(&mut self, pieces: &[Piece]) {
        for piece in pieces {
            if let Some(chunk) = self.chunks.get_mut(&piece.chunk) {
                chunk.writing = false;
                chunk.mark(piece.start, piece.start + piece.bytes.len());
                self.dirty.insert(piece.chunk);
            }
        }
    }

    #[cfg(test)]
    pub fn loaded(&self) -> usize {
        self.chunks.len()
    }
}

impl Chunk {
    fn mark(&mut self, start: usize, end: usize) {
        let end = end.min(self.bytes.len());
        self.dirty = Some(match self.dirty {
            Some((low, high)) => (low.min(start), high.max(end)),
            None => (start, end),
        });
    }
}

/// State of bit `first` and the number of bits from there (up to `max`, at
/// least 1) that are equal to it, within `bytes`.
pub(super) fn run_in(bytes: &[u8], first: u64, max: u64) -> (bool, u64) {
    let bit =
        |at: u64| bytes.get((at / 8) as usize).is_some_and(|byte| byte & (1 << (at % 8)) != 0);
    let state = bit(first);
    let end = first.saturating_add(max).min(bytes.len() as u64 * 8);
    let whole = if state { 0xff } else { 0 };
    let mut at = first + 1;
    while at < end {
        if at % 8 == 0 && end - at >= 8 {
            let same = bytes
                .get((at / 8) as usize..(end / 8) as usize)
                .unwrap_or_default()
                .iter()
                .take_while(|byte| **byte == whole)
                .count() as u64;
            at += same * 8;
            if at >= end {
                break;
            }
        }
        if bit(at) != state {
            break;
        }
        at += 1;
    }
    (state, at.min(end.max(first + 1)) - first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cow::{Header, Version};
    use crate::store::MemStore;
    use proptest::prelude::*;

    fn layout(sectors: u64) -> Layout {
        let header = Header {
            version: Version::V3,
            order: crate::cow::ByteOrder::Big,
            mtime: 0,
            size: sectors * 512,
            sector_size: 512,
            alignment: 4096,
            backing: "/b".into(),
        };
        header.layout().expect("valid geometry")
    }

    proptest! {
        #[test]
        fn run_in_matches_bit_by_bit(bytes in proptest::collection::vec(
            prop_oneof![Just(0u8), Just(0xffu8), any::<u8>()], 1..40), seed in any::<u64>(),
            max in 1u64..400) {
            let bits = bytes.len() as u64 * 8;
            let first = seed % bits;
            let get = |at: u64| bytes[(at / 8) as usize] >> (at % 8) & 1 == 1;
            let mut n = 1;
            while n < max && first + n < bits && get(first + n) == get(first) {
                n += 1;
            }
            prop_assert_eq!(run_in(&bytes, first, max), (get(first), n));
        }
    }

    #[test]
    fn clean_chunks_are_evicted_and_dirty_ones_kept() {
        let sectors = CHUNK * 8 * 10;
        let store = MemStore::new(vec![0; 8192 + (CHUNK * 10) as usize]);
        let mut bitmap = Bitmap::new(layout(sectors), 3);
        assert!(bitmap.set(&store, 5, 1).expect("set"));
        for chunk in 1..10 {
            assert!(!bitmap.run(&store, chunk * CHUNK * 8, 1).expect("run").0);
        }
        assert!(bitmap.loaded() <= 3);
        assert!(bitmap.run(&store, 5, 1).expect("run").0, "unsaved bit was lost");
        let pieces = bitmap.take_dirty();
        assert_eq!(pieces.len(), 1);
        assert_eq!((pieces[0].offset, pieces[0].bytes.len()), (8192, 8));
        for chunk in 1..10 {
            bitmap.run(&store, chunk * CHUNK * 8, 1).expect("run");
        }
        assert!(bitmap.run(&store, 5, 1).expect("run").0, "bit being written was lost");
        bitmap.failed(&pieces);
        assert_eq!(bitmap.take_dirty().len(), 1);
    }

    #[test]
    fn one_word_bitmap_is_written_without_touching_the_rest() {
        // 20 sectors: the bitmap has 3 bytes.
        let store = MemStore::new(vec![0; 9000]);
        let mut bitmap = Bitmap::new(layout(20), 8);
        assert!(bitmap.set(&store, 18, 9).expect("set"));
        let pieces = bitmap.take_dirty();
        assert_eq!(pieces[0].bytes, [0, 0, 0x0c]);
    }
}
