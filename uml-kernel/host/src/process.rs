//! Our own process among the host's: session, group, children.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getsid, setsid};

/// Moves the process into a session of its own. Fails for the leader of a process group (a shell's job).
pub fn new_session() -> io::Result<()> {
    Ok(setsid().map(drop)?)
}

/// SIGTERM, then SIGCONT, to every other member of our session's only group: helper programs. Does nothing
/// when the session is not our own, where the group's members are strangers.
pub fn end_own_group() {
    if getsid(None) != Ok(getpid()) {
        return;
    }
    // SAFETY: ignoring a signal runs no code of ours.
    let ignored = unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) };
    if ignored.is_ok() {
        let group = Pid::from_raw(0);
        let _ = kill(group, Signal::SIGTERM).and_then(|()| kill(group, Signal::SIGCONT));
    }
}

/// Collects dead children until there are none or `patience` is over; returns whether all are gone.
/// For the moment before an execve(2), after which nobody would know them.
pub fn reap_children(patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Err(Errno::ECHILD) => return true,
            Ok(WaitStatus::StillAlive) if Instant::now() >= deadline => return false,
            // Killed children need a moment; there is no event for all of them at once.
            Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(1)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// Another process that may have to be ended. A descriptor keeps its number from meaning somebody else (pidfd_open(2)).
pub struct Doomed(OwnedFd);

impl Doomed {
    /// The process `pid`; `ESRCH` when there is none.
    pub fn new(pid: i32) -> io::Result<Doomed> {
        // SAFETY: the call takes numbers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(fd).unwrap_or(-1);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call just returned this descriptor, nobody else owns it.
        Ok(Doomed(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// SIGINT twice and then SIGKILL, with `mercy` to end by itself in between.
    pub fn end(&self, mercy: Duration) {
        for signo in [libc::SIGINT, libc::SIGINT, libc::SIGKILL] {
            // SAFETY: the call takes numbers and, here, no structure.
            let r = unsafe {
                libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signo, 0, 0)
            };
            // Readable means ended.
            if r < 0 || crate::stream::wait_readable(self.0.as_fd(), mercy) {
                return;
            }
        }
    }
}

/// Has `command` start as shells start a job: in a process group of its own, in the foreground of the controlling terminal if that is
/// its standard input, with no signal blocked. Keys such as Ctrl-C go to it, and not to us.
pub fn in_foreground(command: &mut Command) -> &mut Command {
    let join = || {
        // SAFETY: these calls take numbers and live structures, and are safe between fork and exec (signal-safety(7)).
        unsafe {
            libc::setpgid(0, 0);
            // Who is in the background and takes the foreground is stopped for it otherwise.
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGTTOU);
            libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            // Refused where it is no terminal, or another session's.
            libc::tcsetpgrp(0, libc::getpid());
            // What we take as descriptors, and block, is not blocked in it.
            libc::sigemptyset(&mut set);
            libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
        }
        Ok(())
    };
    // SAFETY: the function above allocates nothing and takes no lock.
    unsafe { command.pre_exec(join) }
}

/// How a process ended that may be somebody else's child, by its pidfd (pidfd_open(2)): wait(2) and waitid(2) with P_PIDFD are the
/// parent's alone. Linux tells it to everybody with a descriptor since 6.15 (PIDFD_GET_INFO, PIDFD_INFO_EXIT), as soon as the
/// parent has collected the process, for which `patience` is given. None where it does not tell.
pub fn exit_status(process: impl AsFd, patience: Duration) -> Option<ExitStatus> {
    let fd = process.as_fd();
    // A process that is collected hangs up; one that only ended is readable.
    crate::wait::hung_up(fd, patience);
    // SAFETY: a structure of integers, for which zeros are values.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = u64::from(libc::PIDFD_INFO_EXIT);
    // SAFETY: the structure lives, and its size is part of the request, so no more than it is written.
    let r = unsafe { libc::ioctl(fd.as_raw_fd(), libc::PIDFD_GET_INFO, &mut info) };
    // Older kernels answer and leave the bit out.
    let told = r == 0 && info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0;
    told.then(|| ExitStatus::from_raw(info.exit_code))
}

/// Real user id.
pub fn uid() -> u32 {
    nix::unistd::getuid().as_raw()
}
