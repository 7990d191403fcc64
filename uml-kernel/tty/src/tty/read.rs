//! read(2) on a terminal: lines, or bytes under VMIN and VTIME (termios(3), "Canonical and noncanonical
//! mode").

use std::sync::Arc;
use std::time::Duration;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, WaitQueue};
use uml_core::file::Io;
use uml_core::io::Sink;
use uml_core::task::WaitKind;

use super::{After, Tty};
use crate::tty::Opening;

/// Most bytes one read returns: all that the discipline can hold.
const READ_MAX: usize = crate::ldisc::INPUT_LIMIT;

/// What one look at the input says.
enum Look {
    Done(Vec<u8>),
    Fail(Errno),
    /// A first or further byte arrived: the interbyte timer starts again.
    Timer(usize),
    /// The device's input is over and was read.
    Ended,
}

fn tenths(n: u32) -> Duration {
    Duration::from_millis(u64::from(n) * 100)
}

impl Tty {
    /// read(2) on an open terminal.
    pub(crate) fn read(&self, at: &Opening, io: &Io<'_>, dst: &mut dyn Sink) -> Result<usize> {
        if self.is_hung_up(at) {
            return Ok(0);
        }
        if !at.console {
            self.check_read(io.task)?;
        }
        let max = dst.remaining().min(READ_MAX);
        if max == 0 {
            return Ok(0);
        }
        let data = self.read_data(at, io, max)?;
        let mut after = After::default();
        self.state.lock().process_incoming(&mut after);
        self.finish(after);
        if data.is_empty() { Ok(0) } else { dst.put(&data) }
    }

    fn read_data(&self, at: &Opening, io: &Io<'_>, max: usize) -> Result<Vec<u8>> {
        // Bytes seen by the interbyte timer.
        let mut seen = 0;
        let mut deadline = {
            let st = self.state.lock();
            let waits = !st.ldisc.canonical() && st.ldisc.vmin() == 0 && st.ldisc.vtime() != 0;
            waits.then(|| uml_base::clock::now() + tenths(st.ldisc.vtime()))
        };
        loop {
            let looked = if io.nonblock {
                self.look(at, max, usize::MAX)
            } else {
                match io.task.wait(
                    &self.read_wait,
                    Events::IN,
                    WaitKind::Interruptible,
                    deadline,
                    "n_tty_read",
                    || self.look(at, max, seen),
                ) {
                    Ok(Some(look)) => Some(look),
                    // The timer ran out: whatever there is, perhaps nothing.
                    Ok(None) => return Ok(self.take_some(max).unwrap_or_default()),
                    Err(e) => return self.take_some(max).ok_or(e),
                }
            };
            match looked {
                Some(Look::Done(data)) => return Ok(data),
                Some(Look::Fail(e)) => return Err(e),
                Some(Look::Ended) => {
                    self.hangup(false);
                    return Ok(Vec::new());
                }
                Some(Look::Timer(n)) => {
                    seen = n;
                    let st = self.state.lock();
                    deadline = Some(uml_base::clock::now() + tenths(st.ldisc.vtime()));
                }
                None => return self.take_some(max).ok_or(EAGAIN),
            }
        }
    }

    /// Non-canonical input that is there, if any.
    fn take_some(&self, max: usize) -> Option<Vec<u8>> {
        let mut st = self.state.lock();
        if st.ldisc.canonical() { None } else { st.ldisc.read(max) }
    }

    fn look(&self, at: &Opening, max: usize, seen: usize) -> Option<Look> {
        let mut st = self.state.lock();
        if self.is_hung_up(at) {
            return Some(Look::Done(Vec::new()));
        }
        let d = &mut st.ldisc;
        let complete =
            if d.canonical() { d.has_input() } else { d.available() >= d.vmin().max(1).min(max) };
        if complete && let Some(data) = d.read(max) {
            return Some(Look::Done(data));
        }
        if st.gone {
            return Some(Look::Fail(EIO));
        }
        if st.input_ended && st.incoming.is_empty() {
            // A last line without its newline counts as one.
            st.ldisc.finish_line();
            return Some(st.ldisc.read(max).map_or(Look::Ended, Look::Done));
        }
        let d = &st.ldisc;
        if d.canonical() {
            return None;
        }
        if d.vmin() == 0 && d.vtime() == 0 {
            return Some(Look::Done(Vec::new()));
        }
        if d.vmin() > 0 && d.vtime() > 0 && d.available() > 0 && seen < d.available() {
            return Some(Look::Timer(d.available()));
        }
        None
    }

    /// The queue on which readers wait.
    pub(crate) fn read_queue(&self) -> &Arc<WaitQueue> {
        &self.read_wait
    }
}
