//! What a filesystem implements.
//!
//! Every method is called with permissions already checked by the VFS and, for directory changes,
//! with the directory's lock held by the VFS. Names are single components without `/`, at most
//! 255 bytes, never empty, `.` or `..`.

use std::any::Any;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;

use crate::file::{DirEmit, FileOps};
use crate::task::{Cred, Task};

/// A point in time, seconds and nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timespec {
    pub sec: i64,
    pub nsec: u32,
}

/// A device number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dev {
    pub major: u32,
    pub minor: u32,
}

impl Dev {
    /// A device number from its parts.
    pub const fn new(major: u32, minor: u32) -> Dev {
        Dev { major, minor }
    }

    /// Encoding of `st_dev`/`st_rdev` in `struct stat` (makedev(3)).
    pub const fn encode(self) -> u64 {
        let (ma, mi) = (self.major as u64, self.minor as u64);
        (mi & 0xff) | ((ma & 0xfff) << 8) | ((mi & !0xff) << 12) | ((ma & !0xfff) << 32)
    }

    /// Inverse of [`Dev::encode`].
    pub const fn decode(dev: u64) -> Dev {
        Dev {
            major: (((dev >> 8) & 0xfff) | ((dev >> 32) & !0xfff)) as u32,
            minor: ((dev & 0xff) | ((dev >> 12) & !0xff)) as u32,
        }
    }
}

/// Attributes of an inode (statx(2)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    pub ino: u64,
    /// Type and permission bits (S_IF* | 07777).
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: Dev,
    pub size: u64,
    /// Allocated size in units of 512 bytes.
    pub blocks: u64,
    /// Preferred I/O size in bytes.
    pub blksize: u32,
    pub atime: Timespec,
    pub mtime: Timespec,
    pub ctime: Timespec,
    /// Creation time when the filesystem knows it.
    pub btime: Option<Timespec>,
    /// STATX_ATTR_* bits that are set, and those the filesystem supports.
    pub attributes: u64,
    pub attributes_mask: u64,
}

impl Metadata {
    /// The S_IFMT part of the mode.
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// True for a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }
}

impl Metadata {
    /// Takes over what `attr` changes.
    pub fn apply(&mut self, attr: &SetAttr) {
        if let Some(m) = attr.mode {
            self.mode = (self.mode & libc::S_IFMT) | (m & 0o7777);
        }
        self.uid = attr.uid.unwrap_or(self.uid);
        self.gid = attr.gid.unwrap_or(self.gid);
        self.size = attr.size.unwrap_or(self.size);
        self.atime = attr.atime.unwrap_or(self.atime);
        self.mtime = attr.mtime.unwrap_or(self.mtime);
        self.ctime = attr.ctime.unwrap_or(self.ctime);
    }

    /// The part that permission checks need.
    pub fn perm(&self) -> Perm {
        Perm { mode: self.mode, uid: self.uid, gid: self.gid }
    }
}

/// Type, permission bits and owner: what permission checks need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Perm {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// True when a read now changes `atime` under relatime (mount(8)): it is not newer than the last change,
/// or a day old.
pub fn relatime_due(atime: Timespec, mtime: Timespec, ctime: Timespec, now: Timespec) -> bool {
    atime <= mtime || atime <= ctime || now.sec - atime.sec >= 24 * 3600
}

/// DT_* value of a mode's file type (getdents64(2)).
pub const fn dirent_kind(mode: u32) -> u8 {
    ((mode & libc::S_IFMT) >> 12) as u8
}

/// Attribute changes (chmod, chown, truncate, utimensat); `None` leaves a field alone. The VFS
/// has already cleared set-id bits where POSIX wants it and sets `ctime`.
#[derive(Clone, Debug, Default)]
pub struct SetAttr {
    /// Permission bits (07777) only.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<Timespec>,
    pub mtime: Option<Timespec>,
    pub ctime: Option<Timespec>,
}

/// What to create in a directory.
#[derive(Clone, Debug)]
pub enum NodeKind {
    Regular,
    Directory,
    Symlink(Vec<u8>),
    CharDevice(Dev),
    BlockDevice(Dev),
    Fifo,
    Socket,
}

impl NodeKind {
    /// The S_IF* bits.
    pub fn file_type(&self) -> u32 {
        match self {
            NodeKind::Regular => libc::S_IFREG,
            NodeKind::Directory => libc::S_IFDIR,
            NodeKind::Symlink(_) => libc::S_IFLNK,
            NodeKind::CharDevice(_) => libc::S_IFCHR,
            NodeKind::BlockDevice(_) => libc::S_IFBLK,
            NodeKind::Fifo => libc::S_IFIFO,
            NodeKind::Socket => libc::S_IFSOCK,
        }
    }
}

/// Owner and permissions of a new inode; the VFS has applied set-gid directories and, unless the directory has a default
/// ACL ([`Inode::umask_applies`]), the umask.
#[derive(Clone, Debug)]
pub struct NewNode {
    pub kind: NodeKind,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// statfs(2) numbers.
#[derive(Clone, Debug, Default)]
pub struct StatFs {
    /// Magic number (`EXT4_SUPER_MAGIC`, ...).
    pub magic: u64,
    pub block_size: u64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_avail: u64,
    pub files: u64,
    pub files_free: u64,
    pub fsid: u64,
    pub name_max: u64,
}

/// A mounted filesystem instance.
pub trait SuperBlock: Any + Send + Sync {
    /// Type as in /proc/filesystems.
    fn fs_type(&self) -> &'static str;
    /// Root directory.
    fn root(&self) -> Arc<dyn Inode>;
    fn statfs(&self) -> Result<StatFs>;
    /// `st_dev` of its inodes.
    fn dev(&self) -> Dev;
    /// Writes everything out (sync(2), syncfs(2), unmount).
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    /// Options as /proc/mounts shows them after `rw`, each with a leading comma.
    fn show_options(&self) -> String {
        String::new()
    }
    /// mount -o remount.
    fn remount(&self, read_only: bool, data: &[u8]) -> Result<()> {
        let _ = (read_only, data);
        Ok(())
    }
    /// True when the superblock itself is read-only.
    fn read_only(&self) -> bool {
        false
    }
    /// Names from the root down to what a new mount of `task` shows: `None` for the whole, which is so but for
    /// cgroup_namespaces(7).
    fn shown_to(&self, task: &Task) -> Option<Vec<Vec<u8>>> {
        let _ = task;
        None
    }
    /// The directory `root` as field 4 of mountinfo shows it to `reader`, where that is not its path.
    fn root_name(&self, reader: &Task, root: &dyn Inode) -> Option<Vec<u8>> {
        let _ = (reader, root);
        None
    }
    /// File handles; `None` makes name_to_handle_at(2) `EOPNOTSUPP`.
    fn export(&self) -> Option<&dyn super::handle::Export> {
        None
    }
    /// Files about it below /proc/fs: the directory there and their names.
    fn proc_files(&self) -> Option<(&'static str, &'static [&'static str])> {
        None
    }
    /// The text of such a file.
    fn proc_text(&self, name: &str) -> Result<String> {
        let _ = name;
        Err(ENOENT)
    }
    /// Attributes of it below /sys/fs: the directory there and their names.
    fn sys_files(&self) -> Option<(&'static str, &'static [&'static str])> {
        None
    }
    /// The text of such an attribute, without its newline.
    fn sys_text(&self, name: &str) -> Result<String> {
        let _ = name;
        Err(ENOENT)
    }
    /// Lets changes go on after a freeze; nothing happens when it is not frozen.
    fn thaw(&self) -> Result<()> {
        Ok(())
    }
    /// Last unmount.
    fn unmount(&self) {}
    fn as_any(&self) -> &dyn Any;
}

/// How long the VFS may trust a cached directory entry of this inode's filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Until the VFS itself changes it (local filesystems).
    Trusted,
    /// Every walk asks the filesystem again (hostfs, procfs).
    Revalidate,
}

/// A file of any type. Identity is the `Arc`: a filesystem hands out the same `Arc` for
/// the same inode while anyone holds it.
pub trait Inode: Any + Send + Sync {
    fn metadata(&self) -> Result<Metadata>;

    /// Mode and owner; every step of a path walk asks, so filesystems make it cheap.
    fn perm(&self) -> Result<Perm> {
        Ok(self.metadata()?.perm())
    }

    /// The file was read: sets `atime` to now, with `relatime` only when [`relatime_due`].
    /// Filesystems that keep no access times ignore it.
    fn touch_atime(&self, relatime: bool) {
        let _ = relatime;
    }

    fn set_attr(&self, attr: &SetAttr) -> Result<()> {
        let _ = attr;
        Err(EPERM)
    }

    /// The superblock it lives on.
    fn superblock(&self) -> Arc<dyn SuperBlock>;

    /// `st_dev` where it is not the superblock's (overlay, which shows files of several filesystems).
    fn dev(&self) -> Option<Dev> {
        None
    }

    /// File type bits, known without I/O.
    fn file_type(&self) -> u32;

    /// Directory operations; `None` when it is not a directory.
    fn dir(&self) -> Option<&dyn DirOps> {
        None
    }

    /// Symbolic-link operations.
    fn symlink(&self) -> Option<&dyn SymlinkOps> {
        None
    }

    /// Extended attributes; `None` makes every xattr call `EOPNOTSUPP`.
    fn xattr(&self) -> Option<&dyn XattrOps> {
        None
    }

    /// Opens a regular file or directory with open(2) `flags`. The VFS wraps a directory's
    /// [`FileOps`] and adds `.` and `..` to what its `readdir` yields; a directory without state per open
    /// file answers `EISDIR` and is read through [`DirOps::readdir`]. Devices, FIFOs and sockets are opened
    /// by the VFS through their registries and never get here. O_TRUNC is done by the VFS before
    /// (through `set_attr`).
    fn open(&self, flags: u32) -> Result<Box<dyn FileOps>>;

    /// Reads the contents of a regular file for the kernel itself (copying up, unpacking); 0 at the end.
    fn read_at(&self, off: u64, buf: &mut [u8]) -> Result<usize> {
        let _ = (off, buf);
        Err(EINVAL)
    }

    /// Writes contents for the kernel itself; all of `data` or an error. No limits of a process apply and
    /// no set-id bits are cleared.
    fn write_at(&self, off: u64, data: &[u8]) -> Result<()> {
        let _ = (off, data);
        Err(EINVAL)
    }

    /// Permission check beyond mode bits (hostfs asks the host, procfs has its own rules). `mask` has
    /// R_OK/W_OK/X_OK bits. `None` means: use mode bits and capabilities.
    fn permission(&self, cred: &Cred, mask: u32) -> Option<Result<()>> {
        let _ = (cred, mask);
        None
    }

    /// STATX_ATTR_IMMUTABLE and STATX_ATTR_APPEND as set (chattr(1)), which restrict everybody. Every check of write
    /// permission asks, so filesystems make it cheap.
    fn restrictions(&self) -> u64 {
        0
    }

    /// The umask applies to what is created in this directory; false when a default ACL decides (umask(2)).
    fn umask_applies(&self) -> bool {
        true
    }

    /// What is created in this directory has its group, and no set-group-ID bit of its own making (mount option `grpid`).
    fn gives_group(&self) -> bool {
        false
    }

    fn caching(&self) -> Caching {
        Caching::Trusted
    }

    fn as_any(&self) -> &dyn Any;
}

/// Operations of a directory.
pub trait DirOps {
    /// The inode of `name`; `ENOENT` when absent.
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>>;
    /// Creates `name`, which does not exist.
    fn create(&self, name: &[u8], node: &NewNode) -> Result<Arc<dyn Inode>> {
        let _ = (name, node);
        Err(EPERM)
    }
    /// False where a name that is not there cannot come to be, whoever asks (proc(5)): creating is
    /// `ENOENT` then.
    fn creates(&self) -> bool {
        true
    }
    /// An unnamed regular file (O_TMPFILE).
    fn tmpfile(&self, node: &NewNode) -> Result<Arc<dyn Inode>> {
        let _ = node;
        Err(EOPNOTSUPP)
    }
    /// Hard link; the inode is of the same superblock and not a directory.
    fn link(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<()> {
        let _ = (name, inode);
        Err(EPERM)
    }
    /// Removes a non-directory.
    fn unlink(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<()> {
        let _ = (name, inode);
        Err(EPERM)
    }
    /// Removes an empty directory (`ENOTEMPTY` otherwise).
    fn rmdir(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<()> {
        let _ = (name, inode);
        Err(EPERM)
    }
    /// Renames `old` of this directory to `new` of `new_dir` (same superblock). `flags` are renameat2(2)'s;
    /// types and emptiness are checked by the filesystem where the VFS cannot.
    fn rename(&self, old: &[u8], new_dir: &Arc<dyn Inode>, new: &[u8], flags: u32) -> Result<()> {
        let _ = (old, new_dir, new, flags);
        Err(EPERM)
    }
    /// Entries from cookie `*off` on (0 = start), without `.` and `..`, whose positions are
    /// the VFS's: cookies handed to `out` must be at least 3.
    fn readdir(&self, off: &mut u64, out: &mut dyn DirEmit) -> Result<()>;
}

/// Operations of a symbolic link.
pub trait SymlinkOps {
    /// The target text.
    fn readlink(&self, task: &Task) -> Result<Vec<u8>>;
    /// The target text when it is the same for every reader.
    fn text(&self) -> Result<Vec<u8>> {
        Err(EINVAL)
    }
    /// For magic links of procfs (`/proc/self/exe`): where they lead, without going by text.
    fn follow(&self, task: &Task) -> Option<Result<super::Path>> {
        let _ = task;
        None
    }
}

/// Extended attributes (xattr(7)); names include the namespace prefix.
pub trait XattrOps {
    /// The value; `ENODATA` when absent.
    fn get(&self, name: &[u8]) -> Result<Vec<u8>>;
    /// Sets it; `flags` are XATTR_CREATE/XATTR_REPLACE.
    fn set(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()>;
    fn remove(&self, name: &[u8]) -> Result<()>;
    /// All names.
    fn list(&self) -> Result<Vec<Vec<u8>>>;
}

/// A filesystem type that mount(2) can make instances of.
pub trait FsType: Send + Sync {
    /// Name as in mount -t and /proc/filesystems.
    fn name(&self) -> &'static str;
    /// True when it needs no block device (`nodev` in /proc/filesystems).
    fn nodev(&self) -> bool {
        true
    }
    /// True when the administrator of a user namespace may mount it.
    fn user_mountable(&self) -> bool {
        false
    }
    /// What it can do, of which programs ask in `features` of its directory below /sys/fs; `None` without such a directory.
    fn sys_features(&self) -> Option<&'static [&'static str]> {
        None
    }
    /// Makes an instance. `source` is the device or label, `data` the option text (fsconfig(2) keys are
    /// joined by commas), `flags` MS_* bits.
    fn mount(
        &self,
        task: &Task,
        source: &[u8],
        flags: u64,
        data: &[u8],
    ) -> Result<Arc<dyn SuperBlock>>;
}
