//! Extended attributes: in the inode, in one shared block, and (`ea_inode`)
//! values in inodes of their own.

pub(crate) mod acl;
mod read;
mod write;

pub(crate) use read::{inline_value, load, stored_value};
pub(crate) use write::{inline_room, release_all, save, set_inline_value};

use uml_abi::Result;
use uml_abi::errno::EOPNOTSUPP;

use crate::bytes::{rd32, wr32};
use crate::crc::crc32c;
use crate::layout::Layout;

const MAGIC: u32 = 0xea02_0000;
/// Bytes of the header of an attribute block.
const BLOCK_HEADER: usize = 32;
/// Bytes of an entry before its name.
const ENTRY: usize = 16;
/// Longest value (xattr(7): XATTR_SIZE_MAX).
pub const VALUE_MAX: usize = 65536;

/// Attribute name space numbers on disk.
pub(crate) mod index {
    pub(crate) const USER: u8 = 1;
    pub(crate) const ACL_ACCESS: u8 = 2;
    pub(crate) const ACL_DEFAULT: u8 = 3;
    pub(crate) const TRUSTED: u8 = 4;
    pub(crate) const SECURITY: u8 = 6;
    pub(crate) const SYSTEM: u8 = 7;
}

const PREFIXES: &[(u8, &[u8])] = &[
    (index::USER, b"user."),
    (index::TRUSTED, b"trusted."),
    (index::SECURITY, b"security."),
    (index::SYSTEM, b"system."),
];

/// Splits a full attribute name into number and rest. `EOPNOTSUPP` for a name
/// space that does not exist (xattr(7)).
pub(crate) fn split_name(name: &[u8]) -> Result<(u8, &[u8])> {
    match name {
        b"system.posix_acl_access" => return Ok((index::ACL_ACCESS, b"")),
        b"system.posix_acl_default" => return Ok((index::ACL_DEFAULT, b"")),
        _ => {}
    }
    for (i, p) in PREFIXES {
        if *i != index::SYSTEM {
            if let Some(rest) = name.strip_prefix(*p) {
                return Ok((*i, rest));
            }
        }
    }
    Err(EOPNOTSUPP)
}

/// The full name; `None` for name spaces that are not shown to users.
pub(crate) fn full_name(i: u8, rest: &[u8]) -> Option<Vec<u8>> {
    match i {
        index::ACL_ACCESS => Some(b"system.posix_acl_access".to_vec()),
        index::ACL_DEFAULT => Some(b"system.posix_acl_default".to_vec()),
        index::SYSTEM => None,
        _ => PREFIXES.iter().find(|(n, _)| *n == i).map(|(_, p)| [*p, rest].concat()),
    }
}

/// A value, or where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Bytes(Vec<u8>),
    /// In an `ea_inode`.
    Inode {
        ino: u32,
        size: u32,
        /// The entry's stored hash.
        hash: u32,
    },
}

/// One attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attribute {
    pub(crate) index: u8,
    pub(crate) name: Vec<u8>,
    pub(crate) value: Value,
}

/// All attributes of an inode, by where they were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) body: Vec<Attribute>,
    pub(crate) block: Vec<Attribute>,
}

impl Set {
    pub(crate) fn find(&self, index: u8, name: &[u8]) -> Option<&Attribute> {
        self.body.iter().chain(&self.block).find(|a| a.index == index && a.name == name)
    }
}

/// Hash of a name and the words of its value, as entries store it.
fn entry_hash(name: &[u8], value: &[u8]) -> u32 {
    let mut h = name.iter().fold(0u32, |h, &c| h.rotate_left(5) ^ u32::from(c));
    for w in value.chunks(4) {
        let mut b = [0u8; 4];
        b[..w.len()].copy_from_slice(w);
        h = h.rotate_left(16) ^ u32::from_le_bytes(b);
    }
    h
}

/// Checksum of an attribute block.
fn block_csum(lay: &Layout, nr: u64, b: &[u8]) -> u32 {
    let mut c = crc32c(lay.csum_seed, &nr.to_le_bytes());
    c = crc32c(c, b.get(..0x10).unwrap_or(&[]));
    c = crc32c(c, &[0; 4]);
    crc32c(c, b.get(0x14..).unwrap_or(&[]))
}

fn set_block_csum(lay: &Layout, nr: u64, b: &mut [u8]) {
    if lay.metadata_csum() {
        let c = block_csum(lay, nr, b);
        wr32(b, 0x10, c);
    }
}

fn block_refs(b: &[u8]) -> u32 {
    rd32(b, 4)
}
