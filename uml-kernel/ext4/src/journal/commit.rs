//! Committing a transaction to the log.

use uml_abi::Result;
use uml_abi::errno::{EIO, ENOSPC};

use super::Journal;
use super::format::{self, Checksums, HEADER};
use crate::bytes::{wrbe16, wrbe32};
use crate::cache::Buf;
use crate::inode::Timestamp;
use crate::meta::Core;

/// Everything one commit writes.
pub(crate) struct Frozen {
    pub(crate) tid: u32,
    /// Changed blocks, sorted by number.
    pub(crate) blocks: Vec<(u64, Buf)>,
    pub(crate) revokes: Vec<u64>,
    /// Freed runs: reusable after the commit.
    pub(crate) freed: Vec<(u64, u64)>,
}

/// Gathers neighbouring log blocks into few large writes.
struct LogWriter<'a> {
    j: &'a Journal,
    core: &'a Core,
    at: u32,
    count: u32,
    start: Option<u64>,
    buf: Vec<u8>,
}

/// Largest single write to the log.
const CHUNK: usize = 1 << 20;

/// What of a commit block is written: the rest is zeros already. No disk loses a part of so little.
const COMMIT_BYTES: usize = 512;

/// Transactions of at most so many blocks have zeros written ahead of them...
const SMALL: u32 = 32;
/// ... over so many blocks, where the log has not been written since the mount.
const AHEAD: u32 = 64;

impl LogWriter<'_> {
    fn push(&mut self, block: &[u8]) -> Result<()> {
        let off = self.j.offset(self.at).ok_or(EIO)?;
        let follows = self.start.is_some_and(|s| s + self.buf.len() as u64 == off);
        if !follows || self.buf.len() >= CHUNK {
            self.drain()?;
            self.start = Some(off);
        }
        self.buf.extend_from_slice(block);
        self.at = self.j.next(self.at);
        self.count += 1;
        Ok(())
    }

    /// Zeros over the next `n` blocks, which the log does not contain yet.
    fn clear(&mut self, n: u32) -> Result<()> {
        let (at, count) = (self.at, self.count);
        let zeros = vec![0; self.j.block_size()];
        for _ in 0..n {
            self.push(&zeros)?;
        }
        (self.at, self.count) = (at, count);
        self.drain()
    }

    fn drain(&mut self) -> Result<()> {
        if let Some(s) = self.start.take() {
            self.core.store.write_at(s, &self.buf)?;
        }
        self.buf.clear();
        Ok(())
    }
}

impl Journal {
    fn tags_per_block(&self) -> usize {
        let tag = format::tag_bytes(self.checksums, self.bit64);
        (self.block_size() - HEADER - 16 - self.checksums.tail()) / tag
    }

    fn revokes_per_block(&self) -> usize {
        let size = if self.bit64 { 8 } else { 4 };
        (self.block_size() - HEADER - 4 - self.checksums.tail()) / size
    }

    /// Log blocks a commit takes.
    fn needed(&self, f: &Frozen) -> usize {
        f.blocks.len()
            + f.blocks.len().div_ceil(self.tags_per_block())
            + f.revokes.len().div_ceil(self.revokes_per_block())
            + 1
    }

    /// Whether a commit of this size needs a checkpoint first.
    pub(crate) fn short_of_room(&self, f: &Frozen) -> bool {
        self.needed(f) + 1 > (self.ring() - self.used) as usize
    }

    /// Writes a transaction and makes it durable. File data written before
    /// this call is durable before the commit record is (ordered mode).
    pub(crate) fn commit(&mut self, core: &Core, f: &Frozen, now: Timestamp) -> Result<()> {
        if self.short_of_room(f) {
            return Err(ENOSPC);
        }
        if self.used == 0 {
            // The log was empty: from here on it starts with this transaction.
            let (head, tid) = (self.head, f.tid);
            self.write_super(&*core.store, head, tid)?;
        }
        let mut w = LogWriter {
            j: self,
            core,
            at: self.head,
            count: 0,
            start: None,
            buf: Vec::with_capacity(CHUNK.min(self.needed(f) * self.block_size())),
        };
        for part in f.revokes.chunks(self.revokes_per_block()) {
            w.push(&self.revoke_block(f.tid, part))?;
        }
        for part in f.blocks.chunks(self.tags_per_block()) {
            let data: Vec<(u64, Buf, bool)> = part
                .iter()
                .map(|(nr, b)| (*nr, b.clone(), b.starts_with(&format::MAGIC.to_be_bytes())))
                .collect();
            w.push(&self.descriptor(f.tid, &data))?;
            for (_, b, escaped) in &data {
                if *escaped {
                    w.push(&escape(b))?;
                } else {
                    w.push(b)?;
                }
            }
        }
        // The commit block's place is zeros before anything of it is written: a part of it over what was there would be a
        // broken commit to e2fsck(8), not none.
        let cleared = 1 + self.worth_clearing(w.at, w.count + 1);
        w.clear(cleared)?;
        let (place, head, count) = (w.at, self.next(w.at), w.count + 1);
        self.flush(&core.store)?;
        let block = self.commit_block(f.tid, now);
        let at = self.offset(place).ok_or(EIO)?;
        core.store.write_at(at, block.get(..COMMIT_BYTES).ok_or(EIO)?)?;
        self.flush(&core.store)?;
        self.head = head;
        self.used += count;
        self.written = self.written.max(place + cleared);
        Ok(())
    }

    /// Blocks after the commit block at `place` of a transaction of `count` blocks that are worth a write of zeros: in an image
    /// with holes every block written for the first time costs the host a commit of its own, and many at once cost one.
    fn worth_clearing(&self, place: u32, count: u32) -> u32 {
        if count > SMALL || place < self.written {
            return 0;
        }
        let free = self.ring() - (self.used + count);
        AHEAD.min(free).min(self.last - (place + 1))
    }

    fn log_block(&self, kind: u32, tid: u32) -> Vec<u8> {
        let mut b = vec![0; self.block_size()];
        wrbe32(&mut b, 0, format::MAGIC);
        wrbe32(&mut b, 4, kind);
        wrbe32(&mut b, 8, tid);
        b
    }

    fn seal(&self, b: &mut [u8]) {
        if self.checksums.modern() {
            let c = format::tail_csum(self.seed(), b);
            let at = b.len() - 4;
            wrbe32(b, at, c);
        }
    }

    fn descriptor(&self, tid: u32, data: &[(u64, Buf, bool)]) -> Vec<u8> {
        let mut b = self.log_block(format::DESCRIPTOR, tid);
        let size = format::tag_bytes(self.checksums, self.bit64);
        let mut at = HEADER;
        for (i, (nr, buf, escaped)) in data.iter().enumerate() {
            let mut flags = 0;
            if i > 0 {
                flags |= format::TAG_SAME_UUID;
            }
            if i + 1 == data.len() {
                flags |= format::TAG_LAST;
            }
            if *escaped {
                flags |= format::TAG_ESCAPED;
            }
            wrbe32(&mut b, at, *nr as u32);
            let csum = if !self.checksums.modern() {
                0
            } else if *escaped {
                format::data_csum(self.seed(), tid, &escape(buf))
            } else {
                format::data_csum(self.seed(), tid, buf)
            };
            let high = (*nr >> 32) as u32;
            if self.checksums == Checksums::V3 {
                wrbe32(&mut b, at + 4, flags);
                wrbe32(&mut b, at + 8, high);
                wrbe32(&mut b, at + 12, csum);
            } else {
                wrbe16(&mut b, at + 4, csum as u16);
                wrbe16(&mut b, at + 6, flags as u16);
                if self.bit64 {
                    wrbe32(&mut b, at + 8, high);
                }
            }
            at += size;
            if i == 0 {
                let uuid = self.jsb.get(0x30..0x40).unwrap_or(&[0; 16]).to_vec();
                if let Some(d) = b.get_mut(at..at + 16) {
                    d.copy_from_slice(&uuid);
                }
                at += 16;
            }
        }
        self.seal(&mut b);
        b
    }

    fn revoke_block(&self, tid: u32, list: &[u64]) -> Vec<u8> {
        let mut b = self.log_block(format::REVOKE, tid);
        let mut at = HEADER + 4;
        for nr in list {
            if self.bit64 {
                wrbe32(&mut b, at, (*nr >> 32) as u32);
                wrbe32(&mut b, at + 4, *nr as u32);
                at += 8;
            } else {
                wrbe32(&mut b, at, *nr as u32);
                at += 4;
            }
        }
        wrbe32(&mut b, HEADER, at as u32);
        self.seal(&mut b);
        b
    }

    fn commit_block(&self, tid: u32, now: Timestamp) -> Vec<u8> {
        let mut b = self.log_block(format::COMMIT, tid);
        wrbe32(&mut b, 0x30, (now.sec >> 32) as u32);
        wrbe32(&mut b, 0x34, now.sec as u32);
        wrbe32(&mut b, 0x38, now.nsec);
        if self.checksums.modern() {
            let c = format::commit_csum(self.seed(), &b);
            wrbe32(&mut b, 0x10, c);
        }
        b
    }
}

/// A block that looks like a log block has its first word zeroed in the log.
fn escape(b: &Buf) -> Vec<u8> {
    let mut v = b.to_vec();
    wrbe32(&mut v, 0, 0);
    v
}
