//! Reading extended attributes.

use uml_abi::Result;

use super::{Attribute, BLOCK_HEADER, ENTRY, MAGIC, Set, VALUE_MAX, Value, block_csum, index};
use crate::bytes::{rd8, rd16, rd32, slice};
use crate::cache::{Buf, Checked};
use crate::error::EFSBADCRC;
use crate::inode::{Inode, flags};
use crate::map;
use crate::meta::MetaRead;

/// Parses entries from `first`; value offsets count from `values`.
fn parse(
    src: &dyn MetaRead,
    inode: &Inode,
    b: &[u8],
    first: usize,
    values: usize,
) -> Result<Vec<Attribute>> {
    let bad = |what| Err(src.corrupt(what, inode.ino, inode.file_acl));
    let mut out: Vec<Attribute> = Vec::new();
    let mut at = first;
    let mut spent = 0usize;
    loop {
        if at + 4 > b.len() || rd32(b, at) == 0 {
            return Ok(out);
        }
        let n = usize::from(rd8(b, at));
        let next = at + ((ENTRY + n + 3) & !3);
        if next > b.len() {
            return bad("attribute entry past the end");
        }
        let size = rd32(b, at + 8);
        let value = match rd32(b, at + 4) {
            0 => {
                let off = values + usize::from(rd16(b, at + 2));
                let len = size as usize;
                spent = spent.saturating_add(len);
                if spent > b.len() || off.checked_add(len).is_none_or(|e| e > b.len()) {
                    return bad("attribute value past the end");
                }
                Value::Bytes(slice(b, off, len).to_vec())
            }
            ino => {
                if size as usize > VALUE_MAX {
                    return bad("attribute value size");
                }
                Value::Inode { ino, size, hash: rd32(b, at + 12) }
            }
        };
        out.push(Attribute {
            index: rd8(b, at + 1),
            name: slice(b, at + ENTRY, n).to_vec(),
            value,
        });
        at = next;
    }
}

fn body(src: &dyn MetaRead, inode: &Inode) -> Result<Vec<Attribute>> {
    let Some(r) = inode.xattr_area() else { return Ok(Vec::new()) };
    let area = slice(&inode.raw, r.start, r.len());
    if rd32(area, 0) != MAGIC {
        return Ok(Vec::new());
    }
    parse(src, inode, area, 4, 4)
}

/// The inode's attribute block, checked.
pub(crate) fn block(src: &dyn MetaRead, inode: &Inode) -> Result<Option<Buf>> {
    let nr = inode.file_acl;
    if nr == 0 {
        return Ok(None);
    }
    src.check_range(inode.ino, nr, 1)?;
    let b = src.block(nr)?;
    if !b.is_checked(Checked::Xattr) {
        if rd32(&b, 0) != MAGIC || rd32(&b, 8) != 1 {
            return Err(src.corrupt("attribute block header", inode.ino, nr));
        }
        if src.lay().metadata_csum() && block_csum(src.lay(), nr, &b) != rd32(&b, 0x10) {
            return Err(src.damage(EFSBADCRC, "attribute block checksum", inode.ino, nr));
        }
        b.set_checked(Checked::Xattr);
    }
    Ok(Some(b))
}

/// Reads all attributes of an inode (values in other inodes stay there).
pub(crate) fn load(src: &dyn MetaRead, inode: &Inode) -> Result<Set> {
    let body = body(src, inode)?;
    let block = match block(src, inode)? {
        Some(b) => parse(src, inode, &b, BLOCK_HEADER, 0)?,
        None => Vec::new(),
    };
    Ok(Set { body, block })
}

/// The bytes of a value, from wherever they are.
pub(crate) fn stored_value(src: &dyn MetaRead, owner: u32, v: &Value) -> Result<Vec<u8>> {
    let (ino, size) = match v {
        Value::Bytes(b) => return Ok(b.clone()),
        Value::Inode { ino, size, .. } => (*ino, *size),
    };
    let ea = Inode::read(src, ino)?;
    if !ea.has(flags::EA_INODE) || ea.size != u64::from(size) || size as usize > VALUE_MAX {
        return Err(src.corrupt("attribute value inode", owner, u64::from(ino)));
    }
    let lay = src.lay();
    let mut out = Vec::with_capacity(size as usize);
    let mut n = 0u64;
    while out.len() < size as usize {
        let m = map::find(src, &ea, n, 1)?;
        let Some(p) = m.physical else {
            return Err(src.corrupt("attribute value inode with a hole", owner, u64::from(ino)));
        };
        let b = src.block(p)?;
        let take = (size as usize - out.len()).min(lay.bs());
        out.extend_from_slice(slice(&b, 0, take));
        n += 1;
    }
    Ok(out)
}

/// The value of `system.data`: the part of inline data past `i_block`.
pub(crate) fn inline_value(src: &dyn MetaRead, inode: &Inode) -> Result<Vec<u8>> {
    let attrs = body(src, inode)?;
    match attrs.iter().find(|a| a.index == index::SYSTEM && a.name == b"data") {
        Some(Attribute { value: Value::Bytes(v), .. }) => Ok(v.clone()),
        Some(_) => Err(src.corrupt("inline data in another inode", inode.ino, 0)),
        None => Ok(Vec::new()),
    }
}
