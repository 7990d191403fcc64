//! Directories: sorted names in runs below a common header, and an index of the large ones.

use uml_abi::Result;
use uml_abi::errno::{EIO, ENOENT, ENOTDIR};
use uml_store::bytes::{rd16, rd32};

use crate::squashfs::Squashfs;
use crate::squashfs::inode::{Body, Listing};
use crate::squashfs::meta::{BLOCK, Place};
use crate::{Entry, kind};

/// Entries below one header.
const RUN: u32 = 256;
/// Longest name.
pub(crate) const NAME_MAX: usize = 256;

/// Type bits of an entry, which has the numbers of small inodes.
fn kind_of(number: u16) -> Option<u32> {
    Some(match number {
        1 => kind::DIR,
        2 => kind::REG,
        3 => kind::LNK,
        4 => kind::BLK,
        5 => kind::CHR,
        6 => kind::FIFO,
        7 => kind::SOCK,
        _ => return None,
    })
}

impl Squashfs {
    pub(crate) fn listing(&self, dir: u64) -> Result<Listing> {
        match self.inode(dir)?.body {
            Body::Dir(l) => Ok(l),
            _ => Err(ENOTDIR),
        }
    }

    /// The last header before which nothing is wanted: place and byte in the listing. `pass(byte, first name)` says that
    /// what is wanted comes not before that header.
    fn start(&self, l: &Listing, mut pass: impl FnMut(u64, &[u8]) -> bool) -> Result<(Place, u64)> {
        let (mut p, count) = l.index;
        let (mut place, mut byte) = (l.start, 0);
        let mut name = [0; NAME_MAX];
        for _ in 0..count {
            let b: [u8; 12] = self.meta.array(&mut p)?;
            let n = rd32(&b, 8) as usize + 1;
            let name = name.get_mut(..n).ok_or(EIO)?;
            self.meta.read(&mut p, name)?;
            let at = u64::from(rd32(&b, 0));
            if at >= l.len || !pass(at, name) {
                break;
            }
            byte = at;
            place.block = self.sb.directories_at.checked_add(rd32(&b, 4).into()).ok_or(EIO)?;
            place.at = (l.start.at + (at % BLOCK as u64) as usize) % BLOCK;
        }
        Ok((place, byte))
    }

    /// Goes through the entries from a header on: name, node, inode number, type, byte after it; until `f` says false.
    fn entries(
        &self,
        l: &Listing,
        (mut p, mut byte): (Place, u64),
        mut f: impl FnMut(&[u8], u64, u64, u32, u64) -> bool,
    ) -> Result<()> {
        let mut name = [0; NAME_MAX];
        while byte < l.len {
            let h: [u8; 12] = self.meta.array(&mut p)?;
            byte += 12;
            let count = rd32(&h, 0);
            if count >= RUN {
                return Err(EIO);
            }
            for _ in 0..=count {
                let e: [u8; 8] = self.meta.array(&mut p)?;
                let n = usize::from(rd16(&e, 6)) + 1;
                let name = name.get_mut(..n).ok_or(EIO)?;
                self.meta.read(&mut p, name)?;
                byte += 8 + n as u64;
                if byte > l.len {
                    return Err(EIO);
                }
                let node = u64::from(rd32(&h, 4)) << 16 | u64::from(rd16(&e, 0));
                let ino = rd32(&h, 8).wrapping_add_signed(i32::from(rd16(&e, 2) as i16));
                let kind = kind_of(rd16(&e, 4)).ok_or(EIO)?;
                if !f(name, node, ino.into(), kind, byte) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    pub(crate) fn find(&self, dir: u64, wanted: &[u8]) -> Result<u64> {
        if wanted.len() > NAME_MAX {
            return Err(ENOENT);
        }
        let l = self.listing(dir)?;
        let start = self.start(&l, |_, first| first <= wanted)?;
        let mut found = Err(ENOENT);
        self.entries(&l, start, |name, node, _, _, _| {
            if name == wanted {
                found = Ok(node);
            }
            // Names are sorted.
            name < wanted
        })?;
        found
    }

    pub(crate) fn list(
        &self,
        dir: u64,
        cookie: u64,
        emit: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<()> {
        let l = self.listing(dir)?;
        let start = self.start(&l, |byte, _| byte <= cookie)?;
        self.entries(&l, start, |name, _, ino, kind, next| {
            // What ends at the cookie or before was handed out.
            next <= cookie || !crate::is_name(name) || emit(&Entry { name, ino, kind, next })
        })
    }
}
