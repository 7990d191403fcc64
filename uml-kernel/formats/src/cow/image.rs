//! Reading and writing a virtual disk made of a COW file and its backing file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::bitmap::{Bitmap, CHUNK_LIMIT_DEFAULT, Piece};
use super::header::{Header, HeaderError, Layout};
use crate::store::{Store, read_zero_filled, read_zero_filled_at_once, write_all};

/// When changed bitmap words go to the COW file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitmapPolicy {
    /// Right after the data, as the stock driver does: survives the death of
    /// the process, but after a host power loss a bit may be on disk without
    /// its data (the sector then reads as zeros).
    WriteThrough,
    /// In [`Image::flush`], after the data was made durable: at any crash each
    /// sector not yet flushed reads as before or after its write, never as
    /// something else. Writes since the last flush are lost with the process,
    /// as with a disk's write cache; call `flush` when closing.
    OnFlush,
}

/// Where a run of sectors lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Cow,
    Backing,
}

/// Consecutive sectors with the same source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub source: Source,
    /// First sector of the virtual disk.
    pub first: u64,
    /// Sectors.
    pub count: u64,
    /// Byte offset of the first sector in the source file.
    pub offset: u64,
}

/// A virtual disk. All methods take `&self` and may be called from several
/// threads; overlapping concurrent writes give either content, per sector.
///
/// Drivers that do their own I/O (io_uring) use [`Image::runs`] before reading
/// and [`Image::data_offset`] with [`Image::mark_written`] around a write.
#[derive(Debug)]
pub struct Image<C: Store = File, B: Store = File> {
    header: Header,
    layout: Layout,
    cow: C,
    backing: B,
    policy: BitmapPolicy,
    /// Serialises bitmap writes, so that an older copy of a word cannot
    /// overwrite a newer one. Taken before `bitmap`.
    persist: Mutex<()>,
    bitmap: Mutex<Bitmap>,
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while holding these locks in a half-updated state.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<C: Store, B: Store> Image<C, B> {
    /// Puts an image together. The caller has chosen and checked the backing
    /// file (see [`super::resolve_backing`], [`super::check_backing`]).
    pub fn new(
        header: Header,
        cow: C,
        backing: B,
        policy: BitmapPolicy,
    ) -> Result<Self, HeaderError> {
        let layout = header.layout()?;
        Ok(Self {
            header,
            layout,
            cow,
            backing,
            policy,
            persist: Mutex::new(()),
            bitmap: Mutex::new(Bitmap::new(layout, CHUNK_LIMIT_DEFAULT)),
        })
    }

    /// Limits the bitmap cache to this many chunks of 4096 bytes (each
    /// describes 16 MiB of disk); unsaved chunks are kept beyond it.
    pub fn with_chunk_limit(self, chunks: usize) -> Self {
        let bitmap = Mutex::new(Bitmap::new(self.layout, chunks));
        Self { bitmap, ..self }
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The COW file.
    pub fn cow(&self) -> &C {
        &self.cow
    }

    /// The backing file.
    pub fn backing(&self) -> &B {
        &self.backing
    }

    /// Bytes, a multiple of the sector size.
    pub fn disk_size(&self) -> u64 {
        self.layout.disk_size()
    }

    fn sector_size(&self) -> u64 {
        u64::from(self.layout.sector_size)
    }

    /// Byte offset of a sector in the COW file's data area.
    pub fn data_offset(&self, sector: u64) -> u64 {
        self.layout.data_offset.saturating_add(sector.saturating_mul(self.sector_size()))
    }

    fn check_sectors(&self, first: u64, count: u64) -> io::Result<()> {
        match first.checked_add(count) {
            Some(end) if end <= self.layout.sectors => Ok(()),
            _ => Err(invalid(format!(
                "sectors {first}+{count} lie beyond the end of the disk ({} sectors)",
                self.layout.sectors
            ))),
        }
    }

    fn sectors_of(&self, offset: u64, len: usize) -> io::Result<(u64, u64)> {
        let ss = self.sector_size();
        if offset % ss != 0 || len as u64 % ss != 0 {
            return Err(invalid(format!(
                "offset {offset} and length {len} must be multiples of the sector size {ss}"
            )));
        }
        let (first, count) = (offset / ss, len as u64 / ss);
        self.check_sectors(first, count)?;
        Ok((first, count))
    }

    /// The longest run with one source at `first`, at most `count` sectors.
    fn run_at(&self, first: u64, count: u64) -> io::Result<Run> {
        let mut bitmap = lock(&self.bitmap);
        let (in_cow, mut len) = bitmap.run(&self.cow, first, count)?;
        while len < count {
            let (next, more) = bitmap.run(&self.cow, first + len, count - len)?;
            if next != in_cow {
                break;
            }
            len += more;
        }
        let (source, offset) = if in_cow {
            (Source::Cow, self.data_offset(first))
        } else {
            (Source::Backing, first * self.sector_size())
        };
        Ok(Run { source, first, count: len, offset })
    }

    /// Splits a sector range by source.
    pub fn runs(&self, first: u64, count: u64) -> io::Result<Vec<Run>> {
        self.check_sectors(first, count)?;
        let (mut runs, mut at) = (Vec::new(), first);
        while at < first + count {
            let run = self.run_at(at, first + count - at)?;
            at += run.count;
            runs.push(run);
        }
        Ok(runs)
    }

    /// Reads whole sectors; bytes beyond the end of a source file are zero.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_by(buf, offset, read_zero_filled, read_zero_filled)
    }

    /// As [`Image::read_at`], but [`WouldBlock`](io::ErrorKind::WouldBlock) where the host would have to be waited for.
    /// The bitmap is waited for.
    pub fn read_at_once(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_by(buf, offset, read_zero_filled_at_once, read_zero_filled_at_once)
    }

    fn read_by(
        &self,
        buf: &mut [u8],
        offset: u64,
        from_cow: impl Fn(&C, &mut [u8], u64) -> io::Result<()>,
        from_backing: impl Fn(&B, &mut [u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let (first, count) = self.sectors_of(offset, buf.len())?;
        let (mut at, mut rest) = (first, buf);
        while at < first + count {
            let run = self.run_at(at, first + count - at)?;
            // Fits: the run lies within a buffer.
            let len = (run.count * self.sector_size()) as usize;
            let (part, tail) = rest.split_at_mut(len.min(rest.len()));
            match run.source {
                Source::Cow => from_cow(&self.cow, part, run.offset)?,
                Source::Backing => from_backing(&self.backing, part, run.offset)?,
            }
            rest = tail;
            at += run.count;
        }
        Ok(())
    }

    /// Writes whole sectors. On an error no bit was set for this range, so
    /// sectors that were in the backing file still read as before.
    pub fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let (first, count) = self.sectors_of(offset, buf.len())?;
        self.check_mapped(first, count)?;
        write_all(&self.cow, buf, self.data_offset(first))?;
        self.mark_written(first, count)
    }

    fn check_mapped(&self, first: u64, count: u64) -> io::Result<()> {
        if first + count > self.layout.mapped_sectors() {
            return Err(invalid(format!(
                "a version {} COW file has no bitmap bit for the last sectors of this disk (from \
                 sector {}): they cannot be written; convert the disk with uml_moo and uml_mkcow",
                self.header.version,
                self.layout.mapped_sectors()
            )));
        }
        Ok(())
    }

    /// Records that the COW data area now holds these sectors; called after
    /// their data was written.
    pub fn mark_written(&self, first: u64, count: u64) -> io::Result<()> {
        self.check_sectors(first, count)?;
        self.check_mapped(first, count)?;
        let changed = lock(&self.bitmap).set(&self.cow, first, count)?;
        if changed && self.policy == BitmapPolicy::WriteThrough {
            let _order = lock(&self.persist);
            let pieces = lock(&self.bitmap).take_dirty();
            self.write_pieces(&pieces)?;
        }
        Ok(())
    }

    fn write_pieces(&self, pieces: &[Piece]) -> io::Result<()> {
        let result =
            pieces.iter().try_for_each(|piece| write_all(&self.cow, &piece.bytes, piece.offset));
        let mut bitmap = lock(&self.bitmap);
        match result {
            Ok(()) => bitmap.written(pieces),
            Err(_) => bitmap.failed(pieces),
        }
        result
    }

    fn data_range(&self, first: u64, count: u64) -> io::Result<Range<u64>> {
        self.check_sectors(first, count)?;
        self.check_mapped(first, count)?;
        Ok(self.data_offset(first)..self.data_offset(first + count))
    }

    /// Discards sectors: their space in the COW file is freed and they read as
    /// zeros. The backing file is never touched. `EOPNOTSUPP` when the host's
    /// file system cannot punch holes; nothing has changed then.
    pub fn discard(&self, first: u64, count: u64) -> io::Result<()> {
        self.cow.punch_hole(self.data_range(first, count)?)?;
        self.mark_written(first, count)
    }

    /// Makes sectors read as zeros, keeping their space where the file system
    /// does so; falls back to writing zeros.
    pub fn write_zeroes(&self, first: u64, count: u64) -> io::Result<()> {
        let range = self.data_range(first, count)?;
        if let Err(error) = self.cow.zero_range(range.clone()) {
            if error.raw_os_error() != Some(nix::libc::EOPNOTSUPP) {
                return Err(error);
            }
            let zeros = [0; 65536];
            let mut at = range.start;
            while at < range.end {
                let len = (range.end - at).min(zeros.len() as u64);
                write_all(&self.cow, &zeros[..len as usize], at)?;
                at += len;
            }
        }
        self.mark_written(first, count)
    }

    /// Makes everything written so far durable: data first, then the bitmap.
    pub fn flush(&self) -> io::Result<()> {
        let _order = lock(&self.persist);
        // Bits set later belong to data this sync may not cover.
        let pieces = lock(&self.bitmap).take_dirty();
        if let Err(error) = self.cow.sync_data() {
            lock(&self.bitmap).failed(&pieces);
            return Err(error);
        }
        if pieces.is_empty() {
            return Ok(());
        }
        self.write_pieces(&pieces)?;
        // On failure the words stay in the host's page cache; they are marked
        // again so that the next flush rewrites them.
        self.cow.sync_data().inspect_err(|_| lock(&self.bitmap).failed(&pieces))
    }
}
