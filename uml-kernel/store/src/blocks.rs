//! The block store under a filesystem, and two simple stores.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::RwLock;

use uml_abi::errno::{EINVAL, EIO, EROFS};
use uml_abi::{Errno, Result};

/// Where a filesystem's bytes live: a guest disk, a host file, memory.
///
/// Offsets and lengths are in bytes. Engines only issue requests that are
/// multiples of 512 bytes at offsets that are multiples of 512. All methods
/// may block on host I/O and may be called from several threads at once.
pub trait BlockStore: Send + Sync {
    /// Size in bytes; must not shrink while mounted.
    fn size(&self) -> u64;

    /// Fills `buf` from `off`; short reads are errors (`EIO`).
    fn read_at(&self, off: u64, buf: &mut [u8]) -> Result<()>;

    /// As `read_at`, but `EAGAIN` where the bytes would have to be waited for; a store that cannot tell waits.
    fn read_at_once(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.read_at(off, buf)
    }

    /// Writes all of `buf` at `off`. On return the data is visible to
    /// `read_at` but may be lost by a power cut until `flush` returns.
    fn write_at(&self, off: u64, buf: &[u8]) -> Result<()>;

    /// Makes every write that returned before this call durable.
    fn flush(&self) -> Result<()>;

    /// Says the range's contents are no longer needed. Optional.
    fn discard(&self, off: u64, len: u64) -> Result<()> {
        let _ = (off, len);
        Ok(())
    }

    /// False when writes are refused (a read-only disk).
    fn writable(&self) -> bool {
        true
    }
}

/// A store in memory, for tests and tools.
pub struct MemStore {
    data: RwLock<Vec<u8>>,
}

impl MemStore {
    /// Takes ownership of an image.
    pub fn new(data: Vec<u8>) -> MemStore {
        MemStore { data: RwLock::new(data) }
    }

    /// A copy of the current contents.
    pub fn snapshot(&self) -> Vec<u8> {
        self.data.read().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

fn range(off: u64, len: usize, size: usize) -> Result<std::ops::Range<usize>> {
    let start = usize::try_from(off).map_err(|_| EIO)?;
    let end = start.checked_add(len).ok_or(EIO)?;
    if end > size { Err(EIO) } else { Ok(start..end) }
}

impl BlockStore for MemStore {
    fn size(&self) -> u64 {
        self.data.read().unwrap_or_else(|e| e.into_inner()).len() as u64
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        let d = self.data.read().unwrap_or_else(|e| e.into_inner());
        buf.copy_from_slice(&d[range(off, buf.len(), d.len())?]);
        Ok(())
    }

    fn write_at(&self, off: u64, buf: &[u8]) -> Result<()> {
        let mut d = self.data.write().unwrap_or_else(|e| e.into_inner());
        let r = range(off, buf.len(), d.len())?;
        d[r].copy_from_slice(buf);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

/// A store in a host file or host block device.
pub struct FileStore {
    file: File,
    size: u64,
    writable: bool,
}

impl FileStore {
    /// Uses `file`, whose current length is the store's size. `writable` says
    /// whether the file was opened for writing.
    pub fn new(file: File, writable: bool) -> Result<FileStore> {
        use std::io::{Seek, SeekFrom};
        let size = (&file).seek(SeekFrom::End(0)).map_err(Errno::from)?;
        Ok(FileStore { file, size, writable })
    }
}

impl BlockStore for FileStore {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buf, off).map_err(Errno::from)
    }

    fn write_at(&self, off: u64, buf: &[u8]) -> Result<()> {
        if !self.writable {
            return Err(EROFS);
        }
        if off.checked_add(buf.len() as u64).is_none_or(|end| end > self.size) {
            return Err(EINVAL);
        }
        self.file.write_all_at(buf, off).map_err(Errno::from)
    }

    fn flush(&self) -> Result<()> {
        self.file.sync_data().map_err(Errno::from)
    }

    fn writable(&self) -> bool {
        self.writable
    }
}
