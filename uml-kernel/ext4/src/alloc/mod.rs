//! Allocation of blocks and inodes.

pub(crate) mod block;
pub(crate) mod inode;
