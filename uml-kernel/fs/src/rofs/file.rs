//! Open regular files.

use std::any::Any;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::EROFS;
use uml_core::file::{Advice, FileOps, Io, seek_in};
use uml_core::io::{Sink, Source};
use uml_core::task::Task;
use uml_mm::Mappable;
use uml_pagecache::Readahead;

use crate::cached;
use crate::mapping::FileMapping;
use crate::rofs::inode::RoInode;

pub(crate) struct RoFile {
    inode: Arc<RoInode>,
    ahead: Readahead,
}

impl RoFile {
    pub(crate) fn new(inode: Arc<RoInode>) -> RoFile {
        RoFile { inode, ahead: Readahead::new() }
    }
}

impl FileOps for RoFile {
    fn read(&self, _: &Io<'_>, off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        let data = self.inode.data()?;
        cached::read(data, &self.ahead, off, dst)
    }

    fn write(&self, _: &Io<'_>, _: &mut u64, _: &mut dyn Source) -> Result<usize> {
        Err(EROFS)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, cur: u64, off: i64, whence: i32) -> Result<u64> {
        seek_in(Some(self.inode.size()), cur, off, whence)
    }

    fn size(&self) -> u64 {
        self.inode.size()
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>> {
        let map = self.inode.data()?.map();
        Ok(FileMapping::new(map, self.inode.key, self.inode.clone()))
    }

    fn fsync(&self, _: &Task, _: bool) -> Result<()> {
        Ok(())
    }

    fn advise(&self, off: u64, len: u64, advice: Advice) -> Result<()> {
        let data = self.inode.data()?;
        cached::advise(data, &self.ahead, off, len, advice);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
