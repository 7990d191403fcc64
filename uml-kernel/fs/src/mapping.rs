//! Mappings of cached files.

use std::sync::Arc;

use uml_abi::Result;
use uml_core::vfs::Inode;
use uml_mm::{MapAccess, Mappable};
use uml_pagecache::Mapping;

/// A mapping, which keeps the inode as long as somebody can store through it.
pub(crate) struct FileMapping {
    map: Arc<Mapping>,
    key: u64,
    _inode: Arc<dyn Inode>,
}

impl FileMapping {
    /// A mapping of the inode that is known as `key` in the machine.
    pub(crate) fn new(map: Arc<Mapping>, key: u64, inode: Arc<dyn Inode>) -> Arc<FileMapping> {
        Arc::new(FileMapping { map, key, _inode: inode })
    }
}

impl Mappable for FileMapping {
    fn host_fd(&self, off: u64, len: u64, access: MapAccess) -> Result<i32> {
        self.map.host_fd(off, len, access)
    }

    fn identity(&self) -> (u64, u64) {
        self.map.identity()
    }

    fn sync(&self, off: u64, len: u64) -> Result<()> {
        self.map.sync(off, len)
    }

    fn key(&self) -> u64 {
        self.key
    }
}
