//! Directories stored inside their inode (`inline_data`).
//!
//! `i_block` starts with the parent's number; the other 56 bytes are one chain
//! of entries, the `system.data` attribute's value is a second chain. `.` and
//! `..` are implied.

use uml_abi::Result;

use super::readdir::{DirEntry, Emit};
use super::{FileType, Found, Place, entry};
use crate::bytes::rd32;
use crate::inode::Inode;
use crate::meta::MetaRead;
use crate::txn::Txn;
use crate::xattr;

/// Bytes of `i_block` before the first entry.
pub(crate) const FIRST: usize = 4;

/// The two chains of an inline directory.
pub(crate) fn areas(src: &dyn MetaRead, dir: &Inode) -> Result<[Vec<u8>; 2]> {
    let second = xattr::inline_value(src, dir)?;
    let room = (dir.size as usize).saturating_sub(60).min(second.len());
    let second = second.get(..room).unwrap_or(&[]).to_vec();
    Ok([dir.block[FIRST..].to_vec(), second])
}

pub(crate) fn find(src: &dyn MetaRead, dir: &Inode, name: &[u8]) -> Result<Option<Found>> {
    let implied = |ino| Ok(Some(Found { ino, place: Place::Implied }));
    if name == b"." {
        return implied(dir.ino);
    }
    if name == b".." {
        return implied(rd32(&dir.block, 0));
    }
    for (area, chain) in areas(src, dir)?.iter().enumerate() {
        if let Some((off, ino)) = entry::search(src.lay(), chain, name) {
            return Ok(Some(Found { ino, place: Place::Inline { area: area as u8, off } }));
        }
    }
    Ok(None)
}

pub(crate) fn is_empty(src: &dyn MetaRead, dir: &Inode) -> Result<bool> {
    let used = |a: &Vec<u8>| entry::iter(src.lay(), a).any(|e| e.ino != 0);
    Ok(!areas(src, dir)?.iter().any(used))
}

/// Cookies: 0 and 1 for the dots, then 2 plus a running byte offset.
pub(crate) fn readdir(src: &dyn MetaRead, dir: &Inode, cookie: u64, emit: Emit<'_>) -> Result<()> {
    for (at, ino, name) in [(0u64, dir.ino, &b"."[..]), (1, rd32(&dir.block, 0), b"..")] {
        if cookie <= at
            && !emit(DirEntry { ino, file_type: FileType::Directory, name, next: at + 1 })
        {
            return Ok(());
        }
    }
    let mut base = 2u64;
    for chain in &areas(src, dir)? {
        for e in entry::iter(src.lay(), chain) {
            let at = base + e.off as u64;
            if e.ino == 0 || at < cookie {
                continue;
            }
            let file_type = FileType::from_disk(e.file_type);
            let next = at + e.rec_len as u64;
            if !emit(DirEntry { ino: e.ino, file_type, name: e.name, next }) {
                return Ok(());
            }
        }
        base += chain.len() as u64;
    }
    Ok(())
}

/// Stores changed chains back into the inode (the caller writes it).
pub(crate) fn store(tx: &mut Txn<'_>, dir: &mut Inode, areas: &[Vec<u8>; 2]) -> Result<()> {
    dir.block[FIRST..].copy_from_slice(&areas[0]);
    if !areas[1].is_empty() {
        xattr::set_inline_value(tx, dir, Some(areas[1].clone()))?;
    }
    Ok(())
}
