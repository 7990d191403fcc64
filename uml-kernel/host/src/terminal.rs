//! Terminals of the host: raw mode, and its end whatever happens; sizes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::sys::stat::fstat;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Rows, columns, and their pixels.
pub type Size = (u16, u16, u16, u16);

struct Saved {
    /// `st_rdev`: two descriptors of one terminal share its settings.
    terminal: u64,
    users: usize,
    fd: OwnedFd,
    before: Termios,
}

static SAVED: Mutex<Vec<Saved>> = Mutex::new(Vec::new());

/// Keeps a terminal in raw mode until it is dropped or [`restore_all`] runs.
#[derive(Debug)]
pub struct RawMode {
    terminal: u64,
}

impl RawMode {
    /// Puts the terminal behind `fd` into raw mode.
    pub fn enter(fd: impl AsFd) -> io::Result<RawMode> {
        let terminal = fstat(fd.as_fd())?.st_rdev;
        let mut saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(s) = saved.iter_mut().find(|s| s.terminal == terminal) {
            s.users += 1;
            return Ok(RawMode { terminal });
        }
        let before = tcgetattr(fd.as_fd())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        let own = fd.as_fd().try_clone_to_owned()?;
        without_stop(|| tcsetattr(fd.as_fd(), SetArg::TCSADRAIN, &raw))?;
        saved.push(Saved { terminal, users: 1, fd: own, before });
        Ok(RawMode { terminal })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let mut saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(i) = saved.iter().position(|s| s.terminal == self.terminal) {
            saved[i].users -= 1;
            if saved[i].users == 0 {
                let s = saved.swap_remove(i);
                restore(&s);
            }
        }
    }
}

fn restore(s: &Saved) {
    // A terminal that is gone needs nothing; there is nobody to tell either.
    let _ = without_stop(|| tcsetattr(&s.fd, SetArg::TCSANOW, &s.before));
}

/// Gives every terminal its former settings back. For every way out of the process: exit, re-exec,
/// panic, fatal signals. Safe to call more than once and while another thread holds the list.
pub fn restore_all() {
    let list = match SAVED.try_lock() {
        Ok(l) => l,
        Err(std::sync::TryLockError::Poisoned(p)) => p.into_inner(),
        Err(std::sync::TryLockError::WouldBlock) => return,
    };
    for s in list.iter() {
        restore(s);
    }
}

/// Runs `f` with SIGTTOU blocked: a process in the background of its terminal would be
/// stopped by a change of the settings.
fn without_stop<T>(f: impl FnOnce() -> T) -> T {
    use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
    let mut set = SigSet::empty();
    set.add(Signal::SIGTTOU);
    let mut old = SigSet::empty();
    let masked = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut old)).is_ok();
    let result = f();
    if masked {
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&old), None);
    }
    result
}

/// Puts a terminal of our own (the master of a pty we made) into raw mode, for good.
pub fn make_raw(fd: impl AsFd) -> io::Result<()> {
    let mut t = tcgetattr(fd.as_fd())?;
    cfmakeraw(&mut t);
    Ok(tcsetattr(fd, SetArg::TCSANOW, &t)?)
}

nix::ioctl_read_bad!(get_size, libc::TIOCGWINSZ, libc::winsize);

/// The size of the terminal behind `fd`; `None` when it has none.
pub fn size(fd: impl AsFd) -> Option<Size> {
    use std::os::fd::AsRawFd;
    let mut w = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ fills the structure it is given, which lives across the call.
    unsafe { get_size(fd.as_fd().as_raw_fd(), &mut w) }.ok()?;
    (w.ws_row != 0 || w.ws_col != 0).then_some((w.ws_row, w.ws_col, w.ws_xpixel, w.ws_ypixel))
}

nix::ioctl_write_ptr_bad!(put_size, libc::TIOCSWINSZ, libc::winsize);

/// Sets the size of the terminal behind `fd`.
pub fn set_size(fd: impl AsFd, size: Size) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let (ws_row, ws_col, ws_xpixel, ws_ypixel) = size;
    let w = libc::winsize { ws_row, ws_col, ws_xpixel, ws_ypixel };
    // SAFETY: TIOCSWINSZ reads the structure it is given, which lives across the call.
    unsafe { put_size(fd.as_fd().as_raw_fd(), &w) }?;
    Ok(())
}

/// True when the terminal behind `fd` echoes what is typed, as it does outside of raw mode.
pub fn echoes(fd: impl AsFd) -> io::Result<bool> {
    use nix::sys::termios::LocalFlags;
    Ok(tcgetattr(fd)?.local_flags.contains(LocalFlags::ECHO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pty;

    fn echoes(fd: impl AsFd) -> bool {
        super::echoes(fd).expect("a terminal")
    }

    #[test]
    fn raw_mode_is_shared_by_descriptors_and_undone() {
        let pair = pty::open_pts().expect("a host pty");
        let slave = pair.open_slave().expect("slave");
        let again = pair.open_slave().expect("slave");
        assert!(echoes(&slave));
        let a = RawMode::enter(&slave).expect("raw");
        let b = RawMode::enter(&again).expect("raw");
        assert!(!echoes(&slave));
        drop(a);
        assert!(!echoes(&slave));
        drop(b);
        assert!(echoes(&slave));
        let c = RawMode::enter(&slave).expect("raw");
        restore_all();
        assert!(echoes(&slave));
        drop(c);
    }
}
