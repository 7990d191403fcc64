//! Writing committed blocks home and giving the log's space back.

use uml_abi::Result;

use super::Journal;
use crate::cache::Buf;
use crate::meta::Core;

/// Largest single write of neighbouring blocks.
const CHUNK: usize = 1 << 20;

/// Blocks of the log that are used before its start is used again.
const WORN: usize = 256;

/// Writes blocks home, neighbours together. Not durable when it returns.
pub(crate) fn write_home(core: &Core, blocks: &[(u64, Buf)]) -> Result<()> {
    let mut run: Vec<u8> = Vec::new();
    let mut start = 0u64;
    let per = core.lay.bs();
    for (nr, b) in blocks {
        let follows = !run.is_empty() && start + (run.len() / per) as u64 == *nr;
        if !follows || run.len() >= CHUNK {
            if !run.is_empty() {
                core.store.write_at(core.off(start), &run)?;
            }
            run.clear();
            start = *nr;
        }
        run.extend_from_slice(b);
    }
    if !run.is_empty() {
        core.store.write_at(core.off(start), &run)?;
    }
    Ok(())
}

impl Journal {
    /// Writes every committed block home and empties the log. `next` is the
    /// number the next transaction will have. Returns the blocks written.
    ///
    /// The order is what crash safety rests on: home blocks, flush, then the
    /// empty log, flush; only then may the log's blocks be overwritten.
    pub(crate) fn checkpoint(&mut self, core: &Core, next: u32) -> Result<Vec<(u64, Buf)>> {
        if self.used == 0 && self.pending.is_empty() {
            return Ok(Vec::new());
        }
        let mut blocks: Vec<(u64, Buf)> =
            self.pending.iter().map(|(n, b)| (*n, b.clone())).collect();
        blocks.sort_unstable_by_key(|(n, _)| *n);
        write_home(core, &blocks)?;
        self.flush(&core.store)?;
        self.write_super(&*core.store, 0, next)?;
        self.flush(&core.store)?;
        self.pending.clear();
        self.used = 0;
        // Nothing in the log counts any more, and what it still holds has older numbers than any transaction to come.
        self.head = self.first;
        Ok(blocks)
    }

    /// Whether most of a long log is copies of blocks that changed again: emptying it is cheap then, and the blocks it
    /// starts with can be used again. In an image file blocks that were never written cost the host a commit of its own.
    pub(crate) fn worn(&self) -> bool {
        let used = self.used as usize;
        used > WORN.min(self.ring() as usize / 4) && self.pending.len() * 4 < used
    }

    /// Bytes of committed blocks held in memory.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending.len() * self.block_size()
    }
}
