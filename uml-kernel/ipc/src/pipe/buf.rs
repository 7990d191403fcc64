//! One run of page slots in a pipe.

use super::PAGE;

/// Bytes `off..end` of `data`; the slots before `off` have been given back.
pub(super) struct Buf {
    pub data: Box<[u8]>,
    pub off: usize,
    pub end: usize,
    /// A packet of its own (O_DIRECT): one read takes it, nothing is appended.
    pub packet: bool,
}

impl Buf {
    /// An empty buffer that can take at least `n` bytes, made from `spare` when that fits.
    pub fn with_room(n: usize, spare: Option<Box<[u8]>>) -> Buf {
        let want = n.next_multiple_of(PAGE);
        // A spare that is far too large would pin memory for a few bytes.
        let data = match spare {
            Some(s) if s.len() >= want && (s.len() == PAGE || s.len() <= want * 2) => s,
            _ => vec![0; want].into_boxed_slice(),
        };
        Buf { data, off: 0, end: 0, packet: false }
    }

    pub fn len(&self) -> usize {
        self.end - self.off
    }

    /// Page slots it occupies.
    pub fn slots(&self) -> usize {
        if self.off == self.end { 0 } else { self.end.div_ceil(PAGE) - self.off / PAGE }
    }

    /// Bytes that may still be appended to its last page.
    pub fn tail_room(&self) -> usize {
        if self.packet || self.off == self.end { 0 } else { (PAGE - self.end % PAGE) % PAGE }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.data[self.off..self.end]
    }
}
