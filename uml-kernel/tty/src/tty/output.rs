//! Bytes for the device: writes of programs, and their fetching.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, WaitQueue};
use uml_core::file::Io;
use uml_core::io::Source;

use super::{After, OUTPUT_LIMIT, Tty};
use crate::tty::Opening;

/// Writers are woken, and poll(2) says writable, when this much room is there.
const WRITE_ROOM: usize = 4096;

impl Tty {
    /// write(2) on an open terminal.
    pub(crate) fn write(&self, at: &Opening, io: &Io<'_>, src: &mut dyn Source) -> Result<usize> {
        if self.is_hung_up(at) {
            return Err(EIO);
        }
        if self.termios().l(libc::TOSTOP) && !at.console {
            self.check_change(io.task, libc::SIGTTOU)?;
        }
        let mut total = 0;
        let mut chunk = [0; 4096];
        while src.remaining() > 0 {
            let n = match src.take(&mut chunk) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if total == 0 => return Err(e),
                Err(_) => break,
            };
            let mut done = 0;
            while done < n {
                let pushed = io.task.retry(
                    &self.write_wait,
                    Events::OUT,
                    io.nonblock,
                    None,
                    "n_tty_write",
                    || self.push_output(at, &chunk[done..n]),
                );
                match pushed {
                    Ok(m) => done += m,
                    Err(e) => {
                        src.untake(n - done);
                        total += done;
                        return if total > 0 { Ok(total) } else { Err(e) };
                    }
                }
            }
            total += n;
        }
        Ok(total)
    }

    /// Output-processes as much of `data` as there is room for; `EAGAIN` when there is none.
    fn push_output(&self, at: &Opening, data: &[u8]) -> Result<usize> {
        let n = {
            let mut st = self.state.lock();
            if self.is_hung_up(at) || st.gone {
                return Err(EIO);
            }
            // A pseudo-terminal has no driver that would keep output back: its writers wait.
            if st.is_pty && st.output_stopped() {
                return Err(EAGAIN);
            }
            let room = OUTPUT_LIMIT.saturating_sub(st.output.len());
            let mut out = Vec::with_capacity(data.len() + data.len() / 8);
            let n = st.ldisc.output(data, room, &mut out);
            st.output.extend(&out);
            n
        };
        if n == 0 {
            return Err(EAGAIN);
        }
        self.line.output_ready(self);
        Ok(n)
    }

    /// Puts bytes on the line ahead of all others, unprocessed (flow-control characters).
    pub(crate) fn push_front(&self, byte: u8) {
        self.state.lock().output.push_front(byte);
        self.line.output_ready(self);
    }

    /// Fetches up to `max` bytes for the device; empty while output is stopped.
    pub fn take_output(&self, max: usize) -> Vec<u8> {
        let (data, wake) = {
            let mut st = self.state.lock();
            if st.output_stopped() {
                return Vec::new();
            }
            let before = st.output.len();
            let n = before.min(max);
            let data: Vec<u8> = st.output.drain(..n).collect();
            let left = st.output.len();
            let crossed = OUTPUT_LIMIT.saturating_sub(before) < WRITE_ROOM
                && OUTPUT_LIMIT.saturating_sub(left) >= WRITE_ROOM;
            (data, crossed || (n > 0 && left == 0))
        };
        if wake {
            self.write_wait.wake_all(Events::WRITABLE);
        }
        data
    }

    /// All output that is left, stopped or not: for sending it after the last close.
    pub fn drain_output(&self) -> Vec<u8> {
        let data = self.state.lock().output.drain(..).collect();
        self.write_wait.wake_all(Events::WRITABLE);
        data
    }

    /// Tells those who wait for the output to drain that the device has caught up.
    pub fn output_sent(&self) {
        self.write_wait.wake_all(Events::WRITABLE);
    }

    /// Bytes that [`Tty::take_output`] would yield.
    pub fn output_available(&self) -> usize {
        let st = self.state.lock();
        if st.output_stopped() { 0 } else { st.output.len() }
    }

    /// Room for a write, in poll(2)'s sense.
    pub(crate) fn has_write_room(&self) -> bool {
        let st = self.state.lock();
        OUTPUT_LIMIT.saturating_sub(st.output.len()) >= WRITE_ROOM
    }

    /// The queue on which writers wait.
    pub(crate) fn write_queue(&self) -> &Arc<WaitQueue> {
        &self.write_wait
    }

    /// Discards pending output.
    pub(crate) fn flush_output(&self) {
        let mut after = After { writable: true, ..After::default() };
        {
            let mut st = self.state.lock();
            st.discard_output();
            after.output = st.packet;
        }
        self.finish(after);
    }
}
