//! Objects that mmap(2) can map.

use std::any::Any;
use std::os::fd::RawFd;

use uml_abi::Result;
use uml_abi::errno::EOPNOTSUPP;

/// Bytes in a page.
pub const PAGE: u64 = 4096;

/// How a mapping will be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapAccess {
    /// MAP_SHARED (stores reach the object) as opposed to MAP_PRIVATE.
    pub shared: bool,
    /// The shared mapping may ever become writable (the file is open for writing).
    pub may_write: bool,
}

/// An object whose bytes can be mapped: a page cache, a shared-memory segment, a host file.
pub trait Mappable: Send + Sync {
    /// A descriptor of the kernel process whose offset `off..off+len` holds (or will hold on access) the
    /// object's bytes at the same offsets, with no more rights than `access` needs. The object makes
    /// sure that the range is filled before it returns. The descriptor stays open while the object
    /// lives.
    fn host_fd(&self, off: u64, len: u64, access: MapAccess) -> Result<RawFd>;

    /// Whether mmap(2) may map `off..off+len`, whole pages: `EINVAL` where only all of it can be mapped.
    fn check_range(&self, off: u64, len: u64) -> Result<()> {
        let _ = (off, len);
        Ok(())
    }

    /// `st_dev` (encoded) and `st_ino`, for /proc/<pid>/maps.
    fn identity(&self) -> (u64, u64) {
        (0, 0)
    }

    /// Name for /proc/<pid>/maps (absolute path, `/dev/zero (deleted)`, `/memfd:name (deleted)`).
    fn name(&self) -> Vec<u8> {
        Vec::new()
    }

    /// A mapping was added (fork counts) or removed: page caches keep mapped objects resident.
    fn mapped(&self, delta: i64) {
        let _ = delta;
    }

    /// msync(2) MS_SYNC or unmap of a shared mapping: write the range back.
    fn sync(&self, off: u64, len: u64) -> Result<()> {
        let _ = (off, len);
        Ok(())
    }

    /// madvise(2) MADV_REMOVE: frees the bytes `off..off+len`, which read as zeros from then on.
    /// `EOPNOTSUPP` when the object cannot have holes.
    fn punch(&self, off: u64, len: u64) -> Result<()> {
        let _ = (off, len);
        Err(EOPNOTSUPP)
    }

    /// The object as what it is, for callers that know more kinds than this crate (mapped files).
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }

    /// Identifies the object for shared futexes: equal for two mappings of the same bytes.
    fn key(&self) -> u64;
}
