//! Virtual memory areas: what a range of guest addresses means.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::commit::Share;
use crate::mappable::Mappable;

/// PROT_* bits of mmap(2).
pub const PROT_READ: u32 = libc::PROT_READ as u32;
pub const PROT_WRITE: u32 = libc::PROT_WRITE as u32;
pub const PROT_EXEC: u32 = libc::PROT_EXEC as u32;
/// Every access bit.
pub const PROT_ALL: u32 = PROT_READ | PROT_WRITE | PROT_EXEC;

/// What a file mapping shows.
#[derive(Clone)]
pub struct Backing {
    pub object: Arc<dyn Mappable>,
    /// Object offset of the vma's first byte.
    pub off: u64,
}

/// Why an area exists, for `/proc/<pid>/maps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Normal,
    Stack,
    Heap,
    Vdso,
    Vvar,
    /// memfd_secret(2): only the program's own mappings show it.
    Secret,
}

/// Attributes of an area. Two neighbouring areas with equal attributes and adjoining
/// backing are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmaFlags {
    pub prot: u32,
    /// Access that mprotect(2) may give.
    pub may: u32,
    pub shared: bool,
    /// mlock(2).
    pub locked: bool,
    /// MAP_NORESERVE.
    pub noreserve: bool,
    /// MAP_GROWSDOWN.
    pub growsdown: bool,
    /// madvise(2) MADV_DONTFORK, MADV_WIPEONFORK, MADV_DONTDUMP.
    pub dontfork: bool,
    pub wipeonfork: bool,
    pub dontdump: bool,
    pub purpose: Purpose,
    /// The host mapping exists; otherwise the first touch makes it.
    pub hosted: bool,
}

/// One area, `start..end`, page aligned.
#[derive(Clone)]
pub struct Vma {
    pub start: u64,
    pub end: u64,
    pub flags: VmaFlags,
    pub backing: Option<Backing>,
    /// prctl(2) PR_SET_VMA_ANON_NAME.
    pub name: Option<Arc<[u8]>>,
}

impl Vma {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Never true: areas hold at least a page.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The part of the area in `start..end`, which lies inside it.
    pub fn part(&self, start: u64, end: u64) -> Vma {
        self.slice(start, end)
    }

    fn slice(&self, start: u64, end: u64) -> Vma {
        let mut v = self.clone();
        if let Some(b) = &mut v.backing {
            b.off += start - self.start;
        }
        v.start = start;
        v.end = end;
        v
    }

    fn merges_with(&self, next: &Vma) -> bool {
        self.end == next.start
            && self.flags == next.flags
            && self.name == next.name
            && match (&self.backing, &next.backing) {
                (None, None) => !self.flags.shared,
                (Some(a), Some(b)) => {
                    Arc::ptr_eq(&a.object, &b.object) && a.off + self.len() == b.off
                }
                _ => false,
            }
    }
}

/// The areas of an address space, ordered, never overlapping.
#[derive(Clone, Default)]
pub struct VmaSet {
    map: BTreeMap<u64, Vma>,
    share: Share,
}

impl VmaSet {
    /// The area that contains `addr`.
    pub fn find(&self, addr: u64) -> Option<&Vma> {
        let (_, v) = self.map.range(..=addr).next_back()?;
        (addr < v.end).then_some(v)
    }

    /// The first area that ends after `addr`.
    pub fn find_from(&self, addr: u64) -> Option<&Vma> {
        self.find(addr).or_else(|| self.map.range(addr..).next().map(|(_, v)| v))
    }

    /// Areas that overlap `start..end`.
    pub fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = &Vma> {
        let first = self.find(start).map_or(start, |v| v.start);
        self.map.range(first..end.max(first)).map(|(_, v)| v).filter(move |v| v.end > start)
    }

    /// Every area in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Vma> {
        self.map.values()
    }

    /// Bytes promised to the program (private writable memory).
    pub fn committed(&self) -> u64 {
        self.share.committed()
    }

    /// Number of areas.
    pub fn count(&self) -> usize {
        self.map.len()
    }

    /// True when every byte of `start..end` is in some area.
    pub fn covers(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        for v in self.overlapping(start, end) {
            if v.start > at {
                return false;
            }
            at = v.end;
        }
        at >= end
    }

    /// Cuts `start..end` out and returns the pieces.
    pub fn remove(&mut self, start: u64, end: u64) -> Vec<Vma> {
        let keys: Vec<u64> = self.overlapping(start, end).map(|v| v.start).collect();
        let mut out = Vec::with_capacity(keys.len());
        for k in keys {
            let Some(v) = self.map.remove(&k) else { continue };
            if v.start < start {
                self.map.insert(v.start, v.slice(v.start, start));
            }
            if v.end > end {
                self.map.insert(end, v.slice(end, v.end));
            }
            let gone = v.slice(v.start.max(start), v.end.min(end));
            self.share.remove(&gone);
            out.push(gone);
        }
        out
    }

    /// Where the room below `v` ends: stack-like areas keep a guard gap.
    fn floor_of(v: &Vma) -> u64 {
        if v.flags.growsdown { v.start.saturating_sub(crate::mm::STACK_GUARD_GAP) } else { v.start }
    }

    /// Adds an area where there is none, merging it with its neighbours.
    pub fn insert(&mut self, mut v: Vma) {
        debug_assert!(self.overlapping(v.start, v.end).next().is_none());
        self.share.add(&v);
        if let Some((_, prev)) = self.map.range(..v.start).next_back()
            && prev.merges_with(&v)
        {
            let start = prev.start;
            if let Some(p) = self.map.remove(&start) {
                let end = v.end;
                v = p;
                v.end = end;
            }
        }
        if let Some(next) = self.map.get(&v.end)
            && v.merges_with(next)
        {
            let key = v.end;
            if let Some(n) = self.map.remove(&key) {
                v.end = n.end;
            }
        }
        self.map.insert(v.start, v);
    }

    /// Applies `f` to the part of each area inside `start..end`.
    pub fn update(&mut self, start: u64, end: u64, mut f: impl FnMut(&mut Vma)) {
        for mut v in self.remove(start, end) {
            f(&mut v);
            self.insert(v);
        }
    }

    /// The highest gap of `len` bytes that ends at or below `ceiling` and starts at or above `floor`
    /// (top-down placement, as mmap(2) on x86-64).
    pub fn gap_below(&self, len: u64, floor: u64, ceiling: u64) -> Option<u64> {
        let above = self.map.range(ceiling..).next().map(|(_, v)| VmaSet::floor_of(v));
        let mut end = above.map_or(ceiling, |a| a.min(ceiling));
        for v in self.map.range(..ceiling).rev().map(|(_, v)| v) {
            if v.end < end && end - v.end >= len {
                break;
            }
            end = end.min(VmaSet::floor_of(v));
            if end < floor {
                return None;
            }
        }
        let start = end.checked_sub(len)?;
        (start >= floor).then_some(start)
    }

    /// Where the room that begins at `addr` ends.
    pub fn room_above(&self, addr: u64) -> Option<u64> {
        self.map.range(addr..).next().map(|(_, v)| VmaSet::floor_of(v))
    }

    /// The lowest gap of `len` bytes at or above `floor`.
    pub fn gap_above(&self, len: u64, floor: u64, ceiling: u64) -> Option<u64> {
        let mut at = floor;
        if let Some(v) = self.find(at) {
            at = v.end;
        }
        for v in self.map.range(at..).map(|(_, v)| v) {
            if VmaSet::floor_of(v).saturating_sub(at) >= len {
                break;
            }
            at = v.end;
        }
        (at.checked_add(len)? <= ceiling).then_some(at)
    }

    /// Sum of the lengths of the areas for which `f` holds, in bytes.
    pub fn total(&self, f: impl Fn(&Vma) -> bool) -> u64 {
        self.map.values().filter(|v| f(v)).map(Vma::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(start: u64, end: u64, prot: u32) -> Vma {
        let flags = VmaFlags {
            prot,
            may: PROT_ALL,
            shared: false,
            locked: false,
            noreserve: false,
            growsdown: false,
            dontfork: false,
            wipeonfork: false,
            dontdump: false,
            purpose: Purpose::Normal,
            hosted: true,
        };
        Vma { start, end, flags, backing: None, name: None }
    }

    #[test]
    fn neighbours_merge_and_split() {
        let mut s = VmaSet::default();
        s.insert(area(0x1000, 0x2000, 1));
        s.insert(area(0x3000, 0x4000, 1));
        s.insert(area(0x2000, 0x3000, 1));
        assert_eq!(s.count(), 1);
        s.update(0x1800 & !0xfff, 0x2000, |v| v.flags.prot = 3);
        assert_eq!(s.count(), 2);
        assert!(s.covers(0x1000, 0x4000));
        let cut = s.remove(0x2000, 0x3000);
        assert_eq!(cut.len(), 1);
        assert!(!s.covers(0x1000, 0x4000));
        assert_eq!(s.find(0x3000).map(|v| v.end), Some(0x4000));
    }

    #[test]
    fn promises_are_counted() {
        let mut s = VmaSet::default();
        s.insert(area(0x1000, 0x5000, 3));
        s.insert(area(0x5000, 0x6000, 1));
        assert_eq!(s.committed(), 0x4000);
        s.update(0x2000, 0x3000, |v| v.flags.prot = 1);
        assert_eq!(s.committed(), 0x3000);
        let copy = s.clone();
        drop(s.remove(0, 0x10000));
        assert_eq!((s.committed(), copy.committed()), (0, 0x3000));
    }

    #[test]
    fn gaps_are_found_from_the_top() {
        let mut s = VmaSet::default();
        s.insert(area(0x8000, 0x9000, 1));
        s.insert(area(0x4000, 0x5000, 1));
        assert_eq!(s.gap_below(0x1000, 0x1000, 0xa000), Some(0x9000));
        assert_eq!(s.gap_below(0x2000, 0x1000, 0xa000), Some(0x6000));
        assert_eq!(s.gap_below(0x3000, 0x1000, 0x9000), Some(0x5000));
        assert_eq!(s.gap_below(0x4000, 0x1000, 0x9000), None);
        assert_eq!(s.gap_above(0x2000, 0x4000, 0xa000), Some(0x5000));
    }
}
