//! Listing directories with cookies that survive insertion and splitting.

use uml_abi::Result;
use uml_abi::errno::{EINVAL, ENOTDIR};

use super::{FileType, dir_blocks, entry, hash, hashed, htree, inline, read_block};
use crate::features::incompat;
use crate::inode::{Inode, flags};
use crate::map;
use crate::meta::MetaRead;

/// One directory entry as handed to [`crate::Ext4::readdir`]'s callback.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// Inode number.
    pub ino: u32,
    /// Type as recorded in the directory.
    pub file_type: FileType,
    /// The name's bytes.
    pub name: &'a [u8],
    /// Cookie to continue after this entry.
    pub next: u64,
}

/// Bytes of a directory read at once when it is listed.
const AHEAD: u64 = 64 << 10;
/// Cookies 0 and 1 stand before `.` and `..`; hashed positions start here.
const FIRST_HASH: u64 = 2;
/// The cookie after the last entry.
pub const DIR_END: u64 = i64::MAX as u64;

pub(crate) type Emit<'a> = &'a mut dyn FnMut(DirEntry<'_>) -> bool;

/// A position in hash order. Both halves together stay below 2^63.
fn position(h: hash::Hash) -> u64 {
    (u64::from(h.major >> 1) << 32 | u64::from(h.minor)) + FIRST_HASH
}

fn major_of(cookie: u64) -> u32 {
    (((cookie.saturating_sub(FIRST_HASH)) >> 32) as u32) << 1
}

/// Lists entries from `cookie` until `emit` returns false or the end.
pub(crate) fn readdir(src: &dyn MetaRead, dir: &Inode, cookie: u64, emit: Emit<'_>) -> Result<()> {
    if !dir.is_dir() {
        return Err(ENOTDIR);
    }
    if cookie >= DIR_END {
        return if cookie == DIR_END { Ok(()) } else { Err(EINVAL) };
    }
    if dir.has(flags::INLINE_DATA) {
        return inline::readdir(src, dir, cookie, emit);
    }
    if cookie == 0 {
        // Blocks of a small directory lie together.
        let n = dir_blocks(src.lay(), dir).min(AHEAD >> src.lay().block_bits);
        let m = map::find(src, dir, 0, n.max(1))?;
        if let Some(p) = m.physical.filter(|p| src.core().file_blocks_ok(dir.ino, *p, m.len)) {
            src.read_ahead(p, p, p + m.len);
        }
    }
    if hashed(src.lay(), dir) && by_hash(src, dir, cookie, emit)? {
        return Ok(());
    }
    linear(src, dir, cookie, emit)
}

fn file_type(src: &dyn MetaRead, raw: u8) -> FileType {
    if src.lay().features.incompat(incompat::FILETYPE) {
        FileType::from_disk(raw)
    } else {
        FileType::Unknown
    }
}

fn linear(src: &dyn MetaRead, dir: &Inode, cookie: u64, emit: Emit<'_>) -> Result<()> {
    let lay = src.lay();
    let bits = lay.block_bits;
    for n in cookie >> bits..dir_blocks(lay, dir) {
        let (_, buf) = read_block(src, dir, n)?;
        for e in entry::iter(lay, &buf) {
            let at = (n << bits) + e.off as u64;
            if at < cookie || e.ino == 0 {
                continue;
            }
            let next = at + e.rec_len as u64;
            let file_type = file_type(src, e.file_type);
            if !emit(DirEntry { ino: e.ino, file_type, name: e.name, next }) {
                return Ok(());
            }
        }
    }
    Ok(())
}

struct Item {
    pos: u64,
    ino: u32,
    file_type: u8,
    name: Vec<u8>,
}

/// Lists in hash order. Returns false when the index cannot be used.
fn by_hash(src: &dyn MetaRead, dir: &Inode, cookie: u64, emit: Emit<'_>) -> Result<bool> {
    let lay = src.lay();
    let (version, mut path) = if dir.has(flags::INDEX) {
        let Some((root, frame)) = htree::read_root(src, dir)? else { return Ok(false) };
        (root.version, htree::descend(src, dir, root, frame, major_of(cookie))?)
    } else {
        let Some(v) = hash::effective(lay, lay.def_hash) else { return Ok(false) };
        (v, Vec::new())
    };
    if cookie < FIRST_HASH {
        for (at, name) in [(0u64, &b"."[..]), (1, b"..")] {
            if cookie > at {
                continue;
            }
            let ino = match super::find(src, dir, name)? {
                Some(f) => f.ino,
                None => return Err(src.corrupt("directory without . or ..", dir.ino, 0)),
            };
            let file_type = file_type(src, FileType::Directory as u8);
            if !emit(DirEntry { ino, file_type, name, next: at + 1 }) {
                return Ok(true);
            }
        }
    }
    let mut carry: Vec<Item> = Vec::new();
    // The index's blocks bound the walk even if they form a cycle.
    for _ in 0..=dir_blocks(lay, dir) {
        let leaf = if path.is_empty() { 0 } else { htree::leaf_of(src, dir, &path)? };
        let (_, buf) = read_block(src, dir, leaf)?;
        let mut items = std::mem::take(&mut carry);
        for e in entry::iter(lay, &buf) {
            if e.ino == 0 || e.file_type == entry::TAIL || matches!(e.name, b"." | b"..") {
                continue;
            }
            let Some(h) = hash::hash(lay, version, e.name) else { return Ok(false) };
            let pos = position(h);
            if pos >= cookie {
                let name = e.name.to_vec();
                items.push(Item { pos, ino: e.ino, file_type: e.file_type, name });
            }
        }
        items.sort_by(|a, b| (a.pos, &a.name).cmp(&(b.pos, &b.name)));
        let next = if path.is_empty() { None } else { htree::advance(src, dir, &mut path)? };
        // A hash that continues in the next leaf is listed with that leaf.
        if let Some(start) = next.filter(|s| s & 1 != 0) {
            let cut = items.partition_point(|i| major_of(i.pos) < start & !1);
            carry = items.split_off(cut);
        }
        for (k, i) in items.iter().enumerate() {
            // Names that collide completely share a position: continuing
            // inside the group repeats it rather than losing names.
            let same = items.get(k + 1).is_some_and(|n| n.pos == i.pos);
            let next = if same { i.pos } else { i.pos + 1 };
            let file_type = file_type(src, i.file_type);
            if !emit(DirEntry { ino: i.ino, file_type, name: &i.name, next }) {
                return Ok(true);
            }
        }
        if next.is_none() {
            return Ok(true);
        }
    }
    Err(src.corrupt("directory index does not end", dir.ino, 0))
}
