//! Controlling terminals and job control (credentials(7), tcsetpgrp(3), ioctl_tty(2)).

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::kernel::Kernel;
use uml_core::signal::{Restart, SigInfo, bit, send_to_group};
use uml_core::task::{Cap, Task, Terminals};
use uml_core::vfs::Dev;

use crate::tty::Tty;

#[derive(Default)]
struct Table {
    terminals: HashMap<i32, Arc<Tty>>,
    /// Foreground groups of sessions whose terminal was hung up: they get SIGHUP when the leader exits.
    old_groups: HashMap<i32, i32>,
}

/// Which session has which controlling terminal.
pub struct Sessions {
    kernel: Weak<Kernel>,
    table: Mutex<Table>,
}

/// A task's place in the process tree.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    pid: i32,
    session: i32,
    pgrp: i32,
}

impl Place {
    fn of(task: &Task) -> Place {
        let kernel = task.kernel();
        let tree = kernel.tree.read();
        let pid = task.process.pid;
        match tree.get(pid) {
            Some(p) => Place { pid, session: p.session, pgrp: p.pgrp },
            None => Place { pid, session: 0, pgrp: 0 },
        }
    }

    fn leads_session(self) -> bool {
        self.session != 0 && self.session == self.pid
    }
}

impl Sessions {
    /// The sessions of `kernel`, none of which has a terminal yet.
    pub fn new(kernel: &Arc<Kernel>) -> Arc<Sessions> {
        Arc::new(Sessions {
            kernel: Arc::downgrade(kernel),
            table: Mutex::new(Rank::TTY_SESSIONS, Table::default()),
        })
    }

    pub(crate) fn kernel(&self) -> Option<Arc<Kernel>> {
        self.kernel.upgrade()
    }

    /// The controlling terminal of `task`.
    pub fn terminal_of(&self, task: &Task) -> Option<Arc<Tty>> {
        if task.process.no_terminal.load(Ordering::Relaxed) {
            return None;
        }
        let session = Place::of(task).session;
        self.table.lock().terminals.get(&session).cloned()
    }

    fn is_free(&self, place: Place) -> bool {
        place.leads_session() && !self.table.lock().terminals.contains_key(&place.session)
    }

    /// open(2) of a terminal by a session leader that has none, unless the terminal is taken.
    pub(crate) fn acquire_on_open(&self, task: &Task, tty: &Arc<Tty>) {
        let place = Place::of(task);
        if self.is_free(place) && tty.session() == 0 {
            self.bind(task, place, tty);
        }
    }

    fn bind(&self, task: &Task, place: Place, tty: &Arc<Tty>) {
        let mut table = self.table.lock();
        {
            let mut st = tty.state().lock();
            st.session = place.session;
            st.pgrp = place.pgrp;
        }
        table.terminals.insert(place.session, tty.clone());
        table.old_groups.remove(&place.session);
        task.process.no_terminal.store(false, Ordering::Relaxed);
    }

    /// TIOCSCTTY; `steal` is its argument being 1, `readable` whether the file was opened for reading.
    pub(crate) fn acquire(
        &self,
        task: &Task,
        tty: &Arc<Tty>,
        steal: bool,
        readable: bool,
    ) -> Result<()> {
        let place = Place::of(task);
        let owner = tty.session();
        if place.leads_session() && place.session == owner {
            return Ok(());
        }
        if !self.is_free(place) {
            return Err(EPERM);
        }
        let admin = task.cred().capable(Cap::SysAdmin);
        if owner != 0 {
            if !(steal && admin) {
                return Err(EPERM);
            }
            self.forget(owner, tty);
        }
        if !readable && !admin {
            return Err(EPERM);
        }
        self.bind(task, place, tty);
        Ok(())
    }

    /// The session loses `tty`, if that is its terminal.
    pub(crate) fn forget(&self, session: i32, tty: &Tty) {
        let mut table = self.table.lock();
        if table.terminals.get(&session).is_some_and(|t| std::ptr::eq(&**t, tty)) {
            let gone = table.terminals.remove(&session);
            drop(table);
            drop(gone);
        }
    }

    pub(crate) fn remember_group(&self, session: i32, pgrp: i32) {
        if pgrp != 0 {
            self.table.lock().old_groups.insert(session, pgrp);
        }
    }

    /// TIOCNOTTY: the process gives up its terminal; a leader gives it up for the whole session, whose
    /// foreground group gets SIGHUP and SIGCONT.
    pub(crate) fn disown(&self, task: &Task, tty: &Tty) -> Result<()> {
        if !tty.controls(task) {
            return Err(ENOTTY);
        }
        let place = Place::of(task);
        if !place.leads_session() {
            task.process.no_terminal.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let pgrp = {
            let mut st = tty.state().lock();
            st.session = 0;
            std::mem::take(&mut st.pgrp)
        };
        self.forget(place.session, tty);
        if pgrp != 0 {
            let kernel = task.kernel();
            send_to_group(&kernel, pgrp, SigInfo::kernel(libc::SIGHUP));
            send_to_group(&kernel, pgrp, SigInfo::kernel(libc::SIGCONT));
        }
        Ok(())
    }
}

impl Terminals for Sessions {
    fn controlling(&self, task: &Task) -> Option<(Dev, i32)> {
        let tty = self.terminal_of(task)?;
        Some((tty.dev(), tty.foreground()))
    }

    fn leader_exits(&self, kernel: &Kernel, session: i32) {
        let (tty, old_group) = {
            let mut table = self.table.lock();
            let tty = table.terminals.get(&session).cloned();
            (tty, table.old_groups.remove(&session))
        };
        let Some(tty) = tty else {
            if let Some(pgrp) = old_group {
                send_to_group(kernel, pgrp, SigInfo::kernel(libc::SIGHUP));
                send_to_group(kernel, pgrp, SigInfo::kernel(libc::SIGCONT));
            }
            return;
        };
        if !tty.is_pty() {
            tty.hangup(true);
            // The leader is gone: nothing to remember the group for.
            self.table.lock().old_groups.remove(&session);
            return;
        }
        let pgrp = {
            let mut st = tty.state().lock();
            if st.session != session {
                return;
            }
            st.session = 0;
            std::mem::take(&mut st.pgrp)
        };
        self.forget(session, &tty);
        if pgrp != 0 {
            send_to_group(kernel, pgrp, SigInfo::kernel(libc::SIGHUP));
        }
    }

    fn vhangup(&self, task: &Task) {
        if let Some(tty) = self.terminal_of(task) {
            tty.hangup(false);
        }
    }

    fn reset_lines(&self) {
        let lines: Vec<_> = self.table.lock().terminals.values().cloned().collect();
        for tty in lines.into_iter().filter(|t| !t.is_pty()) {
            tty.reset_termios();
        }
    }
}

/// Hook for [`uml_core::kernel::Hooks::on_exit_process`]: a session leader gives up its terminal.
pub fn on_exit_process(task: &Arc<Task>) {
    let place = Place::of(task);
    let kernel = task.kernel();
    if place.leads_session()
        && let Some(t) = kernel.terminals()
    {
        t.leader_exits(&kernel, place.session);
    }
}

impl Tty {
    /// True when this is the controlling terminal of `task`.
    pub fn controls(&self, task: &Task) -> bool {
        let session = self.session();
        session != 0
            && !task.process.no_terminal.load(Ordering::Relaxed)
            && Place::of(task).session == session
    }

    /// Job control: a background process that is about to read (SIGTTIN) or to change the
    /// terminal (SIGTTOU) is stopped, and repeats the call once it is continued. Processes that
    /// ignore or block the signal go on, reading ones with `EIO`; orphaned groups get `EIO`.
    pub(crate) fn check_change(&self, task: &Task, signo: i32) -> Result<()> {
        if !self.controls(task) {
            return Ok(());
        }
        let place = Place::of(task);
        let foreground = self.foreground();
        if foreground == 0 || place.pgrp == foreground {
            return Ok(());
        }
        if task.blocked() & bit(signo) != 0 || task.process.ignores(signo) {
            return if signo == libc::SIGTTIN { Err(EIO) } else { Ok(()) };
        }
        let kernel = task.kernel();
        if kernel.tree.read().is_orphaned(place.pgrp, 0) {
            return Err(EIO);
        }
        send_to_group(&kernel, place.pgrp, SigInfo::kernel(signo));
        task.restart.set(Restart::Sys);
        Err(EINTR)
    }

    /// [`Tty::check_change`] for reads.
    pub(crate) fn check_read(&self, task: &Task) -> Result<()> {
        self.check_change(task, libc::SIGTTIN)
    }

    /// TIOCSPGRP: makes `pgrp` the foreground group. `caller_side` is false on a master.
    pub(crate) fn set_foreground(&self, task: &Task, pgrp: i32) -> Result<()> {
        match self.check_change(task, libc::SIGTTOU) {
            Err(EIO) => return Err(ENOTTY),
            other => other?,
        }
        if !self.controls(task) {
            return Err(ENOTTY);
        }
        if pgrp < 0 {
            return Err(EINVAL);
        }
        let kernel = task.kernel();
        let own = Place::of(task).session;
        let tree = kernel.tree.read();
        let member = tree.group(pgrp).first().copied().ok_or(ESRCH)?;
        let session = tree.get(member).map(|p| p.session);
        drop(tree);
        if session != Some(own) {
            return Err(EPERM);
        }
        self.state().lock().pgrp = pgrp;
        Ok(())
    }
}
