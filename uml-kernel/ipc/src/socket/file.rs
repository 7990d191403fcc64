//! The open file around a socket.

use std::any::Any;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, PollRegistrar};
use uml_core::ctx::Ctx;
use uml_core::file::{File, FileOps, Io};
use uml_core::io::{Sink, Source};
use uml_core::task::Task;
use uml_core::vfs::anon::{self, AnonInode, AnonKind};

use super::{RecvArgs, SendArgs, Socket};

/// What a socket descriptor refers to.
pub struct SocketFile {
    pub socket: Arc<dyn Socket>,
    /// Number in `socket:[N]`.
    pub ino: u64,
}

impl SocketFile {
    /// An open file around `socket`; `flags` may have SOCK_NONBLOCK.
    pub fn open(task: &Task, socket: Arc<dyn Socket>, flags: i32) -> Arc<File> {
        let cred = task.cred();
        let inode = AnonInode::new(AnonKind::Socket, &cred);
        socket.opened(&inode);
        let ops = SocketFile { socket, ino: inode.ino() };
        let status = libc::O_RDWR | (flags & libc::SOCK_NONBLOCK);
        File::new(Box::new(ops), anon::path_of(inode), status as u32, cred)
    }

    /// The socket behind an open file; `ENOTSOCK` when it is something else.
    pub fn of(file: &File) -> Result<&Arc<dyn Socket>> {
        file.downcast::<SocketFile>().map(|f| &f.socket).ok_or(ENOTSOCK)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.socket.close();
    }
}

impl FileOps for SocketFile {
    fn read(&self, io: &Io<'_>, _off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        let mut args = RecvArgs {
            task: io.task,
            data: dst,
            flags: 0,
            nonblock: io.nonblock,
            want_control: false,
        };
        self.socket.recv(&mut args).map(|r| r.len)
    }

    fn write(&self, io: &Io<'_>, _off: &mut u64, src: &mut dyn Source) -> Result<usize> {
        let mut args = SendArgs {
            task: io.task,
            data: src,
            addr: None,
            control: &[],
            flags: 0,
            nonblock: io.nonblock,
        };
        self.socket.send(&mut args)
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        self.socket.poll(reg)
    }

    fn mappable(&self) -> Result<Arc<dyn uml_mm::Mappable>> {
        self.socket.mappable()
    }

    fn pollable(&self) -> bool {
        true
    }

    fn signals_owner(&self) -> bool {
        true
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, _file: &Arc<File>, cmd: u32, arg: u64) -> Result<u64> {
        super::ioctl(&*self.socket, cx, cmd, arg)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
