//! How the free blocks lie in their groups.

use uml_abi::Result;

use crate::fs::Ext4;
use crate::group::{block_bitmap, next_one, next_zero, read_desc};
use crate::meta::MetaRead;
use crate::txn::Txn;

/// The free blocks of one group. Those that a commit has yet to set free do not count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupSpace {
    /// Free blocks.
    pub free: u32,
    /// Runs of free blocks.
    pub runs: u32,
    /// The first free block of the group; the number of its blocks when there is none.
    pub first: u32,
    /// How many pieces of 2^n blocks, each at a multiple of its size, the runs are cut into, by n.
    pub pieces: Vec<u32>,
}

impl GroupSpace {
    /// A group of `blocks` blocks, none of them free, in pieces of at most `2^largest`.
    fn full(blocks: u32, largest: u32) -> GroupSpace {
        GroupSpace { first: blocks, pieces: vec![0; largest as usize + 1], ..GroupSpace::default() }
    }

    /// A run of free blocks, after those added before.
    fn add(&mut self, bit: u32, len: u32) {
        self.first = self.first.min(bit);
        self.free += len;
        self.runs += 1;
        let largest = self.pieces.len() as u32 - 1;
        let (mut at, mut left) = (bit, len);
        while left != 0 {
            let n = at.trailing_zeros().min(left.ilog2()).min(largest);
            self.pieces[n as usize] += 1;
            at += 1 << n;
            left -= 1 << n;
        }
    }
}

impl Ext4 {
    /// Number of block groups.
    pub fn groups(&self) -> u32 {
        self.core.lay.groups()
    }

    /// The free blocks of group `g`.
    pub fn group_space(&self, g: u32) -> Result<GroupSpace> {
        let mut st = self.write_state();
        let tx = Txn::new(&self.core, &mut st, (self.opts.clock)());
        let d = read_desc(&tx, g)?;
        let bm = block_bitmap(&tx, g, &d)?;
        let (blocks, start) = (tx.lay().group_blocks(g), tx.lay().group_first(g));
        // A piece may be twice as long as a block has bytes.
        let mut space = GroupSpace::full(tx.lay().blocks_per_group, tx.lay().block_bits + 1);
        let mut at = 0;
        while let Some(s) = next_zero(&bm, at, blocks) {
            let e = next_one(&bm, s, blocks).unwrap_or(blocks);
            tx.free_parts(start, s, e, &mut |r| {
                space.add(r.bit, r.len);
                true
            });
            at = e;
        }
        drop(bm);
        tx.finish()?;
        Ok(space)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_cut_at_multiples_of_the_pieces() {
        let mut s = GroupSpace::full(32, 3);
        assert_eq!((s.first, s.free), (32, 0));
        s.add(3, 6);
        // 3; 4 to 7; 8.
        assert_eq!(s.pieces, [2, 0, 1, 0]);
        s.add(16, 16);
        assert_eq!(s.pieces, [2, 0, 1, 2]);
        assert_eq!((s.first, s.free, s.runs), (3, 22, 2));
    }
}
