//! Replaying the log: find its end, collect revokes, write blocks home.

use std::collections::{BTreeMap, HashMap};

use uml_abi::Result;

use super::Journal;
use super::format::{self, Checksums, HEADER, Tag};
use crate::bytes::{rd8, rdbe32, wrbe32};
use crate::crc::crc32_be;
use crate::error::MountError;
use uml_store::BlockStore;

/// What a replay did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// Complete transactions found.
    pub transactions: u32,
    /// Blocks written to their home.
    pub blocks: u64,
    /// Copies not written because the block was freed later.
    pub revoked: u64,
    /// Fast-commit records applied.
    pub fast_commits: u32,
}

/// A log block that is to be written home: newest copy only.
struct Copy {
    jblk: u32,
    tag: Tag,
    sequence: u32,
}

struct Scan {
    /// First sequence number that is not committed.
    end: u32,
    copies: Vec<(u64, Copy)>,
    revokes: HashMap<u64, u32>,
}

impl Journal {
    fn read_block(&self, store: &dyn BlockStore, n: u32) -> Result<Vec<u8>> {
        let at = self.offset(n).ok_or(uml_abi::errno::EIO)?;
        let mut b = vec![0; self.block_size()];
        store.read_at(at, &mut b)?;
        Ok(b)
    }

    /// Reads the log from its start to the last complete transaction.
    fn scan(&self, store: &dyn BlockStore) -> Result<Scan> {
        let mut out = Scan { end: self.sequence(), copies: Vec::new(), revokes: HashMap::new() };
        let (mut at, mut left) = (self.start(), self.ring());
        let mut sequence = out.end;
        // Of the transaction being read; kept when its commit block is good.
        let mut copies: Vec<(u64, Copy)> = Vec::new();
        let mut revokes: Vec<u64> = Vec::new();
        let mut v1 = !0u32;
        while left > 0 {
            let b = self.read_block(store, at)?;
            let Some((kind, seq)) = format::header(&b) else { break };
            if seq != sequence {
                break;
            }
            at = self.next(at);
            left -= 1;
            match kind {
                format::DESCRIPTOR => {
                    if !self.tail_good(&b) {
                        break;
                    }
                    if self.checksums == Checksums::V1 {
                        v1 = crc32_be(v1, &b);
                    }
                    let tags = format::tags(&b, self.checksums, self.bit64);
                    if tags.len() > left as usize {
                        break;
                    }
                    for tag in tags {
                        if self.checksums == Checksums::V1 {
                            v1 = crc32_be(v1, &self.read_block(store, at)?);
                        }
                        copies.push((tag.block, Copy { jblk: at, tag, sequence }));
                        at = self.next(at);
                        left -= 1;
                    }
                }
                format::REVOKE => {
                    if !self.tail_good(&b) {
                        break;
                    }
                    let size = if self.bit64 { 8 } else { 4 };
                    let end = (rdbe32(&b, HEADER) as usize).min(b.len() - self.checksums.tail());
                    let mut p = HEADER + 4;
                    while p + size <= end {
                        let lo = u64::from(rdbe32(&b, p));
                        revokes.push(if self.bit64 {
                            lo << 32 | u64::from(rdbe32(&b, p + 4))
                        } else {
                            lo
                        });
                        p += size;
                    }
                }
                format::COMMIT => {
                    if !self.commit_good(&b, v1) {
                        break;
                    }
                    out.copies.append(&mut copies);
                    for r in revokes.drain(..) {
                        out.revokes.insert(r, sequence);
                    }
                    v1 = !0;
                    sequence = sequence.wrapping_add(1);
                    out.end = sequence;
                }
                _ => break,
            }
        }
        Ok(out)
    }

    fn tail_good(&self, b: &[u8]) -> bool {
        !self.checksums.modern() || rdbe32(b, b.len() - 4) == format::tail_csum(self.seed(), b)
    }

    fn commit_good(&self, b: &[u8], v1: u32) -> bool {
        match self.checksums {
            Checksums::None => true,
            Checksums::V1 => {
                let (kind, size, found) = (rd8(b, 0xc), rd8(b, 0xd), rdbe32(b, 0x10));
                (kind == 1 && size == 4 && found == v1) || (kind == 0 && size == 0 && found == 0)
            }
            _ => rdbe32(b, 0x10) == format::commit_csum(self.seed(), b),
        }
    }

    /// Replays the log into `target` (usually the same store) and flushes it.
    /// The log itself is left as it is. Returns the report and the number of
    /// the first transaction after the log.
    pub(crate) fn replay(
        &self,
        store: &dyn BlockStore,
        target: &dyn BlockStore,
        blocks_count: u64,
    ) -> Result<(ReplayReport, u32), MountError> {
        if self.start() == 0 {
            return Ok((ReplayReport::default(), self.sequence()));
        }
        let scan = self.scan(store)?;
        let mut report = ReplayReport {
            transactions: scan.end.wrapping_sub(self.sequence()),
            ..ReplayReport::default()
        };
        let mut home: BTreeMap<u64, Copy> = BTreeMap::new();
        for (block, copy) in scan.copies {
            let dead = scan.revokes.get(&block).is_some_and(|r| format::tid_geq(*r, copy.sequence));
            if dead {
                report.revoked += 1;
            } else {
                home.insert(block, copy);
            }
        }
        let bits = self.block_bits;
        for (block, copy) in home {
            if block >= blocks_count {
                return Err(MountError::Journal(format!("copy of block {block}, past the end")));
            }
            let mut b = self.read_block(store, copy.jblk)?;
            if !self.data_good(&copy, &b) {
                return Err(MountError::Journal(format!(
                    "copy of block {block} in transaction {}: checksum does not match",
                    copy.sequence
                )));
            }
            if copy.tag.flags & format::TAG_ESCAPED != 0 {
                wrbe32(&mut b, 0, format::MAGIC);
            }
            target.write_at(block << bits, &b)?;
            report.blocks += 1;
        }
        target.flush()?;
        Ok((report, scan.end))
    }

    fn data_good(&self, c: &Copy, b: &[u8]) -> bool {
        let want = || format::data_csum(self.seed(), c.sequence, b);
        match self.checksums {
            Checksums::V2 => want() as u16 == c.tag.csum as u16,
            Checksums::V3 => want() == c.tag.csum,
            _ => true,
        }
    }
}
