//! Open files and directories.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, PollRegistrar, Rank};
use uml_core::ctx::Ctx;
use uml_core::file::{DirEmit, File, FileOps, Io};
use uml_core::io::{Sink, Source};
use uml_core::task::Task;
use uml_mm::Mappable;

use crate::overlay::inode::OvlInode;

/// An open regular file. One opened on a lower layer goes on with the upper file once there is one.
pub(crate) struct OvlFile {
    inode: Arc<OvlInode>,
    ops: Box<dyn FileOps>,
    on_upper: bool,
    later: OnceLock<Box<dyn FileOps>>,
    flags: u32,
}

impl OvlFile {
    pub(crate) fn open(inode: Arc<OvlInode>, flags: u32) -> Result<OvlFile> {
        let writes = flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32;
        if writes {
            inode.copy_up()?;
        }
        let on_upper = inode.upper.get().is_some();
        let ops = inode.real()?.open(flags)?;
        Ok(OvlFile { inode, ops, on_upper, later: OnceLock::new(), flags })
    }

    fn real(&self) -> &dyn FileOps {
        if self.on_upper {
            return &*self.ops;
        }
        let Some(upper) = self.inode.upper.get() else { return &*self.ops };
        if let Some(l) = self.later.get() {
            return &**l;
        }
        match upper.open(self.flags) {
            Ok(ops) => &**self.later.get_or_init(|| ops),
            // Without room for another descriptor the old contents are all there is.
            Err(_) => &*self.ops,
        }
    }
}

impl FileOps for OvlFile {
    fn read(&self, io: &Io<'_>, off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        self.real().read(io, off, dst)
    }

    fn write(&self, io: &Io<'_>, off: &mut u64, src: &mut dyn Source) -> Result<usize> {
        self.real().write(io, off, src)
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        self.real().poll(reg)
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, file: &Arc<File>, cmd: u32, arg: u64) -> Result<u64> {
        self.real().ioctl(cx, file, cmd, arg)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, cur: u64, off: i64, whence: i32) -> Result<u64> {
        self.real().seek(cur, off, whence)
    }

    fn size(&self) -> u64 {
        self.real().size()
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>> {
        self.real().mappable()
    }

    fn fsync(&self, task: &Task, data_only: bool) -> Result<()> {
        self.real().fsync(task, data_only)
    }

    fn fallocate(&self, task: &Task, mode: u32, off: u64, len: u64) -> Result<()> {
        self.real().fallocate(task, mode, off, len)
    }

    fn flush(&self, task: &Task) {
        self.real().flush(task);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

type Entries = Vec<(Vec<u8>, u64, u8)>;

/// An open directory: the merged names as they were when reading began.
pub(crate) struct OvlDir {
    inode: Arc<OvlInode>,
    entries: Mutex<Option<Arc<Entries>>>,
}

impl OvlDir {
    pub(crate) fn new(inode: Arc<OvlInode>) -> OvlDir {
        OvlDir { inode, entries: Mutex::new(Rank::LEAF, None) }
    }
}

impl FileOps for OvlDir {
    fn readdir(&self, _: &Task, off: &mut u64, out: &mut dyn DirEmit) -> Result<()> {
        let kept = if *off < 3 { None } else { self.entries.lock().clone() };
        let entries = match kept {
            Some(e) => e,
            None => {
                let e = Arc::new(self.inode.entries()?);
                *self.entries.lock() = Some(e.clone());
                e
            }
        };
        let start = usize::try_from(off.saturating_sub(3)).unwrap_or(usize::MAX);
        for (i, (name, ino, kind)) in entries.iter().enumerate().skip(start) {
            let next = i as u64 + 4;
            if !out.emit(name, *ino, *kind, next) {
                break;
            }
            *off = next;
        }
        Ok(())
    }

    fn fsync(&self, task: &Task, data_only: bool) -> Result<()> {
        match self.inode.upper.get() {
            Some(u) => match u.open((libc::O_RDONLY | libc::O_DIRECTORY) as u32) {
                Ok(d) => d.fsync(task, data_only),
                Err(EISDIR) => u.superblock().sync(),
                Err(e) => Err(e),
            },
            None => Ok(()),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
