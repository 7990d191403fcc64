//! Inodes.

use uml_abi::Result;
use uml_abi::errno::EIO;
use uml_store::bytes::{rd16, rd32, rd64};

use crate::squashfs::Squashfs;
use crate::squashfs::meta::Place;
use crate::{Attr, Timestamp, kind};

/// No fragment, or no extended attributes.
pub(crate) const NONE: u32 = u32::MAX;

/// An inode's own part.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body {
    Dir(Listing),
    File(File),
    /// Target's place and length.
    Link(Place, usize),
    Other,
}

/// Where a directory's entries are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listing {
    pub start: Place,
    /// Bytes.
    pub len: u64,
    /// Where the index is, and its entries.
    pub index: (Place, u16),
}

/// Where a file's contents are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct File {
    /// Position of the first block.
    pub start: u64,
    pub size: u64,
    /// Place of the list of block sizes.
    pub list: Place,
    /// Fragment and byte in it where the last part is.
    pub tail: Option<(u32, u32)>,
}

/// An inode as parsed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inode {
    pub attr: Attr,
    pub body: Body,
    pub xattr: u32,
}

/// Major and minor number (`new_encode_dev` of Linux).
fn device(n: u32) -> (u32, u32) {
    ((n & 0xfff00) >> 8, (n & 0xff) | ((n >> 12) & 0xfff00))
}

impl Squashfs {
    pub(crate) fn inode(&self, node: u64) -> Result<Inode> {
        self.inodes.get_or(node, || self.parse(node))
    }

    fn parse(&self, node: u64) -> Result<Inode> {
        let m = &self.meta;
        let mut p = Place::of(self.sb.inodes_at, node)?;
        let h: [u8; 16] = m.array(&mut p)?;
        let number = rd16(&h, 0);
        let id = |at| -> Result<u32> {
            let n = rd16(&h, at);
            if n >= self.sb.ids {
                return Err(EIO);
            }
            Ok(u32::from_le_bytes(m.entry(self.sb.ids_at, n.into())?))
        };
        let time = Timestamp::seconds(rd32(&h, 8).into());
        let mut attr = Attr {
            ino: rd32(&h, 12).into(),
            uid: id(4)?,
            gid: id(6)?,
            io_size: 1024,
            atime: time,
            mtime: time,
            ctime: time,
            ..Attr::default()
        };
        let mut xattr = NONE;
        let of_type;
        let body = match number {
            1 | 8 => {
                of_type = kind::DIR;
                let (block, links, size, at, index);
                if number == 1 {
                    let b: [u8; 16] = m.array(&mut p)?;
                    (block, links, size, at, index) =
                        (rd32(&b, 0), rd32(&b, 4), u32::from(rd16(&b, 8)), rd16(&b, 10), 0);
                } else {
                    let b: [u8; 24] = m.array(&mut p)?;
                    (links, size, block) = (rd32(&b, 0), rd32(&b, 4), rd32(&b, 8));
                    (index, at, xattr) = (rd16(&b, 16), rd16(&b, 18), rd32(&b, 20));
                }
                (attr.links, attr.size) = (links, size.into());
                let start = self.sb.directories_at.checked_add(block.into()).ok_or(EIO)?;
                Body::Dir(Listing {
                    start: Place { block: start, at: at.into() },
                    // The size counts three bytes for the dots.
                    len: u64::from(size).saturating_sub(3),
                    index: (p, index),
                })
            }
            2 | 9 => {
                of_type = kind::REG;
                let (start, size, fragment, at, sparse);
                if number == 2 {
                    let b: [u8; 16] = m.array(&mut p)?;
                    (start, fragment, at) = (rd32(&b, 0).into(), rd32(&b, 4), rd32(&b, 8));
                    (size, sparse, attr.links) = (rd32(&b, 12).into(), 0, 1);
                } else {
                    let b: [u8; 40] = m.array(&mut p)?;
                    (start, size, sparse) = (rd64(&b, 0), rd64(&b, 8), rd64(&b, 16));
                    (attr.links, fragment, at, xattr) =
                        (rd32(&b, 24), rd32(&b, 28), rd32(&b, 32), rd32(&b, 36));
                }
                if size > i64::MAX as u64 {
                    return Err(EIO);
                }
                attr.size = size;
                attr.sectors = size.saturating_sub(sparse).div_ceil(512);
                let tail = (fragment != NONE).then_some((fragment, at));
                Body::File(File { start, size, list: p, tail })
            }
            3 | 10 => {
                of_type = kind::LNK;
                let b: [u8; 8] = m.array(&mut p)?;
                (attr.links, attr.size) = (rd32(&b, 0), rd32(&b, 4).into());
                let len = crate::size(attr.size)?;
                if len > crate::LINK_MAX {
                    return Err(EIO);
                }
                let text = p;
                if number == 10 {
                    m.skip(&mut p, len as u64)?;
                    xattr = u32::from_le_bytes(m.array(&mut p)?);
                }
                Body::Link(text, len)
            }
            4 | 5 | 11 | 12 => {
                of_type = if matches!(number, 4 | 11) { kind::BLK } else { kind::CHR };
                let b: [u8; 8] = m.array(&mut p)?;
                (attr.links, attr.rdev) = (rd32(&b, 0), device(rd32(&b, 4)));
                if number > 7 {
                    xattr = u32::from_le_bytes(m.array(&mut p)?);
                }
                Body::Other
            }
            6 | 7 | 13 | 14 => {
                of_type = if matches!(number, 6 | 13) { kind::FIFO } else { kind::SOCK };
                attr.links = u32::from_le_bytes(m.array(&mut p)?);
                if number > 7 {
                    xattr = u32::from_le_bytes(m.array(&mut p)?);
                }
                Body::Other
            }
            _ => return Err(EIO),
        };
        attr.mode = of_type | u32::from(rd16(&h, 2)) & 0o7777;
        Ok(Inode { attr, body, xattr })
    }
}
