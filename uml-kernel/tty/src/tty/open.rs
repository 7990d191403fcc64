//! Opening, closing and hanging up.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Events;
use uml_core::signal::{SigInfo, send_to_group, send_to_process};
use uml_core::task::{Cap, Task};

use super::{State, Tty};

/// One open file's relation to its terminal.
#[derive(Debug)]
pub struct Opening {
    /// Generation at open time.
    generation: u64,
    /// Opened as /dev/console: no job control, and no hang-up ends it (ioctl_console(2), init(8) rely on it).
    pub(crate) console: bool,
}

impl Tty {
    /// Opens the terminal for `task`; with `acquire` (no O_NOCTTY, opened for reading) a session leader
    /// without a controlling terminal gets it as one (open(2)).
    pub fn open(self: &Arc<Tty>, task: &Task, console: bool, acquire: bool) -> Result<Opening> {
        let generation = {
            let mut st = self.state.lock();
            if st.gone || st.pt_locked {
                return Err(EIO);
            }
            if st.exclusive && st.count > 0 && !task.cred().capable(Cap::SysAdmin) {
                return Err(EBUSY);
            }
            st.count = st.count.checked_add(1).ok_or(ENFILE)?;
            // No more of them than of all.
            st.consoles += u32::from(console);
            st.slave_closed = false;
            self.generation()
        };
        let opening = Opening { generation, console };
        if let Err(e) = self.line.open(self) {
            self.release(&opening);
            return Err(e);
        }
        if acquire && let Some(sessions) = self.sessions() {
            sessions.acquire_on_open(task, self);
        }
        Ok(opening)
    }

    /// The file was closed.
    pub(crate) fn release(&self, at: &Opening) {
        let last = {
            let mut st = self.state.lock();
            if self.is_hung_up(at) {
                return;
            }
            st.consoles = st.consoles.saturating_sub(u32::from(at.console));
            st.count = st.count.saturating_sub(1);
            if st.count > 0 {
                return;
            }
            st.exclusive = false;
            st.slave_closed = true;
            if self.is_pty() {
                st.packet = false;
                None
            } else {
                st.ldisc.flush_input();
                st.incoming.clear();
                st.held = false;
                st.input_ended = false;
                Some(std::mem::take(&mut st.session))
            }
        };
        if let Some(session) = last {
            // Nobody can use the terminal as a controlling one without a file.
            self.state.lock().pgrp = 0;
            self.forget_session(session);
        }
        self.line.close(self);
    }

    /// True when the terminal was hung up after the file had been opened.
    pub(crate) fn is_hung_up(&self, at: &Opening) -> bool {
        !at.console && at.generation != self.generation()
    }

    fn forget_session(&self, session: i32) {
        if session != 0
            && let Some(s) = self.sessions()
        {
            s.forget(session, self);
        }
    }

    /// The connection is lost (modem hang-up, vhangup(2), closed master): every open file but those of /dev/console becomes
    /// useless, the session loses its terminal and its leader gets SIGHUP and SIGCONT. With
    /// `whole_group` the foreground group gets SIGHUP too.
    pub fn hangup(&self, whole_group: bool) {
        let (session, pgrp, closed) = {
            let mut st = self.state.lock();
            self.generation.fetch_add(1, Ordering::SeqCst);
            st.drop_data();
            if self.is_pty() {
                st.output.clear();
            }
            st.exclusive = false;
            (std::mem::take(&mut st.session), std::mem::take(&mut st.pgrp), {
                let files = st.consoles;
                std::mem::replace(&mut st.count, files) > 0 && files == 0
            })
        };
        self.read_wait.wake_all(Events::ALL);
        self.write_wait.wake_all(Events::ALL);
        if session != 0 {
            if let Some(s) = self.sessions() {
                s.forget(session, self);
                s.remember_group(session, pgrp);
            }
            if let Some(kernel) = self.kernel() {
                let leader = kernel.tree.read().get(session).map(|p| p.process.clone());
                if let Some(leader) = leader {
                    send_to_process(&kernel, &leader, SigInfo::kernel(libc::SIGHUP), false);
                    send_to_process(&kernel, &leader, SigInfo::kernel(libc::SIGCONT), false);
                }
                if whole_group && pgrp != 0 {
                    send_to_group(&kernel, pgrp, SigInfo::kernel(libc::SIGHUP));
                }
            }
        }
        if closed {
            self.line.close(self);
        }
    }
}

impl State {
    fn drop_data(&mut self) {
        self.ldisc.flush_input();
        self.incoming.clear();
        self.refused = false;
        self.held = false;
        self.input_ended = false;
    }
}
