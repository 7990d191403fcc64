//! The mounted filesystem: its locks, transactions and durability.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use uml_abi::errno::{EIO, ENOSPC, EROFS};
use uml_abi::{Errno, Result};

use crate::bytes::{rd16, rd32, wr16, wr32};
use crate::cache::Buf;
use crate::error::{ErrorHook, ErrorPolicy, MountError};
use crate::inode::Timestamp;
use crate::journal::Journal;
use crate::journal::checkpoint::write_home;
use crate::journal::commit::Frozen;
use crate::journal::format::tid_geq;
use crate::journal::replay::ReplayReport;
use crate::layout::{SB_SIZE, sb_csum};
use crate::meta::{Core, State, View};
use crate::mmp::Mmp;
use crate::ops::errors::record;
use crate::overlay::OverlayStore;
use crate::txn::Txn;

/// The clock operations are stamped with.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How to mount; see mount(8) and ext4(5) for the options of the same names.
#[derive(Clone)]
pub struct Options {
    /// Mount read-only.
    pub read_only: bool,
    /// Do not replay the journal (`noload`); read-only mounts only.
    pub noload: bool,
    /// Flush the store at the points crash safety needs (`barrier`).
    pub barrier: bool,
    /// Write file contents to the journal first (`data=journal`).
    pub journal_data: bool,
    /// Discard freed blocks after each commit (`discard`).
    pub discard: bool,
    /// The `errors=` policy; `None` takes the superblock's.
    pub errors: Option<ErrorPolicy>,
    /// Receives errors as they are found.
    pub on_error: Option<ErrorHook>,
    /// Bytes of clean metadata kept in memory.
    pub cache_bytes: usize,
    /// Bytes of changed metadata kept in memory before it is committed or
    /// written home.
    pub dirty_bytes: usize,
    /// The clock.
    pub clock: Clock,
    /// What multi-mount protection tells others: the machine and the device.
    pub node: Vec<u8>,
    /// See `node`.
    pub device: Vec<u8>,
    /// Waits, to see whether somebody else has the filesystem mounted; false when that was interrupted.
    pub wait: Arc<dyn Fn(Duration) -> bool + Send + Sync>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            read_only: false,
            noload: false,
            barrier: true,
            journal_data: false,
            discard: false,
            errors: None,
            on_error: None,
            cache_bytes: 8 << 20,
            dirty_bytes: 16 << 20,
            clock: Arc::new(|| {
                let d = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap_or_default();
                Timestamp { sec: d.as_secs() as i64, nsec: d.subsec_nanos() }
            }),
            node: Vec::new(),
            device: Vec::new(),
            wait: Arc::new(|t| {
                std::thread::sleep(t);
                true
            }),
        }
    }
}

/// The journal side: held for the whole of a commit or checkpoint.
pub(crate) struct Log {
    /// `None` on filesystems without a journal.
    pub(crate) journal: Option<Journal>,
    /// Last transaction that is durable.
    pub(crate) committed: u32,
    /// Why nothing can be made durable any more.
    pub(crate) aborted: Option<Errno>,
}

/// Number of per-inode data locks.
const INODE_LOCKS: usize = 128;

/// A mounted ext2, ext3 or ext4 filesystem.
///
/// All methods take `&self` and may be called from several threads. Dropping
/// it without [`Ext4::unmount`] is a power cut.
pub struct Ext4 {
    pub(crate) core: Core,
    pub(crate) opts: Options,
    pub(crate) log: Mutex<Log>,
    pub(crate) state: RwLock<State>,
    inode_locks: Vec<RwLock<()>>,
    pub(crate) replay: ReplayReport,
    pub(crate) max_running: usize,
    /// Holds the replayed journal of a read-only mount.
    pub(crate) overlay: Option<Arc<OverlayStore>>,
    /// Held while the filesystem grows.
    pub(crate) resizing: Mutex<()>,
    /// Some group descriptor is damaged: reading only.
    pub(crate) bad_groups: bool,
    /// The mount itself is read-only (not merely stopped by errors).
    pub(crate) mounted_ro: AtomicBool,
    pub(crate) mmp: Mmp,
}

impl Ext4 {
    pub(crate) fn assemble(
        core: Core,
        opts: Options,
        journal: Option<Journal>,
        tid: u32,
        replay: ReplayReport,
        overlay: Option<Arc<OverlayStore>>,
    ) -> Ext4 {
        let by_memory = (opts.dirty_bytes / core.lay.bs()).max(64);
        let max_running =
            journal.as_ref().map_or(by_memory, |j| j.max_transaction().min(by_memory));
        let now = (opts.clock)();
        let seed = crate::crc::crc32c(now.nsec ^ now.sec as u32, &core.lay.uuid);
        let mounted_ro = opts.read_only;
        let state = State { tid, next_generation: seed, ..State::default() };
        Ext4 {
            core,
            opts,
            log: Mutex::new(Log { journal, committed: tid.wrapping_sub(1), aborted: None }),
            state: RwLock::new(state),
            inode_locks: (0..INODE_LOCKS).map(|_| RwLock::new(())).collect(),
            replay,
            max_running,
            overlay,
            resizing: Mutex::new(()),
            bad_groups: false,
            mounted_ro: AtomicBool::new(mounted_ro),
            mmp: Mmp::idle(),
        }
    }

    /// The lock that orders an inode's data I/O against its freeing of blocks.
    /// Taken before every other lock; never two at once.
    pub(crate) fn inode_lock(&self, ino: u32) -> &RwLock<()> {
        &self.inode_locks[ino as usize % INODE_LOCKS]
    }

    pub(crate) fn read_state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn write_state(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn lock_log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Runs `f` on a consistent view of the metadata.
    pub(crate) fn view<R>(&self, f: impl FnOnce(&View<'_>) -> Result<R>) -> Result<R> {
        let st = self.read_state();
        f(&View { core: &self.core, st: &st })
    }

    /// Blocks an operation may change in one transaction, roughly.
    pub(crate) fn op_budget(&self) -> usize {
        (self.max_running / 2).max(32)
    }

    /// Runs one atomic change. `f` may be run twice: when space is short only
    /// because freed blocks wait for a commit, that commit is made first.
    pub(crate) fn transact<R>(
        &self,
        use_reserved: bool,
        mut f: impl FnMut(&mut Txn<'_>) -> Result<R>,
    ) -> Result<R> {
        let mut retried = false;
        loop {
            if self.core.errors.is_read_only() {
                return Err(EROFS);
            }
            let running = self.read_state().running.len();
            if running >= self.max_running / 2 {
                self.commit()?;
            }
            let mut st = self.write_state();
            if self.core.errors.is_read_only() {
                return Err(EROFS);
            }
            let mut tx = Txn::new(&self.core, &mut st, (self.opts.clock)());
            tx.use_reserved = use_reserved;
            match f(&mut tx) {
                Ok(r) => {
                    tx.finish()?;
                    return Ok(r);
                }
                Err(ENOSPC) if !retried => {
                    drop(tx);
                    if st.busy.is_empty() {
                        return Err(ENOSPC);
                    }
                    drop(st);
                    self.commit()?;
                    retried = true;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Commits the running transaction and waits until it is durable.
    pub fn commit(&self) -> Result<()> {
        self.commit_upto(None)
    }

    /// Commits unless transaction `want` is durable already.
    pub(crate) fn commit_upto(&self, want: Option<u32>) -> Result<()> {
        let mut log = self.lock_log();
        if let Some(e) = log.aborted {
            return Err(e);
        }
        if want.is_some_and(|t| tid_geq(log.committed, t)) {
            // Data overwritten in place since then still needs a flush.
            return if self.opts.barrier { self.core.store.flush() } else { Ok(()) };
        }
        self.commit_locked(&mut log)
    }

    fn commit_locked(&self, log: &mut Log) -> Result<()> {
        let Some(frozen) = self.freeze()? else { return Ok(()) };
        if let Err(e) = self.write_frozen(log, &frozen) {
            log.aborted = Some(EROFS);
            self.core.errors.report(e, "the transaction could not be committed", 0, 0);
            self.core.errors.read_only.store(true, Ordering::Release);
            return Err(e);
        }
        log.committed = frozen.tid;
        self.after_commit(log, &frozen);
        if self.opts.discard {
            for &(s, n) in &frozen.freed {
                // A failing discard loses nothing.
                let _ = self.core.store.discard(self.core.off(s), n << self.core.lay.block_bits);
            }
        }
        // The blocks become reusable only now that they are discarded.
        let mut st = self.write_state();
        for &(s, n) in &frozen.freed {
            st.release_busy(s, n);
        }
        drop(st);
        let over = log
            .journal
            .as_ref()
            .is_some_and(|j| j.pending_bytes() > self.opts.dirty_bytes || j.worn());
        if over { self.checkpoint_locked(log) } else { Ok(()) }
    }

    /// Takes the running transaction; `None` when there is nothing to commit.
    fn freeze(&self) -> Result<Option<Frozen>> {
        let mut st = self.write_state();
        if self.core.errors.has_pending() {
            self.record_errors(&mut st)?;
        }
        if st.running.is_empty() && st.revokes.is_empty() && st.freed.is_empty() {
            return Ok(None);
        }
        let running = std::mem::take(&mut st.running);
        let mut blocks: Vec<(u64, Buf)> =
            running.iter().filter_map(|n| st.dirty.get(n).map(|b| (*n, b.clone()))).collect();
        blocks.sort_unstable_by_key(|(n, _)| *n);
        let revokes = std::mem::take(&mut st.revokes).into_iter().collect();
        let freed = std::mem::take(&mut st.freed);
        let tid = st.tid;
        st.tid = tid.wrapping_add(1);
        Ok(Some(Frozen { tid, blocks, revokes, freed }))
    }

    fn write_frozen(&self, log: &mut Log, f: &Frozen) -> Result<()> {
        match &mut log.journal {
            Some(j) => {
                if j.short_of_room(f) {
                    let done = j.checkpoint(&self.core, f.tid)?;
                    self.settle(done);
                }
                j.commit(&self.core, f, (self.opts.clock)())
            }
            None => {
                if self.opts.barrier {
                    // Data first, so that no metadata points at old contents.
                    self.core.store.flush()?;
                }
                write_home(&self.core, &f.blocks)?;
                if self.opts.barrier { self.core.store.flush() } else { Ok(()) }
            }
        }
    }

    fn after_commit(&self, log: &mut Log, f: &Frozen) {
        match &mut log.journal {
            Some(j) => {
                for nr in &f.revokes {
                    j.pending.remove(nr);
                }
                for (nr, b) in &f.blocks {
                    j.pending.insert(*nr, b.clone());
                }
            }
            None => self.settle(f.blocks.clone()),
        }
        let mut st = self.write_state();
        let tid = f.tid;
        st.inode_tids.retain(|_, (any, _)| !tid_geq(tid, *any));
    }

    /// Moves blocks that are now at home from the dirty set to the cache.
    fn settle(&self, blocks: Vec<(u64, Buf)>) {
        let mut st = self.write_state();
        for (nr, b) in blocks {
            if st.dirty.get(&nr).is_some_and(|d| Arc::ptr_eq(d, &b)) {
                st.dirty.remove(&nr);
                if !b.contents {
                    self.core.cache.insert(nr, b);
                }
            }
        }
    }

    fn checkpoint_locked(&self, log: &mut Log) -> Result<()> {
        let next = log.committed.wrapping_add(1);
        let Some(j) = &mut log.journal else { return Ok(()) };
        match j.checkpoint(&self.core, next) {
            Ok(done) => {
                self.settle(done);
                Ok(())
            }
            Err(e) => {
                log.aborted = Some(EROFS);
                self.core.errors.report(e, "the journal could not be emptied", 0, 0);
                self.core.errors.read_only.store(true, Ordering::Release);
                Err(e)
            }
        }
    }

    /// Commits everything and writes it home (syncfs(2) needs only the first).
    pub fn checkpoint(&self) -> Result<()> {
        let mut log = self.lock_log();
        if let Some(e) = log.aborted {
            return Err(e);
        }
        self.commit_locked(&mut log)?;
        self.checkpoint_locked(&mut log)
    }

    /// Puts errors found since the last commit into the superblock.
    fn record_errors(&self, st: &mut State) -> Result<()> {
        let Some(errors) = self.core.errors.take_pending() else { return Ok(()) };
        let mut tx = Txn::new(&self.core, st, (self.opts.clock)());
        let now = tx.now;
        record(tx.superblock()?, &errors, now);
        tx.finish()
    }

    /// Changes the superblock directly at home; only when no copy of it is in
    /// a transaction or the log (mounting, unmounting, after an abort).
    pub(crate) fn patch_super(&self, f: impl FnOnce(&mut [u8])) -> Result<()> {
        let (block, off) = self.core.lay.sb_place();
        let mut raw = self.core.read_raw(block)?;
        let sb = raw.get_mut(off..off + SB_SIZE).ok_or(EIO)?;
        f(sb);
        if self.core.lay.metadata_csum() {
            let c = sb_csum(sb);
            wr32(sb, 0x3fc, c);
        }
        self.core.store.write_at(self.core.off(block), &raw)?;
        self.core.store.flush()?;
        self.core.cache.remove(block);
        Ok(())
    }

    /// Unmounts: everything durable and at home, the filesystem marked clean.
    /// Afterwards changes fail with `EROFS`.
    pub fn unmount(&self) -> Result<()> {
        let clean = self.remount_read_only();
        // Others may have it, in whatever state.
        let left = self.leave();
        clean?;
        self.lock_log().aborted = Some(EROFS);
        left
    }

    /// Tells other machines that nobody writes here any more.
    fn leave(&self) -> Result<()> {
        self.mmp.release(&self.core.lay, &*self.core.store, (self.opts.clock)().sec)
    }

    /// Makes a writable mount read-only and clean (`mount -o remount,ro`).
    /// Inodes that are open but have no name stay on the orphan list.
    pub fn remount_read_only(&self) -> Result<()> {
        let mut log = self.lock_log();
        if self.mounted_ro.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Some(e) = log.aborted {
            if let Some(errors) = self.core.errors.take_pending() {
                let now = (self.opts.clock)();
                // The log is unusable, so the mark goes straight home.
                let _ = self.patch_super(|sb| record(sb, &errors, now));
            }
            return Err(e);
        }
        // Operations that are past their check are in the transaction or
        // will find the state locked until the check counts.
        let was = self.core.errors.read_only.swap(true, Ordering::AcqRel);
        drop(self.write_state());
        let done = self.commit_locked(&mut log).and_then(|()| self.checkpoint_locked(&mut log));
        if let Err(e) = done {
            self.core.errors.read_only.store(was || log.aborted.is_some(), Ordering::Release);
            return Err(e);
        }
        let now = (self.opts.clock)();
        self.patch_super(|sb| {
            use crate::features::incompat::RECOVER;
            let incompat = rd32(sb, 0x60) & !RECOVER;
            wr32(sb, 0x60, incompat);
            let state = rd16(sb, 0x3a) | crate::mount::STATE_VALID;
            wr16(sb, 0x3a, state);
            wr32(sb, 0x30, now.sec as u32);
        })?;
        self.mounted_ro.store(true, Ordering::Release);
        self.leave()
    }

    /// Makes a read-only mount writable (`mount -o remount,rw`): a journal
    /// replayed in memory goes to the disk, interrupted deletions are
    /// finished. Refuses as [`Ext4::open`] does; `EROFS` after an abort.
    pub fn remount_writable(&self) -> Result<(), MountError> {
        let log = self.lock_log();
        if !self.mounted_ro.load(Ordering::Acquire) {
            let stopped = self.core.errors.is_read_only();
            return if stopped { Err(MountError::Io(EROFS)) } else { Ok(()) };
        }
        let unwritable = self.core.lay.features.unwritable();
        if !unwritable.is_empty() {
            return Err(MountError::Unwritable(unwritable));
        }
        if log.aborted.is_some() || !self.core.store.writable() {
            return Err(MountError::Io(EROFS));
        }
        if self.opts.noload && self.core.lay.journal_inum != 0 {
            let why = "mounted with noload: mount again without it to write";
            return Err(MountError::Journal(why.into()));
        }
        if self.bad_groups {
            return Err(MountError::Corrupt("group descriptor checksums".into()));
        }
        self.mmp.claim(&self.core.lay, &*self.core.store, &self.opts)?;
        self.become_writable(log).inspect_err(|_| {
            let _ = self.leave();
        })
    }

    fn become_writable(&self, mut log: MutexGuard<'_, Log>) -> Result<(), MountError> {
        if let Some(o) = &self.overlay {
            o.settle()?;
        }
        let tid = {
            // Fast commits replayed in memory.
            let mut st = self.write_state();
            let mut blocks: Vec<(u64, Buf)> = st.dirty.drain().collect();
            blocks.sort_unstable_by_key(|(n, _)| *n);
            write_home(&self.core, &blocks)?;
            self.core.store.flush()?;
            st.tid
        };
        if let Some(j) = &mut log.journal {
            j.prepare(&self.core);
            j.write_super(&*self.core.store, 0, tid)?;
            self.core.store.flush()?;
        }
        drop(log);
        self.core.errors.read_only.store(false, Ordering::Release);
        self.mounted_ro.store(false, Ordering::Release);
        self.start_writing()
    }

    /// Drops clean metadata; returns the bytes freed (memory pressure).
    pub fn shrink(&self) -> usize {
        self.core.cache.clear()
    }

    /// Bytes of metadata in memory: clean, and changed.
    pub fn memory(&self) -> (usize, usize) {
        let dirty = self.read_state().dirty.len() * self.core.lay.bs();
        (self.core.cache.bytes(), dirty)
    }

    /// Changes the `errors=` policy (remount).
    pub fn set_error_policy(&self, policy: ErrorPolicy) {
        self.core.errors.set_policy(policy);
    }

    /// The `errors=` policy in force.
    pub fn error_policy(&self) -> ErrorPolicy {
        self.core.errors.policy()
    }

    /// How it was mounted.
    pub fn options(&self) -> &Options {
        &self.opts
    }

    /// File contents go through the journal (`data=journal`).
    pub fn journals_data(&self) -> bool {
        self.core.journal_data
    }

    /// What the journal replay of this mount did.
    pub fn replay_report(&self) -> ReplayReport {
        self.replay
    }

    /// True when the mount is read-only; false when an error stopped a writable one.
    pub fn is_mounted_read_only(&self) -> bool {
        self.mounted_ro.load(Ordering::Acquire)
    }

    /// True when changes are refused.
    pub fn is_read_only(&self) -> bool {
        self.core.errors.is_read_only()
    }
}
