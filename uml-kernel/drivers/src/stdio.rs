//! Streams of the host as files of the guest: the kernel process's own for init (`stdio=`), a caller's for programs it runs
//! through the door.

use std::any::Any;
use std::fs::File as HostFile;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, PollRegistrar};
use uml_core::file::{File, FileOps, Io};
use uml_core::io::{Sink, Source, take_vec};
use uml_core::task::Task;
use uml_core::vfs::{AnonKind, anon};

/// Bytes moved by one host call.
const STEP: usize = 128 * 1024;

/// A host stream: reads and writes are the host's, made outside any lock of the machine.
struct Stream {
    host: HostFile,
}

/// Descriptor `fd` (0, 1 or 2) of the kernel process.
pub fn open(task: &Arc<Task>, fd: usize) -> Result<Arc<File>> {
    let owned = match fd {
        0 => std::io::stdin().as_fd().try_clone_to_owned(),
        1 => std::io::stdout().as_fd().try_clone_to_owned(),
        _ => std::io::stderr().as_fd().try_clone_to_owned(),
    }?;
    Ok(from_host(task, owned, if fd == 0 { libc::O_RDONLY } else { libc::O_WRONLY }))
}

/// A host descriptor as a file of `task`, for the direction of `flags` (O_RDONLY or O_WRONLY).
pub fn from_host(task: &Task, owned: OwnedFd, flags: i32) -> Arc<File> {
    let cred = task.cred();
    let path = anon::path(AnonKind::Pipe, &cred);
    File::new(Box::new(Stream { host: HostFile::from(owned) }), path, flags as u32, cred)
}

impl FileOps for Stream {
    fn read(&self, io: &Io<'_>, _: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        let want = dst.remaining().min(STEP);
        if want == 0 {
            return Ok(0);
        }
        if !self.host_ready(Events::IN) {
            if io.nonblock {
                return Err(EAGAIN);
            }
            uml_host::wait::readable(self.host.as_fd(), &|| io.task.signal_pending(), &mut |f| {
                io.task.kernel().blocking(f)
            })?;
        }
        let mut buf = vec![0; want];
        let n = (&self.host).read(&mut buf)?;
        dst.put(&buf[..n])
    }

    fn write(&self, io: &Io<'_>, _: &mut u64, src: &mut dyn Source) -> Result<usize> {
        let data = take_vec(src, STEP)?;
        let mut done = Err(EIO);
        io.task.kernel().blocking(&mut || done = (&self.host).write(&data).map_err(Into::into));
        match done {
            Ok(n) => {
                src.untake(data.len() - n);
                Ok(n)
            }
            Err(EPIPE) => {
                io.task.send_signal(uml_core::signal::SigInfo::user(libc::SIGPIPE, io.task));
                Err(EPIPE)
            }
            Err(e) => Err(e),
        }
    }

    fn poll(&self, _: Option<&mut dyn PollRegistrar>) -> Events {
        Events::READABLE.when(self.host_ready(Events::IN)) | Events::WRITABLE
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Stream {
    fn host_ready(&self, e: Events) -> bool {
        uml_host::wait::ready(self.fd(), e.0 as i16)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.host.as_fd()
    }
}
