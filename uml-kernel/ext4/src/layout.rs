//! The fixed geometry of a filesystem, read from the superblock once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};

use uml_abi::Result;

use crate::bytes::{rd8, rd16, rd32, rd64};
use crate::crc::crc32c;
use crate::error::MountError;
use crate::features::{Features, compat, incompat, ro_compat};
use uml_store::BlockStore;

/// Byte offset of the primary superblock.
pub(crate) const SB_OFFSET: u64 = 1024;
/// Bytes of the superblock structure.
pub(crate) const SB_SIZE: usize = 1024;
const MAGIC: u16 = 0xef53;

/// What online resizing changes; all copies of a [`Layout`] share it. Changed
/// under the exclusive state lock, so that whoever holds the lock sees one size.
#[derive(Debug)]
struct Size {
    blocks: AtomicU64,
    groups: AtomicU32,
    inodes: AtomicU32,
    reserved_gdt: AtomicU16,
    /// An inode keeps descriptor blocks for growth (`resize_inode`).
    keeps_descs: AtomicBool,
    /// The first descriptor block that lies in its own groups (`meta_bg`).
    first_meta_bg: AtomicU32,
}

/// What stands for no descriptor block in its own groups.
const NO_META_BG: u32 = u32::MAX;

/// Geometry and constants; while mounted only what resizing changes does.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) block_size: u32,
    pub(crate) block_bits: u32,
    size: Arc<Size>,
    pub(crate) first_data_block: u64,
    pub(crate) blocks_per_group: u32,
    pub(crate) inodes_per_group: u32,
    pub(crate) inode_size: u16,
    pub(crate) desc_size: u16,
    pub(crate) first_ino: u32,
    /// Where multi-mount protection counts.
    pub(crate) mmp_block: u64,
    /// Seconds between its counts; 0 for the default.
    pub(crate) mmp_interval: u16,
    pub(crate) flex_size: u32,
    pub(crate) backup_bgs: [u32; 2],
    /// As they were at the mount; see [`Layout::features_now`].
    pub(crate) features: Features,
    pub(crate) uuid: [u8; 16],
    pub(crate) label: [u8; 16],
    pub(crate) csum_seed: u32,
    pub(crate) hash_seed: Option<[u32; 4]>,
    pub(crate) def_hash: u8,
    pub(crate) hash_unsigned: bool,
    pub(crate) want_extra_isize: u16,
    pub(crate) journal_inum: u32,
    pub(crate) orphan_inum: u32,
    pub(crate) reserved_blocks: u64,
    pub(crate) resuid: u32,
    pub(crate) resgid: u32,
    pub(crate) default_mount_opts: u32,
    pub(crate) errors: u16,
}

/// Checksum of a superblock image (`metadata_csum`).
pub(crate) fn sb_csum(sb: &[u8]) -> u32 {
    crc32c(!0, sb.get(..0x3fc).unwrap_or(sb))
}

fn bad(why: String) -> MountError {
    MountError::NotExt4(why)
}

impl Layout {
    /// Reads and checks the primary superblock; returns it with its raw bytes.
    pub(crate) fn read(store: &dyn BlockStore) -> Result<(Layout, Vec<u8>), MountError> {
        if store.size() < SB_OFFSET + SB_SIZE as u64 {
            return Err(bad(format!("the device has only {} bytes", store.size())));
        }
        let mut sb = vec![0u8; SB_SIZE];
        store.read_at(SB_OFFSET, &mut sb)?;
        let lay = Layout::parse(&sb, store.size())?;
        Ok((lay, sb))
    }

    fn parse(sb: &[u8], dev_size: u64) -> Result<Layout, MountError> {
        let magic = rd16(sb, 0x38);
        if magic != MAGIC {
            return Err(bad(format!("magic number {magic:#06x} instead of {MAGIC:#06x}")));
        }
        let rev = rd32(sb, 0x4c);
        let features = if rev == 0 {
            Features::default()
        } else {
            Features { compat: rd32(sb, 0x5c), incompat: rd32(sb, 0x60), ro_compat: rd32(sb, 0x64) }
        };
        let unreadable = features.unreadable();
        if !unreadable.is_empty() {
            return Err(MountError::Unreadable(unreadable));
        }
        let csum = features.ro_compat(ro_compat::METADATA_CSUM);
        if csum {
            if rd8(sb, 0x175) != 1 {
                return Err(bad(format!("checksum type {} instead of 1", rd8(sb, 0x175))));
            }
            if sb_csum(sb) != rd32(sb, 0x3fc) {
                return Err(bad("superblock checksum does not match".into()));
            }
        }
        let log = rd32(sb, 0x18);
        if log > 6 {
            return Err(bad(format!(
                "block size 2^{} (accepted: 1 KiB to 64 KiB)",
                u64::from(log) + 10
            )));
        }
        let block_bits = log + 10;
        let block_size = 1024u32 << log;
        let bit64 = features.incompat(incompat::BIT64);
        let hi = |off: usize| if bit64 { u64::from(rd32(sb, off)) << 32 } else { 0 };
        let blocks_count = u64::from(rd32(sb, 0x4)) | hi(0x150);
        let reserved_blocks = u64::from(rd32(sb, 0x8)) | hi(0x154);
        let first_data_block = u64::from(rd32(sb, 0x14));
        let blocks_per_group = rd32(sb, 0x20);
        let inodes_per_group = rd32(sb, 0x28);
        let inodes_count = rd32(sb, 0x0);
        let (inode_size, first_ino) =
            if rev == 0 { (128, 11) } else { (rd16(sb, 0x58), rd32(sb, 0x54)) };
        if inode_size < 128 || !inode_size.is_power_of_two() || u32::from(inode_size) > block_size {
            return Err(bad(format!("inode size {inode_size}")));
        }
        if first_ino < 11 {
            return Err(bad(format!("first inode {first_ino}")));
        }
        let desc_size = if bit64 { rd16(sb, 0xfe) } else { 32 };
        if bit64 && (desc_size < 64 || !desc_size.is_power_of_two() || desc_size > 1024) {
            return Err(bad(format!("group descriptor size {desc_size}")));
        }
        let max_bits = block_size * 8;
        if blocks_per_group < 256 || blocks_per_group > max_bits || blocks_per_group % 8 != 0 {
            return Err(bad(format!("{blocks_per_group} blocks per group")));
        }
        let ipb = block_size / u32::from(inode_size);
        if inodes_per_group < ipb.min(8) || inodes_per_group > max_bits || inodes_per_group % 8 != 0
        {
            return Err(bad(format!("{inodes_per_group} inodes per group")));
        }
        let want_first = u64::from(block_size == 1024);
        if first_data_block != want_first {
            return Err(bad(format!("first data block {first_data_block}")));
        }
        if blocks_count <= first_data_block || blocks_count >= 1 << 48 {
            return Err(bad(format!("block count {blocks_count}")));
        }
        if blocks_count > dev_size >> block_bits {
            return Err(bad(format!(
                "{blocks_count} blocks of {block_size} bytes on a device of {dev_size} bytes"
            )));
        }
        let groups = (blocks_count - first_data_block).div_ceil(u64::from(blocks_per_group));
        let groups = u32::try_from(groups).map_err(|_| bad("too many groups".into()))?;
        if u64::from(groups) * u64::from(inodes_per_group) != u64::from(inodes_count) {
            return Err(bad(format!(
                "{inodes_count} inodes in {groups} groups of {inodes_per_group}"
            )));
        }
        let reserved_gdt = rd16(sb, 0xce);
        if u32::from(reserved_gdt) > block_size / 4 {
            return Err(bad(format!("{reserved_gdt} reserved descriptor blocks")));
        }
        let log_flex = rd8(sb, 0x174);
        let flex_size = if features.incompat(incompat::FLEX_BG) && (1..31).contains(&log_flex) {
            1 << log_flex
        } else {
            1
        };
        let mut uuid = [0u8; 16];
        uuid.copy_from_slice(&sb[0x68..0x78]);
        let mut label = [0u8; 16];
        label.copy_from_slice(&sb[0x78..0x88]);
        let csum_seed = if features.incompat(incompat::CSUM_SEED) {
            rd32(sb, 0x270)
        } else {
            crc32c(!0, &uuid)
        };
        let seed = [rd32(sb, 0xec), rd32(sb, 0xf0), rd32(sb, 0xf4), rd32(sb, 0xf8)];
        let has_journal = features.compat(compat::HAS_JOURNAL);
        let journal_inum = if has_journal { rd32(sb, 0xe0) } else { 0 };
        if has_journal && journal_inum == 0 {
            return Err(MountError::ExternalJournal);
        }
        let isize_room = inode_size - 128;
        Ok(Layout {
            block_size,
            block_bits,
            size: Arc::new(Size {
                blocks: AtomicU64::new(blocks_count),
                groups: AtomicU32::new(groups),
                inodes: AtomicU32::new(inodes_count),
                reserved_gdt: AtomicU16::new(reserved_gdt),
                keeps_descs: AtomicBool::new(features.compat(compat::RESIZE_INODE)),
                first_meta_bg: AtomicU32::new(if features.incompat(incompat::META_BG) {
                    rd32(sb, 0x104)
                } else {
                    NO_META_BG
                }),
            }),
            first_data_block,
            blocks_per_group,
            inodes_per_group,
            inode_size,
            desc_size,
            first_ino,
            mmp_block: rd64(sb, 0x168),
            mmp_interval: rd16(sb, 0x166),
            flex_size,
            backup_bgs: [rd32(sb, 0x24c), rd32(sb, 0x250)],
            features,
            uuid,
            label,
            csum_seed,
            hash_seed: seed.iter().any(|s| *s != 0).then_some(seed),
            def_hash: rd8(sb, 0xfc),
            hash_unsigned: rd32(sb, 0x160) & 2 != 0,
            want_extra_isize: rd16(sb, 0x15e).clamp(32.min(isize_room), isize_room) & !3,
            journal_inum,
            orphan_inum: if features.compat(compat::ORPHAN_FILE) { rd32(sb, 0x280) } else { 0 },
            reserved_blocks: reserved_blocks.min(blocks_count),
            resuid: rd16(sb, 0x50).into(),
            resgid: rd16(sb, 0x52).into(),
            default_mount_opts: rd32(sb, 0x100),
            errors: rd16(sb, 0x3c),
        })
    }

    /// Blocks of the filesystem.
    pub(crate) fn blocks_count(&self) -> u64 {
        self.size.blocks.load(Ordering::Acquire)
    }

    /// Block groups.
    pub(crate) fn groups(&self) -> u32 {
        self.size.groups.load(Ordering::Acquire)
    }

    /// Inodes, used and free.
    pub(crate) fn inodes_count(&self) -> u32 {
        self.size.inodes.load(Ordering::Acquire)
    }

    /// Descriptor blocks kept for growth (`resize_inode`).
    pub(crate) fn reserved_gdt(&self) -> u16 {
        self.size.reserved_gdt.load(Ordering::Acquire)
    }

    /// An inode keeps descriptor blocks for growth (`resize_inode`).
    pub(crate) fn keeps_descs(&self) -> bool {
        self.size.keeps_descs.load(Ordering::Acquire)
    }

    /// The first descriptor block that lies in its own groups, with the `meta_bg` feature.
    pub(crate) fn first_meta_bg(&self) -> Option<u32> {
        Some(self.size.first_meta_bg.load(Ordering::Acquire)).filter(|f| *f != NO_META_BG)
    }

    /// The descriptor blocks to come lie in their own groups; the caller holds the state exclusively.
    pub(crate) fn set_meta_bg(&self) {
        self.size.first_meta_bg.store(self.desc_blocks(), Ordering::Release);
        self.size.keeps_descs.store(false, Ordering::Release);
    }

    /// The features, with what resizing made of them since the mount.
    pub(crate) fn features_now(&self) -> Features {
        let mut f = self.features;
        if !self.keeps_descs() {
            f.compat &= !compat::RESIZE_INODE;
        }
        if self.first_meta_bg().is_some() {
            f.incompat |= incompat::META_BG;
        }
        f
    }

    /// Descriptor blocks beside each copy of the superblock.
    pub(crate) fn old_desc_blocks(&self) -> u32 {
        self.desc_blocks().min(self.first_meta_bg().unwrap_or(u32::MAX))
    }

    /// Makes a new size known; the caller holds the state exclusively.
    pub(crate) fn set_size(&self, blocks: u64, groups: u32, reserved_gdt: u16) {
        self.size.blocks.store(blocks, Ordering::Release);
        self.size.groups.store(groups, Ordering::Release);
        self.size.inodes.store(groups * self.inodes_per_group, Ordering::Release);
        self.size.reserved_gdt.store(reserved_gdt, Ordering::Release);
    }

    pub(crate) fn bs(&self) -> usize {
        self.block_size as usize
    }

    pub(crate) fn metadata_csum(&self) -> bool {
        self.features.ro_compat(ro_compat::METADATA_CSUM)
    }

    /// Descriptors carry checksums and the "not initialised" flags count.
    pub(crate) fn has_group_csum(&self) -> bool {
        self.metadata_csum() || self.features.ro_compat(ro_compat::GDT_CSUM)
    }

    pub(crate) fn extents(&self) -> bool {
        self.features.incompat(incompat::EXTENTS)
    }

    /// The block holding the primary superblock and its offset in that block.
    pub(crate) fn sb_place(&self) -> (u64, usize) {
        let bs = u64::from(self.block_size);
        (SB_OFFSET / bs, (SB_OFFSET % bs) as usize)
    }

    /// First block of group `g`.
    pub(crate) fn group_first(&self, g: u32) -> u64 {
        self.first_data_block + u64::from(g) * u64::from(self.blocks_per_group)
    }

    /// Number of blocks in group `g` (the last group may be short).
    pub(crate) fn group_blocks(&self, g: u32) -> u32 {
        let left = self.blocks_count().saturating_sub(self.group_first(g));
        left.min(u64::from(self.blocks_per_group)) as u32
    }

    /// Group and bit of a block, when it is inside the filesystem.
    pub(crate) fn group_of(&self, block: u64) -> Option<(u32, u32)> {
        if block < self.first_data_block || block >= self.blocks_count() {
            return None;
        }
        let rel = block - self.first_data_block;
        let per = u64::from(self.blocks_per_group);
        Some(((rel / per) as u32, (rel % per) as u32))
    }

    /// Group and index of an inode number, when it exists.
    pub(crate) fn ino_place(&self, ino: u32) -> Option<(u32, u32)> {
        if ino == 0 || ino > self.inodes_count() {
            return None;
        }
        Some(((ino - 1) / self.inodes_per_group, (ino - 1) % self.inodes_per_group))
    }

    /// Blocks of one group's inode table.
    pub(crate) fn itable_blocks(&self) -> u32 {
        let per_block = self.block_size / u32::from(self.inode_size);
        self.inodes_per_group.div_ceil(per_block)
    }

    pub(crate) fn descs_per_block(&self) -> u32 {
        self.block_size / u32::from(self.desc_size)
    }

    /// Descriptor blocks of the whole filesystem.
    pub(crate) fn desc_blocks(&self) -> u32 {
        self.groups().div_ceil(self.descs_per_block())
    }

    /// Whether group `g` holds a superblock copy.
    pub(crate) fn has_super(&self, g: u32) -> bool {
        if g == 0 {
            return true;
        }
        if self.features.compat(compat::SPARSE_SUPER2) {
            return self.backup_bgs.contains(&g);
        }
        if g == 1 || !self.features.ro_compat(ro_compat::SPARSE_SUPER) {
            return true;
        }
        let power = |base: u32| {
            let mut n = base;
            while n < g {
                n = n.saturating_mul(base);
            }
            n == g
        };
        g % 2 == 1 && (power(3) || power(5) || power(7))
    }

    pub(crate) fn meta_bg_at(&self, desc_block: u32) -> bool {
        self.first_meta_bg().is_some_and(|first| desc_block >= first)
    }

    /// Descriptor blocks (old style, or the one of a meta group) in group `g`,
    /// including the reserved ones for growth.
    pub(crate) fn gdt_blocks_in(&self, g: u32) -> u32 {
        let per = self.descs_per_block();
        if self.meta_bg_at(g / per) {
            let r = g % per;
            u32::from(r == 0 || r == 1 || r == per - 1)
        } else if self.has_super(g) {
            self.old_desc_blocks() + u32::from(self.reserved_gdt())
        } else {
            0
        }
    }

    /// Block and byte offset of the descriptor of group `g`.
    pub(crate) fn desc_place(&self, g: u32) -> (u64, usize) {
        let per = self.descs_per_block();
        let idx = g / per;
        let off = (g % per) as usize * usize::from(self.desc_size);
        let block = if self.meta_bg_at(idx) {
            let first = idx * per;
            self.group_first(first) + u64::from(self.has_super(first))
        } else {
            self.first_data_block + 1 + u64::from(idx)
        };
        (block, off)
    }

    /// Largest file size in blocks for extent-mapped files.
    pub(crate) fn max_extent_blocks(&self) -> u64 {
        u64::from(u32::MAX)
    }

    /// Checksum seed of one inode's metadata.
    pub(crate) fn inode_seed(&self, ino: u32, generation: u32) -> u32 {
        crc32c(crc32c(self.csum_seed, &ino.to_le_bytes()), &generation.to_le_bytes())
    }

    /// Number of 512-byte sectors per block.
    pub(crate) fn sectors(&self) -> u64 {
        u64::from(self.block_size) / 512
    }
}

/// Values of the superblock that change while mounted, for statfs and tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SbCounts {
    pub(crate) free_blocks: u64,
    pub(crate) free_inodes: u32,
    pub(crate) last_orphan: u32,
    pub(crate) state: u16,
    pub(crate) kbytes_written: u64,
}

impl SbCounts {
    pub(crate) fn parse(lay: &Layout, sb: &[u8]) -> SbCounts {
        let hi =
            if lay.features.incompat(incompat::BIT64) { u64::from(rd32(sb, 0x158)) } else { 0 };
        SbCounts {
            free_blocks: u64::from(rd32(sb, 0xc)) | hi << 32,
            free_inodes: rd32(sb, 0x10),
            last_orphan: rd32(sb, 0xe8),
            state: rd16(sb, 0x3a),
            kbytes_written: rd64(sb, 0x178),
        }
    }
}
