//! Readers of the read-only filesystems of images: squashfs, iso9660 and vfat, over a [`BlockStore`].
//!
//! Like the engine of ext4 the crate knows nothing of tasks, files, dentries or permissions. It is given nodes and names
//! and says what the image holds. Images are hostile input: whatever they say, nothing panics, and memory is bounded by
//! constants and by what the caller asks for.
//!
//! Key types: [`Tree`] (what every format offers), [`Squashfs`], [`Iso9660`], [`Vfat`], [`Refusal`] (why it is none).
//!
//! A node is a number that says where in the image a file's record is; it means the same as long as the image does. Nodes
//! of other origin than the same tree give errors, or other files.
//!
//! Locks: each cache has one of its own, held for no I/O. Only a file's chain of clusters is locked while the allocation
//! table is read, before the cache of the disk.
//!
//! Neighbours: `uml-store` below; the VFS glue and the page cache above. Does not belong here: caching of file data
//! (beyond blocks that are expensive to decompress), permission checks, the text of mount options.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod charset;
mod date;
mod disk;
pub mod iso9660;
mod lru;
pub mod squashfs;
pub mod vfat;

use std::fmt;

use uml_abi::errno::EIO;
use uml_abi::{Errno, Result};

pub use charset::Charset;
pub use date::Timestamp;
pub use iso9660::Iso9660;
pub use squashfs::Squashfs;
pub use uml_store::BlockStore;
pub use vfat::Vfat;

/// Longest target of a symbolic link that is believed (PATH_MAX - 1).
pub const LINK_MAX: usize = 4095;

/// The type bits of a mode (inode(7)).
pub(crate) mod kind {
    pub const MASK: u32 = 0o170000;
    pub const DIR: u32 = 0o040000;
    pub const REG: u32 = 0o100000;
    pub const LNK: u32 = 0o120000;
    pub const BLK: u32 = 0o060000;
    pub const CHR: u32 = 0o020000;
    pub const FIFO: u32 = 0o010000;
    pub const SOCK: u32 = 0o140000;
}

/// Attributes of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attr {
    /// Inode number as Linux shows it.
    pub ino: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Links as the format counts them.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Major and minor number of a device.
    pub rdev: (u32, u32),
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes.
    pub sectors: u64,
    /// Preferred I/O size in bytes, as Linux shows it.
    pub io_size: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the contents.
    pub mtime: Timestamp,
    /// Last change of the attributes.
    pub ctime: Timestamp,
    /// Creation, where the format says it.
    pub btime: Option<Timestamp>,
}

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Never empty, `.` or `..`, and without `/` and NUL.
    pub name: &'a [u8],
    /// Inode number, as in [`Attr`].
    pub ino: u64,
    /// Type bits of the mode.
    pub kind: u32,
    /// Where to go on after this entry.
    pub next: u64,
}

/// Sizes of a filesystem (statfs(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statfs {
    /// f_type.
    pub magic: u64,
    /// Bytes in a block.
    pub block_size: u32,
    /// Blocks.
    pub blocks: u64,
    /// Blocks without contents.
    pub free: u64,
    /// Inodes, where the format counts them.
    pub inodes: u64,
    /// Longest name in bytes.
    pub name_max: u32,
}

/// What an image holds.
///
/// Errors: `ENOENT` for names that are not there, `ENOTDIR`, `EISDIR` and `EINVAL` for nodes of other types, `EIO` for what
/// is damaged or cannot be read.
pub trait Tree: Send + Sync {
    /// The root directory.
    fn root(&self) -> u64;

    /// Attributes of a node.
    fn attr(&self, node: u64) -> Result<Attr>;

    /// The node of a name in a directory.
    fn lookup(&self, dir: u64, name: &[u8]) -> Result<u64>;

    /// Hands out the entries of a directory from `cookie` on (0: the first), in the order of the image, until `emit` says
    /// false or there are no more.
    fn readdir(
        &self,
        dir: u64,
        cookie: u64,
        emit: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<()>;

    /// Fills `buf` from a regular file; returns how much, less than asked for only at the end of the file.
    fn read(&self, node: u64, off: u64, buf: &mut [u8]) -> Result<usize>;

    /// Target of a symbolic link, at most [`LINK_MAX`] bytes.
    fn readlink(&self, node: u64) -> Result<Vec<u8>>;

    /// Sizes of the filesystem.
    fn statfs(&self) -> Result<Statfs>;

    /// Names of the extended attributes, with their prefixes. `EOPNOTSUPP` where the format has none.
    fn listxattr(&self, node: u64) -> Result<Vec<Vec<u8>>> {
        let _ = node;
        Err(uml_abi::errno::EOPNOTSUPP)
    }

    /// Value of an extended attribute; `ENODATA` without one.
    fn getxattr(&self, node: u64, name: &[u8]) -> Result<Vec<u8>> {
        let _ = (node, name);
        Err(uml_abi::errno::EOPNOTSUPP)
    }

    /// The image may have been changed by others: nothing is to be remembered of it.
    fn forget(&self);
}

/// Why an image is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What mount(2) returns.
    pub errno: Errno,
    /// For the kernel log.
    pub why: String,
}

impl Refusal {
    pub(crate) fn new(errno: Errno, why: impl Into<String>) -> Refusal {
        Refusal { errno, why: why.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Refusal {}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Refusal {
        Refusal { errno, why: format!("the device cannot be read: {errno}") }
    }
}

/// True for what can be a name in a directory.
fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|b| matches!(b, b'/' | 0))
}

/// As `usize`, or `EIO`.
fn size(n: u64) -> Result<usize> {
    usize::try_from(n).map_err(|_| EIO)
}
