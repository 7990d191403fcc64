//! Changing an extent tree: one recursive walk that hands the extents of each
//! touched leaf to a closure and writes back what it returns, splitting,
//! removing and re-keying nodes as needed.

use uml_abi::Result;
use uml_abi::errno::EFBIG;

use super::{
    ENTRY, Extent, HEADER, Index, MAGIC, MAX_DEPTH, MAX_LEN, MAX_UNWRITTEN, block_capacity,
    check_node, entry, node_csum, read_block_node, tail_offset,
};
use crate::bytes::{rd16, wr16, wr32};
use crate::inode::{Inode, flags};
use crate::meta::MetaRead;
use crate::txn::Txn;

const ROOT_CAPACITY: usize = 4;

/// What to do with the extents of one leaf.
pub(crate) type Edit<'a> = &'a mut dyn FnMut(Vec<Extent>) -> Vec<Extent>;

/// Makes `i_block` an empty extent root.
pub(crate) fn init_root(inode: &mut Inode) {
    inode.flags |= flags::EXTENTS;
    inode.block = [0; 60];
    header(&mut inode.block, 0, ROOT_CAPACITY, 0);
}

fn header(node: &mut [u8], entries: usize, max: usize, depth: u16) {
    wr16(node, 0, MAGIC);
    wr16(node, 2, entries as u16);
    wr16(node, 4, max as u16);
    wr16(node, 6, depth);
    wr32(node, 8, 0);
}

/// Sorts out neighbours that can be one extent.
fn merge_list(list: &mut Vec<Extent>) {
    list.sort_by_key(|e| e.lblk);
    let mut out: Vec<Extent> = Vec::with_capacity(list.len());
    for e in list.drain(..) {
        if let Some(last) = out.last_mut() {
            let max = if e.unwritten { MAX_UNWRITTEN } else { MAX_LEN };
            if last.unwritten == e.unwritten
                && last.end() == u64::from(e.lblk)
                && last.pblk + u64::from(last.len) == e.pblk
                && last.len + e.len <= max
            {
                last.len += e.len;
                continue;
            }
        }
        out.push(e);
    }
    *list = out;
}

enum Body {
    Leaf(Vec<Extent>),
    Inner(Vec<Index>),
}

impl Body {
    fn parse(node: &[u8]) -> Body {
        let n = usize::from(rd16(node, 2));
        if rd16(node, 6) == 0 {
            Body::Leaf((0..n).map(|i| Extent::parse(entry(node, i))).collect())
        } else {
            Body::Inner((0..n).map(|i| Index::parse(entry(node, i))).collect())
        }
    }

    fn len(&self) -> usize {
        match self {
            Body::Leaf(v) => v.len(),
            Body::Inner(v) => v.len(),
        }
    }

    fn first(&self) -> u32 {
        match self {
            Body::Leaf(v) => v.first().map_or(0, |e| e.lblk),
            Body::Inner(v) => v.first().map_or(0, |e| e.lblk),
        }
    }

    /// Cuts off everything from entry `at`.
    fn split_off(&mut self, at: usize) -> Body {
        match self {
            Body::Leaf(v) => Body::Leaf(v.split_off(at)),
            Body::Inner(v) => Body::Inner(v.split_off(at)),
        }
    }

    fn emit(&self, node: &mut [u8], max: usize, depth: u16) {
        header(node, self.len(), max, depth);
        let mut out = [0u8; ENTRY];
        for i in 0..self.len() {
            match self {
                Body::Leaf(v) => v[i].emit(&mut out),
                Body::Inner(v) => v[i].emit(&mut out),
            }
            if let Some(d) = node.get_mut(HEADER + i * ENTRY..HEADER + (i + 1) * ENTRY) {
                d.copy_from_slice(&out);
            }
        }
    }
}

struct Editor<'e, 'x, 't> {
    tx: &'e mut Txn<'t>,
    inode: &'e mut Inode,
    lo: u64,
    hi: u64,
    goal: u64,
    f: Edit<'x>,
}

/// Runs `f` over every leaf that may hold logical blocks `lo..=hi` (at least
/// one leaf: the one where `lo` belongs). `goal` is where new nodes should be.
pub(crate) fn edit_tree(
    tx: &mut Txn<'_>,
    inode: &mut Inode,
    lo: u64,
    hi: u64,
    goal: u64,
    f: Edit<'_>,
) -> Result<()> {
    let hdr = check_node(tx, inode, &inode.block, 0, None)?;
    let mut body = Body::parse(&inode.block);
    let mut ed = Editor { tx, inode, lo, hi, goal, f };
    ed.descend(&mut body, hdr.depth)?;
    ed.write_root(body, hdr.depth)
}

impl Editor<'_, '_, '_> {
    /// Edits the subtree under a node's contents in place.
    fn descend(&mut self, body: &mut Body, depth: u16) -> Result<bool> {
        match body {
            Body::Leaf(list) => {
                let before = list.clone();
                let mut new = (self.f)(std::mem::take(list));
                merge_list(&mut new);
                *list = new;
                Ok(*list != before)
            }
            Body::Inner(list) => {
                let before = list.clone();
                let start = list.partition_point(|x| u64::from(x.lblk) <= self.lo).max(1) - 1;
                let end = list.partition_point(|x| u64::from(x.lblk) <= self.hi).max(start + 1);
                let tail = list.split_off(end.min(list.len()));
                let touched = list.split_off(start);
                for x in touched {
                    let new = self.edit_block(x, depth - 1)?;
                    list.extend(new);
                }
                list.extend(tail);
                Ok(*list != before)
            }
        }
    }

    /// Edits a child node; returns the entries that replace its own.
    fn edit_block(&mut self, at: Index, depth: u16) -> Result<Vec<Index>> {
        let buf = read_block_node(self.tx, self.inode, at.child, depth)?;
        let mut body = Body::parse(&buf);
        let old_last = match &body {
            Body::Leaf(v) => v.last().map(|e| e.lblk),
            Body::Inner(v) => v.last().map(|e| e.lblk),
        };
        if !self.descend(&mut body, depth)? {
            return Ok(vec![at]);
        }
        if body.len() == 0 {
            self.tx.free_meta(self.inode, at.child)?;
            return Ok(Vec::new());
        }
        let new_last = match &body {
            Body::Leaf(v) => v.last().map(|e| e.lblk),
            Body::Inner(v) => v.last().map(|e| e.lblk),
        };
        self.write_blocks(body, depth, Some(at.child), new_last > old_last)
    }

    /// Writes a node's contents into as many blocks as needed, reusing `own`.
    fn write_blocks(
        &mut self,
        mut body: Body,
        depth: u16,
        mut own: Option<u64>,
        appended: bool,
    ) -> Result<Vec<Index>> {
        let cap = block_capacity(self.tx.lay());
        let mut out = Vec::new();
        loop {
            // Appending leaves full nodes behind; otherwise halve.
            let keep = if body.len() <= cap {
                body.len()
            } else if appended || body.len() > 2 * cap {
                cap
            } else {
                body.len() / 2
            };
            let rest = body.split_off(keep);
            let block = match own.take() {
                Some(b) => b,
                None => {
                    let b = self.tx.alloc_meta(self.inode, self.goal)?;
                    self.tx.create(b);
                    b
                }
            };
            self.write_block(block, &body, depth)?;
            out.push(Index { lblk: body.first(), child: block });
            if rest.len() == 0 {
                return Ok(out);
            }
            body = rest;
        }
    }

    fn write_block(&mut self, block: u64, body: &Body, depth: u16) -> Result<()> {
        let lay = self.tx.lay().clone();
        let mut node = vec![0u8; lay.bs()];
        body.emit(&mut node, block_capacity(&lay), depth);
        if lay.metadata_csum() {
            let c = node_csum(&lay, self.inode, &node);
            let at = tail_offset(&node);
            wr32(&mut node, at, c);
        }
        self.tx.modify(block)?.copy_from_slice(&node);
        Ok(())
    }

    /// Writes the root, growing or shrinking the tree.
    fn write_root(&mut self, mut body: Body, mut depth: u16) -> Result<()> {
        if body.len() == 0 {
            depth = 0;
            body = Body::Leaf(Vec::new());
        }
        while body.len() > ROOT_CAPACITY {
            if depth >= MAX_DEPTH {
                return Err(EFBIG);
            }
            body = Body::Inner(self.write_blocks(body, depth, None, true)?);
            depth += 1;
        }
        // A single child that fits moves up.
        while depth > 0 && body.len() == 1 {
            let Body::Inner(list) = &body else { break };
            let Some(&only) = list.first() else { break };
            let buf = read_block_node(self.tx, self.inode, only.child, depth - 1)?;
            let child = Body::parse(&buf);
            if child.len() > ROOT_CAPACITY {
                break;
            }
            self.tx.free_meta(self.inode, only.child)?;
            body = child;
            depth -= 1;
        }
        let mut block = [0u8; 60];
        body.emit(&mut block, ROOT_CAPACITY, depth);
        self.inode.block = block;
        Ok(())
    }
}
