//! Mounting: checks, journal replay, orphans.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, RwLock};

use uml_abi::Result;

use crate::bytes::{rd16, rd32, wr16, wr32};
use crate::cache::Cache;
use crate::error::{ErrorPolicy, ErrorSink, MountError};
use crate::features::{compat, incompat, ro_compat};
use crate::fs::{Ext4, Options};
use crate::group::check_desc;
use crate::journal::Journal;
use crate::journal::replay::ReplayReport;
use crate::layout::Layout;
use crate::meta::{Core, State, View, system_zone};
use crate::mmp::Mmp;
use crate::overlay::OverlayStore;
use uml_store::BlockStore;

/// `s_state`: cleanly unmounted.
pub(crate) const STATE_VALID: u16 = 1;
/// `s_state`: errors were found.
pub(crate) const STATE_ERRORS: u16 = 2;

fn new_core(store: Arc<dyn BlockStore>, lay: Layout, opts: &Options, read_only: bool) -> Core {
    let policy = opts.errors.unwrap_or(match lay.errors {
        2 => ErrorPolicy::RemountRo,
        3 => ErrorPolicy::Panic,
        _ => ErrorPolicy::Continue,
    });
    let kept_blocks = AtomicU64::new(lay.reserved_blocks);
    Core {
        store,
        lay,
        cache: Cache::new(opts.cache_bytes),
        journal_data: opts.journal_data,
        errors: ErrorSink::new(policy, opts.on_error.clone(), read_only),
        system: RwLock::new(Vec::new()),
        kept_blocks,
    }
}

impl Ext4 {
    /// Mounts the filesystem on `store`.
    ///
    /// A journal that is not empty is replayed: on the store, or for read-only
    /// mounts in memory only. Writable mounts also finish what was interrupted
    /// (orphaned inodes) and mark the filesystem as in use.
    pub fn open(store: Arc<dyn BlockStore>, opts: Options) -> Result<Ext4, MountError> {
        let (lay, _) = Layout::read(&*store)?;
        let unwritable = lay.features.unwritable();
        if !opts.read_only {
            if !unwritable.is_empty() {
                return Err(MountError::Unwritable(unwritable));
            }
            if !store.writable() {
                return Err(MountError::Io(uml_abi::errno::EROFS));
            }
        }
        if opts.journal_data && lay.journal_inum == 0 {
            return Err(MountError::Journal("data=journal on a filesystem without one".into()));
        }
        let read_only = opts.read_only;
        if read_only {
            return Ext4::open_claimed(store, opts);
        }
        let mmp = Mmp::idle();
        mmp.claim(&lay, &*store, &opts)?;
        let clock = opts.clock.clone();
        match Ext4::open_claimed(store.clone(), opts) {
            Ok(mut fs) => {
                fs.mmp = mmp;
                Ok(fs)
            }
            Err(e) => {
                // What is wrong is said in `e`.
                let _ = mmp.release(&lay, &*store, clock().sec);
                Err(e)
            }
        }
    }

    /// Mounts what nobody else has mounted.
    fn open_claimed(store: Arc<dyn BlockStore>, mut opts: Options) -> Result<Ext4, MountError> {
        // Somebody else may have changed it while we waited for it.
        let (lay, _) = Layout::read(&*store)?;
        let read_only = opts.read_only;
        let mut core = new_core(store.clone(), lay, &opts, read_only);
        let mut replay = ReplayReport::default();
        let mut journal = None;
        let mut overlay = None;
        let mut fast = Vec::new();
        let mut tid = 1;
        let dirty = core.lay.features.incompat(incompat::RECOVER);
        if core.lay.journal_inum != 0 && opts.noload {
            if !read_only {
                let why = "noload needs a read-only mount";
                return Err(MountError::Journal(why.into()));
            }
        } else if core.lay.journal_inum != 0 {
            let st = State::default();
            let mut j = Journal::load(&core, &View { core: &core, st: &st }, opts.barrier)?;
            // A log with contents counts as dirty whatever the flag says.
            if j.start() != 0 || (dirty && j.has_fast_commit()) {
                // The log may hold the growth of the filesystem itself, so what
                // bounds the blocks in it is the device.
                let count = store.size() >> core.lay.block_bits;
                let target: Arc<dyn BlockStore> = if read_only {
                    let o = Arc::new(OverlayStore::new(store.clone(), core.lay.bs()));
                    overlay = Some(o.clone());
                    o
                } else {
                    store.clone()
                };
                let (report, end) = j.replay(&*store, &*target, count)?;
                replay = report;
                fast = j.fast_commits(&*store, end)?;
                tid = end.wrapping_add(1);
                let (lay, _) = Layout::read(&*target)?;
                core = new_core(target, lay, &opts, read_only);
                if !read_only && fast.is_empty() {
                    j.write_super(&*core.store, 0, tid)?;
                    core.store.flush()?;
                }
            } else {
                tid = j.sequence();
            }
            journal = Some(j);
        }
        let (system, bad_groups) = check_groups(&core, journal.as_ref(), read_only)?;
        core.system = RwLock::new(system);
        if !read_only {
            if let Some(j) = &mut journal {
                if fast.is_empty() {
                    j.prepare(&core);
                }
            }
        }
        opts.read_only = read_only;
        let mut fs = Ext4::assemble(core, opts, journal, tid, replay, overlay);
        fs.bad_groups = bad_groups;
        if !fast.is_empty() {
            fs.replay.fast_commits = fs.apply_fast_commits(&fast, tid)?;
        }
        if !read_only {
            fs.start_writing()?;
        }
        Ok(fs)
    }

    /// Marks the filesystem as in use and finishes interrupted deletions.
    pub(crate) fn start_writing(&self) -> Result<(), MountError> {
        let now = (self.opts.clock)();
        let journaled = self.core.lay.journal_inum != 0;
        let mut damaged = false;
        self.patch_super(|sb| {
            damaged = rd16(sb, 0x3a) & STATE_ERRORS != 0;
            if journaled {
                let v = rd32(sb, 0x60) | incompat::RECOVER;
                wr32(sb, 0x60, v);
            } else {
                let v = rd16(sb, 0x3a) & !STATE_VALID;
                wr16(sb, 0x3a, v);
            }
            let mounts = rd16(sb, 0x34).wrapping_add(1);
            wr16(sb, 0x34, mounts);
            wr32(sb, 0x2c, now.sec as u32);
            wr32(sb, 0x30, now.sec as u32);
        })?;
        // What damage left behind is for e2fsck to sort out.
        if !damaged {
            self.process_orphans()?;
        }
        Ok(())
    }
}

/// Checks every group descriptor and collects the blocks no file may own.
fn check_groups(
    core: &Core,
    journal: Option<&Journal>,
    read_only: bool,
) -> Result<(Vec<(u64, u64)>, bool), MountError> {
    let lay = &core.lay;
    let mut zones = vec![(0, lay.first_data_block)];
    let itb = u64::from(lay.itable_blocks());
    let mut bad = false;
    let mut at = None;
    let mut raw = Vec::new();
    for g in 0..lay.groups() {
        let (block, off) = lay.desc_place(g);
        if at != Some(block) {
            raw = core.read_raw(block)?;
            at = Some(block);
        }
        let d = raw.get(off..off + usize::from(lay.desc_size)).unwrap_or(&[]);
        let d = match check_desc(lay, g, d) {
            Ok(d) => d,
            // As on Linux a read-only mount puts up with bad checksums.
            Err(why) if !read_only || !why.contains("checksum") => {
                return Err(MountError::Corrupt(why));
            }
            Err(_) => {
                bad = true;
                crate::group::GroupDesc::parse(lay, d)
            }
        };
        zones.push((d.block_bitmap, d.block_bitmap + 1));
        zones.push((d.inode_bitmap, d.inode_bitmap + 1));
        zones.push((d.inode_table, d.inode_table + itb));
        let base = u64::from(lay.has_super(g)) + u64::from(lay.gdt_blocks_in(g));
        if base > 0 {
            let first = lay.group_first(g);
            zones.push((first, (first + base).min(lay.blocks_count())));
        }
    }
    zones.retain(|(s, e)| s < e);
    if let Some(j) = journal {
        zones.extend(j.runs().iter().map(|&(s, n)| (s, s + n)));
    }
    Ok((system_zone(zones), bad))
}

/// True when features say that the orphan file may have contents.
pub(crate) fn has_orphan_file(lay: &Layout) -> bool {
    lay.features.compat(compat::ORPHAN_FILE) && lay.features.ro_compat(ro_compat::ORPHAN_PRESENT)
}
