//! What the engines of disk filesystems (`uml-ext4`, `uml-rofs`) stand on: the [`BlockStore`] and the integers in
//! structures on disk ([`bytes`]).
//!
//! Neighbours: `uml-abi` below (errno); engines above. Does not belong here: anything that knows a filesystem.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod blocks;
pub mod bytes;

pub use blocks::{BlockStore, FileStore, MemStore};
