//! Terminals of the host: raw mode, and its end whatever happens; sizes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
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
    keeper: Option<Keeper>,
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
        let wanted = KEEPERS.load(Ordering::Relaxed);
        let keeper = wanted.then(|| Keeper::start(&own, &before).ok()).flatten();
        saved.push(Saved { terminal, users: 1, fd: own, before, keeper });
        Ok(RawMode { terminal })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let mut saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(i) = saved.iter().position(|s| s.terminal == self.terminal) {
            saved[i].users -= 1;
            if saved[i].users == 0 {
                let mut s = saved.swap_remove(i);
                restore(&mut s);
            }
        }
    }
}

/// Puts every terminal that is to be in raw mode into it again, when somebody else changed its settings: the shell that
/// put us into the background and back, a stty(1) from elsewhere. The settings at the end stay those of the beginning. Returns
/// how many terminals there are; the error is the first one of the host.
pub fn reassert() -> io::Result<usize> {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut result = Ok(saved.len());
    for s in saved.iter() {
        let mut raw = s.before.clone();
        cfmakeraw(&mut raw);
        if let Err(e) = without_stop(|| tcsetattr(&s.fd, SetArg::TCSANOW, &raw)) {
            result = result.and(Err(e.into()));
        }
    }
    result
}

fn restore(s: &mut Saved) {
    // A terminal that is gone needs nothing; there is nobody to tell either.
    let _ = without_stop(|| tcsetattr(&s.fd, SetArg::TCSANOW, &s.before));
    if let Some(k) = s.keeper.take() {
        k.dismiss();
    }
}

static KEEPERS: AtomicBool = AtomicBool::new(false);

/// Has terminals in raw mode watched by a process each from now on. For programs that know [`KEEPER_WORD`].
pub fn use_keepers() {
    KEEPERS.store(true, Ordering::Relaxed);
}

/// The word that makes this program the keeper of a terminal's settings.
pub const KEEPER_WORD: &str = "-keeper";

/// A process that gives a terminal its settings back when this one is killed: of SIGKILL nobody else learns. It waits for the end of a
/// pipe whose other end only this process has.
struct Keeper {
    child: Child,
    pipe: ChildStdin,
}

impl Keeper {
    fn start(terminal: &OwnedFd, before: &Termios) -> io::Result<Keeper> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg0("linux")
            .arg(KEEPER_WORD)
            .arg(as_words(&before.clone().into()))
            .stdin(Stdio::piped())
            .stdout(Stdio::from(terminal.try_clone()?))
            .stderr(Stdio::null())
            // Signals of the keyboard are not for it.
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Keeper { child, pipe })
    }

    /// The settings are back: it has nothing more to do.
    fn dismiss(mut self) {
        // Before the end of its pipe, which means something else to it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        drop(self.pipe);
    }
}

/// The keeper: waits for the end of its standard input and gives the terminal of its standard output these settings.
pub fn keep(words: &str) -> io::Result<()> {
    let settings = of_words(words).ok_or(io::ErrorKind::InvalidInput)?;
    ignore_hangup();
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    without_stop(|| tcsetattr(io::stdout().as_fd(), SetArg::TCSANOW, &settings.into()))?;
    Ok(())
}

/// Settings as text: four flag words and the special characters, hexadecimal, as stty(1) has them.
fn as_words(t: &libc::termios) -> String {
    let flags = [t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag];
    let all = flags.into_iter().chain(t.c_cc.map(u32::from));
    all.map(|n| format!("{n:x}")).collect::<Vec<_>>().join(":")
}

fn of_words(words: &str) -> Option<libc::termios> {
    let numbers: Option<Vec<u32>> =
        words.split(':').map(|w| u32::from_str_radix(w, 16).ok()).collect();
    // SAFETY: plain data for which zero is valid.
    let mut t: libc::termios = unsafe { std::mem::zeroed() };
    let (flags, chars) = numbers.as_deref()?.split_at_checked(4)?;
    [t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag] = flags.try_into().ok()?;
    let chars: Option<Vec<u8>> = chars.iter().map(|c| u8::try_from(*c).ok()).collect();
    t.c_cc = chars?.try_into().ok()?;
    Some(t)
}

/// Gives every terminal its former settings back. For every way out of the process: exit, re-exec,
/// panic, fatal signals. Safe to call more than once and while another thread holds the list.
pub fn restore_all() {
    let mut list = match SAVED.try_lock() {
        Ok(l) => l,
        Err(std::sync::TryLockError::Poisoned(p)) => p.into_inner(),
        Err(std::sync::TryLockError::WouldBlock) => return,
    };
    for s in list.iter_mut() {
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

/// Gives up the controlling terminal behind `fd` (tty_ioctl(4), TIOCNOTTY).
pub fn disown(fd: impl AsFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: TIOCNOTTY takes no argument.
    match unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCNOTTY) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Survives the end of the session's terminal.
pub fn ignore_hangup() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: ignoring a signal runs no code of ours.
    let _ = unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn) };
}

/// Waits until the other side of the terminal behind `fd` is gone: its window was closed, its connection broken.
pub fn wait_for_hangup(fd: impl AsFd) -> io::Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    // A hang-up is reported without being asked for.
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::empty())];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            other => return other.map(|_| ()).map_err(io::Error::from),
        }
    }
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
    fn settings_survive_as_words() {
        let pair = pty::open_pts().expect("a host pty");
        let slave = pair.open_slave().expect("slave");
        let before: libc::termios = tcgetattr(&slave).expect("settings").into();
        let back = of_words(&as_words(&before)).expect("words");
        assert_eq!(as_words(&back), as_words(&before));
        assert_eq!((back.c_lflag, back.c_cc), (before.c_lflag, before.c_cc));
        for bad in ["", "1:2:3", "x:1:2:3", "1:2:3:4:5"] {
            assert!(of_words(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_end_of_a_terminal_is_seen() {
        let pair = pty::open_pts().expect("a host pty");
        let slave = pair.open_slave().expect("slave");
        let waiting = std::thread::spawn(move || wait_for_hangup(&slave));
        assert!(!waiting.is_finished());
        drop(pair);
        waiting.join().expect("no panic").expect("hung up");
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
        // Somebody else's settings.
        let mut t = tcgetattr(&slave).expect("settings");
        t.local_flags.insert(nix::sys::termios::LocalFlags::ECHO);
        tcsetattr(&slave, SetArg::TCSANOW, &t).expect("stty");
        assert!(echoes(&slave));
        assert!(reassert().expect("settings") >= 1);
        assert!(!echoes(&slave));
        drop(b);
        assert!(echoes(&slave));
        let c = RawMode::enter(&slave).expect("raw");
        restore_all();
        assert!(echoes(&slave));
        drop(c);
    }
}
