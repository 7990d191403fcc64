//! The allocation table: which clusters belong to a file.

use std::sync::{Arc, Mutex, PoisonError};

use uml_abi::Result;
use uml_abi::errno::EIO;
use uml_store::bytes::{rd16, rd32};

use crate::vfat::Vfat;
use crate::vfat::boot::Width;

/// Remembered runs of one file.
const RUNS: usize = 1 << 15;
/// Bytes of the table read at once to count free clusters.
const PIECE: u64 = 96 << 10;

/// Clusters that lie one after another.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Number of the first in the file.
    index: u32,
    cluster: u32,
    len: u32,
}

/// Runs from the start of a file, as far as anybody came.
#[derive(Default)]
pub(crate) struct Chain(Mutex<Vec<Run>>);

/// What an entry of the table says.
enum Next {
    Cluster(u32),
    End,
}

impl Vfat {
    fn next(&self, cluster: u32) -> Result<Next> {
        let n = u64::from(cluster);
        let mut b = [0; 4];
        let value = match self.layout.width {
            Width::Fat12 => {
                self.disk.peek(self.layout.table + n * 3 / 2, &mut b[..2])?;
                let v = u32::from(rd16(&b, 0));
                if n % 2 == 0 { v & 0xfff } else { v >> 4 }
            }
            Width::Fat16 => {
                self.disk.peek(self.layout.table + n * 2, &mut b[..2])?;
                rd16(&b, 0).into()
            }
            Width::Fat32 => {
                self.disk.peek(self.layout.table + n * 4, &mut b)?;
                rd32(&b, 0) & 0x0fff_ffff
            }
        };
        if value > self.layout.width.limit() {
            return Ok(Next::End);
        }
        self.valid(value).map(Next::Cluster)
    }

    /// `EIO` for numbers that no cluster has.
    pub(crate) fn valid(&self, cluster: u32) -> Result<u32> {
        let fits = cluster >= 2 && cluster - 2 < self.layout.clusters;
        if fits { Ok(cluster) } else { Err(EIO) }
    }

    /// Position of a cluster.
    pub(crate) fn position(&self, cluster: u32) -> u64 {
        self.layout.data + u64::from(cluster - 2) * self.layout.cluster
    }

    /// Cluster `index` of the chain that starts at `first`, and how many follow it without a gap, at most `most` in all;
    /// `None` behind the end.
    pub(crate) fn cluster(&self, first: u32, index: u32, most: u32) -> Result<Option<(u32, u32)>> {
        if index >= self.layout.clusters {
            // The chain would come back to itself.
            return Err(EIO);
        }
        let chain =
            self.chains.get_or(first, || Ok::<_, uml_abi::Errno>(Arc::<Chain>::default()))?;
        let mut runs = chain.0.lock().unwrap_or_else(PoisonError::into_inner);
        if runs.is_empty() {
            runs.push(Run { index: 0, cluster: self.valid(first)?, len: 1 });
        }
        let known = runs.partition_point(|r| r.index <= index);
        let mut run = *known.checked_sub(1).and_then(|k| runs.get(k)).ok_or(EIO)?;
        let last = known == runs.len();
        let wanted = index.saturating_add(most.max(1)).min(self.layout.clusters);
        // Only the last run can be longer than is known.
        while last && run.index + run.len < wanted {
            let c = match self.next(run.cluster + (run.len - 1)) {
                Ok(Next::Cluster(c)) => c,
                Ok(Next::End) => break,
                // What is wanted comes before the damage.
                Err(_) if index < run.index + run.len => break,
                Err(e) => return Err(e),
            };
            if c == run.cluster + run.len {
                run.len += 1;
            } else if index < run.index + run.len {
                break;
            } else {
                self.keep(&mut runs, run);
                run = Run { index: run.index + run.len, cluster: c, len: 1 };
            }
        }
        if last {
            self.keep(&mut runs, run);
        }
        let at = index - run.index;
        if at >= run.len {
            return Ok(None);
        }
        Ok(Some((run.cluster + at, (run.len - at).min(most.max(1)))))
    }

    /// Remembers what is known of a run.
    fn keep(&self, runs: &mut Vec<Run>, run: Run) {
        let room = runs.len() < RUNS;
        match runs.last_mut() {
            Some(r) if r.index == run.index => *r = run,
            Some(r) if r.index + r.len == run.index && room => runs.push(run),
            _ => {}
        }
    }

    /// Free clusters, counted in the table.
    pub(crate) fn free(&self) -> Result<u32> {
        let bits = self.layout.width.bits();
        let entries = u64::from(self.layout.clusters) + 2;
        let bytes = (entries * bits).div_ceil(8);
        let (mut free, mut n) = (0, 0);
        let mut at = 0;
        let mut piece = vec![0; PIECE.min(bytes) as usize];
        while at < bytes {
            // A multiple of three, so that no entry is cut.
            let len = PIECE.min(bytes - at) as usize;
            self.disk.read(self.layout.table + at, &mut piece[..len])?;
            let b = &piece[..len];
            let here = (len as u64 * 8 / bits) as usize;
            for i in 0..here {
                let used = match self.layout.width {
                    Width::Fat12 => {
                        let v = rd16(b, i * 3 / 2);
                        if i % 2 == 0 { v & 0xfff != 0 } else { v >> 4 != 0 }
                    }
                    Width::Fat16 => rd16(b, i * 2) != 0,
                    Width::Fat32 => rd32(b, i * 4) & 0x0fff_ffff != 0,
                };
                if !used && n >= 2 && n < entries {
                    free += 1;
                }
                n += 1;
            }
            at += len as u64;
        }
        Ok(free)
    }
}
