//! Multi-mount protection (feature `mmp`, ext4(5)): a block in which whoever has the filesystem mounted counts on, so that
//! another machine that shares the disk sees it.
//!
//! A writable mount looks at the block. Counted on by nobody (`clean`) it is taken at once; otherwise it is watched for
//! twice the interval, and taken if nobody counted. Whoever mounted calls [`Ext4::heartbeat`] every
//! [`Ext4::heartbeat_interval`]. The block is written past the journal.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use uml_abi::Result;
use uml_abi::errno::{EBUSY, EIO, ETIMEDOUT};
use uml_store::BlockStore;

use crate::bytes::{rd16, rd32, wr16, wr32, wr64};
use crate::crc::crc32c;
use crate::error::{EFSBADCRC, EFSCORRUPTED, MountError};
use crate::features::incompat;
use crate::fs::{Ext4, Options};
use crate::layout::Layout;

/// `mmp_magic`.
const MAGIC: u32 = 0x004d_4d50;
/// `mmp_seq` of a filesystem nobody has mounted.
const CLEAN: u32 = 0xff4d_4d50;
/// `mmp_seq` while e2fsck(8) works on it.
const FSCK: u32 = 0xe24d_4d50;
/// Largest number counted to.
const SEQ_MAX: u32 = 0xe24d_4d4f;
/// Bytes of the structure.
const SIZE: usize = 1024;
/// Offset of its checksum.
const CSUM: usize = SIZE - 4;
/// Least and most seconds between looks that are told to others.
const CHECK: (u16, u16) = (5, 300);

/// The state of the one who counts.
struct Count {
    seq: u32,
    node: Vec<u8>,
    device: Vec<u8>,
    /// `mmp_check_interval`, seconds: how long others are to watch.
    check: u16,
}

/// The block, and what was last written to it.
pub(crate) struct Mmp {
    /// `None`: not counting.
    count: Mutex<Option<Count>>,
}

fn block_of(lay: &Layout, store: &dyn BlockStore) -> Result<Vec<u8>> {
    let mut b = vec![0; lay.bs()];
    store.read_at(lay.mmp_block << lay.block_bits, &mut b)?;
    if rd32(&b, 0) != MAGIC {
        return Err(EFSCORRUPTED);
    }
    if lay.metadata_csum() && rd32(&b, CSUM) != crc32c(lay.csum_seed, &b[..CSUM]) {
        return Err(EFSBADCRC);
    }
    Ok(b)
}

/// Puts the count and who counts into the block.
fn put(
    lay: &Layout,
    store: &dyn BlockStore,
    c: &Count,
    seconds: i64,
    mut b: Vec<u8>,
) -> Result<()> {
    wr32(&mut b, 4, c.seq);
    wr64(&mut b, 8, seconds as u64);
    let mut name = |at: usize, len: usize, text: &[u8]| {
        if let Some(field) = b.get_mut(at..at + len) {
            field.fill(0);
            let n = text.len().min(len - 1);
            field[..n].copy_from_slice(&text[..n]);
        }
    };
    name(16, 64, &c.node);
    name(80, 32, &c.device);
    wr16(&mut b, 112, c.check);
    if lay.metadata_csum() {
        let sum = crc32c(lay.csum_seed, &b[..CSUM]);
        wr32(&mut b, CSUM, sum);
    }
    store.write_at(lay.mmp_block << lay.block_bits, &b)?;
    store.flush()
}

/// Seconds between two heartbeats (`s_mmp_update_interval`).
fn interval(lay: &Layout) -> u16 {
    if lay.mmp_interval == 0 { CHECK.0 } else { lay.mmp_interval }
}

impl Mmp {
    /// Nobody counts: a read-only mount, or no such feature.
    pub(crate) fn idle() -> Mmp {
        Mmp { count: Mutex::new(None) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Count>> {
        self.count.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes the filesystem for a writable mount; `EBUSY` when somebody else has it, `ETIMEDOUT` when `opts.wait` was
    /// interrupted. Nothing to do without the feature.
    pub(crate) fn claim(
        &self,
        lay: &Layout,
        store: &dyn BlockStore,
        opts: &Options,
    ) -> Result<(), MountError> {
        if !lay.features.incompat(incompat::MMP) {
            return Ok(());
        }
        if lay.mmp_block < lay.first_data_block || lay.mmp_block >= lay.blocks_count() {
            return Err(MountError::Corrupt("place of the MMP block".into()));
        }
        let b = block_of(lay, store)?;
        let check = interval(lay).max(CHECK.0).max(rd16(&b, 112));
        let found = rd32(&b, 4);
        let mut wait = Duration::ZERO;
        if found == FSCK {
            return Err(MountError::InUse(
                "e2fsck is running on it, or died (tune2fs -E clear_mmp)".into(),
            ));
        }
        let others = |b: &[u8]| {
            let text = |at: usize, len: usize| {
                let field = b.get(at..at + len).unwrap_or(&[]);
                let end = field.iter().position(|c| *c == 0).unwrap_or(len);
                String::from_utf8_lossy(&field[..end]).into_owned()
            };
            MountError::InUse(format!("{} has it mounted from {}", text(16, 64), text(80, 32)))
        };
        if found != CLEAN {
            wait = Duration::from_secs((u64::from(check) * 2 + 1).min(u64::from(check) + 60));
            if !(opts.wait)(wait) {
                return Err(MountError::Io(ETIMEDOUT));
            }
            let now = block_of(lay, store)?;
            if rd32(&now, 4) != found {
                return Err(others(&now));
            }
        }
        let now = (opts.clock)();
        let random = crc32c(now.nsec ^ found, &now.sec.to_le_bytes());
        let count = Count {
            seq: random % SEQ_MAX + 1,
            node: opts.node.clone(),
            device: opts.device.clone(),
            check,
        };
        put(lay, store, &count, now.sec, b)?;
        if !wait.is_zero() {
            // Somebody may have found the same, and written after us.
            if !(opts.wait)(wait) {
                return Err(MountError::Io(ETIMEDOUT));
            }
            let b = block_of(lay, store)?;
            if rd32(&b, 4) != count.seq {
                return Err(others(&b));
            }
        }
        *self.lock() = Some(count);
        Ok(())
    }

    /// Counts on. `EBUSY` when somebody else wrote the block since.
    fn beat(&self, lay: &Layout, store: &dyn BlockStore, seconds: i64) -> Result<()> {
        let mut count = self.lock();
        let Some(c) = count.as_mut() else { return Ok(()) };
        let b = block_of(lay, store)?;
        if rd32(&b, 4) != c.seq {
            // No longer ours to count in, or to call clean.
            *count = None;
            return Err(EBUSY);
        }
        c.seq = if c.seq >= SEQ_MAX { 1 } else { c.seq + 1 };
        put(lay, store, c, seconds, b)
    }

    /// Leaves the filesystem to others.
    pub(crate) fn release(&self, lay: &Layout, store: &dyn BlockStore, seconds: i64) -> Result<()> {
        let Some(mut c) = self.lock().take() else { return Ok(()) };
        let b = block_of(lay, store)?;
        if rd32(&b, 4) != c.seq {
            return Err(EIO);
        }
        c.seq = CLEAN;
        put(lay, store, &c, seconds, b)
    }
}

impl Ext4 {
    /// How often [`Ext4::heartbeat`] is to be called; `None` without the feature `mmp`.
    pub fn heartbeat_interval(&self) -> Option<Duration> {
        let lay = &self.core.lay;
        lay.features.incompat(incompat::MMP).then(|| Duration::from_secs(interval(lay).into()))
    }

    /// Tells other machines that the filesystem is mounted here. When another one mounted it nevertheless, that is
    /// reported as an error of the filesystem and nothing is written any more.
    pub fn heartbeat(&self) -> Result<()> {
        let now = (self.opts.clock)();
        let r = self.mmp.beat(&self.core.lay, &*self.core.store, now.sec);
        if let Err(e) = r {
            let block = self.core.lay.mmp_block;
            self.core.errors.report(e, "multiple mounts, or no way to tell of this one", 0, block);
            if e == EBUSY {
                // What is in memory would go over what the other one writes.
                self.core.errors.read_only.store(true, std::sync::atomic::Ordering::Release);
            }
        }
        r
    }
}
