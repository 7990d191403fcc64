//! SIGWINCH: of our own controlling terminal, and of others by a helper process that has one each.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static EVENT: OnceLock<EventFd> = OnceLock::new();

extern "C" fn on_winch(_: libc::c_int) {
    if let Some(e) = EVENT.get() {
        let one = 1u64;
        // SAFETY: write(2) is async-signal-safe; the buffer is a live u64. errno is put back, because the
        // interrupted code may be about to look at it.
        unsafe {
            let errno = *libc::__errno_location();
            libc::write(e.as_fd().as_raw_fd(), (&raw const one).cast(), 8);
            *libc::__errno_location() = errno;
        }
    }
}

/// A descriptor that becomes readable when the process gets SIGWINCH. Installs the handler at
/// the first call.
pub fn events() -> io::Result<BorrowedFd<'static>> {
    if EVENT.get().is_none() {
        let e = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let _ = EVENT.set(e);
        let action =
            SigAction::new(SigHandler::Handler(on_winch), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler does nothing but what signal-safety(7) allows.
        unsafe { sigaction(Signal::SIGWINCH, &action) }?;
    }
    match EVENT.get() {
        Some(e) => Ok(e.as_fd()),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Consumes the pending events.
pub fn clear() {
    if let Some(e) = EVENT.get() {
        let _ = e.read();
    }
}

/// The word that makes this program the helper of [`watch`].
pub const HELPER_WORD: &str = "-winch";

/// Starts a helper process, this program under the name `linux`, that takes `terminal` as its controlling terminal and passes
/// each SIGWINCH on to this process. It ends with the terminal. A terminal that another session has is refused by the
/// host; sizes are not followed then.
pub fn watch(terminal: impl AsFd) -> io::Result<Child> {
    let terminal = terminal.as_fd().try_clone_to_owned()?;
    Command::new(std::env::current_exe()?)
        .arg0("linux")
        .arg(HELPER_WORD)
        .arg(std::process::id().to_string())
        .stdin(Stdio::from(terminal))
        .stdout(Stdio::null())
        .spawn()
}

/// The helper: with descriptor 0 as its controlling terminal it passes SIGWINCH on to `kernel` until that is gone.
pub fn follow(kernel: i32) -> io::Result<()> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGWINCH);
    set.thread_block()?;
    nix::unistd::setsid()?;
    // SAFETY: TIOCSCTTY takes a number.
    if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // The size may have changed since the kernel looked.
    loop {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(kernel), Signal::SIGWINCH)?;
        set.wait()?;
    }
}
