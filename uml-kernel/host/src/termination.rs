//! What would end our own process: SIGINT and SIGTERM as an orderly request, SIGXFSZ not at all.

use std::io;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

fn set() -> SigSet {
    SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM])
}

/// Blocks both signals in the calling thread and the threads it will make: called before there are others, so
/// that only [`wait`] sees them. A disposition of "ignored" that was inherited (a shell's background job) is
/// replaced, since a second signal must be able to kill.
pub fn block() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for s in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: no handler is installed, only the default action.
        unsafe { sigaction(s, &default) }?;
    }
    Ok(set().thread_block()?)
}

/// Has a file that would exceed RLIMIT_FSIZE fail with `EFBIG` instead of ending the process (setrlimit(2)).
pub fn refuse_large_files() -> io::Result<()> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed.
    unsafe { sigaction(Signal::SIGXFSZ, &ignore) }?;
    Ok(())
}

/// Waits for one of the signals and returns its number.
pub fn wait() -> io::Result<i32> {
    Ok(set().wait()? as i32)
}

/// Lets a further signal act on the process at once, which is to kill it.
pub fn release() -> io::Result<()> {
    Ok(set().thread_unblock()?)
}
