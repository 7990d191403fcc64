//! A held console: a pty whose slave the kernel has, its scroll-back and its log.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

use crate::state::LogFile;

/// Bytes of output a new viewer is shown.
const SCROLL_BACK: usize = 64 << 10;
/// Bytes of input kept for a guest that does not read.
const INPUT_MAX: usize = 256 << 10;

/// One line.
pub struct Line {
    /// `con0`.
    pub name: String,
    /// Our side.
    pub master: OwnedFd,
    /// The kernel's side; kept open so that output is never cut off between two boots.
    pub slave: OwnedFd,
    scroll: VecDeque<u8>,
    log: Option<LogFile>,
    input: VecDeque<u8>,
    tail: Vec<u8>,
}

impl Line {
    /// Makes the pty. The slave is inherited by programs that are started, the master is not.
    pub fn new(name: String, log: Option<LogFile>) -> io::Result<Line> {
        let pty = openpty(None, None)?;
        let mut t = tcgetattr(&pty.slave)?;
        cfmakeraw(&mut t);
        tcsetattr(&pty.slave, SetArg::TCSANOW, &t)?;
        fcntl(&pty.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        fcntl(&pty.slave, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let (scroll, input) = (VecDeque::new(), VecDeque::new());
        let mut line = Line {
            name,
            master: pty.master,
            slave: pty.slave,
            scroll,
            log,
            input,
            tail: Vec::new(),
        };
        let _ = line.resize(24, 80);
        Ok(line)
    }

    /// Takes over the pty of a holder that was killed, with what is in its log for the scroll-back.
    pub fn adopt(name: String, master: OwnedFd, log: Option<LogFile>) -> io::Result<Line> {
        let slave = rustix::pty::ptsname(&master, Vec::new())?;
        // Opened without making it a terminal of ours, which cannot be said after.
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let slave = rustix::fs::open(&slave, flags, rustix::fs::Mode::empty())?;
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let scroll = log.as_ref().map_or(VecDeque::new(), |l| l.last(SCROLL_BACK).into());
        let (input, tail) = (VecDeque::new(), Vec::new());
        Ok(Line { name, master, slave, scroll, log, input, tail })
    }

    /// Number of the kernel's descriptor.
    pub fn kernel_fd(&self) -> i32 {
        self.slave.as_raw_fd()
    }

    /// A duplicate of our side that programs inherit.
    pub fn for_kernel(&self) -> io::Result<OwnedFd> {
        let fd = self.master.try_clone()?;
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(fd)
    }

    /// Reads what the guest printed; none when there is nothing now. Also tells whether `login:` appeared.
    pub fn read(&mut self) -> Option<(Vec<u8>, bool)> {
        let mut chunk = vec![0; 16 << 10];
        let n = nix::unistd::read(&self.master, &mut chunk).ok().filter(|n| *n > 0)?;
        chunk.truncate(n);
        if let Some(l) = &mut self.log {
            l.append(&chunk);
        }
        self.scroll.extend(&chunk);
        let excess = self.scroll.len().saturating_sub(SCROLL_BACK);
        self.scroll.drain(..excess);
        self.tail.extend_from_slice(&chunk);
        let login = self.tail.windows(6).any(|w| w == b"login:");
        let keep = self.tail.len().saturating_sub(5);
        self.tail.drain(..keep);
        Some((chunk, login))
    }

    /// What a new viewer is shown.
    pub fn scroll_back(&self) -> Vec<u8> {
        self.scroll.iter().copied().collect()
    }

    /// Takes input for the guest; false when it does not read and this is too much.
    pub fn type_in(&mut self, bytes: &[u8]) -> bool {
        if self.input.len() + bytes.len() > INPUT_MAX {
            return false;
        }
        self.input.extend(bytes);
        self.flush_input();
        true
    }

    /// Writes pending input as far as the pty takes it.
    pub fn flush_input(&mut self) {
        while !self.input.is_empty() {
            let (first, _) = self.input.as_slices();
            match nix::unistd::write(&self.master, first) {
                Ok(n) if n > 0 => drop(self.input.drain(..n)),
                Err(nix::errno::Errno::EINTR) => {}
                _ => return,
            }
        }
    }

    /// Whether input is pending.
    pub fn wants_write(&self) -> bool {
        !self.input.is_empty()
    }

    /// Sets the window size.
    pub fn resize(&mut self, rows: u16, cols: u16) -> io::Result<()> {
        let size =
            rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(self.master.as_fd(), size)?)
    }
}
