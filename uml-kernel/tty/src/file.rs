//! The open file of a terminal.

use std::any::Any;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, PollRegistrar};
use uml_core::ctx::Ctx;
use uml_core::file::{File, FileOps, Io};
use uml_core::io::{Sink, Source};

use crate::ioctl;
use crate::tty::{Opening, Tty};

/// What poll(2) says about a terminal that was hung up.
const HUNG_UP: Events =
    Events(Events::READABLE.0 | Events::WRITABLE.0 | Events::ERR.0 | Events::HUP.0);

/// A terminal opened by a program: a console, a serial line or the slave of a pseudo-terminal.
pub struct TtyFile {
    tty: Arc<Tty>,
    opening: Opening,
}

impl TtyFile {
    /// The file of a successful [`Tty::open`].
    pub fn new(tty: Arc<Tty>, opening: Opening) -> TtyFile {
        TtyFile { tty, opening }
    }

    /// The terminal.
    pub fn tty(&self) -> &Arc<Tty> {
        &self.tty
    }
}

impl Drop for TtyFile {
    fn drop(&mut self) {
        self.tty.release(&self.opening);
    }
}

impl FileOps for TtyFile {
    fn read(&self, io: &Io<'_>, _off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        self.tty.read(&self.opening, io, dst)
    }

    fn write(&self, io: &Io<'_>, _off: &mut u64, src: &mut dyn Source) -> Result<usize> {
        self.tty.write(&self.opening, io, src)
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(reg) = reg {
            reg.register(self.tty.read_queue());
            reg.register(self.tty.write_queue());
        }
        if self.tty.is_hung_up(&self.opening) {
            return HUNG_UP;
        }
        let room = self.tty.has_write_room();
        let st = self.tty.state().lock();
        let ended = st.input_ended && st.incoming.is_empty();
        Events::READABLE.when(st.ldisc.poll_readable() || ended)
            | Events::HUP.when(st.gone || (ended && !st.ldisc.has_input()))
            | Events::WRITABLE.when(room && !st.gone)
    }

    fn pollable(&self) -> bool {
        true
    }

    fn signals_owner(&self) -> bool {
        true
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, file: &Arc<File>, cmd: u32, arg: u64) -> Result<u64> {
        if self.tty.is_hung_up(&self.opening) {
            return Err(if cmd == libc::TIOCSPGRP as u32 { ENOTTY } else { EIO });
        }
        ioctl::terminal(&cx.task, file, &self.tty, &self.opening, cmd, arg)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
