//! What the superblock tells of errors that were found, since the filesystem was last checked.

use uml_abi::Result;
use uml_abi::errno::EIO;

use crate::bytes::{rd8, rd16, rd32, rd64, wr16, wr32};
use crate::error::{FsError, Unrecorded};
use crate::fs::Ext4;
use crate::inode::Timestamp;
use crate::layout::SB_SIZE;
use crate::meta::MetaRead;
use crate::mount::STATE_ERRORS;

/// One error, as Documentation/filesystems/ext4/super.rst lays it out. All zeros: there was none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorRecord {
    /// When, in seconds since 1970.
    pub time: u64,
    /// The inode it was found in.
    pub ino: u32,
    /// The block it was found in.
    pub block: u64,
    /// What was being done; Linux has the name of a function here.
    pub func: Vec<u8>,
    /// A line of Linux' source.
    pub line: u32,
    /// Kind of error, numbered as on Linux (2: EIO, 5: EFSCORRUPTED...).
    pub code: u8,
}

/// Where the superblock counts errors.
const COUNT: usize = 0x194;

/// Offsets of the fields of one record.
struct Places {
    time: usize,
    time_hi: usize,
    ino: usize,
    block: usize,
    func: usize,
    line: usize,
    code: usize,
}

const FIRST: Places = Places {
    time: 0x198,
    time_hi: 0x278,
    ino: 0x19c,
    block: 0x1a0,
    func: 0x1a8,
    line: 0x1c8,
    code: 0x27a,
};
const LAST: Places = Places {
    time: 0x1cc,
    time_hi: 0x279,
    ino: 0x1d0,
    block: 0x1d8,
    func: 0x1e0,
    line: 0x1d4,
    code: 0x27b,
};

fn read(sb: &[u8], at: &Places) -> ErrorRecord {
    let func = sb.get(at.func..at.func + 32).unwrap_or_default();
    ErrorRecord {
        time: u64::from(rd32(sb, at.time)) | u64::from(rd8(sb, at.time_hi)) << 32,
        ino: rd32(sb, at.ino),
        block: rd64(sb, at.block),
        func: func.iter().copied().take_while(|b| *b != 0).collect(),
        line: rd32(sb, at.line),
        code: rd8(sb, at.code),
    }
}

fn write(sb: &mut [u8], at: &Places, err: &FsError, now: Timestamp) {
    let mut func: Vec<u8> = err.what.bytes().take(31).collect();
    func.resize(32, 0);
    let fields: [(usize, &[u8]); 7] = [
        (at.time, &(now.sec as u32).to_le_bytes()),
        (at.time_hi, &[(now.sec >> 32) as u8]),
        (at.ino, &err.ino.to_le_bytes()),
        (at.block, &err.block.to_le_bytes()),
        (at.func, &func),
        (at.line, &[0; 4]),
        (at.code, &[err.code()]),
    ];
    for (at, bytes) in fields {
        if let Some(d) = sb.get_mut(at..at + bytes.len()) {
            d.copy_from_slice(bytes);
        }
    }
}

/// Records errors in the bytes of a superblock.
pub(crate) fn record(sb: &mut [u8], errors: &Unrecorded, now: Timestamp) {
    let before = rd32(sb, COUNT);
    wr32(sb, COUNT, before.saturating_add(errors.count));
    let state = rd16(sb, 0x3a) | STATE_ERRORS;
    wr16(sb, 0x3a, state);
    if before == 0 {
        write(sb, &FIRST, &errors.first, now);
    }
    write(sb, &LAST, &errors.last, now);
}

impl Ext4 {
    /// How many errors were found, the first and the last of them.
    pub fn errors_found(&self) -> Result<(u32, ErrorRecord, ErrorRecord)> {
        self.view(|v| {
            let (block, off) = v.core().lay.sb_place();
            let raw = v.block(block)?;
            let mut sb = raw.get(off..off + SB_SIZE).ok_or(EIO)?.to_vec();
            if let Some(more) = v.core().errors.pending() {
                record(&mut sb, &more, (self.opts.clock)());
            }
            Ok((rd32(&sb, COUNT), read(&sb, &FIRST), read(&sb, &LAST)))
        })
    }

    /// Blocks promised to data that has no place yet (delayed allocation).
    pub fn promised_blocks(&self) -> u64 {
        self.read_state().reserved
    }
}
