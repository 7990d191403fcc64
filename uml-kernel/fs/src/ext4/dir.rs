//! Open directories: fsync(2) and ioctl(2); entries are read through the inode.

use std::any::Any;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::file::{DirEmit, File, FileOps, Io};
use uml_core::io::Sink;
use uml_core::task::Task;
use uml_core::vfs::DirOps;

use crate::ext4::inode::Ext4Inode;
use crate::ext4::ioctl;

pub(crate) struct Ext4Dir {
    inode: Arc<Ext4Inode>,
}

impl Ext4Dir {
    pub(crate) fn new(inode: Arc<Ext4Inode>) -> Ext4Dir {
        Ext4Dir { inode }
    }
}

impl FileOps for Ext4Dir {
    fn read(&self, _: &Io<'_>, _: &mut u64, _: &mut dyn Sink) -> Result<usize> {
        Err(EISDIR)
    }

    fn readdir(&self, _: &Task, off: &mut u64, out: &mut dyn DirEmit) -> Result<()> {
        DirOps::readdir(&*self.inode, off, out)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn fsync(&self, _: &Task, data_only: bool) -> Result<()> {
        let e = &self.inode.shared.engine;
        if e.is_read_only() && !self.inode.shared.mounted_ro() {
            return Err(EIO);
        }
        self.inode.flush_times()?;
        if data_only { e.fdatasync(self.inode.ino) } else { e.fsync(self.inode.ino) }
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, file: &Arc<File>, cmd: u32, arg: u64) -> Result<u64> {
        ioctl::ioctl(&self.inode, cx, file, cmd, arg)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
