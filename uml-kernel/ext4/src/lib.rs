//! An ext2, ext3 and ext4 engine with the jbd2 journal, over a [`BlockStore`].
//!
//! The crate knows nothing of tasks, files, dentries or permissions: it is
//! given inode numbers and names, and keeps the structures on disk correct and
//! crash-safe. It does not cache file data (the page cache above does) and has
//! no threads: the owner calls [`Ext4::commit`] from its timer.
//!
//! Key types: [`Ext4`] (a mounted filesystem), [`BlockStore`] (what is under
//! it), [`Options`], [`MountError`].
//!
//! How a change happens: an operation collects changed metadata blocks in an
//! overlay (`txn`), which joins the running transaction as a whole or is
//! dropped, so a failing operation leaves nothing behind. Commit writes the
//! transaction to the log (`journal/commit`), checkpoint writes it home
//! (`journal/checkpoint`). File data goes straight to the store before its
//! operation joins the transaction; the flush before the commit record makes
//! it durable first (ordered mode).
//!
//! Lock order: an inode's data lock, the log, the state (`RwLock`), then the
//! metadata cache and the error sink. Reads hold the state shared; changes hold
//! it exclusively, commits and checkpoints do their I/O without it.
//!
//! Neighbours: `uml-abi` below (errno); the VFS glue and the page cache above.
//! Does not belong here: permission checks, path walking, quotas' policy,
//! delayed allocation (see [`Ext4::reserve`]), host I/O.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod alloc;
mod blockmap;
mod cache;
mod crc;
mod dir;
mod error;
mod extent;
pub mod features;
mod fs;
mod group;
mod inline;
mod inode;
mod journal;
mod layout;
mod map;
mod meta;
mod mmp;
mod mount;
mod ops;
mod orphan;
mod overlay;
mod txn;
mod xattr;

pub use dir::readdir::{DIR_END, DirEntry};
pub use dir::{FileType, NAME_MAX};
pub use error::{EFSBADCRC, EFSCORRUPTED, ErrorHook, ErrorPolicy, FsError, MountError};
pub use features::Features;
pub use fs::{Clock, Ext4, Options};
pub use inode::{ROOT_INO, Timestamp, flags};
pub use journal::replay::ReplayReport;
pub use map::Mapping;
pub use ops::attr::{Attr, Info, Statfs};
pub use ops::create::NewInode;
pub use ops::errors::ErrorRecord;
pub use ops::fallocate::FallocateMode;
pub use ops::groups::GroupSpace;
pub use ops::rename::RenameMode;
pub use ops::resize::NewGroup;
pub use ops::truncate::SetAttr;
pub use ops::unlink::Unlinked;
pub use ops::xattrs::XattrMode;
pub(crate) use uml_store::bytes;
pub use uml_store::{BlockStore, FileStore, MemStore};
pub use xattr::VALUE_MAX;
