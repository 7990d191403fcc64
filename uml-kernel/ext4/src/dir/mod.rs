//! Directories: entry blocks, inline directories and htree indexes.

pub(crate) mod entry;
pub(crate) mod hash;
pub(crate) mod htree;
pub(crate) mod inline;
pub(crate) mod insert;
pub(crate) mod readdir;
pub(crate) mod remove;
pub(crate) mod split;
use uml_abi::Result;
use uml_abi::errno::{ENAMETOOLONG, ENOENT, ENOTDIR};

use crate::bytes::rd32;
use crate::cache::{Buf, Checked};
use crate::features::{compat, incompat};
use crate::inode::{Inode, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK, flags};
use crate::layout::Layout;
use crate::map;
use crate::meta::MetaRead;

/// Longest name in bytes.
pub const NAME_MAX: usize = 255;

/// The type a directory entry records for an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FileType {
    /// Not recorded (no `filetype` feature) or not a known value.
    Unknown = 0,
    /// Regular file.
    Regular = 1,
    /// Directory.
    Directory = 2,
    /// Character device.
    Char = 3,
    /// Block device.
    Block = 4,
    /// Named pipe.
    Fifo = 5,
    /// Socket.
    Socket = 6,
    /// Symbolic link.
    Symlink = 7,
}

impl FileType {
    pub(crate) fn from_disk(v: u8) -> FileType {
        match v & 7 {
            1 => FileType::Regular,
            2 => FileType::Directory,
            3 => FileType::Char,
            4 => FileType::Block,
            5 => FileType::Fifo,
            6 => FileType::Socket,
            7 => FileType::Symlink,
            _ => FileType::Unknown,
        }
    }

    /// The type for an `st_mode`.
    pub fn from_mode(mode: u16) -> FileType {
        match mode & crate::inode::S_IFMT {
            S_IFREG => FileType::Regular,
            S_IFDIR => FileType::Directory,
            S_IFCHR => FileType::Char,
            S_IFBLK => FileType::Block,
            S_IFIFO => FileType::Fifo,
            S_IFSOCK => FileType::Socket,
            S_IFLNK => FileType::Symlink,
            _ => FileType::Unknown,
        }
    }
}

/// What a name refers to, and where its entry is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) ino: u32,
    pub(crate) place: Place,
}

/// Where a directory entry is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a device block, at a byte offset.
    Block { block: u64, off: usize },
    /// In the inode: 0 is `i_block`, 1 the `system.data` attribute.
    Inline { area: u8, off: usize },
    /// The implied `.` or `..` of an inline directory.
    Implied,
}

pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(ENAMETOOLONG);
    }
    if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
        return Err(ENOENT);
    }
    Ok(())
}

/// Number of blocks of a directory.
pub(crate) fn dir_blocks(lay: &Layout, dir: &Inode) -> u64 {
    dir.size >> lay.block_bits
}

/// Bytes at a directory block's end that hold no entries.
pub(crate) fn tail_len(lay: &Layout) -> usize {
    if lay.metadata_csum() { 12 } else { 0 }
}

/// Device block of directory block `n`.
pub(crate) fn block_of(src: &dyn MetaRead, dir: &Inode, n: u64) -> Result<u64> {
    let m = map::find(src, dir, n, 1)?;
    m.physical.ok_or_else(|| src.corrupt("directory with a hole", dir.ino, n))
}

/// Reads an entry block and checks all of it.
pub(crate) fn read_block(src: &dyn MetaRead, dir: &Inode, n: u64) -> Result<(u64, Buf)> {
    let nr = block_of(src, dir, n)?;
    let buf = src.block(nr)?;
    if !buf.is_checked(Checked::Dir) {
        let lay = src.lay();
        // A block of an index is a valid, empty entry block as well.
        let index_block = dir.has(flags::INDEX) && htree::looks_like_index(lay, &buf, n);
        if lay.metadata_csum() && !index_block {
            entry::verify_csum(src, dir, nr, &buf)?;
        }
        entry::check_block(src, dir, nr, &buf, index_block)?;
        buf.set_checked(Checked::Dir);
    }
    Ok((nr, buf))
}

/// Whether names are looked up and listed by hash.
pub(crate) fn hashed(lay: &Layout, dir: &Inode) -> bool {
    lay.features.compat(compat::DIR_INDEX)
        && !dir.has(flags::INLINE_DATA)
        && (dir.has(flags::INDEX) || dir_blocks(lay, dir) == 1)
}

/// Finds `name` in a directory.
pub(crate) fn lookup(src: &dyn MetaRead, dir: &Inode, name: &[u8]) -> Result<Found> {
    if !dir.is_dir() {
        return Err(ENOTDIR);
    }
    check_name(name)?;
    let found = find(src, dir, name)?.ok_or(ENOENT)?;
    if found.ino == 0 || found.ino > src.lay().inodes_count() {
        return Err(src.corrupt("directory entry with a bad inode number", dir.ino, 0));
    }
    Ok(found)
}

/// Like [`lookup`], with `None` for an absent name.
pub(crate) fn find(src: &dyn MetaRead, dir: &Inode, name: &[u8]) -> Result<Option<Found>> {
    if dir.has(flags::INLINE_DATA) {
        return inline::find(src, dir, name);
    }
    let lay = src.lay();
    let dots = name == b"." || name == b"..";
    if dir.has(flags::INDEX) && lay.features.compat(compat::DIR_INDEX) && !dots {
        if let Some(r) = htree::find(src, dir, name)? {
            return Ok(r);
        }
        // An index that this engine does not understand: search linearly.
    }
    let last = if dots { 1 } else { dir_blocks(lay, dir) };
    for n in 0..last {
        let (nr, buf) = read_block(src, dir, n)?;
        if let Some((off, ino)) = entry::search(lay, &buf, name) {
            return Ok(Some(Found { ino, place: Place::Block { block: nr, off } }));
        }
    }
    Ok(None)
}

/// True when the directory holds nothing but `.` and `..`.
pub(crate) fn is_empty(src: &dyn MetaRead, dir: &Inode) -> Result<bool> {
    if dir.has(flags::INLINE_DATA) {
        return inline::is_empty(src, dir);
    }
    for n in 0..dir_blocks(src.lay(), dir) {
        let (_, buf) = read_block(src, dir, n)?;
        let other = entry::iter(src.lay(), &buf)
            .any(|e| e.ino != 0 && !matches!(e.name, b"." | b"..") && e.file_type != entry::TAIL);
        if other {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The directory's parent, from its `..` entry.
pub(crate) fn parent(src: &dyn MetaRead, dir: &Inode) -> Result<u32> {
    if dir.has(flags::INLINE_DATA) {
        return Ok(rd32(&dir.block, 0));
    }
    Ok(lookup(src, dir, b"..")?.ino)
}

/// What to store as an entry's type.
pub(crate) fn type_byte(lay: &Layout, mode: u16) -> u8 {
    if lay.features.incompat(incompat::FILETYPE) { FileType::from_mode(mode) as u8 } else { 0 }
}
