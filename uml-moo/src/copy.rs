//! Merging into a new file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, copy_file_range, posix_fadvise};
use nix::sys::statfs::{self, FsType};
use uml_formats::cow::Segment;
use uml_formats::store::{Store, is_zero, read_zero_filled, write_all};

use crate::args::Options;
use crate::checksum;
use crate::failure::Failure;
use crate::in_place;
use crate::output::Output;
use crate::progress::Progress;
use crate::source::Source;

/// Bytes gathered before they are written.
const WINDOW: u64 = 1 << 18;
/// Zero blocks of this size become holes.
const BLOCK: usize = 4096;
/// Written bytes after which the host is told to begin with writing them to its disk.
const AHEAD: u64 = 8 << 20;
/// Ranges at least this long are left to the file system to copy.
const OFFLOAD_MIN: u64 = 1 << 16;

/// `uml_moo COW target`.
pub fn merge(
    source: &Source,
    target: &Path,
    options: &Options,
    warn: &dyn Fn(&str),
) -> Result<(), Failure> {
    let total = source.total();
    if total < source.layout.size {
        warn(&format!(
            "the last {} bytes of \"{}\" are not a whole sector and are left out",
            source.layout.size - total,
            source.backing_path.display()
        ));
    }
    let output = Output::create(target, source)?;
    let failed = |error: io::Error| Failure::io("Writing data", target, &error);
    if output.is_device() {
        let capacity = Store::size(&output.file).map_err(failed)?;
        if capacity < total {
            return Err(Failure::plain(format!(
                "\"{}\" has {capacity} bytes, {total} are needed",
                target.display()
            )));
        }
    }
    let mut progress = Progress::new(options.progress, "merge", total);
    if !output.is_device() && clone_whole(&output.file, source) {
        output.file.set_len(total).map_err(failed)?;
        in_place::apply(source, &output.file, target, &mut |bytes| progress.advance(bytes))?;
    } else {
        if !output.is_device() {
            output.file.set_len(total).map_err(failed)?;
        }
        Copier::new(source, &output, target).run(&mut progress)?;
    }
    output.sync()?;
    progress.finish();
    if options.verify {
        verify(source, &output.file, target, options)?;
    }
    output.publish()
}

/// Shares all of the backing file's blocks with the output, where the file
/// system can.
fn clone_whole(output: &File, source: &Source) -> bool {
    let regular = source.backing.metadata().is_ok_and(|meta| meta.is_file());
    regular && rustix::fs::ioctl_ficlone(output, &source.backing).is_ok()
}

/// Whether handing ranges to copy_file_range(2) saves work: it shares blocks
/// or copies on the server. Elsewhere it copies all the same, zeros included.
fn copies_cheaply(file: &File) -> bool {
    const CHEAP: [FsType; 7] = [
        statfs::BTRFS_SUPER_MAGIC,
        statfs::XFS_SUPER_MAGIC,
        statfs::NFS_SUPER_MAGIC,
        statfs::OCFS2_SUPER_MAGIC,
        // CIFS, SMB2, Ceph.
        FsType(0xff53_4d42),
        FsType(0xfe53_4d42),
        FsType(0x00c3_6400),
    ];
    statfs::fstatfs(file).is_ok_and(|stat| CHEAP.contains(&stat.filesystem_type()))
}

/// Verifies the result against its sources.
fn verify(source: &Source, output: &File, target: &Path, options: &Options) -> Result<(), Failure> {
    let total = source.total();
    let mut progress = Progress::new(options.progress, "verify", total.saturating_mul(2));
    let expected = checksum::merged(source, &mut progress)?;
    // Ask for the disk's version, not the page cache's; only advice.
    let _ = posix_fadvise(output, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    let found = checksum::plain(output, target, total, &mut progress)?;
    progress.finish();
    in_place::compare_checksums(expected, found, target)
}

struct Copier<'a> {
    source: &'a Source,
    output: &'a Output,
    target: &'a Path,
    offload: bool,
    /// Merged bytes from `start` on that are not yet written.
    buf: Vec<u8>,
    start: u64,
    /// Written and perhaps not on its way to the disk.
    waiting: Range<u64>,
    /// How much of that was really written.
    written: u64,
}

impl<'a> Copier<'a> {
    fn new(source: &'a Source, output: &'a Output, target: &'a Path) -> Self {
        let offload = !output.is_device() && copies_cheaply(&output.file);
        Self {
            source,
            output,
            target,
            offload,
            buf: Vec::new(),
            start: 0,
            waiting: 0..0,
            written: 0,
        }
    }

    fn run(&mut self, progress: &mut Progress) -> Result<(), Failure> {
        for segment in self.source.segments() {
            let segment = segment
                .map_err(|error| Failure::io("Reading data", &self.source.cow_path, &error))?;
            let (start, end) = (segment.range().start, segment.range().end);
            match segment {
                Segment::Zero { .. } if self.output.is_device() => self.zero_device(start, end)?,
                Segment::Zero { .. } => {}
                Segment::Backing { .. } => {
                    let (file, path) = (&self.source.backing, &self.source.backing_path);
                    self.data(file, path, start, start, end, progress)?;
                    continue;
                }
                Segment::Cow { offset, .. } => {
                    let (file, path) = (&self.source.cow, &self.source.cow_path);
                    self.data(file, path, offset, start, end, progress)?;
                    continue;
                }
            }
            progress.advance(end - start);
        }
        self.flush()
    }

    /// Appends `start..end`, found at `offset` of `file`.
    fn data(
        &mut self,
        file: &File,
        path: &Path,
        offset: u64,
        start: u64,
        end: u64,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let (mut at, delta) = (start, offset - start);
        if self.offload && end - start >= OFFLOAD_MIN {
            self.flush()?;
            while at < end {
                let copied = self.copy_range(file, at + delta, at, (end - at).min(WINDOW << 6))?;
                if copied == 0 {
                    break;
                }
                progress.advance(copied);
                at += copied;
            }
        }
        while at < end {
            if !self.buf.is_empty() && self.start + self.buf.len() as u64 != at {
                // A gap: keep it in the window if that saves a system call.
                if at - self.start < WINDOW && at - self.start < self.buf.len() as u64 + 65536 {
                    self.buf.resize((at - self.start) as usize, 0);
                } else {
                    self.flush()?;
                }
            }
            if self.buf.is_empty() {
                self.start = at;
            }
            // Windows end at multiples of their size, to write whole blocks.
            let stop = end.min((self.start / WINDOW + 1) * WINDOW);
            let have = self.buf.len();
            self.buf.resize((stop - self.start) as usize, 0);
            let part = self.buf.get_mut(have..).unwrap_or_default();
            read_zero_filled(file, part, at + delta)
                .map_err(|error| Failure::io("Reading data", path, &error))?;
            progress.advance(stop - at);
            at = stop;
            if at % WINDOW == 0 {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn copy_range(&mut self, file: &File, from: u64, to: u64, len: u64) -> Result<u64, Failure> {
        // Offsets of a checked layout fit.
        let (mut from, mut to) = (from as i64, to as i64);
        match copy_file_range(
            file,
            Some(&mut from),
            &self.output.file,
            Some(&mut to),
            usize::try_from(len).unwrap_or(usize::MAX),
        ) {
            Ok(copied) => Ok(copied as u64),
            Err(Errno::ENOSPC | Errno::EDQUOT) => Err(self.write_failed(Errno::ENOSPC.into())),
            Err(_) => {
                // Not between these two files: read and write instead.
                self.offload = false;
                Ok(0)
            }
        }
    }

    fn write_failed(&self, error: io::Error) -> Failure {
        Failure::io("Writing data", self.target, &error)
    }

    /// Writes the window, leaving zero blocks out where they are holes anyway.
    fn flush(&mut self) -> Result<(), Failure> {
        let buf = std::mem::take(&mut self.buf);
        let result = if self.output.is_device() {
            write_all(&self.output.file, &buf, self.start)
        } else {
            write_sparse(&self.output.file, &buf, self.start)
        };
        self.waiting.end = self.start + buf.len() as u64;
        self.written += buf.len() as u64;
        self.buf = buf;
        self.buf.clear();
        if self.written >= AHEAD {
            self.begin_writing();
        }
        result.map_err(|error| self.write_failed(error))
    }

    /// The disk is to work while we copy, and not only when all is copied and has to be durable. What is not on it yet stays
    /// cached: this is the one portable way to say so.
    fn begin_writing(&mut self) {
        let (from, to) = (self.waiting.start, self.waiting.end);
        if let (Ok(from), Ok(len)) = (i64::try_from(from), i64::try_from(to.saturating_sub(from))) {
            // Only advice.
            let how = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
            let _ = posix_fadvise(&self.output.file, from, len, how);
        }
        self.waiting = to..to;
        self.written = 0;
    }

    fn zero_device(&mut self, start: u64, end: u64) -> Result<(), Failure> {
        self.flush()?;
        if self.output.file.zero_range(start..end).is_ok() {
            return Ok(());
        }
        let zeros = vec![0; WINDOW as usize];
        let mut at = start;
        while at < end {
            let len = (end - at).min(WINDOW);
            let part = zeros.get(..len as usize).unwrap_or_default();
            write_all(&self.output.file, part, at).map_err(|error| self.write_failed(error))?;
            at += len;
        }
        Ok(())
    }
}

/// Writes the non-zero blocks of `buf`; `at` is the offset of its first byte.
fn write_sparse(file: &File, buf: &[u8], at: u64) -> io::Result<()> {
    let mut pending: Option<usize> = None;
    let mut position = 0;
    while position < buf.len() {
        // Blocks are aligned in the file, so the first may be short.
        let misaligned = ((at + position as u64) % BLOCK as u64) as usize;
        let end = buf.len().min(position + BLOCK - misaligned);
        let block = buf.get(position..end).unwrap_or_default();
        match (is_zero(block), pending) {
            (true, Some(start)) => {
                write_all(file, buf.get(start..position).unwrap_or_default(), at + start as u64)?;
                pending = None;
            }
            (false, None) => pending = Some(position),
            _ => {}
        }
        position = end;
    }
    match pending {
        Some(start) => write_all(file, buf.get(start..).unwrap_or_default(), at + start as u64),
        None => Ok(()),
    }
}
