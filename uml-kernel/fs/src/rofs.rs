//! squashfs, vfat and iso9660 on block devices, to be read: the glue between the VFS and the engines of `uml-rofs`.
//!
//! File data lives in the page cache, as that of ext4, so it can be read, mapped and executed. Nothing is ever written:
//! a mount for writing is refused as Linux refuses it on a write-protected device (`EACCES`, upon which mount(8) tries
//! read-only), but that of squashfs, which Linux makes read-only by itself.
//!
//! Locks: the table of inodes, a leaf; then the page cache's and the engine's.

mod file;
mod inode;
mod options;

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank, pr_err, pr_info};
use uml_core::registry::{BlockDevice, BlockHolder};
use uml_core::task::Task;
use uml_core::vfs::{Dev, FsType, Inode, StatFs, SuperBlock};
use uml_pagecache::{Pool, Volume, VolumeOps};
use uml_rofs::{Iso9660, Refusal, Squashfs, Tree, Vfat};

use crate::disk::{self, Disk, device_number};
use inode::RoInode;

/// The formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// squashfs 4.0.
    Squashfs,
    /// FAT12, FAT16 and FAT32.
    Vfat,
    /// iso9660 with Rock Ridge and Joliet.
    Iso9660,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Format::Squashfs => "squashfs",
            Format::Vfat => "vfat",
            Format::Iso9660 => "iso9660",
        }
    }

    /// Names in the kernel log, as Linux has them.
    fn log_name(self) -> &'static str {
        match self {
            Format::Squashfs => "SQUASHFS",
            Format::Vfat => "FAT-fs",
            Format::Iso9660 => "ISOFS",
        }
    }
}

/// Who mounts: the defaults of vfat's options.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mounter {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// File mode creation mask.
    pub umask: u32,
}

/// What the inodes of one filesystem share.
pub(crate) struct Shared {
    tree: Box<dyn Tree>,
    format: Format,
    dev: Dev,
    shown: String,
    volume: Arc<Volume>,
    inodes: Mutex<HashMap<u64, Weak<RoInode>>>,
    on_unmount: OnceLock<Box<dyn Fn() + Send + Sync>>,
    me: Mutex<Weak<RoFs>>,
}

/// Nothing is to be committed.
struct Still;

impl VolumeOps for Still {
    fn commit(&self) {}
}

impl Shared {
    /// The inode of a node.
    fn get(self: &Arc<Shared>, node: u64) -> Result<Arc<RoInode>> {
        if let Some(i) = self.inodes.lock().get(&node).and_then(Weak::upgrade) {
            return Ok(i);
        }
        let new = RoInode::new(self, node, self.tree.attr(node)?);
        let mut map = self.inodes.lock();
        if let Some(i) = map.get(&node).and_then(Weak::upgrade) {
            return Ok(i);
        }
        map.insert(node, Arc::downgrade(&new));
        Ok(new)
    }

    fn superblock(self: &Arc<Shared>) -> Arc<dyn SuperBlock> {
        match self.me.lock().upgrade() {
            Some(fs) => fs,
            // Only after the last unmount.
            None => Arc::new(RoFs { shared: self.clone(), root: None }),
        }
    }
}

impl BlockHolder for Shared {
    fn bring_home(&self) {}

    fn overwritten(&self, _: u64, _: u64) {
        self.tree.forget();
    }
}

/// A mounted filesystem.
pub struct RoFs {
    shared: Arc<Shared>,
    root: Option<Arc<RoInode>>,
}

impl RoFs {
    /// Mounts `device`, whose image is of `format`, with the option text `data`.
    pub fn open(
        format: Format,
        device: Arc<dyn BlockDevice>,
        data: &[u8],
        mounter: Mounter,
        pool: &Arc<Pool>,
    ) -> Result<Arc<RoFs>> {
        let name = device.name();
        let (dev, store) = (device.dev(), Arc::new(Disk(device)));
        let refused = |r: Refusal| {
            pr_err!("{} ({name}): {r}", format.log_name());
            r.errno
        };
        let text = std::str::from_utf8(data).map_err(|_| EINVAL)?;
        let (tree, shown): (Box<dyn Tree>, String) = match format {
            Format::Squashfs => {
                let shown = options::squashfs(text)?;
                (Box::new(Squashfs::open(store).map_err(refused)?), shown)
            }
            Format::Vfat => {
                let (o, shown) = options::vfat(text, mounter)?;
                (Box::new(Vfat::open(store, o).map_err(refused)?), shown)
            }
            Format::Iso9660 => {
                let (o, shown) = options::iso9660(text)?;
                (Box::new(Iso9660::open(store, o).map_err(refused)?), shown)
            }
        };
        let ops: Weak<dyn VolumeOps> = Weak::<Still>::new();
        let shared = Arc::new(Shared {
            tree,
            format,
            dev,
            shown,
            volume: Volume::new(pool, Default::default(), ops),
            inodes: Mutex::new(Rank::LEAF, HashMap::new()),
            on_unmount: OnceLock::new(),
            me: Mutex::new(Rank::LEAF, Weak::new()),
        });
        let root = shared.get(shared.tree.root())?;
        let fs = Arc::new(RoFs { shared: shared.clone(), root: Some(root) });
        *shared.me.lock() = Arc::downgrade(&fs);
        pr_info!("{} ({name}): mounted filesystem ro.", format.log_name());
        Ok(fs)
    }
}

impl SuperBlock for RoFs {
    fn fs_type(&self) -> &'static str {
        self.shared.format.name()
    }

    fn root(&self) -> Arc<dyn Inode> {
        match &self.root {
            Some(r) => r.clone(),
            None => RoInode::new(&self.shared, self.shared.tree.root(), Default::default()),
        }
    }

    fn statfs(&self) -> Result<StatFs> {
        let s = self.shared.tree.statfs()?;
        Ok(StatFs {
            magic: s.magic,
            block_size: s.block_size.into(),
            blocks: s.blocks,
            blocks_free: s.free,
            blocks_avail: s.free,
            files: s.inodes,
            files_free: 0,
            fsid: self.shared.dev.encode(),
            name_max: s.name_max.into(),
        })
    }

    fn dev(&self) -> Dev {
        self.shared.dev
    }

    fn show_options(&self) -> String {
        self.shared.shown.clone()
    }

    fn remount(&self, read_only: bool, _: &[u8]) -> Result<()> {
        // Linux leaves squashfs read-only without a word.
        if read_only || self.shared.format == Format::Squashfs { Ok(()) } else { Err(EROFS) }
    }

    fn read_only(&self) -> bool {
        true
    }

    fn unmount(&self) {
        self.shared.volume.stop();
        if let Some(f) = self.shared.on_unmount.get() {
            f();
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A filesystem type.
pub struct RoFsType {
    format: Format,
    mounted: Mutex<HashMap<Dev, Weak<RoFs>>>,
    pool: Arc<Pool>,
}

/// The types. File data takes memory from `pool`.
pub fn types(pool: &Arc<Pool>) -> [RoFsType; 3] {
    [Format::Squashfs, Format::Vfat, Format::Iso9660].map(|format| RoFsType {
        format,
        mounted: Mutex::new(Rank::LEAF, HashMap::new()),
        pool: pool.clone(),
    })
}

impl FsType for RoFsType {
    fn name(&self) -> &'static str {
        self.format.name()
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
        let writable = flags & libc::MS_RDONLY == 0 && self.format != Format::Squashfs;
        let known = self.mounted.lock().get(&dev).and_then(Weak::upgrade);
        if let Some(fs) = known {
            // A second mount shares the first one's superblock, which cannot be both (mount(2)).
            return if writable { Err(EBUSY) } else { Ok(fs) };
        }
        if kernel.vfs.registry.block_holder(dev).is_some() {
            return Err(EBUSY);
        }
        let cred = task.cred();
        let mounter = Mounter { uid: cred.euid, gid: cred.egid, umask: task.fs().umask() };
        let fs = RoFs::open(self.format, device, data, mounter, &self.pool)?;
        if writable {
            let name = self.format.log_name();
            pr_err!("{name}: only read-only mounts are supported (mount -o ro)");
            return Err(EACCES);
        }
        self.mounted.lock().insert(dev, Arc::downgrade(&fs));
        let holder: Weak<Shared> = Arc::downgrade(&fs.shared);
        let _ = fs.shared.on_unmount.set(disk::hold(&kernel, dev, holder));
        Ok(fs)
    }
}
