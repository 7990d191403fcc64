//! Directory records (ECMA-119, 9.1).

use uml_abi::Result;
use uml_abi::errno::EIO;
use uml_store::bytes::{rd8, rd32, slice};

use crate::date::{self, Timestamp};

/// File flags.
pub(crate) const HIDDEN: u8 = 1;
pub(crate) const DIRECTORY: u8 = 2;
pub(crate) const ASSOCIATED: u8 = 4;
pub(crate) const CONTINUED: u8 = 0x80;
/// Bytes before the name.
const FIXED: usize = 33;

/// A record as parsed.
pub(crate) struct Record {
    /// Bytes of the record.
    pub len: usize,
    /// First block of the contents.
    pub block: u64,
    /// Bytes of the contents.
    pub size: u32,
    pub time: Timestamp,
    pub flags: u8,
    pub name: Vec<u8>,
    /// The system use area.
    pub area: Vec<u8>,
}

/// A date of seven bytes: years since 1900 to seconds, and the zone in quarters of an hour.
pub(crate) fn short_date(b: &[u8]) -> Timestamp {
    let n = |i| i64::from(rd8(b, i));
    let t = date::seconds(1900 + n(0), n(1).max(1), n(2).max(1), n(3), n(4), n(5));
    Timestamp::seconds(t - zone(rd8(b, 6)))
}

/// Seconds east of Greenwich; impossible zones are none.
pub(crate) fn zone(quarters: u8) -> i64 {
    let q = i64::from(quarters as i8);
    if (-52..=52).contains(&q) { q * 15 * 60 } else { 0 }
}

impl Record {
    /// The record at the start of `b`, of which the first byte is its length.
    pub(crate) fn parse(b: &[u8]) -> Result<Record> {
        let len = usize::from(rd8(b, 0));
        let n = usize::from(rd8(b, 32));
        if len < FIXED + 1 || len > b.len() || FIXED + n > len {
            return Err(EIO);
        }
        // The area starts at an even byte.
        let area = (FIXED + n).next_multiple_of(2).min(len);
        Ok(Record {
            len,
            block: u64::from(rd32(b, 2)) + u64::from(rd8(b, 1)),
            size: rd32(b, 10),
            time: short_date(slice(b, 18, 7)),
            flags: rd8(b, 25),
            name: slice(b, FIXED, n).to_vec(),
            area: slice(b, area, len - area).to_vec(),
        })
    }

    /// `.` or `..`.
    pub(crate) fn is_dots(&self) -> bool {
        matches!(self.name[..], [0 | 1])
    }
}
