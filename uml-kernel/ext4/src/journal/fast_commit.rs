//! Fast commits: reading the records that the stock kernel leaves behind.
//!
//! The area holds little-endian records (tag, length, value) that describe
//! changes since the last full commit. They are read here and applied by
//! [`crate::ops::fast_replay`]; this engine writes none.

use uml_abi::Result;

use super::Journal;
use crate::bytes::{rd16, rd32, slice};
use crate::crc::crc32c;
use uml_store::BlockStore;

const ADD_RANGE: u16 = 1;
const DEL_RANGE: u16 = 2;
const CREAT: u16 = 3;
const LINK: u16 = 4;
const UNLINK: u16 = 5;
const INODE: u16 = 6;
const PAD: u16 = 7;
const TAIL: u16 = 8;
const HEAD: u16 = 9;

/// One change to apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// An extent exists: the 12 bytes of its on-disk form.
    AddRange { ino: u32, extent: [u8; 12] },
    /// Logical blocks are a hole.
    DelRange { ino: u32, lblk: u32, len: u32 },
    /// A name exists; `created` when its inode is new.
    Link { parent: u32, ino: u32, name: Vec<u8>, created: bool },
    /// A name does not exist.
    Unlink { parent: u32, ino: u32, name: Vec<u8> },
    /// An inode's on-disk form (its first `raw.len()` bytes).
    Inode { ino: u32, raw: Vec<u8> },
}

fn parse(tag: u16, v: &[u8]) -> Option<Record> {
    match tag {
        ADD_RANGE => {
            Some(Record::AddRange { ino: rd32(v, 0), extent: slice(v, 4, 12).try_into().ok()? })
        }
        DEL_RANGE if v.len() >= 12 => {
            Some(Record::DelRange { ino: rd32(v, 0), lblk: rd32(v, 4), len: rd32(v, 8) })
        }
        CREAT | LINK | UNLINK if v.len() > 8 => {
            let (parent, ino, name) = (rd32(v, 0), rd32(v, 4), v.get(8..)?.to_vec());
            crate::dir::check_name(&name).ok()?;
            Some(if tag == UNLINK {
                Record::Unlink { parent, ino, name }
            } else {
                Record::Link { parent, ino, name, created: tag == CREAT }
            })
        }
        INODE if v.len() >= 4 + 128 => {
            Some(Record::Inode { ino: rd32(v, 0), raw: v.get(4..)?.to_vec() })
        }
        _ => None,
    }
}

impl Journal {
    /// The records that follow transaction `expected - 1`; empty when the area
    /// belongs to an older transaction or was not finished.
    pub(crate) fn fast_commits(
        &self,
        store: &dyn BlockStore,
        expected: u32,
    ) -> Result<Vec<Record>> {
        let mut good = Vec::new();
        if !self.has_fast_commit() {
            return Ok(good);
        }
        // Records since the last tail count only when their tail is sound.
        let mut open: Vec<Record> = Vec::new();
        let mut crc = 0u32;
        let mut started = false;
        let bs = self.block_size();
        'area: for jblk in self.fast_commit_area() {
            let Some(off) = self.offset(jblk) else { break };
            let mut b = vec![0; bs];
            store.read_at(off, &mut b)?;
            let mut at = 0;
            while at + 4 <= bs {
                let (tag, len) = (rd16(&b, at), usize::from(rd16(&b, at + 2)));
                let end = at + 4 + len;
                if end > bs || !(ADD_RANGE..=HEAD).contains(&tag) || (!started && tag != HEAD) {
                    break 'area;
                }
                let v = slice(&b, at + 4, len);
                match tag {
                    HEAD => {
                        // The features word is for extensions; none exist.
                        if len < 8 || rd32(v, 0) != 0 || rd32(v, 4) != expected {
                            break 'area;
                        }
                        started = true;
                        crc = crc32c(crc, slice(&b, at, 4 + len));
                    }
                    TAIL => {
                        // The checksum covers the tail up to itself.
                        crc = crc32c(crc, slice(&b, at, 8));
                        if len < 8 || rd32(v, 0) != expected || rd32(v, 4) != crc {
                            break 'area;
                        }
                        good.append(&mut open);
                        crc = 0;
                        // A tail ends its block.
                        break;
                    }
                    PAD => crc = crc32c(crc, slice(&b, at, 4 + len)),
                    _ => {
                        let Some(r) = parse(tag, v) else { break 'area };
                        open.push(r);
                        crc = crc32c(crc, slice(&b, at, 4 + len));
                    }
                }
                at = end;
            }
        }
        Ok(good)
    }
}
