//! How much to read at a time.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::PAGE;

/// First piece of a sequential reader, in pages (Linux's default read-ahead is 128 KiB).
const FIRST: u64 = (128 << 10) / PAGE;
/// Largest piece.
const MAX: u64 = (1 << 20) / PAGE;

/// The habits of one reader (an open file).
#[derive(Debug, Default)]
pub struct Readahead {
    /// Byte after the last one read.
    next: AtomicU64,
    /// Pages of the last piece; 0 while access is not sequential.
    window: AtomicU64,
    /// Page up to which pages were read or asked for.
    asked: AtomicU64,
    /// posix_fadvise(2) POSIX_FADV_RANDOM.
    random: std::sync::atomic::AtomicBool,
}

impl Readahead {
    /// A reader of which nothing is known.
    pub fn new() -> Readahead {
        Readahead::default()
    }

    /// No reading ahead from now on, or again.
    pub fn set_random(&self, on: bool) {
        self.random.store(on, Ordering::Relaxed);
    }

    /// True when a read at `off` continues the last one.
    pub(crate) fn sequential(&self, off: u64) -> bool {
        self.next.load(Ordering::Relaxed) == off
    }

    /// Pages to read, at least `want`, when page `first` (of a read at `off`) is missing.
    pub(crate) fn missed(&self, off: u64, first: u64, want: u64) -> u64 {
        if self.random.load(Ordering::Relaxed) {
            return want;
        }
        let next = self.next.load(Ordering::Relaxed);
        // A sequential reader misses at its position or, in the middle of a request, after it.
        let window = if off == next || (off < next && next <= first * PAGE) {
            match self.window.load(Ordering::Relaxed) {
                0 => FIRST,
                w => (w * 2).min(MAX),
            }
        } else {
            0
        };
        self.window.store(window, Ordering::Relaxed);
        let pages = window.max(want).min(MAX.max(want));
        self.asked.store(first + pages, Ordering::Relaxed);
        pages
    }

    /// The pages that another thread should read by now, when a sequential reader at `off` gets pages up to `end` of a
    /// file of `last` pages, all of which are there.
    pub(crate) fn next(&self, off: u64, end: u64, last: u64) -> Option<(u64, u64)> {
        let window = self.window.load(Ordering::Relaxed);
        if window == 0 || !self.sequential(off) || self.random.load(Ordering::Relaxed) {
            return None;
        }
        let from = self.asked.load(Ordering::Relaxed).max(end);
        // One and a half are left to read while the next one comes: two threads can be at it.
        if from >= last || end + window + window / 2 < from {
            return None;
        }
        Some((from, last.min(from + (window * 2).min(MAX))))
    }

    /// The pages up to `end` are there or will be.
    pub(crate) fn asked(&self, end: u64) {
        self.asked.store(end, Ordering::Relaxed);
        let w = self.window.load(Ordering::Relaxed);
        self.window.store((w * 2).min(MAX), Ordering::Relaxed);
    }

    /// A read ended before byte `end`.
    pub(crate) fn done(&self, end: u64) {
        self.next.store(end, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_grow_only_for_sequential_readers() {
        let r = Readahead::new();
        assert_eq!(r.missed(0, 0, 1), FIRST, "the start of a file counts as sequential");
        r.done(4096);
        assert_eq!(r.missed(4096, 1, 1), 2 * FIRST);
        for _ in 0..10 {
            r.missed(4096, 1, 1);
        }
        assert_eq!(r.missed(4096, 1, 1), MAX);
        assert_eq!(r.missed(1 << 30, 1 << 18, 2), 2, "a jump reads what was asked for");
        r.done((1 << 30) + 8192);
        assert_eq!(r.missed((1 << 30) + 8192, (1 << 18) + 2, 1), FIRST);
        assert_eq!(r.next(0, 1, 100), None, "a jump");
        r.set_random(true);
        assert_eq!(r.missed((1 << 30) + 8192, (1 << 18) + 2, 1), 1);
    }

    #[test]
    fn the_next_piece_is_asked_for_once_and_in_time() {
        let r = Readahead::new();
        assert_eq!(r.next(0, 1, 100), None, "nothing was missed yet");
        assert_eq!(r.missed(0, 0, 1), 32);
        assert_eq!(r.next(0, 1, 1000), Some((32, 96)));
        assert_eq!(r.next(0, 1, 60), Some((32, 60)), "not past the end");
        r.asked(96);
        r.done(PAGE);
        assert_eq!(r.next(PAGE, 2, 1000), Some((96, 224)), "94 of at least 96 are left");
        r.asked(224);
        r.done(16 * PAGE);
        assert_eq!(r.next(16 * PAGE, 31, 1000), None, "193 of at least 192 are left");
        assert_eq!(r.next(16 * PAGE, 32, 1000), Some((224, 480)));
        assert_eq!(r.next(16 * PAGE, 200, 224), None, "the file ends");
    }
}
