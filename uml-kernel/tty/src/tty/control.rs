//! Settings, flushing, draining, flow, window size (tcsetattr(3), tcflush(3), tcdrain(3), tcflow(3)).

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Events;
use uml_core::task::{Cap, Task, WaitKind};

use super::{After, PKT_DOSTOP, PKT_IOCTL, PKT_NOSTOP, PKT_START, PKT_STOP, Tty};
use crate::termios::{DISABLED, RawTermios, Termios, WinSize};
use crate::tty::Opening;

/// When tcsetattr(3) takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Now,
    /// After the output was sent.
    Drain,
    /// The same, and input is discarded.
    Flush,
}

/// What tcflow(3) does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowAction {
    OutputOff,
    OutputOn,
    InputOff,
    InputOn,
}

impl Tty {
    /// Sets the settings that `change` makes of the present ones.
    pub fn set_termios(
        &self,
        task: &Task,
        at: Option<&Opening>,
        when: When,
        change: impl FnOnce(&Termios) -> Termios,
    ) -> Result<()> {
        self.check_change(task, libc::SIGTTOU)?;
        if when == When::Flush {
            self.flush_input();
        }
        if when != When::Now {
            self.drain(task, at)?;
        }
        self.change_termios(change);
        Ok(())
    }

    /// The settings a terminal starts with, but for what belongs to the line: its speed and character size.
    pub(crate) fn reset_termios(&self) {
        self.change_termios(|old| Termios {
            cflag: old.cflag,
            ispeed: old.ispeed,
            ospeed: old.ospeed,
            ..Termios::standard()
        });
    }

    fn change_termios(&self, change: impl FnOnce(&Termios) -> Termios) {
        let mut after = After::default();
        {
            let mut st = self.state.lock();
            let old = *st.ldisc.termios();
            let new = locked(&st.locked_termios, &old, change(&old));
            let restarted = st.ldisc.set_termios(new);
            after.output = restarted;
            after.writable = restarted;
            st.packet_of_change(&old, &new);
            // The new settings may let readers go on, and make room.
            st.process_incoming(&mut after);
            after.readable = true;
            after.output |= st.packet_status != 0;
        }
        self.finish(after);
    }

    /// Which bits of the settings are locked (TIOCGLCKTRMIOS).
    pub(crate) fn locked_termios(&self) -> RawTermios {
        self.state.lock().locked_termios
    }

    /// Locks bits of the settings (TIOCSLCKTRMIOS).
    pub(crate) fn lock_termios(&self, task: &Task, mask: RawTermios) -> Result<()> {
        task.require(Cap::SysAdmin)?;
        self.state.lock().locked_termios = mask;
        Ok(())
    }

    /// Discards input that was not read.
    pub(crate) fn flush_input(&self) {
        let mut after = After::default();
        {
            let mut st = self.state.lock();
            st.incoming.clear();
            st.ldisc.flush_input();
            st.packet(super::PKT_FLUSHREAD);
            st.process_incoming(&mut after);
            after.output = st.packet;
        }
        self.finish(after);
    }

    /// Waits until the device has got all output (tcdrain(3)). A pseudo-terminal has no
    /// transmission to wait for.
    pub(crate) fn drain(&self, task: &Task, at: Option<&Opening>) -> Result<()> {
        if self.is_pty() {
            return Ok(());
        }
        task.wait(
            &self.write_wait,
            Events::OUT,
            WaitKind::Interruptible,
            None,
            "tty_wait_until_sent",
            || {
                let hung_up = at.is_some_and(|at| self.is_hung_up(at));
                (hung_up || self.unsent() == 0).then_some(())
            },
        )?;
        Ok(())
    }

    /// Bytes that programs wrote and the device has not sent (TIOCOUTQ).
    pub(crate) fn unsent(&self) -> usize {
        let queued = self.state.lock().output.len();
        queued + self.line.unsent()
    }

    /// tcflow(3).
    pub(crate) fn flow(&self, action: FlowAction) {
        match action {
            FlowAction::OutputOff => {
                let mut st = self.state.lock();
                if !std::mem::replace(&mut st.held, true) {
                    st.packet(PKT_STOP);
                }
            }
            FlowAction::OutputOn => {
                let mut st = self.state.lock();
                if std::mem::replace(&mut st.held, false) {
                    st.packet(PKT_START);
                }
                drop(st);
                self.write_wait.wake_all(Events::WRITABLE);
            }
            FlowAction::InputOff => self.send_flow_character(libc::VSTOP),
            FlowAction::InputOn => self.send_flow_character(libc::VSTART),
        }
        self.line.output_ready(self);
    }

    fn send_flow_character(&self, index: usize) {
        let c = self.termios().cc[index];
        if c != DISABLED {
            self.push_front(c);
        }
    }

    /// Window size (TIOCGWINSZ).
    pub fn winsize(&self) -> WinSize {
        self.state.lock().winsize
    }

    /// Sets the window size; the foreground group gets SIGWINCH when it changed.
    pub fn set_winsize(&self, size: WinSize) {
        let mut after = After::default();
        {
            let mut st = self.state.lock();
            if std::mem::replace(&mut st.winsize, size) != size && st.pgrp != 0 {
                after.signals.push((st.pgrp, libc::SIGWINCH));
            }
        }
        self.finish(after);
    }

    /// Sends a keyboard signal to the foreground group from the master (TIOCSIG).
    pub(crate) fn keyboard_signal(&self, signo: i32) -> Result<()> {
        if ![libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP].contains(&signo) {
            return Err(EINVAL);
        }
        let pgrp = self.foreground();
        let mut after = After::default();
        if pgrp != 0 {
            after.signals.push((pgrp, signo));
        }
        self.finish(after);
        Ok(())
    }

    /// TIOCEXCL and TIOCNXCL.
    pub(crate) fn set_exclusive(&self, on: bool) {
        self.state.lock().exclusive = on;
    }

    /// TIOCGEXCL.
    pub(crate) fn exclusive(&self) -> bool {
        self.state.lock().exclusive
    }

    /// Bytes a read would return (FIONREAD).
    pub(crate) fn readable_bytes(&self) -> usize {
        self.state.lock().ldisc.available()
    }
}

impl super::State {
    /// Tells a packet-mode master about settings it cares for (TIOCPKT).
    fn packet_of_change(&mut self, old: &Termios, new: &Termios) {
        if !self.packet {
            return;
        }
        let usual = |t: &Termios| {
            t.i(libc::IXON) && t.cc[libc::VSTOP] == 0x13 && t.cc[libc::VSTART] == 0x11
        };
        if usual(old) != usual(new) {
            self.packet(if usual(new) { PKT_DOSTOP } else { PKT_NOSTOP });
        }
        if (old.lflag | new.lflag) & libc::EXTPROC != 0 {
            self.packet(PKT_IOCTL);
        }
    }
}

/// `new`, with the bits that are locked left as in `old`.
fn locked(lock: &RawTermios, old: &Termios, new: Termios) -> Termios {
    let keep = |mask: u32, old: u32, new: u32| (old & mask) | (new & !mask);
    let mut t = new;
    t.iflag = keep(lock.iflag, old.iflag, new.iflag);
    t.oflag = keep(lock.oflag, old.oflag, new.oflag);
    t.cflag = keep(lock.cflag, old.cflag, new.cflag);
    t.lflag = keep(lock.lflag, old.lflag, new.lflag);
    if lock.line != 0 {
        t.line = old.line;
    }
    for (i, l) in lock.cc.iter().enumerate() {
        if *l != 0 {
            t.cc[i] = old.cc[i];
        }
    }
    t
}
