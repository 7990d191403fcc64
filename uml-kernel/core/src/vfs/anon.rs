//! Inodes that no directory leads to: pipes, sockets, eventfds and their like, on internal mounts.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};

use crate::file::FileOps;
use crate::task::Cred;
use crate::vfs::{
    Dentry, Dev, Inode, Metadata, Mount, Path, SetAttr, StatFs, SuperBlock, SuperInstance,
    Timespec, Vfs, now,
};

/// What an anonymous inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnonKind {
    /// `pipe:[ino]` (pipefs).
    Pipe,
    /// `socket:[ino]` (sockfs).
    Socket,
    /// `anon_inode:NAME`, where the name has the brackets that Linux gives it (`[eventfd]`, `inotify`).
    Other(&'static str),
}

impl AnonKind {
    fn fs(self) -> &'static Arc<AnonFs> {
        static PIPEFS: OnceLock<Arc<AnonFs>> = OnceLock::new();
        static SOCKFS: OnceLock<Arc<AnonFs>> = OnceLock::new();
        static ANONFS: OnceLock<Arc<AnonFs>> = OnceLock::new();
        // Minor numbers of anonymous devices; the rest are handed out by the VFS from 32 on.
        let make = |name, magic, minor| {
            Arc::new_cyclic(|me| AnonFs { name, magic, dev: Dev::new(0, minor), me: me.clone() })
        };
        match self {
            AnonKind::Pipe => PIPEFS.get_or_init(|| make("pipefs", 0x5049_5045, 13)),
            AnonKind::Socket => SOCKFS.get_or_init(|| make("sockfs", 0x534f_434b, 8)),
            AnonKind::Other(_) => ANONFS.get_or_init(|| make("anon_inodefs", 0x0904_1934, 14)),
        }
    }

    fn mode(self) -> u32 {
        match self {
            AnonKind::Pipe => libc::S_IFIFO | 0o600,
            AnonKind::Socket => libc::S_IFSOCK | 0o777,
            AnonKind::Other(_) => 0o600,
        }
    }
}

/// An internal filesystem.
pub struct AnonFs {
    name: &'static str,
    magic: u64,
    dev: Dev,
    me: std::sync::Weak<AnonFs>,
}

impl SuperBlock for AnonFs {
    fn fs_type(&self) -> &'static str {
        self.name
    }

    fn root(&self) -> Arc<dyn Inode> {
        AnonInode::new(AnonKind::Other(self.name), &Cred::root())
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { magic: self.magic, block_size: 4096, name_max: 255, ..StatFs::default() })
    }

    fn dev(&self) -> Dev {
        self.dev
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Attr {
    mode: u32,
    uid: u32,
    gid: u32,
    atime: Timespec,
    mtime: Timespec,
    ctime: Timespec,
}

/// An inode without a name.
pub struct AnonInode {
    kind: AnonKind,
    ino: u64,
    attr: Mutex<Attr>,
    /// What it stands for, for objects that can be opened again through /proc/<pid>/fd (pipes).
    object: OnceLock<Weak<dyn Any + Send + Sync>>,
}

impl AnonInode {
    /// A new inode owned by `cred`'s filesystem ids.
    pub fn new(kind: AnonKind, cred: &Cred) -> Arc<AnonInode> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let now = now();
        Arc::new(AnonInode {
            kind,
            ino: NEXT.fetch_add(1, Ordering::Relaxed),
            attr: Mutex::new(
                Rank::LEAF,
                Attr {
                    mode: kind.mode(),
                    uid: cred.fsuid,
                    gid: cred.fsgid,
                    atime: now,
                    mtime: now,
                    ctime: now,
                },
            ),
            object: OnceLock::new(),
        })
    }

    /// Says what the inode stands for, once.
    pub fn set_object(&self, object: Weak<dyn Any + Send + Sync>) {
        let _ = self.object.set(object);
    }

    /// What it stands for, while that lives.
    pub fn object(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.object.get()?.upgrade()
    }

    /// Permission bits (07777).
    pub fn mode(&self) -> u32 {
        self.attr.lock().mode & 0o7777
    }

    /// Inode number.
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// What /proc/<pid>/fd shows: `pipe:[12]`, `socket:[13]`, `anon_inode:[eventfd]`.
    pub fn link_text(&self) -> String {
        match self.kind {
            AnonKind::Pipe => format!("pipe:[{}]", self.ino),
            AnonKind::Socket => format!("socket:[{}]", self.ino),
            AnonKind::Other(name) => format!("anon_inode:{name}"),
        }
    }
}

impl Inode for AnonInode {
    fn metadata(&self) -> Result<Metadata> {
        let a = self.attr.lock();
        Ok(Metadata {
            ino: self.ino,
            mode: a.mode,
            nlink: 1,
            uid: a.uid,
            gid: a.gid,
            blksize: 4096,
            atime: a.atime,
            mtime: a.mtime,
            ctime: a.ctime,
            ..Metadata::default()
        })
    }

    fn set_attr(&self, attr: &SetAttr) -> Result<()> {
        if matches!(self.kind, AnonKind::Other(_)) {
            return Err(EOPNOTSUPP);
        }
        if attr.size.is_some() {
            return Err(EINVAL);
        }
        let mut a = self.attr.lock();
        if let Some(m) = attr.mode {
            a.mode = (a.mode & libc::S_IFMT) | (m & 0o7777);
        }
        a.uid = attr.uid.unwrap_or(a.uid);
        a.gid = attr.gid.unwrap_or(a.gid);
        a.atime = attr.atime.unwrap_or(a.atime);
        a.mtime = attr.mtime.unwrap_or(a.mtime);
        a.ctime = attr.ctime.unwrap_or(a.ctime);
        Ok(())
    }

    fn superblock(&self) -> Arc<dyn SuperBlock> {
        match self.kind.fs().me.upgrade() {
            Some(fs) => fs,
            None => unreachable!("internal filesystems live in statics"),
        }
    }

    fn file_type(&self) -> u32 {
        self.kind.mode() & libc::S_IFMT
    }

    fn open(&self, _flags: u32) -> Result<Box<dyn FileOps>> {
        Err(ENXIO)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A location for a new anonymous file of `kind`, owned by `cred`.
pub fn path(kind: AnonKind, cred: &Cred) -> Path {
    path_of(AnonInode::new(kind, cred))
}

/// The location of an anonymous inode.
pub fn path_of(inode: Arc<AnonInode>) -> Path {
    let name = inode.link_text();
    Path { mnt: internal_mount(inode.kind), dentry: Dentry::anonymous(inode, name.as_bytes()) }
}

/// The mount of an internal filesystem; it is in no namespace and lives as long as the process.
fn internal_mount(kind: AnonKind) -> Arc<Mount> {
    static MOUNTS: [OnceLock<Arc<Mount>>; 3] = [const { OnceLock::new() }; 3];
    let i = match kind {
        AnonKind::Pipe => 0,
        AnonKind::Socket => 1,
        AnonKind::Other(_) => 2,
    };
    let make = || {
        let fs = kind.fs();
        let root = Dentry::root(fs.root());
        let instance = Arc::new(SuperInstance::new(fs.clone(), root.clone()));
        Mount::detached(0, instance, root, fs.name.as_bytes(), 0)
    };
    MOUNTS[i].get_or_init(make).clone()
}

/// A place for an inode of an internal filesystem, on its internal mount `mnt`, shown as `name`
/// (`mnt:[4026531841]`).
pub fn named_path(mnt: &Arc<Mount>, inode: Arc<dyn Inode>, name: &[u8]) -> Path {
    Path { mnt: mnt.clone(), dentry: Dentry::anonymous(inode, name) }
}

impl Vfs {
    /// A place for an inode of some filesystem that has no name there (memfd_create(2): an unlinked tmpfs
    /// file called `/memfd:name`).
    pub fn unnamed_path(&self, inode: Arc<dyn Inode>, name: &[u8]) -> Path {
        let mnt = self.new_mount(inode.superblock(), b"none", 0);
        let dentry = Dentry::anonymous(inode, name);
        dentry.set_deleted(true);
        Path { mnt, dentry }
    }
}
