//! Data that is written and not yet acknowledged.

use std::collections::VecDeque;

use super::seq::Seq;
use crate::packet::{Data, Frag};

/// Bytes in order, each piece with its sequence number.
#[derive(Default)]
pub struct SendQueue {
    pieces: VecDeque<(Seq, Frag)>,
    /// Sequence number after the last byte.
    end: Seq,
    len: usize,
}

impl SendQueue {
    /// An empty queue whose first byte will be `start`.
    pub fn new(start: Seq) -> SendQueue {
        SendQueue { pieces: VecDeque::new(), end: start, len: 0 }
    }

    /// Sequence number after the last byte.
    pub fn end(&self) -> Seq {
        self.end
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a piece.
    pub fn push(&mut self, f: Frag) {
        let n = f.len();
        if n == 0 {
            return;
        }
        self.pieces.push_back((self.end, f));
        self.end += n as u64;
        self.len += n;
    }

    /// Drops everything before `una`.
    pub fn acked(&mut self, una: Seq) {
        while let Some((start, f)) = self.pieces.front_mut() {
            if *start >= una {
                break;
            }
            let n = ((una - *start) as usize).min(f.len());
            self.len -= n;
            if n == f.len() {
                self.pieces.pop_front();
            } else {
                f.advance(n);
                *start += n as u64;
                break;
            }
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.len = 0;
    }

    /// The bytes `from..from + len`, as many of them as are held.
    pub fn slice(&self, from: Seq, len: usize) -> Data {
        let mut out = Data::new();
        let first = self.pieces.partition_point(|(s, f)| s + f.len() as u64 <= from);
        let mut at = from;
        let end = from + len as u64;
        for (start, f) in self.pieces.range(first..) {
            if at >= end || *start > at {
                break;
            }
            let skip = (at - start) as usize;
            let n = (f.len() - skip).min((end - at) as usize);
            out.push(f.part(skip, n));
            at += n as u64;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Slab;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn slices_are_the_bytes_written(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..20),
            acked in 0u64..400, from in 0u64..400, len in 0usize..200,
        ) {
            let mut q = SendQueue::new(1000);
            let mut all = Vec::new();
            for p in &parts {
                let mut s = Slab::new(p.len());
                s.bytes_mut()[..p.len()].copy_from_slice(p);
                q.push(Frag::new(s, p.len()));
                all.extend_from_slice(p);
            }
            let acked = acked.min(all.len() as u64);
            q.acked(1000 + acked);
            prop_assert_eq!(q.len(), all.len() - acked as usize);
            let from = from.max(acked).min(all.len() as u64);
            let end = (from as usize + len).min(all.len());
            prop_assert_eq!(q.slice(1000 + from, len).to_vec(), all[from as usize..end].to_vec());
        }
    }
}
