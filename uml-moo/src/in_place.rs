//! Merging into the backing file.

use std::fs::File;
use std::io;
use std::path::Path;

use uml_formats::cow::Segment;
use uml_formats::store::{Store, is_zero, read_zero_filled, write_all};
use uml_formats::strerror;

use crate::args::Options;
use crate::checksum;
use crate::failure::Failure;
use crate::marker;
use crate::progress::Progress;
use crate::source::Source;

const WINDOW: u64 = 1 << 20;
const SECTOR: usize = 512;

/// `uml_moo -d COW`. Time is proportional to what changed.
pub fn merge(source: &Source, options: &Options, warn: &dyn Fn(&str)) -> Result<(), Failure> {
    let changes = source.changes()?;
    if source.resuming {
        warn(&format!("continuing the interrupted merge of \"{}\"", source.cow_path.display()));
    }
    if changes.end.saturating_mul(u64::from(source.layout.sector_size)) > source.total() {
        warn(&format!(
            "the last {} bytes of \"{}\" are not a whole sector; their change is left out",
            source.layout.size - source.total(),
            source.backing_path.display()
        ));
    }
    let expected = if options.verify {
        // Before anything changes: afterwards the merged view has no second source.
        let mut progress = Progress::new(options.progress, "checksum", source.total());
        let crc = checksum::merged(source, &mut progress)?;
        progress.finish();
        Some(crc)
    } else {
        None
    };
    if changes.sectors > 0 {
        let bytes = changes.sectors.saturating_mul(u64::from(source.layout.sector_size));
        let mut progress = Progress::new(options.progress, "merge", bytes);
        if !source.resuming {
            begin(source)?;
        }
        let path = &source.backing_path;
        apply_changed(source, &source.backing, path, &mut |bytes| progress.advance(bytes))?;
        source.backing.sync_all().map_err(|error| Failure::io("Writing data", path, &error))?;
        progress.finish();
    }
    if let Some(expected) = expected {
        let mut progress = Progress::new(options.progress, "verify", source.total());
        let path = &source.backing_path;
        let found = checksum::plain(&source.backing, path, source.total(), &mut progress)?;
        progress.finish();
        compare_checksums(expected, found, path)?;
    }
    if changes.sectors > 0 {
        let note = marker::path_for(&source.cow_path);
        marker::remove(&source.cow_path).map_err(|error| {
            Failure::plain(format!(
                "the merge is complete, but \"{}\" cannot be removed: {}; remove it by hand",
                note.display(),
                strerror(&error)
            ))
        })?;
    }
    Ok(())
}

/// Leaves the note that makes an interrupted merge restartable.
fn begin(source: &Source) -> Result<(), Failure> {
    marker::write(&source.cow_path, &source.header, &source.stat).map_err(|error| {
        Failure::plain(format!(
            "\"{}\" cannot be written: {}; without this note an interrupted merge could not be \
             completed, so nothing was changed; make the directory writable, or merge into a \
             new file",
            marker::path_for(&source.cow_path).display(),
            strerror(&error)
        ))
    })
}

/// Fails unless the checksums agree.
pub fn compare_checksums(expected: u32, found: u32, path: &Path) -> Result<(), Failure> {
    if expected == found {
        return Ok(());
    }
    Err(Failure::plain(format!(
        "verification failed: \"{}\" has CRC-32 {found:08x}, expected {expected:08x}; check the \
         disk and its cables, and repeat the merge",
        path.display()
    )))
}

/// Brings a file with the backing file's contents (the backing file itself or
/// a clone of it) to the merged contents. `advance` is told every byte of the
/// disk passed.
pub fn apply(
    source: &Source,
    file: &File,
    path: &Path,
    advance: &mut dyn FnMut(u64),
) -> Result<(), Failure> {
    Applier { source, file, path, buf: Vec::new(), below: Vec::new() }.run(advance, true)
}

/// The same, where only changed bytes count as progress.
fn apply_changed(
    source: &Source,
    file: &File,
    path: &Path,
    advance: &mut dyn FnMut(u64),
) -> Result<(), Failure> {
    Applier { source, file, path, buf: Vec::new(), below: Vec::new() }.run(advance, false)
}

struct Applier<'a> {
    source: &'a Source,
    file: &'a File,
    path: &'a Path,
    buf: Vec<u8>,
    below: Vec<u8>,
}

impl Applier<'_> {
    fn run(&mut self, advance: &mut dyn FnMut(u64), count_all: bool) -> Result<(), Failure> {
        for segment in self.source.segments() {
            let segment = segment
                .map_err(|error| Failure::io("Reading data", &self.source.cow_path, &error))?;
            let range = segment.range();
            match segment {
                Segment::Backing { .. } | Segment::Zero { changed: false, .. } => {
                    if count_all {
                        advance(range.end - range.start);
                    }
                }
                Segment::Zero { .. } => {
                    self.zero(range.start, range.end)?;
                    advance(range.end - range.start);
                }
                Segment::Cow { offset, .. } => {
                    self.copy(offset, range.start, range.end, advance)?;
                }
            }
        }
        Ok(())
    }

    fn write_failed(&self, error: &io::Error) -> Failure {
        Failure::io("Writing data", self.path, error)
    }

    /// Makes a range zero where it is not; holes stay holes.
    fn zero(&mut self, start: u64, end: u64) -> Result<(), Failure> {
        const CHECK: &str = "Checking backing file for zeros";
        let failed = |error: io::Error| Failure::io(CHECK, self.path, &error);
        let mut at = start;
        while at < end {
            let Some(data) = self.file.next_data(at).map_err(failed)? else { break };
            let (from, to) =
                (data.start.max(at), data.end.min(end).min(data.start.max(at) + WINDOW));
            if from >= end {
                break;
            }
            self.below.resize((to - from) as usize, 0);
            read_zero_filled(self.file, &mut self.below, from).map_err(failed)?;
            if !is_zero(&self.below) && self.file.punch_hole(from..to).is_err() {
                self.below.fill(0);
                write_all(self.file, &self.below, from)
                    .map_err(|error| self.write_failed(&error))?;
            }
            at = to;
        }
        Ok(())
    }

    /// Copies a range of COW data; zero sectors are written only over others.
    fn copy(
        &mut self,
        offset: u64,
        start: u64,
        end: u64,
        advance: &mut dyn FnMut(u64),
    ) -> Result<(), Failure> {
        let mut at = start;
        while at < end {
            let len = (end - at).min(WINDOW);
            let mut buf = std::mem::take(&mut self.buf);
            buf.resize(len as usize, 0);
            read_zero_filled(&self.source.cow, &mut buf, offset + (at - start))
                .map_err(|error| Failure::io("Reading data", &self.source.cow_path, &error))?;
            let mut position = 0;
            while position < buf.len() {
                let rest = buf.get(position..).unwrap_or_default();
                let zero = is_zero(rest.get(..SECTOR).unwrap_or(rest));
                let sectors = rest.chunks(SECTOR).take_while(|part| is_zero(part) == zero).count();
                let run = (sectors * SECTOR).min(rest.len());
                let from = at + position as u64;
                if zero {
                    self.zero(from, from + run as u64)?;
                } else {
                    let data = rest.get(..run).unwrap_or_default();
                    write_all(self.file, data, from).map_err(|error| self.write_failed(&error))?;
                }
                position += run;
            }
            self.buf = buf;
            advance(len);
            at += len;
        }
        Ok(())
    }
}
