//! Positioned access to a file-like object, with holes.
//!
//! The COW engine works on any [`Store`], so that it can be tested in memory
//! ([`MemStore`]) and run on [`std::fs::File`].

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

/// A file that is read and written by position. All offsets and lengths are bytes.
pub trait Store {
    /// Reads at `offset`; fewer bytes than asked for at end of file. As pread(2).
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// As `read_at`, but `EAGAIN` for what is not in memory, and fewer bytes where only the first ones are. As preadv2(2)
    /// with RWF_NOWAIT; what cannot tell waits.
    fn read_at_once(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buf, offset)
    }
    /// Writes at `offset`, possibly only a part. As pwrite(2).
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Length of the file; for a block device its capacity.
    fn size(&self) -> io::Result<u64>;
    /// Truncates or extends. As ftruncate(2).
    fn set_size(&self, size: u64) -> io::Result<()>;
    /// Makes the contents durable. As fdatasync(2).
    fn sync_data(&self) -> io::Result<()>;
    /// Frees a range, which then reads as zeros; the length does not change.
    /// As fallocate(2) with `PUNCH_HOLE | KEEP_SIZE`.
    fn punch_hole(&self, range: Range<u64>) -> io::Result<()>;
    /// Zeroes a range without changing the length. As fallocate(2) with
    /// `ZERO_RANGE | KEEP_SIZE`.
    fn zero_range(&self, range: Range<u64>) -> io::Result<()>;
    /// The first stretch at or after `offset` that may hold data; `None` when
    /// only a hole or the end of the file follows. As `SEEK_DATA`/`SEEK_HOLE`.
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>>;
}

impl<S: Store + ?Sized> Store for &S {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buf, offset)
    }
    fn read_at_once(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at_once(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        (**self).write_at(buf, offset)
    }
    fn size(&self) -> io::Result<u64> {
        (**self).size()
    }
    fn set_size(&self, size: u64) -> io::Result<()> {
        (**self).set_size(size)
    }
    fn sync_data(&self) -> io::Result<()> {
        (**self).sync_data()
    }
    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        (**self).punch_hole(range)
    }
    fn zero_range(&self, range: Range<u64>) -> io::Result<()> {
        (**self).zero_range(range)
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        (**self).next_data(offset)
    }
}

/// Offset as the host's signed `off_t`; beyond it every call would fail with EINVAL.
fn off(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| io::Error::from_raw_os_error(nix::libc::EINVAL))
}

fn fallocate_range(file: &File, flags: FallocateFlags, range: Range<u64>) -> io::Result<()> {
    let len = range.end.saturating_sub(range.start);
    if len == 0 {
        return Ok(());
    }
    let flags = flags | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    Ok(fallocate(file.as_fd(), flags, off(range.start)?, off(len)?)?)
}

impl Store for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buf, offset)
    }
    fn read_at_once(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        use rustix::io::{Errno, ReadWriteFlags, preadv2};
        let mut parts = [io::IoSliceMut::new(buf)];
        preadv2(self, &mut parts, offset, ReadWriteFlags::NOWAIT).map_err(|e| match e {
            // The host's kernel or filesystem cannot tell: nothing was read.
            Errno::OPNOTSUPP | Errno::NOSYS => io::ErrorKind::WouldBlock.into(),
            other => other.into(),
        })
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, buf, offset)
    }
    fn size(&self) -> io::Result<u64> {
        let meta = self.metadata()?;
        if meta.file_type().is_block_device() {
            return Ok(u64::try_from(lseek(self.as_fd(), 0, Whence::SeekEnd)?).unwrap_or(0));
        }
        Ok(meta.len())
    }
    fn set_size(&self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }
    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        fallocate_range(self, FallocateFlags::FALLOC_FL_PUNCH_HOLE, range)
    }
    fn zero_range(&self, range: Range<u64>) -> io::Result<()> {
        fallocate_range(self, FallocateFlags::FALLOC_FL_ZERO_RANGE, range)
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        use nix::errno::Errno;
        let start = match lseek(self.as_fd(), off(offset)?, Whence::SeekData) {
            Ok(start) => u64::try_from(start).unwrap_or(offset),
            Err(Errno::ENXIO) => return Ok(None),
            // No hole support: everything up to the end counts as data.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => {
                let size = Store::size(self)?;
                return Ok((offset < size).then_some(offset..size));
            }
            Err(error) => return Err(error.into()),
        };
        let end = match lseek(self.as_fd(), off(start)?, Whence::SeekHole) {
            Ok(end) => u64::try_from(end).unwrap_or(u64::MAX),
            // The file shrank in between; the reader will see the end of file.
            Err(Errno::ENXIO) => Store::size(self)?,
            Err(error) => return Err(error.into()),
        };
        Ok((start < end).then_some(start..end))
    }
}

/// Reads the whole buffer; bytes beyond the end of the file are zero.
pub fn read_zero_filled<S: Store>(store: &S, buf: &mut [u8], offset: u64) -> io::Result<()> {
    let done = read_up_to(store, buf, offset)?;
    if let Some(rest) = buf.get_mut(done..) {
        rest.fill(0);
    }
    Ok(())
}

/// Reads until the buffer is full or the file ends; returns the bytes read.
pub fn read_up_to<S: Store>(store: &S, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match store.read_at(rest, offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// As [`read_zero_filled`], but [`WouldBlock`](io::ErrorKind::WouldBlock) where some of it is not in memory.
pub fn read_zero_filled_at_once<S: Store>(
    store: &S,
    buf: &mut [u8],
    offset: u64,
) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match store.read_at_once(rest, offset.saturating_add(done as u64)) {
            Ok(0) => {
                rest.fill(0);
                break;
            }
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes the whole buffer, continuing after short writes.
pub fn write_all<S: Store>(store: &S, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match store.write_at(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                buf = buf.get(n..).unwrap_or_default();
                offset = offset.saturating_add(n as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Comparing the slice with itself shifted by one lets memcmp do the work.
    match bytes.split_first() {
        None => true,
        Some((first, rest)) => *first == 0 && rest == &bytes[..rest.len()],
    }
}

/// A file in memory, for tests of everything that takes a [`Store`].
///
/// `capacity` limits the size: a write beyond it fails with ENOSPC, as on a
/// full disk. Every stretch counts as data.
#[derive(Debug)]
pub struct MemStore {
    bytes: Mutex<Vec<u8>>,
    capacity: u64,
}

impl MemStore {
    /// A file with these contents and room for one GiB.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self::with_capacity(bytes, 1 << 30)
    }

    /// A file that cannot grow beyond `capacity` bytes.
    pub fn with_capacity(bytes: Vec<u8>, capacity: u64) -> Self {
        Self { bytes: Mutex::new(bytes), capacity }
    }

    /// A copy of the present contents.
    pub fn snapshot(&self) -> Vec<u8> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clear(&self, range: Range<u64>) {
        let mut bytes = self.lock();
        let len = bytes.len();
        let at = |value: u64| usize::try_from(value).unwrap_or(usize::MAX).min(len);
        if let Some(slice) = bytes.get_mut(at(range.start)..at(range.end)) {
            slice.fill(0);
        }
    }
}

impl Store for MemStore {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.lock();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let available = bytes.get(start..).unwrap_or_default();
        let n = available.len().min(buf.len());
        for (to, from) in buf.iter_mut().zip(available) {
            *to = *from;
        }
        Ok(n)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let mut bytes = self.lock();
        let end = offset.saturating_add(buf.len() as u64);
        if end > self.capacity {
            return Err(io::Error::from_raw_os_error(nix::libc::ENOSPC));
        }
        let (start, end) = (offset as usize, end as usize);
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(buf);
        Ok(buf.len())
    }
    fn size(&self) -> io::Result<u64> {
        Ok(self.lock().len() as u64)
    }
    fn set_size(&self, size: u64) -> io::Result<()> {
        if size > self.capacity {
            return Err(io::Error::from_raw_os_error(nix::libc::ENOSPC));
        }
        self.lock().resize(size as usize, 0);
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        self.clear(range);
        Ok(())
    }
    fn zero_range(&self, range: Range<u64>) -> io::Result<()> {
        self.clear(range);
        Ok(())
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let size = self.size()?;
        Ok((offset < size).then_some(offset..size))
    }
}
