//! The ends of a pipe as open files.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_base::{Events, PollRegistrar};
use uml_core::ctx::Ctx;
use uml_core::file::{File, FileOps, Io};
use uml_core::io::{Sink, Source};
use uml_core::user;

use super::{Ends, Pipe};
use crate::fifo::Registration;

/// One open file description of a pipe or FIFO.
pub struct PipeFile {
    pub(crate) pipe: Arc<Pipe>,
    read: bool,
    write: bool,
    /// For FIFOs opened without a writer: a hang-up shows only after one came and went.
    pub(crate) quiet_until: Option<u64>,
    /// Keeps a FIFO's entry in the registry.
    pub(crate) registration: Option<Registration>,
}

impl PipeFile {
    /// Attaches to the given ends.
    pub(crate) fn new(pipe: Arc<Pipe>, read: bool, write: bool) -> PipeFile {
        PipeFile::open(pipe, read, write).0
    }

    /// The same; and who had the pipe open as this was attached.
    pub(crate) fn open(pipe: Arc<Pipe>, read: bool, write: bool) -> (PipeFile, Ends) {
        let ends = pipe.attach(read, write);
        (PipeFile { pipe, read, write, quiet_until: None, registration: None }, ends)
    }
}

impl Drop for PipeFile {
    fn drop(&mut self) {
        self.pipe.detach(self.read, self.write);
    }
}

impl FileOps for PipeFile {
    fn read(&self, io: &Io<'_>, _off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        self.pipe.read(io, dst)
    }

    fn write(&self, io: &Io<'_>, _off: &mut u64, src: &mut dyn Source) -> Result<usize> {
        self.pipe.write(io, src, io.direct)
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(reg) = reg {
            reg.register(&self.pipe.queue);
            self.pipe.polled.store(true, Ordering::SeqCst);
        }
        let inner = self.pipe.inner.lock();
        let mut events = Events::NONE;
        if self.read {
            events |= Events::READABLE.when(inner.bytes > 0);
            let gone = inner.writers == 0 && self.quiet_until != Some(inner.write_opens);
            events |= Events::HUP.when(gone);
        }
        if self.write {
            events |= Events::WRITABLE.when(!inner.full());
            events |= Events::ERR.when(inner.readers == 0);
        }
        events
    }

    fn pollable(&self) -> bool {
        true
    }

    fn signals_owner(&self) -> bool {
        true
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, _file: &Arc<File>, cmd: u32, arg: u64) -> Result<u64> {
        if u64::from(cmd) == libc::FIONREAD {
            let n = i32::try_from(self.pipe.unread()).unwrap_or(i32::MAX);
            user::write_obj(&cx.task, arg, &n)?;
            return Ok(0);
        }
        Err(uml_abi::errno::ENOTTY)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
