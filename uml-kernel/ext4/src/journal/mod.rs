//! The jbd2 journal: format, replay on mount, commit and checkpoint.
//!
//! Layout of the log: block 0 is the journal superblock; `first..last` is a
//! ring of transactions; with fast commits the blocks from `last` on hold the
//! fast-commit area. All integers are big-endian.

pub(crate) mod checkpoint;
pub(crate) mod commit;
pub(crate) mod fast_commit;
pub(crate) mod format;
pub(crate) mod replay;

use std::collections::HashMap;
use std::sync::Arc;

use uml_abi::Result;

use crate::bytes::{rdbe32, wrbe32};
use crate::cache::Buf;
use crate::error::MountError;
use crate::inode::Inode;
use crate::map;
use crate::meta::{Core, MetaRead};
use format::{Checksums, JSB_SIZE, jsb_csum};
use uml_store::BlockStore;

/// The log and what of it is not yet at home. Behind the filesystem's journal
/// lock, which is held for the whole of a commit or checkpoint.
pub(crate) struct Journal {
    /// Physical runs of the journal inode, in order.
    runs: Vec<(u64, u64)>,
    block_bits: u32,
    /// Raw journal superblock.
    jsb: Vec<u8>,
    pub(crate) first: u32,
    /// End of the ring (exclusive).
    pub(crate) last: u32,
    pub(crate) checksums: Checksums,
    pub(crate) bit64: bool,
    /// Next block of the ring to write.
    head: u32,
    /// Blocks of the ring in use since the last checkpoint.
    used: u32,
    /// First block of the ring that was not written since the mount.
    written: u32,
    /// Committed blocks not yet written home.
    pub(crate) pending: HashMap<u64, Buf>,
    /// Whether flushes are issued (`barrier` mount option).
    pub(crate) barrier: bool,
}

impl Journal {
    /// Finds the journal and reads its superblock.
    pub(crate) fn load(
        core: &Core,
        src: &dyn MetaRead,
        barrier: bool,
    ) -> Result<Journal, MountError> {
        let bad = |why: String| Err(MountError::Journal(why));
        let lay = &core.lay;
        let inode = match Inode::read(src, lay.journal_inum) {
            Ok(i) if i.is_reg() && i.links > 0 => i,
            Ok(_) => return bad(format!("inode {} is not a journal", lay.journal_inum)),
            Err(e) => return bad(format!("inode {}: {e}", lay.journal_inum)),
        };
        let blocks = inode.size >> lay.block_bits;
        let Ok(blocks) = u32::try_from(blocks) else { return bad("too large".into()) };
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut n = 0u64;
        while n < u64::from(blocks) {
            let m = match map::find(src, &inode, n, u64::from(blocks) - n) {
                Ok(m) => m,
                Err(e) => return bad(format!("block map: {e}")),
            };
            let Some(p) = m.physical else { return bad(format!("hole at block {n}")) };
            match runs.last_mut() {
                Some((s, l)) if *s + *l == p => *l += m.len,
                _ => runs.push((p, m.len)),
            }
            n += m.len;
        }
        let mut j = Journal {
            runs,
            block_bits: lay.block_bits,
            jsb: vec![0; JSB_SIZE],
            first: 0,
            last: 0,
            checksums: Checksums::None,
            bit64: false,
            head: 0,
            used: 0,
            written: 0,
            pending: HashMap::new(),
            barrier,
        };
        let Some(at) = j.offset(0) else { return bad("empty".into()) };
        core.store.read_at(at, &mut j.jsb)?;
        j.parse(lay.block_size, blocks).map_err(MountError::Journal)?;
        Ok(j)
    }

    fn parse(&mut self, block_size: u32, blocks: u32) -> Result<(), String> {
        let s = &self.jsb;
        if rdbe32(s, 0) != format::MAGIC {
            return Err("no superblock".into());
        }
        let kind = rdbe32(s, 4);
        if kind != format::SUPER_V1 && kind != format::SUPER_V2 {
            return Err(format!("superblock type {kind}"));
        }
        let (compat, incompat, ro_compat) = if kind == format::SUPER_V2 {
            (rdbe32(s, 0x24), rdbe32(s, 0x28), rdbe32(s, 0x2c))
        } else {
            (0, 0, 0)
        };
        let unknown = incompat & !format::INCOMPAT_KNOWN;
        if unknown != 0 || ro_compat != 0 || compat & !format::COMPAT_CHECKSUM != 0 {
            return Err(format!(
                "unknown features (compat {compat:#x}, incompat {incompat:#x}, \
                 ro_compat {ro_compat:#x})"
            ));
        }
        self.checksums = Checksums::from_features(compat, incompat)?;
        self.bit64 = incompat & format::INCOMPAT_64BIT != 0;
        if self.checksums.modern() {
            if s.get(0x50) != Some(&4) {
                return Err("unknown checksum type".into());
            }
            if rdbe32(s, 0xfc) != jsb_csum(s) {
                return Err("superblock checksum does not match".into());
            }
        }
        let (bs, maxlen, first) = (rdbe32(s, 0xc), rdbe32(s, 0x10), rdbe32(s, 0x14));
        if bs != block_size {
            return Err(format!("block size {bs} on a filesystem with {block_size}"));
        }
        if maxlen > blocks || maxlen < 16 {
            return Err(format!("{maxlen} blocks long in a file of {blocks}"));
        }
        let fast = if incompat & format::INCOMPAT_FAST_COMMIT != 0 {
            match rdbe32(s, 0x54) {
                0 => format::FAST_COMMIT_BLOCKS,
                n => n,
            }
        } else {
            0
        };
        let last = maxlen.checked_sub(fast).filter(|l| *l > 16).ok_or("fast-commit area")?;
        if first == 0 || first >= last {
            return Err(format!("first block {first} of {last}"));
        }
        let start = rdbe32(s, 0x1c);
        if start != 0 && (start < first || start >= last) {
            return Err(format!("log starts at block {start}, outside {first}..{last}"));
        }
        (self.first, self.last, self.head) = (first, last, first);
        Ok(())
    }

    /// Byte offset of a journal block on the device.
    pub(crate) fn offset(&self, jblk: u32) -> Option<u64> {
        let mut n = u64::from(jblk);
        for &(s, l) in &self.runs {
            if n < l {
                return Some((s + n) << self.block_bits);
            }
            n -= l;
        }
        None
    }

    /// Physical runs, so that no file is given the journal's blocks.
    pub(crate) fn runs(&self) -> &[(u64, u64)] {
        &self.runs
    }

    pub(crate) fn block_size(&self) -> usize {
        1 << self.block_bits
    }

    /// Block after `n` in the ring.
    pub(crate) fn next(&self, n: u32) -> u32 {
        if n + 1 >= self.last { self.first } else { n + 1 }
    }

    pub(crate) fn ring(&self) -> u32 {
        self.last - self.first
    }

    /// Seed of all checksums in the log.
    pub(crate) fn seed(&self) -> u32 {
        crate::crc::crc32c(!0, self.jsb.get(0x30..0x40).unwrap_or(&[]))
    }

    pub(crate) fn start(&self) -> u32 {
        rdbe32(&self.jsb, 0x1c)
    }

    pub(crate) fn sequence(&self) -> u32 {
        rdbe32(&self.jsb, 0x18)
    }

    /// The fast-commit area; Linux leaves the block after the ring unused.
    pub(crate) fn fast_commit_area(&self) -> std::ops::Range<u32> {
        self.last + 1..rdbe32(&self.jsb, 0x10)
    }

    pub(crate) fn has_fast_commit(&self) -> bool {
        rdbe32(&self.jsb, 0x28) & format::INCOMPAT_FAST_COMMIT != 0
    }

    /// Writes the journal superblock with a new start and sequence; not yet
    /// durable when this returns.
    pub(crate) fn write_super(
        &mut self,
        store: &dyn BlockStore,
        start: u32,
        sequence: u32,
    ) -> Result<()> {
        wrbe32(&mut self.jsb, 0x1c, start);
        wrbe32(&mut self.jsb, 0x18, sequence);
        if self.checksums.modern() {
            let c = jsb_csum(&self.jsb);
            wrbe32(&mut self.jsb, 0xfc, c);
        }
        let at = self.offset(0).ok_or(uml_abi::errno::EIO)?;
        store.write_at(at, &self.jsb)
    }

    /// Turns on the features this engine writes with, before the first commit.
    pub(crate) fn prepare(&mut self, core: &Core) {
        if rdbe32(&self.jsb, 4) != format::SUPER_V2 {
            self.checksums = Checksums::None;
            self.bit64 = false;
            return;
        }
        let mut incompat = rdbe32(&self.jsb, 0x28) | format::INCOMPAT_REVOKE;
        incompat &= !(format::INCOMPAT_FAST_COMMIT | format::INCOMPAT_ASYNC_COMMIT);
        if core.lay.features.incompat(crate::features::incompat::BIT64) {
            incompat |= format::INCOMPAT_64BIT;
        }
        if core.lay.metadata_csum() {
            incompat = (incompat & !format::INCOMPAT_CSUM_V2) | format::INCOMPAT_CSUM_V3;
            wrbe32(&mut self.jsb, 0x24, 0);
            if let Some(b) = self.jsb.get_mut(0x50) {
                *b = 4;
            }
        } else {
            incompat &= !(format::INCOMPAT_CSUM_V2 | format::INCOMPAT_CSUM_V3);
            wrbe32(&mut self.jsb, 0x24, 0);
        }
        wrbe32(&mut self.jsb, 0x28, incompat);
        wrbe32(&mut self.jsb, 0x20, 0);
        self.bit64 = incompat & format::INCOMPAT_64BIT != 0;
        self.checksums = if core.lay.metadata_csum() { Checksums::V3 } else { Checksums::None };
        self.last = rdbe32(&self.jsb, 0x10);
        (self.head, self.used) = (self.first, 0);
    }

    /// Most blocks one transaction may change, leaving room for its
    /// descriptors and for a second transaction.
    pub(crate) fn max_transaction(&self) -> usize {
        (self.ring() / 4) as usize
    }

    pub(crate) fn flush(&self, store: &Arc<dyn BlockStore>) -> Result<()> {
        if self.barrier { store.flush() } else { Ok(()) }
    }
}
