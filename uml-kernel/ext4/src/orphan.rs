//! Orphans: inodes without names that are still in use, and inodes whose
//! truncation is under way. They are finished at the next mount if need be.
//!
//! New orphans go on the list that starts in the superblock and is chained
//! through `i_dtime`; the orphan file is emptied when found filled.

use uml_abi::Result;

use crate::bytes::{rd32, wr32};
use crate::crc::crc32c;
use crate::error::MountError;
use crate::features::ro_compat;
use crate::fs::Ext4;
use crate::inode::Inode;
use crate::map;
use crate::meta::MetaRead;
use crate::mount::has_orphan_file;
use crate::txn::Txn;

const FILE_MAGIC: u32 = 0x0b10_ca04;

/// Puts an inode on the list and writes it.
pub(crate) fn add(tx: &mut Txn<'_>, inode: &mut Inode) -> Result<()> {
    inode.dtime = tx.counts()?.last_orphan;
    wr32(tx.superblock()?, 0xe8, inode.ino);
    tx.put_inode(inode)
}

/// Takes an inode off the list if it is there; the caller writes it.
pub(crate) fn remove(tx: &mut Txn<'_>, inode: &mut Inode) -> Result<()> {
    let head = tx.counts()?.last_orphan;
    let next = inode.dtime;
    if head == inode.ino {
        wr32(tx.superblock()?, 0xe8, next);
        inode.dtime = 0;
        return Ok(());
    }
    let mut at = head;
    let mut left = tx.lay().inodes_count();
    while at != 0 && left > 0 {
        let mut prev = Inode::read(tx, at)?;
        if prev.dtime == inode.ino {
            prev.dtime = next;
            inode.dtime = 0;
            return tx.put_inode(&prev);
        }
        at = prev.dtime;
        left -= 1;
    }
    // Not on the list: it came from the orphan file.
    inode.dtime = 0;
    Ok(())
}

impl Ext4 {
    /// Finishes deletions and truncations that a crash interrupted.
    pub(crate) fn process_orphans(&self) -> Result<(), MountError> {
        for _ in 0..=self.core.lay.inodes_count() {
            let head = self.view(|v| Ok(crate::txn::read_counts(v)?.last_orphan))?;
            if head == 0 {
                break;
            }
            if let Err(e) = self.finish_orphan(head) {
                // A damaged list is cut off; e2fsck finds what it lost.
                self.core.errors.report(e, "orphan list", head, 0);
                self.transact(true, |tx| {
                    wr32(tx.superblock()?, 0xe8, 0);
                    Ok(())
                })?;
            }
        }
        if has_orphan_file(&self.core.lay) {
            self.process_orphan_file()?;
        }
        Ok(())
    }

    fn finish_orphan(&self, ino: u32) -> Result<()> {
        let inode = self.view(|v| Inode::read(v, ino))?;
        if ino < self.core.lay.first_ino || inode.mode == 0 {
            return Err(crate::error::EFSCORRUPTED);
        }
        if inode.links == 0 { self.forget(ino) } else { self.truncate_blocks(ino) }
    }

    fn process_orphan_file(&self) -> Result<(), MountError> {
        let lay = &self.core.lay;
        let slots = lay.bs() / 4 - 2;
        let file = self.view(|v| Inode::live(v, lay.orphan_inum))?;
        for n in 0..file.size >> lay.block_bits {
            let (nr, inos) = self.view(|v| {
                let m = map::find(v, &file, n, 1)?;
                let Some(nr) = m.physical else {
                    return Err(v.corrupt("orphan file with a hole", file.ino, n));
                };
                let b = v.block(nr)?;
                let bad = rd32(&b, slots * 4) != FILE_MAGIC
                    || (lay.metadata_csum()
                        && rd32(&b, slots * 4 + 4) != csum(&file, v, nr, &b, slots));
                if bad {
                    return Err(v.corrupt("orphan file block", file.ino, nr));
                }
                let inos: Vec<u32> = (0..slots).map(|i| rd32(&b, i * 4)).collect();
                Ok((nr, inos))
            })?;
            for (i, ino) in inos.into_iter().enumerate().filter(|(_, ino)| *ino != 0) {
                if let Err(e) = self.finish_orphan(ino) {
                    self.core.errors.report(e, "orphan file entry", ino, nr);
                }
                self.transact(true, |tx| {
                    wr32(tx.modify(nr)?, i * 4, 0);
                    if tx.lay().metadata_csum() {
                        let b = tx.block(nr)?;
                        let c = csum(&file, tx, nr, &b, slots);
                        wr32(tx.modify(nr)?, slots * 4 + 4, c);
                    }
                    Ok(())
                })?;
            }
        }
        self.transact(true, |tx| {
            let sb = tx.superblock()?;
            let v = rd32(sb, 0x64) & !ro_compat::ORPHAN_PRESENT;
            wr32(sb, 0x64, v);
            Ok(())
        })?;
        Ok(())
    }
}

fn csum(file: &Inode, src: &dyn MetaRead, nr: u64, b: &[u8], slots: usize) -> u32 {
    let c = crc32c(file.seed(src.lay()), &nr.to_le_bytes());
    crc32c(c, b.get(..slots * 4).unwrap_or(&[]))
}
