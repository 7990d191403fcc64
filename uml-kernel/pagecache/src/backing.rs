//! What lies under a cached file, and under the cache of a filesystem.

use uml_abi::Result;

/// Which space a write may take for pages that have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// What anybody may take.
    Free,
    /// Also what is kept for privileged users.
    Reserved,
    /// It was promised by [`Backing::reserve`]; the cache takes the promise back afterwards.
    Promised,
}

/// A file of a filesystem as the cache uses it. Offsets and lengths are in bytes unless said otherwise;
/// every method may block on I/O.
pub trait Backing: Send + Sync {
    /// Fills `buf` with the file's bytes from `off`; holes and what lies past the end the filesystem knows
    /// of read as zeros.
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()>;

    /// As `read`, but `EAGAIN` where contents would have to be waited for; what cannot tell waits.
    fn read_at_once(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.read(off, buf)
    }

    /// Writes `data` at `off`, allocating what is missing and growing the file; on return a power cut may
    /// still lose it.
    fn write(&self, off: u64, data: &[u8], space: Space) -> Result<()>;

    /// Ranges of pages inside `first..end` for which some space is missing: writing them allocates.
    fn holes(&self, first: u64, end: u64) -> Result<Vec<(u64, u64)>>;

    /// Promises space for `pages` pages to later writes. `ENOSPC`, also when only a privileged caller could
    /// have it.
    fn reserve(&self, pages: u64, privileged: bool) -> Result<()>;

    /// Takes back a promise for `pages` pages.
    fn unreserve(&self, pages: u64);

    /// Makes written data and the metadata it needs durable; `data_only` as fdatasync(2).
    fn commit(&self, data_only: bool) -> Result<()>;

    /// A writeback found that mappings changed the file (POSIX: mmap(2) marks st_mtime for update). Called
    /// with the writeback lock held.
    fn mapping_wrote(&self) {}
}

/// A mounted filesystem as its flusher uses it.
pub trait VolumeOps: Send + Sync {
    /// Commits changed metadata. Called every few seconds after [`crate::Volume::touch`].
    fn commit(&self);
}
