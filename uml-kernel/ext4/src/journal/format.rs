//! Structures of the log.

use crate::bytes::{rdbe16, rdbe32};
use crate::crc::crc32c;

pub(crate) const MAGIC: u32 = 0xc03b_3998;
pub(crate) const JSB_SIZE: usize = 1024;
/// Bytes of the header every log block starts with.
pub(crate) const HEADER: usize = 12;

/// Block types.
pub(crate) const DESCRIPTOR: u32 = 1;
pub(crate) const COMMIT: u32 = 2;
pub(crate) const SUPER_V1: u32 = 3;
pub(crate) const SUPER_V2: u32 = 4;
pub(crate) const REVOKE: u32 = 5;

pub(crate) const COMPAT_CHECKSUM: u32 = 1;
pub(crate) const INCOMPAT_REVOKE: u32 = 1;
pub(crate) const INCOMPAT_64BIT: u32 = 2;
pub(crate) const INCOMPAT_ASYNC_COMMIT: u32 = 4;
pub(crate) const INCOMPAT_CSUM_V2: u32 = 8;
pub(crate) const INCOMPAT_CSUM_V3: u32 = 0x10;
pub(crate) const INCOMPAT_FAST_COMMIT: u32 = 0x20;
pub(crate) const INCOMPAT_KNOWN: u32 = 0x3f;

/// Length of the fast-commit area when the superblock does not say.
pub(crate) const FAST_COMMIT_BLOCKS: u32 = 256;

/// Tag flags.
pub(crate) const TAG_ESCAPED: u32 = 1;
pub(crate) const TAG_SAME_UUID: u32 = 2;
pub(crate) const TAG_LAST: u32 = 8;

/// Which of the four checksum arrangements the log uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksums {
    None,
    /// CRC-32 over the whole transaction in the commit block.
    V1,
    /// CRC-32C per block, 16 bits per tag.
    V2,
    /// CRC-32C per block, 32 bits per tag.
    V3,
}

impl Checksums {
    pub(crate) fn from_features(compat: u32, incompat: u32) -> Result<Checksums, String> {
        let v1 = compat & COMPAT_CHECKSUM != 0;
        let v2 = incompat & INCOMPAT_CSUM_V2 != 0;
        let v3 = incompat & INCOMPAT_CSUM_V3 != 0;
        match (v1, v2, v3) {
            (_, true, true) | (true, true, _) | (true, _, true) => {
                Err("more than one checksum format".into())
            }
            (true, ..) => Ok(Checksums::V1),
            (_, true, _) => Ok(Checksums::V2),
            (_, _, true) => Ok(Checksums::V3),
            _ => Ok(Checksums::None),
        }
    }

    /// CRC-32C in every log block.
    pub(crate) fn modern(self) -> bool {
        matches!(self, Checksums::V2 | Checksums::V3)
    }

    /// Bytes at the end of descriptor and revoke blocks that hold a checksum.
    pub(crate) fn tail(self) -> usize {
        if self.modern() { 4 } else { 0 }
    }
}

pub(crate) fn jsb_csum(s: &[u8]) -> u32 {
    let c = crc32c(!0, s.get(..0xfc).unwrap_or(&[]));
    let c = crc32c(c, &[0; 4]);
    crc32c(c, s.get(0x100..).unwrap_or(&[]))
}

/// Type and sequence of a log block, when it is one.
pub(crate) fn header(b: &[u8]) -> Option<(u32, u32)> {
    (rdbe32(b, 0) == MAGIC).then(|| (rdbe32(b, 4), rdbe32(b, 8)))
}

/// Bytes of a tag without the UUID that may follow.
pub(crate) fn tag_bytes(c: Checksums, bit64: bool) -> usize {
    match c {
        Checksums::V3 => 16,
        Checksums::V2 => {
            if bit64 {
                14
            } else {
                10
            }
        }
        _ => {
            if bit64 {
                12
            } else {
                8
            }
        }
    }
}

/// One tag of a descriptor block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tag {
    pub(crate) block: u64,
    pub(crate) flags: u32,
    pub(crate) csum: u32,
}

/// All tags of a descriptor block.
pub(crate) fn tags(b: &[u8], c: Checksums, bit64: bool) -> Vec<Tag> {
    let size = tag_bytes(c, bit64);
    let end = b.len() - c.tail();
    let mut at = HEADER;
    let mut out = Vec::new();
    while at + size <= end {
        let low = u64::from(rdbe32(b, at));
        let (flags, csum, high) = if c == Checksums::V3 {
            (rdbe32(b, at + 4), rdbe32(b, at + 12), rdbe32(b, at + 8))
        } else {
            let high = if bit64 { rdbe32(b, at + 8) } else { 0 };
            (rdbe16(b, at + 6).into(), rdbe16(b, at + 4).into(), high)
        };
        let high = if bit64 { u64::from(high) << 32 } else { 0 };
        out.push(Tag { block: low | high, flags, csum });
        at += size;
        if flags & TAG_SAME_UUID == 0 {
            at += 16;
        }
        if flags & TAG_LAST != 0 {
            break;
        }
    }
    out
}

/// Checksum in the tail of a descriptor or revoke block.
pub(crate) fn tail_csum(seed: u32, b: &[u8]) -> u32 {
    crc32c(crc32c(seed, b.get(..b.len() - 4).unwrap_or(&[])), &[0; 4])
}

/// Checksum of a commit block.
pub(crate) fn commit_csum(seed: u32, b: &[u8]) -> u32 {
    let c = crc32c(seed, b.get(..0x10).unwrap_or(&[]));
    let c = crc32c(c, &[0; 4]);
    crc32c(c, b.get(0x14..).unwrap_or(&[]))
}

/// Checksum of a data block of the log (as written, escaped).
pub(crate) fn data_csum(seed: u32, sequence: u32, b: &[u8]) -> u32 {
    crc32c(crc32c(seed, &sequence.to_be_bytes()), b)
}

/// Whether transaction `a` is `b` or later (numbers wrap).
pub(crate) fn tid_geq(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 >= 0
}
