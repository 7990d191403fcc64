//! The merged view of COW and backing file as a sequence of segments, found
//! with `SEEK_DATA` and a streaming look at the bitmap: constant memory, and
//! holes cost nothing.

use std::io;
use std::ops::Range;

use super::bitmap::run_in;
use super::header::Layout;
use crate::store::{Store, read_zero_filled};

const WINDOW: usize = 64 * 1024;

/// Walks a store's data extents forwards.
#[derive(Debug)]
struct Extents<'a, S: Store> {
    store: &'a S,
    /// Last extent looked up; `None` before the first look and after the last extent.
    extent: Option<Range<u64>>,
    /// Nothing but hole from here on.
    end: Option<u64>,
}

impl<'a, S: Store> Extents<'a, S> {
    fn new(store: &'a S) -> Self {
        Self { store, extent: None, end: None }
    }

    /// Whether `offset` may hold data, and up to which offset that answer holds.
    fn at(&mut self, offset: u64) -> io::Result<(bool, u64)> {
        if self.end.is_some_and(|end| offset >= end) {
            return Ok((false, u64::MAX));
        }
        if self.extent.as_ref().is_none_or(|extent| extent.end <= offset) {
            self.extent = self.store.next_data(offset)?;
        }
        match &self.extent {
            None => {
                self.end = Some(offset);
                Ok((false, u64::MAX))
            }
            Some(extent) if offset < extent.start => Ok((false, extent.start)),
            Some(extent) => Ok((true, extent.end)),
        }
    }
}

/// Iterator over the sector ranges whose bit is set. See [`changed_runs`].
#[derive(Debug)]
pub struct ChangedRuns<'a, S: Store> {
    store: &'a S,
    layout: Layout,
    extents: Extents<'a, S>,
    buf: Vec<u8>,
    /// Bitmap byte range held in `buf`.
    window: Range<u64>,
    /// Next sector to look at.
    at: u64,
}

/// The changed sectors of a COW file in order, as maximal ranges. Reads the
/// bitmap through one 64 KiB window and skips its holes.
pub fn changed_runs<'a, S: Store>(cow: &'a S, layout: &Layout) -> ChangedRuns<'a, S> {
    ChangedRuns {
        store: cow,
        layout: *layout,
        extents: Extents::new(cow),
        buf: Vec::new(),
        window: 0..0,
        at: 0,
    }
}

impl<S: Store> ChangedRuns<'_, S> {
    /// State of the sector at `self.at` and how many sectors it holds for.
    fn run(&mut self) -> io::Result<(bool, u64)> {
        let byte = self.at / 8;
        if !self.window.contains(&byte) {
            let base = self.layout.bitmap_offset;
            let (data, until) = self.extents.at(base + byte)?;
            if !data {
                // Sectors up to the next bitmap byte that may be set.
                let next = until.saturating_sub(base).min(self.layout.bitmap_len);
                return Ok((false, (next * 8).saturating_sub(self.at).max(1)));
            }
            let end = byte.saturating_add(WINDOW as u64).min(self.layout.bitmap_len);
            self.buf.resize((end - byte) as usize, 0);
            read_zero_filled(self.store, &mut self.buf, base + byte)?;
            self.window = byte..end;
        }
        let base = self.window.start * 8;
        Ok(run_in(&self.buf, self.at - base, u64::MAX))
    }

    fn next_run(&mut self) -> io::Result<Option<Range<u64>>> {
        let end = self.layout.mapped_sectors();
        let mut start = None;
        while self.at < end {
            let (set, count) = self.run()?;
            match (set, start) {
                (true, None) => start = Some(self.at),
                (false, Some(first)) => return Ok(Some(first..self.at)),
                _ => {}
            }
            self.at = self.at.saturating_add(count).min(end);
        }
        Ok(start.map(|first| first..end))
    }
}

impl<S: Store> Iterator for ChangedRuns<'_, S> {
    type Item = io::Result<Range<u64>>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.next_run().transpose();
        if matches!(result, Some(Err(_))) {
            // An unreadable bitmap is reported once, not for ever.
            self.at = u64::MAX;
        }
        result
    }
}

/// A stretch of the merged disk with one origin; `start..end` are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Known to be zero; `changed` when the COW file says so (its data area
    /// has a hole there) rather than the backing file.
    Zero { start: u64, end: u64, changed: bool },
    /// Data of the backing file at the same offset.
    Backing { start: u64, end: u64 },
    /// Data of the COW file at file offset `offset`.
    Cow { start: u64, end: u64, offset: u64 },
}

impl Segment {
    /// The bytes of the merged disk it covers.
    pub fn range(&self) -> Range<u64> {
        match *self {
            Self::Zero { start, end, .. }
            | Self::Backing { start, end }
            | Self::Cow { start, end, .. } => start..end,
        }
    }
}

/// Iterator over the merged disk in order, without gaps or overlaps.
#[derive(Debug)]
pub struct Segments<'a, C: Store, B: Store> {
    layout: Layout,
    changed: ChangedRuns<'a, C>,
    /// The changed byte range at or after `at`.
    run: Option<Range<u64>>,
    cow: Extents<'a, C>,
    backing: Extents<'a, B>,
    at: u64,
    total: u64,
    failed: bool,
}

impl<'a, C: Store, B: Store> Segments<'a, C, B> {
    /// The first `total` bytes of the merged disk (at most its size).
    pub fn new(cow: &'a C, backing: &'a B, layout: &Layout, total: u64) -> Self {
        Self {
            layout: *layout,
            changed: changed_runs(cow, layout),
            run: Some(0..0),
            cow: Extents::new(cow),
            backing: Extents::new(backing),
            at: 0,
            total: total.min(layout.disk_size()),
            failed: false,
        }
    }

    fn next_segment(&mut self) -> io::Result<Option<Segment>> {
        let start = self.at;
        if start >= self.total {
            return Ok(None);
        }
        while self.run.as_ref().is_some_and(|run| run.end <= start) {
            let ss = u64::from(self.layout.sector_size);
            self.run = self.changed.next().transpose()?.map(|run| run.start * ss..run.end * ss);
        }
        let segment = match &self.run {
            Some(run) if run.start <= start => {
                let limit = run.end.min(self.total);
                let base = self.layout.data_offset;
                let (data, until) = self.cow.at(base + start)?;
                let end = limit.min(until.saturating_sub(base)).max(start + 1);
                if data {
                    Segment::Cow { start, end, offset: base + start }
                } else {
                    Segment::Zero { start, end, changed: true }
                }
            }
            other => {
                let limit = other.as_ref().map_or(self.total, |run| run.start.min(self.total));
                let (data, until) = self.backing.at(start)?;
                let end = limit.min(until);
                if data {
                    Segment::Backing { start, end }
                } else {
                    Segment::Zero { start, end, changed: false }
                }
            }
        };
        self.at = segment.range().end;
        Ok(Some(segment))
    }
}

impl<C: Store, B: Store> Iterator for Segments<'_, C, B> {
    type Item = io::Result<Segment>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let result = self.next_segment().transpose();
        self.failed = matches!(result, Some(Err(_)));
        result
    }
}
