//! Superblock fields that programs change while the filesystem is mounted: tune2fs(8) writes them to the device,
//! FS_IOC_SETFSLABEL through the filesystem.

use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::{EINVAL, EIO, EROFS};

use crate::bytes::rd32;
use crate::features::incompat;
use crate::fs::Ext4;
use crate::layout::{SB_OFFSET, SB_SIZE, sb_csum};
use crate::meta::MetaRead;

/// Fields that are taken over, by offset and length: reserved blocks, counts and intervals of checks, error
/// behaviour, owner of reserved blocks, label, default mount options, RAID layout, mount options text.
const FIELDS: [(usize, usize); 10] = [
    (0x8, 4),
    (0x34, 4),
    (0x3c, 2),
    (0x40, 8),
    (0x50, 4),
    (0x78, 16),
    (0x100, 4),
    (0x154, 4),
    (0x164, 2),
    (0x200, 64),
];
const LABEL: std::ops::Range<usize> = 0x78..0x88;

impl Ext4 {
    /// The superblock on the store was written by somebody else: takes over what may change while mounted. What
    /// is no superblock of this filesystem is left alone; it is overwritten in time. As on Linux the error behaviour and
    /// the default mount options count from the next mount on.
    pub fn adopt_superblock(&self) -> Result<()> {
        let mut raw = vec![0; SB_SIZE];
        self.core.store.read_at(SB_OFFSET, &mut raw)?;
        let lay = &self.core.lay;
        let ours = rd32(&raw, 0x4) == lay.blocks_count() as u32
            && raw.get(0x38..0x3a) == Some(&[0x53, 0xef])
            && raw.get(0x68..0x78) == Some(&lay.uuid)
            && (!lay.metadata_csum() || rd32(&raw, 0x3fc) == sb_csum(&raw));
        if !ours {
            return Err(EINVAL);
        }
        self.transact(true, |tx| {
            let sb = tx.superblock()?;
            for (at, n) in FIELDS {
                if let (Some(d), Some(s)) = (sb.get_mut(at..at + n), raw.get(at..at + n)) {
                    d.copy_from_slice(s);
                }
            }
            Ok(())
        })?;
        let high = if lay.features.incompat(incompat::BIT64) { rd32(&raw, 0x154) } else { 0 };
        let kept = u64::from(rd32(&raw, 0x8)) | u64::from(high) << 32;
        self.core.kept_blocks.store(kept.min(lay.blocks_count()), Ordering::Relaxed);
        Ok(())
    }

    /// Sets the volume label. `EINVAL` when it is longer than 16 bytes.
    pub fn set_label(&self, label: &[u8]) -> Result<()> {
        if self.core.errors.is_read_only() {
            return Err(EROFS);
        }
        if label.len() > LABEL.len() {
            return Err(EINVAL);
        }
        self.transact(true, |tx| {
            let d = tx.superblock()?.get_mut(LABEL).ok_or(EIO)?;
            d.fill(0);
            d[..label.len()].copy_from_slice(label);
            Ok(())
        })
    }

    /// The label as it is now, zero-padded.
    pub(crate) fn label(&self) -> Result<[u8; 16]> {
        let (block, off) = self.core.lay.sb_place();
        self.view(|v| {
            let b = v.block(block)?;
            let l = b.get(off + LABEL.start..off + LABEL.end).and_then(|l| l.try_into().ok());
            l.ok_or(EIO)
        })
    }
}
