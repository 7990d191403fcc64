//! ext2, ext3 and ext4 on block devices: the glue between the VFS and the engine of `uml-ext4`.
//!
//! File data lives in the page cache: reads, writes and mappings share it, it is written back by the
//! flusher some seconds later, by fsync(2) and its kin, and when memory is short. Blocks are chosen only
//! then (delayed allocation). Metadata is journalled by the engine and committed every five seconds after
//! a change. Times that reading and writing set wait in the inode for the next commit.
//!
//! Lock order: gate (freezing), inode's write lock, the page cache's, the engine's.

mod data;
mod dir;
mod file;
mod gate;
mod handle;
mod heart;
mod inode;
mod ioctl;
mod options;
mod procfiles;
mod sysfiles;

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, Rank, WaitQueue, pr_err, pr_info};
use uml_core::kernel::Kernel;
use uml_core::registry::{BlockDevice, BlockHolder};
use uml_core::task::{Task, WaitKind};
use uml_core::vfs::handle::Export;
use uml_core::vfs::{Dev, FsType, Inode, StatFs, SuperBlock};
use uml_ext4::{ErrorPolicy, Ext4, ROOT_INO};
use uml_pagecache::{CachedFile, Pool, Volume, VolumeOps};

use crate::disk::{self, Disk, device_number};
use gate::Gate;
use heart::Heart;
pub use inode::Ext4Inode;
use inode::Stamps;
use options::DataMode;

/// EXT4_SUPER_MAGIC.
pub const MAGIC: u64 = 0xef53;

/// Bit of the superblock's default mount options (`tune2fs -o bsdgroups`).
const DEFAULT_BSD_GROUPS: u32 = 0x2;

/// What the inodes of one filesystem share.
pub(crate) struct Shared {
    pub engine: Ext4,
    pub dev: Dev,
    kind: &'static str,
    pub block_size: u32,
    pub device: Arc<dyn BlockDevice>,
    pub inodes: Mutex<HashMap<u32, Weak<Ext4Inode>>>,
    /// Cached data by inode; it may outlive the inode until it is written back.
    pub files: Mutex<HashMap<u32, Weak<CachedFile>>>,
    /// Inodes with times the engine has not been told of.
    pub timed: Mutex<Vec<Weak<Ext4Inode>>>,
    pub gate: Gate,
    /// The clock of all times.
    pub stamps: Arc<Stamps>,
    /// Every write is to be durable (mount option `sync`).
    pub sync_writes: AtomicBool,
    /// ACLs are offered (mount option `noacl` off).
    pub acls: AtomicBool,
    /// New files have the group of their directory (mount option `grpid`).
    pub bsd_groups: AtomicBool,
    no_delay: AtomicBool,
    heart: Heart,
    volume: OnceLock<Arc<Volume>>,
    on_unmount: OnceLock<Box<dyn Fn() + Send + Sync>>,
    me: Mutex<Weak<Ext4Fs>>,
}

impl Shared {
    /// The inode `ino`.
    pub fn get(self: &Arc<Shared>, ino: u32) -> Result<Arc<Ext4Inode>> {
        if let Some(i) = self.inodes.lock().get(&ino).and_then(Weak::upgrade) {
            return Ok(i);
        }
        let attr = self.engine.attr(ino)?;
        let new = Ext4Inode::new(self, &attr);
        let mut map = self.inodes.lock();
        if let Some(i) = map.get(&ino).and_then(Weak::upgrade) {
            return Ok(i);
        }
        map.insert(ino, Arc::downgrade(&new));
        Ok(new)
    }

    pub fn superblock(self: &Arc<Shared>) -> Arc<dyn SuperBlock> {
        match self.me.lock().upgrade() {
            Some(fs) => fs,
            // Only after the last unmount.
            None => Arc::new(Ext4Fs { shared: self.clone(), shown: String::new() }),
        }
    }

    /// The inode `ino` if somebody holds it.
    pub fn live(&self, ino: u32) -> Option<Arc<Ext4Inode>> {
        self.inodes.lock().get(&ino).and_then(Weak::upgrade)
    }

    /// The page cache's side of the filesystem.
    pub fn volume(&self) -> &Arc<Volume> {
        // Set before anybody gets hold of the value.
        self.volume.get_or_init(|| {
            Volume::new(
                &Pool::new(0),
                Default::default(),
                Weak::<Shared>::new() as Weak<dyn VolumeOps>,
            )
        })
    }

    /// How file data is written.
    pub fn data_mode(&self) -> DataMode {
        if self.no_delay.load(Ordering::Relaxed) { DataMode::NoDelay } else { DataMode::Delayed }
    }

    /// True when the mount is read-only, as opposed to stopped by an error.
    pub fn mounted_ro(&self) -> bool {
        self.engine.is_mounted_read_only()
    }

    /// Tells the engine of times that are only in memory.
    pub fn flush_times(&self) -> Result<()> {
        let timed = std::mem::take(&mut *self.timed.lock());
        let mut r = Ok(());
        for i in timed.iter().filter_map(Weak::upgrade) {
            r = r.and(i.flush_times());
        }
        r
    }

    /// Writes back the data of one file, if any of it is in memory.
    pub fn write_back_file(&self, ino: u32) -> Result<()> {
        let f = self.files.lock().get(&ino).and_then(Weak::upgrade);
        f.map_or(Ok(()), |f| f.write_back_all())
    }

    /// Writes everything back and commits.
    pub fn sync(&self) -> Result<()> {
        let data = self.volume().write_back();
        let times = self.flush_times();
        data.and(times).and(self.engine.sync())
    }

    /// Freezes: everything is durable and in its place, and stays so until [`Shared::thaw`].
    pub fn freeze(&self) -> Result<()> {
        self.gate.freeze(|| {
            self.sync()?;
            self.engine.checkpoint()
        })
    }

    /// Thaws.
    pub fn thaw(&self) -> Result<()> {
        self.gate.thaw()
    }
}

impl BlockHolder for Shared {
    fn bring_home(&self) {
        if self.engine.is_read_only() || self.gate.frozen() {
            return;
        }
        if let Err(e) = self.sync().and_then(|()| self.engine.checkpoint()) {
            pr_err!(
                "EXT4-fs ({}): writing back for a reader of the device: {e}",
                self.device.name()
            );
        }
    }

    fn overwritten(&self, off: u64, len: u64) {
        let superblock = off < 2048 && off.saturating_add(len) > 1024;
        if superblock && !self.engine.is_read_only() {
            // What is no superblock of this filesystem is not taken over.
            let _ = self.engine.adopt_superblock();
            self.volume().touch();
        }
    }
}

/// Waits `time` to see whether another machine uses a device; false when a signal to `task` ended that.
fn look_out(task: Option<Arc<Task>>, kernel: Option<Arc<Kernel>>, time: Duration) -> bool {
    match (task, kernel) {
        (Some(task), _) => {
            let deadline = uml_base::clock::now().checked_add(time);
            let never = WaitQueue::shared();
            let kind = WaitKind::Interruptible;
            task.wait(&never, Events::ALL, kind, deadline, "ext4_mmp", || None::<()>).is_ok()
        }
        // A remount, and the task that mounted it is gone.
        (None, Some(k)) => {
            k.blocking(&mut || std::thread::sleep(time));
            true
        }
        (None, None) => false,
    }
}

/// A mounted filesystem.
pub struct Ext4Fs {
    shared: Arc<Shared>,
    shown: String,
}

impl Ext4Fs {
    /// Mounts `device` with the option text `data`. With `errors=panic` damage ends `kernel`'s machine. `task` waits where
    /// multi-mount protection has to look whether others have it.
    pub fn open(
        device: Arc<dyn BlockDevice>,
        read_only: bool,
        data: &[u8],
        pool: &Arc<Pool>,
        kernel: Weak<Kernel>,
        task: Option<&Task>,
    ) -> Result<Arc<Ext4Fs>> {
        let name = device.name();
        let o = options::parse(data)?;
        let mut opts = o.engine;
        opts.device = name.clone().into_bytes();
        if let Some(t) = task {
            opts.node = t.ns().uts.hostname.lock().clone();
            let me = t.kernel().tree.read().task(t.tid).map(|t| Arc::downgrade(&t));
            let (me, machine) = (me.unwrap_or_default(), kernel.clone());
            let who = name.clone();
            opts.wait = Arc::new(move |time| {
                pr_info!("EXT4-fs ({who}): watching the MMP block for {} s", time.as_secs());
                look_out(me.upgrade(), machine.upgrade(), time)
            });
        }
        // One clock for all times, so that they are in order.
        let stamps = Arc::new(Stamps::default());
        let clock = stamps.clone();
        opts.clock = Arc::new(move || clock.time());
        opts.read_only = read_only || device.read_only();
        // Metadata may take a part of what file data may.
        let limit = usize::try_from(pool.stats().limit).unwrap_or(usize::MAX);
        opts.cache_bytes = (limit / 8).clamp(4 << 20, 128 << 20);
        opts.dirty_bytes = (limit / 8).clamp(4 << 20, 32 << 20);
        let who = name.clone();
        opts.on_error = Some(Arc::new(move |e| {
            let place = match (e.ino, e.block) {
                (0, 0) => String::new(),
                (0, b) => format!(" (block {b})"),
                (i, 0) => format!(" (inode {i})"),
                (i, b) => format!(" (inode {i}, block {b})"),
            };
            pr_err!("EXT4-fs error (device {who}): {}{place}: {}", e.what, e.errno);
            if e.policy == ErrorPolicy::Panic
                && let Some(k) = kernel.upgrade()
            {
                k.panic(&format!("EXT4-fs (device {who}): panic forced after error"));
            }
        }));
        let dev = device.dev();
        let engine = Ext4::open(Arc::new(Disk(device.clone())), opts).map_err(|e| {
            pr_err!("EXT4-fs ({name}): {e}");
            e.errno()
        })?;
        let info = engine.info();
        let defaults = info.default_mount_opts;
        let shared = Arc::new(Shared {
            engine,
            dev,
            kind: info.kind,
            block_size: info.block_size,
            device,
            inodes: Mutex::new(Rank::LEAF, HashMap::new()),
            files: Mutex::new(Rank::LEAF, HashMap::new()),
            timed: Mutex::new(Rank::LEAF, Vec::new()),
            gate: Gate::default(),
            stamps,
            sync_writes: AtomicBool::new(o.sync),
            acls: AtomicBool::new(!o.no_acl),
            bsd_groups: AtomicBool::new(o.bsd_groups.unwrap_or(defaults & DEFAULT_BSD_GROUPS != 0)),
            no_delay: AtomicBool::new(o.no_delay),
            heart: Heart::default(),
            volume: OnceLock::new(),
            on_unmount: OnceLock::new(),
            me: Mutex::new(Rank::LEAF, Weak::new()),
        });
        let ops: Weak<Shared> = Arc::downgrade(&shared);
        let volume = Volume::new(pool, o.flusher, ops);
        volume.start()?;
        let _ = shared.volume.set(volume);
        let fs = Arc::new(Ext4Fs { shared: shared.clone(), shown: o.shown });
        *shared.me.lock() = Arc::downgrade(&fs);
        shared.get(ROOT_INO)?;
        Heart::start(&shared);
        let mode = if shared.engine.is_read_only() { "ro" } else { "r/w" };
        pr_info!("EXT4-fs ({name}): mounted filesystem {mode}.");
        Ok(fs)
    }
}

impl SuperBlock for Ext4Fs {
    fn fs_type(&self) -> &'static str {
        self.shared.kind
    }

    fn root(&self) -> Arc<dyn Inode> {
        match self.shared.get(ROOT_INO) {
            Ok(i) => i,
            // Damage that appeared since the mount: an inode on which everything fails.
            Err(_) => Ext4Inode::broken_root(&self.shared),
        }
    }

    fn statfs(&self) -> Result<StatFs> {
        let s = self.shared.engine.statfs()?;
        Ok(StatFs {
            magic: MAGIC,
            block_size: s.block_size.into(),
            blocks: s.blocks,
            blocks_free: s.free,
            blocks_avail: s.available,
            files: s.inodes,
            files_free: s.free_inodes,
            fsid: s.fsid,
            name_max: s.name_max.into(),
        })
    }

    fn dev(&self) -> Dev {
        self.shared.dev
    }

    fn sync(&self) -> Result<()> {
        if self.shared.engine.is_read_only() { Ok(()) } else { self.shared.sync() }
    }

    fn show_options(&self) -> String {
        self.shown.clone()
    }

    fn remount(&self, read_only: bool, data: &[u8]) -> Result<()> {
        let o = options::parse(data)?;
        if o.data.is_some_and(|j| j != self.shared.engine.journals_data()) {
            pr_err!("EXT4-fs: Cannot change data mode on remount");
            return Err(EINVAL);
        }
        self.shared.volume().set_config(o.flusher);
        self.shared.sync_writes.store(o.sync, Ordering::Relaxed);
        self.shared.no_delay.store(o.no_delay, Ordering::Relaxed);
        self.shared.acls.store(!o.no_acl, Ordering::Relaxed);
        if let Some(b) = o.bsd_groups {
            self.shared.bsd_groups.store(b, Ordering::Relaxed);
        }
        if let Some(p) = o.engine.errors {
            self.shared.engine.set_error_policy(p);
        }
        let e = &self.shared.engine;
        match (read_only, e.is_read_only()) {
            (true, false) => {
                self.shared.sync()?;
                self.shared.heart.stop();
                let r = e.remount_read_only();
                if r.is_err() {
                    Heart::start(&self.shared);
                }
                r
            }
            (false, true) => {
                self.shared.heart.stop();
                e.remount_writable().map_err(|err| {
                    pr_err!("EXT4-fs: cannot remount read-write: {err}");
                    err.errno()
                })?;
                Heart::start(&self.shared);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn read_only(&self) -> bool {
        self.shared.engine.is_read_only()
    }

    fn export(&self) -> Option<&dyn Export> {
        Some(self)
    }

    fn proc_files(&self) -> Option<(&'static str, &'static [&'static str])> {
        Some(("ext4", procfiles::NAMES))
    }

    fn proc_text(&self, name: &str) -> Result<String> {
        procfiles::text(&self.shared, name)
    }

    fn sys_files(&self) -> Option<(&'static str, &'static [&'static str])> {
        Some(("ext4", sysfiles::NAMES))
    }

    fn sys_text(&self, name: &str) -> Result<String> {
        sysfiles::text(&self.shared, name)
    }

    fn thaw(&self) -> Result<()> {
        if self.shared.gate.frozen() { self.shared.thaw() } else { Ok(()) }
    }

    fn unmount(&self) {
        if self.shared.gate.frozen() {
            // Linux thaws a block device's filesystem when it is unmounted for the last time.
            let _ = self.shared.thaw();
        }
        self.shared.volume().stop();
        self.shared.heart.stop();
        if let Err(e) = self.sync().and_then(|()| self.shared.engine.unmount()) {
            pr_err!("EXT4-fs: unmount failed, the journal will be replayed at the next mount: {e}");
        }
        self.shared.volume().abandon();
        if let Some(f) = self.shared.on_unmount.get() {
            f();
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The types ext4, ext3 and ext2.
pub struct Ext4Type {
    name: &'static str,
    mounted: Arc<Mutex<HashMap<Dev, Weak<Ext4Fs>>>>,
    pool: Arc<Pool>,
}

/// The three types, which share the table of what is mounted. File data takes memory from `pool`.
pub fn types(pool: &Arc<Pool>) -> [Ext4Type; 3] {
    let mounted = Arc::new(Mutex::new(Rank::LEAF, HashMap::new()));
    ["ext4", "ext3", "ext2"].map(|name| Ext4Type {
        name,
        mounted: mounted.clone(),
        pool: pool.clone(),
    })
}

impl FsType for Ext4Type {
    fn name(&self) -> &'static str {
        self.name
    }

    fn sys_features(&self) -> Option<&'static [&'static str]> {
        (self.name == "ext4").then_some(sysfiles::FEATURES)
    }

    fn nodev(&self) -> bool {
        false
    }

    fn mount(
        &self,
        task: &Task,
        source: &[u8],
        flags: u64,
        data: &[u8],
    ) -> Result<Arc<dyn SuperBlock>> {
        let kernel = task.kernel();
        let dev = device_number(task, source)?;
        let device = kernel.vfs.registry.block_device(dev)?;
        let read_only = flags & libc::MS_RDONLY != 0;
        let known = self.mounted.lock().get(&dev).and_then(Weak::upgrade);
        if let Some(fs) = known {
            // A second mount shares the first one's superblock, which cannot be both (mount(2)).
            if read_only != fs.read_only() {
                return Err(EBUSY);
            }
            return Ok(fs);
        }
        let fs =
            Ext4Fs::open(device, read_only, data, &self.pool, Arc::downgrade(&kernel), Some(task))?;
        let fits = match self.name {
            "ext2" => fs.shared.kind == "ext2",
            "ext3" => fs.shared.kind != "ext4",
            _ => true,
        };
        if !fits {
            fs.unmount();
            return Err(EINVAL);
        }
        self.mounted.lock().insert(dev, Arc::downgrade(&fs));
        let holder: Weak<Shared> = Arc::downgrade(&fs.shared);
        let _ = fs.shared.on_unmount.set(disk::hold(&kernel, dev, holder));
        Ok(fs)
    }
}
