//! Extended attributes.

use uml_abi::Result;
use uml_abi::errno::{E2BIG, EIO, ENODATA};
use uml_store::bytes::{rd16, rd32, rd64};

use crate::squashfs::Squashfs;
use crate::squashfs::inode::NONE;
use crate::squashfs::meta::Place;

/// Longest name behind the prefix, list and value (limits.h: XATTR_NAME_MAX, XATTR_LIST_MAX, XATTR_SIZE_MAX).
const NAME_MAX: usize = 255;
const LIST_MAX: usize = 65536;
const VALUE_MAX: u32 = 65536;
/// The value is elsewhere.
const ELSEWHERE: u16 = 0x100;

fn prefix(kind: u16) -> Option<&'static [u8]> {
    match kind & 0xff {
        0 => Some(b"user."),
        1 => Some(b"trusted."),
        2 => Some(b"security."),
        _ => None,
    }
}

impl Squashfs {
    /// Goes through the attributes of an inode: name, type, place of the value; until `f` says false.
    fn each_xattr(
        &self,
        node: u64,
        mut f: impl FnMut(Vec<u8>, u16, Place) -> Result<bool>,
    ) -> Result<()> {
        let n = self.inode(node)?.xattr;
        let Some(t) = self.sb.xattrs.filter(|_| n != NONE) else { return Ok(()) };
        if n >= t.count {
            return Err(EIO);
        }
        let e: [u8; 16] = self.meta.entry(t.list, n.into())?;
        let mut p = Place::of(t.at, rd64(&e, 0))?;
        let (mut names, count) = (0, rd32(&e, 8));
        for _ in 0..count {
            let h: [u8; 4] = self.meta.array(&mut p)?;
            let (kind, len) = (rd16(&h, 0), usize::from(rd16(&h, 2)));
            // A list that is longer could not be asked for.
            names += len + 1;
            if len > NAME_MAX || names > LIST_MAX {
                return Err(E2BIG);
            }
            let mut short = vec![0; len];
            self.meta.read(&mut p, &mut short)?;
            let value = p;
            if let Some(prefix) = prefix(kind) {
                if !f([prefix, &short].concat(), kind, value)? {
                    return Ok(());
                }
            }
            let len = u32::from_le_bytes(self.meta.array(&mut p)?);
            self.meta.skip(&mut p, len.min(VALUE_MAX).into())?;
        }
        Ok(())
    }

    pub(crate) fn xattr_names(&self, node: u64) -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        self.each_xattr(node, |name, _, _| {
            all.push(name);
            Ok(true)
        })?;
        Ok(all)
    }

    pub(crate) fn xattr(&self, node: u64, wanted: &[u8]) -> Result<Vec<u8>> {
        let mut found = Err(ENODATA);
        self.each_xattr(node, |name, kind, mut p| {
            if name != wanted {
                return Ok(true);
            }
            let mut len = u32::from_le_bytes(self.meta.array(&mut p)?);
            if kind & ELSEWHERE != 0 {
                let table = self.sb.xattrs.ok_or(EIO)?;
                p = Place::of(table.at, u64::from_le_bytes(self.meta.array(&mut p)?))?;
                len = u32::from_le_bytes(self.meta.array(&mut p)?);
            }
            if len > VALUE_MAX {
                return Err(EIO);
            }
            let mut value = vec![0; len as usize];
            self.meta.read(&mut p, &mut value)?;
            found = Ok(value);
            Ok(false)
        })?;
        found
    }
}
