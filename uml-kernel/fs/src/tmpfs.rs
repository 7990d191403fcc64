//! Files in memory (tmpfs(5)).
//!
//! Small files live in the kernel's heap; a file that grows or is mapped moves to a host memory file of
//! its own, which read, write and mmap share. Limits: `size=`/`nr_blocks=` count pages of data,
//! `nr_inodes=` counts inodes.

mod data;
mod inode;
mod options;

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::kernel::CachedMemory;
use uml_core::memory::Cache;
use uml_core::task::Task;
use uml_core::vfs::handle::{Export, Handle};
use uml_core::vfs::{Dev, FsType, Inode, NewNode, NodeKind, StatFs, SuperBlock, Vfs};

pub use data::{SEAL_EXEC, SEAL_FUTURE_WRITE, SEAL_GROW, SEAL_SEAL, SEAL_SHRINK, SEAL_WRITE};
pub use inode::{TmpFile, TmpInode};
pub use options::Options;

use inode::Body;

/// TMPFS_MAGIC.
pub const MAGIC: u64 = 0x0102_1994;
const PAGE: u64 = uml_mm::PAGE;

/// What all inodes of one instance share.
pub(crate) struct Shared {
    pub dev: Dev,
    name: &'static str,
    /// Limits in pages and inodes; `u64::MAX` is none. Changed by remount.
    max_pages: AtomicU64,
    max_inodes: AtomicU64,
    pages: AtomicU64,
    inodes: AtomicU64,
    next_ino: AtomicU64,
    /// Inodes that have a file handle, by number.
    pub handles: Mutex<HashMap<u64, Weak<TmpInode>>>,
    me: Mutex<Weak<TmpFs>>,
}

/// Pages charged in all instances.
static CHARGED: AtomicU64 = AtomicU64::new(0);

/// All tmpfs instances as a user of memory.
pub struct Usage;

impl Cache for Usage {
    fn usage(&self) -> CachedMemory {
        let bytes = CHARGED.load(Ordering::Relaxed) * PAGE + data::uncharged();
        CachedMemory { cached: bytes, shmem: bytes, dirty: 0 }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        CHARGED.fetch_sub(self.pages.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Shared {
    /// Takes `n` pages of the limit; `ENOSPC` when they are not there.
    pub(crate) fn charge(&self, n: u64) -> Result<()> {
        let max = self.max_pages.load(Ordering::Relaxed);
        self.pages
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |p| {
                p.checked_add(n).filter(|t| *t <= max)
            })
            .map_err(|_| ENOSPC)?;
        CHARGED.fetch_add(n, Ordering::Relaxed);
        uml_core::memory::grown();
        Ok(())
    }

    pub(crate) fn uncharge(&self, n: u64) {
        CHARGED.fetch_sub(n, Ordering::Relaxed);
        self.pages.fetch_sub(n, Ordering::Relaxed);
    }

    fn new_ino(&self) -> Result<u64> {
        let max = self.max_inodes.load(Ordering::Relaxed);
        self.inodes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                n.checked_add(1).filter(|t| *t <= max)
            })
            .map_err(|_| ENOSPC)?;
        Ok(self.next_ino.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn inode_gone(&self) {
        self.inodes.fetch_sub(1, Ordering::Relaxed);
    }

    /// The superblock; after its last unmount an empty one stands in for whoever still asks.
    pub(crate) fn superblock(self: &Arc<Shared>) -> Arc<dyn SuperBlock> {
        match self.me.lock().upgrade() {
            Some(fs) => fs,
            None => TmpFs::around(self.clone(), &Options::default()),
        }
    }
}

/// An instance.
pub struct TmpFs {
    shared: Arc<Shared>,
    root: Arc<TmpInode>,
    options: Mutex<Options>,
    read_only: AtomicBool,
}

impl TmpFs {
    /// An empty instance called `name` in /proc/filesystems (tmpfs, ramfs, devtmpfs, rootfs).
    pub fn new(vfs: &Vfs, name: &'static str, options: Options) -> Arc<TmpFs> {
        let shared = Arc::new(Shared {
            dev: vfs.anonymous_dev(),
            name,
            max_pages: AtomicU64::new(options.pages()),
            max_inodes: AtomicU64::new(options.inodes.unwrap_or(u64::MAX)),
            pages: AtomicU64::new(0),
            inodes: AtomicU64::new(0),
            next_ino: AtomicU64::new(1),
            handles: Mutex::new(Rank::LEAF, HashMap::new()),
            me: Mutex::new(Rank::LEAF, Weak::new()),
        });
        let fs = TmpFs::around(shared, &options);
        *fs.shared.me.lock() = Arc::downgrade(&fs);
        fs
    }

    fn around(shared: Arc<Shared>, options: &Options) -> Arc<TmpFs> {
        let node = NewNode {
            kind: NodeKind::Directory,
            mode: options.mode.unwrap_or(0o1777),
            uid: options.uid,
            gid: options.gid,
        };
        shared.inodes.fetch_add(1, Ordering::Relaxed);
        let ino = shared.next_ino.fetch_add(1, Ordering::Relaxed);
        let root = TmpInode::new(&shared, ino, &node, Body::directory());
        let options = Mutex::new(Rank::LEAF, options.clone());
        Arc::new(TmpFs { shared, root, options, read_only: AtomicBool::new(false) })
    }

    /// A regular file without a name (memfd_create(2)).
    pub fn unnamed_file(&self, mode: u32, uid: u32, gid: u32) -> Result<Arc<TmpInode>> {
        let node = NewNode { kind: NodeKind::Regular, mode, uid, gid };
        let inode = self.new_inode(&node)?;
        inode.set_links(0);
        Ok(inode)
    }

    fn new_inode(&self, node: &NewNode) -> Result<Arc<TmpInode>> {
        new_inode(&self.shared, node)
    }
}

fn new_inode(shared: &Arc<Shared>, node: &NewNode) -> Result<Arc<TmpInode>> {
    let body = match &node.kind {
        NodeKind::Regular => Body::File(data::FileData::new(shared.clone())),
        NodeKind::Directory => Body::directory(),
        NodeKind::Symlink(t) => Body::Symlink(t.clone()),
        NodeKind::CharDevice(d) | NodeKind::BlockDevice(d) => Body::Special(*d),
        NodeKind::Fifo | NodeKind::Socket => Body::Special(Dev::default()),
    };
    Ok(TmpInode::new(shared, shared.new_ino()?, node, body))
}

impl SuperBlock for TmpFs {
    fn fs_type(&self) -> &'static str {
        self.shared.name
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn statfs(&self) -> Result<StatFs> {
        let s = &self.shared;
        let used = s.pages.load(Ordering::Relaxed);
        let max = s.max_pages.load(Ordering::Relaxed);
        let limit = |v: u64| if v == u64::MAX { 0 } else { v };
        let files = limit(s.max_inodes.load(Ordering::Relaxed));
        let blocks = limit(max);
        Ok(StatFs {
            magic: MAGIC,
            block_size: PAGE,
            blocks,
            blocks_free: blocks.saturating_sub(used),
            blocks_avail: blocks.saturating_sub(used),
            files,
            files_free: files.saturating_sub(s.inodes.load(Ordering::Relaxed)),
            fsid: s.dev.encode(),
            name_max: 255,
        })
    }

    fn dev(&self) -> Dev {
        self.shared.dev
    }

    fn show_options(&self) -> String {
        self.options.lock().show()
    }

    fn read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    fn remount(&self, read_only: bool, data: &[u8]) -> Result<()> {
        let new = self.options.lock().clone().parse(data)?;
        let pages = new.pages();
        if pages < self.shared.pages.load(Ordering::Relaxed) {
            return Err(EINVAL);
        }
        let inodes = new.inodes.unwrap_or(u64::MAX);
        if inodes < self.shared.inodes.load(Ordering::Relaxed) {
            return Err(EINVAL);
        }
        self.shared.max_pages.store(pages, Ordering::Relaxed);
        self.shared.max_inodes.store(inodes, Ordering::Relaxed);
        *self.options.lock() = new;
        self.read_only.store(read_only, Ordering::Relaxed);
        Ok(())
    }

    fn export(&self) -> Option<&dyn Export> {
        Some(self)
    }

    fn unmount(&self) {
        self.root.clear();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Kind of a handle: a 64-bit inode number, of which none is used twice.
const BY_NUMBER: i32 = 1;

impl Export for TmpFs {
    fn encode(&self, inode: &Arc<dyn Inode>) -> Result<Handle> {
        let inode = inode.as_any().downcast_ref::<TmpInode>().ok_or(EOPNOTSUPP)?;
        let ino = inode.remember_handle();
        Ok(Handle { kind: BY_NUMBER, bytes: ino.to_ne_bytes().to_vec() })
    }

    fn decode(&self, _: &Task, handle: &Handle) -> Result<Arc<dyn Inode>> {
        let number: [u8; 8] = handle.bytes[..].try_into().map_err(|_| ESTALE)?;
        if handle.kind != BY_NUMBER {
            return Err(ESTALE);
        }
        let known = self.shared.handles.lock().get(&u64::from_ne_bytes(number)).cloned();
        match known.and_then(|w| w.upgrade()) {
            Some(inode) => Ok(inode),
            None => Err(ESTALE),
        }
    }

    fn parent(&self, dir: &Arc<dyn Inode>) -> Result<Arc<dyn Inode>> {
        // Directories do not know where they are: they are looked for.
        let mut todo = vec![self.root.clone()];
        while let Some(d) = todo.pop() {
            for child in d.directories() {
                let child_inode: Arc<dyn Inode> = child.clone();
                if uml_core::vfs::inode_key(&child_inode) == uml_core::vfs::inode_key(dir) {
                    return Ok(d);
                }
                todo.push(child);
            }
        }
        Err(ESTALE)
    }
}

/// The types tmpfs and ramfs.
pub struct TmpFsType {
    name: &'static str,
}

impl TmpFsType {
    /// `ramfs` has no limits and no options but `mode=`.
    pub fn new(name: &'static str) -> TmpFsType {
        TmpFsType { name }
    }
}

impl FsType for TmpFsType {
    fn name(&self) -> &'static str {
        self.name
    }

    fn user_mountable(&self) -> bool {
        true
    }

    fn mount(&self, task: &Task, _: &[u8], flags: u64, data: &[u8]) -> Result<Arc<dyn SuperBlock>> {
        let kernel = task.kernel();
        let cred = task.cred();
        let mut options = Options { uid: cred.fsuid, gid: cred.fsgid, ..Options::default() };
        if self.name == "tmpfs" {
            // Half of memory, as tmpfs(5) says.
            options.size = Some(kernel.mem_bytes / 2);
            options.inodes = Some(kernel.mem_bytes / 2 / PAGE);
            options.total = kernel.mem_bytes;
        } else {
            options.mode = Some(0o755);
        }
        let fs = TmpFs::new(&kernel.vfs, self.name, options.parse(data)?);
        fs.read_only.store(flags & libc::MS_RDONLY != 0, Ordering::Relaxed);
        Ok(fs)
    }
}

/// Extended attributes in memory; names with their prefix.
pub(crate) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;
