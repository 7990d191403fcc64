//! The page cache: file data of block filesystems in memory.
//!
//! A [`CachedFile`] holds the bytes of one inode: small ones in the heap, others in a sparse memory file of
//! the host, which read(2), write(2) and mmap(2) share. Which pages are valid, changed or promised space is
//! kept as sets of page numbers ([`PageSet`]). Missing pages come from the file's [`Backing`], in growing
//! pieces while access is sequential ([`Readahead`]), the next of them by a thread of the volume while the reader takes the last; changed pages go back to it later, in large pieces, by
//! the flusher thread of the filesystem's [`Volume`], by fsync(2), or when memory is short. The [`Pool`] is
//! the machine's memory for all of this: it counts, and evicts what was not used lately.
//!
//! What guests store through shared mappings cannot be seen. Pages that are mapped that way are compared
//! with what was last written, whenever a writeback passes over the file.
//!
//! Lock order: [`Pool`]'s reclaim lock, then per file: writeback, layout, state; under the state only the
//! lists of pool and volume. Fills, writes and writeback hold the layout shared; truncation, hole punching
//! and eviction hold it exclusively, so a valid page stays valid for whoever holds it shared. A backing is
//! called with writeback and layout held, never with the state. The locks carry no rank: drops of inodes and
//! mappings come here with any lock of the kernel held, and nothing here takes any of those.
//!
//! Neighbours: `uml-mm` says what can be mapped, `uml-host` makes the host's calls; filesystems above
//! implement [`Backing`]. Does not belong here: attributes, names, permission checks, guest memory.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod ahead;
mod backing;
mod evict;
mod file;
mod layout;
mod mapped;
mod pages;
mod pool;
mod readahead;
mod scratch;
mod store;
mod sum;
mod volume;
mod writeback;

pub use backing::{Backing, Space, VolumeOps};
pub use file::{CachedFile, Identity};
pub use layout::Change;
pub use mapped::Mapping;
pub use pages::PageSet;
pub use pool::{Pool, PoolStats};
pub use readahead::Readahead;
pub use volume::{Volume, VolumeConfig};

/// Bytes in a page.
pub const PAGE: u64 = uml_mm::PAGE;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock; a panic elsewhere does not spread.
fn lock<T: ?Sized>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pages that bytes `off..off + len` touch.
fn page_range(off: u64, len: u64) -> (u64, u64) {
    (off / PAGE, off.saturating_add(len).div_ceil(PAGE))
}
