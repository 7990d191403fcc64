//! FITRIM: discarding what is free.

use uml_abi::Result;
use uml_abi::errno::{EINVAL, EROFS};

use crate::fs::Ext4;
use crate::group::{block_bitmap, next_one, next_zero, read_desc};
use crate::meta::MetaRead;
use crate::txn::Txn;

impl Ext4 {
    /// Discards free blocks inside bytes `start..start + len` of the device, in
    /// runs of at least `min` bytes; returns the bytes discarded. Blocks freed
    /// since the last commit are left. Each group's free blocks are kept from
    /// being allocated while they are discarded.
    pub fn trim(&self, start: u64, len: u64, min: u64) -> Result<u64> {
        if self.core.errors.is_read_only() {
            return Err(EROFS);
        }
        let lay = &self.core.lay;
        let bits = lay.block_bits;
        let min = (min >> bits).max(1);
        let (first, last) = (start >> bits, start.saturating_add(len) >> bits);
        if min > u64::from(lay.blocks_per_group) || first >= lay.blocks_count() || len < 1 << bits {
            return Err(EINVAL);
        }
        let mut total = 0;
        for g in 0..lay.groups() {
            let from = lay.group_first(g);
            let to = from + u64::from(lay.group_blocks(g));
            if to <= first || from >= last {
                continue;
            }
            let (lo, hi) = (first.max(from) - from, last.min(to) - from);
            let runs = self.hold_free(g, lo as u32, hi as u32, min as u32)?;
            let mut result = Ok(());
            for &(s, n) in &runs {
                if result.is_ok() {
                    result = self.core.store.discard(self.core.off(s), n << bits);
                    total += if result.is_ok() { n << bits } else { 0 };
                }
            }
            let mut st = self.write_state();
            for (s, n) in runs {
                st.release_busy(s, n);
            }
            result?;
        }
        Ok(total)
    }

    /// Takes the free runs of a group out of the allocator's sight.
    fn hold_free(&self, g: u32, lo: u32, hi: u32, min: u32) -> Result<Vec<(u64, u64)>> {
        let mut st = self.write_state();
        let tx = Txn::new(&self.core, &mut st, (self.opts.clock)());
        let d = read_desc(&tx, g)?;
        // A group that was never used holds nothing.
        if d.block_uninit(tx.lay()) || d.free_blocks < min {
            return Ok(Vec::new());
        }
        let bm = block_bitmap(&tx, g, &d)?;
        let first = tx.lay().group_first(g);
        let mut runs = Vec::new();
        let mut at = lo;
        while let Some(s) = next_zero(&bm, at, hi) {
            let e = next_one(&bm, s, hi).unwrap_or(hi);
            tx.free_parts(first, s, e, &mut |r| {
                if r.len >= min {
                    runs.push((first + u64::from(r.bit), u64::from(r.len)));
                }
                true
            });
            at = e;
        }
        drop(bm);
        tx.finish()?;
        for &(s, n) in &runs {
            st.add_busy(s, n);
        }
        Ok(runs)
    }
}
