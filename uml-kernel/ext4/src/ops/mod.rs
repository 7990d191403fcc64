//! The operations of a mounted filesystem, one file per group of calls.

pub(crate) mod attr;
pub(crate) mod blocks;
pub(crate) mod create;
pub(crate) mod data;
pub(crate) mod errors;
pub(crate) mod fallocate;
pub(crate) mod fast_replay;
pub(crate) mod groups;
pub(crate) mod names;
pub(crate) mod rename;
pub(crate) mod resize;
pub(crate) mod trim;
pub(crate) mod truncate;
mod tune;
pub(crate) mod unlink;
pub(crate) mod write;
pub(crate) mod xattrs;
