//! Host processes by descriptor, so that a reused pid is never taken for the one that was meant.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long the parent of a process that ended may take to collect it: init does so at once.
const COLLECTED: Duration = Duration::from_secs(1);

/// Waits for a child that may end while we are here, so that its zombie does not stay. The thread takes no signals: those that
/// this process receives as a descriptor (signalfd(2)) would be lost in it.
pub fn reap_later(mut child: Child) {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    std::thread::spawn(move || child.wait());
    if let Ok(mask) = before {
        let _ = mask.thread_set_mask();
    }
}

/// A process of the host.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    fd: OwnedFd,
}

impl Process {
    /// The process that has this pid now; `NotFound` when there is none.
    pub fn open(pid: i32) -> io::Result<Process> {
        let raw = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
        let fd = pidfd_open(raw, PidfdFlags::empty()).map_err(|e| match e {
            rustix::io::Errno::SRCH => io::ErrorKind::NotFound.into(),
            e => io::Error::from(e),
        })?;
        Ok(Process { pid, fd })
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.fd, signal)?)
    }

    /// Waits for its end; false when `patience` is over first.
    pub fn wait(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let ms =
                PollTimeout::try_from(left.as_millis().min(1 << 30)).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, ms) {
                Ok(n) if n > 0 => return true,
                Ok(_) if Instant::now() >= deadline => return false,
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// How it ended, as far as the host tells others than its parent: until that has collected it, to its own user
    /// (proc_pid_stat(5), `exit_code`); after, to whoever has a descriptor ([`uml_host::process::exit_status`]).
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.left_behind().or_else(|| uml_host::process::exit_status(self, COLLECTED))
    }

    /// The status of a zombie.
    fn left_behind(&self) -> Option<ExitStatus> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
        fields.next().filter(|state| *state == "Z")?;
        let status = fields.nth(48)?.parse().ok()?;
        // Not collected even now, so the number was still its own.
        let collected = uml_host::wait::hung_up(self.as_fd(), Duration::ZERO);
        (!collected).then(|| ExitStatus::from_raw(status))
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// One that nobody has collected yet, as under an init that takes its time.
    #[test]
    fn the_status_of_a_zombie() {
        for (last, status) in [("exit 7", 7 << 8), ("exit 0", 0), ("kill -KILL $$", libc::SIGKILL)]
        {
            let mut child = Command::new("/bin/sh").args(["-c", last]).spawn().unwrap();
            let process = Process::open(child.id() as i32).unwrap();
            assert!(process.wait(Duration::from_secs(60)));
            assert_eq!(process.exit_status().map(ExitStatusExt::into_raw), Some(status), "{last}");
            child.wait().unwrap();
        }
    }

    /// Somebody else's child, as the kernel of a holder that was killed.
    #[test]
    fn the_status_of_who_is_no_child_of_ours() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map(|n| n.parse::<u32>().unwrap_or(0));
        let told = (numbers.next(), numbers.next()) >= (Some(6), Some(15));
        for (last, status) in [("exit 7", 7 << 8), ("exit 0", 0), ("kill -KILL $$", libc::SIGKILL)]
        {
            // Its parent lives until it has ended, and collects it.
            let mut parent = Command::new("/bin/sh")
                .args([
                    "-c",
                    "exec 3<&0; sh -c 'echo $$; read x; eval \"$0\"' \"$0\" <&3 & wait",
                    last,
                ])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut pid = String::new();
            let out = parent.stdout.take().unwrap();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut pid).unwrap();
            let process = Process::open(pid.trim().parse().unwrap()).unwrap();
            assert_eq!(process.exit_status(), None, "it runs");
            drop(parent.stdin.take());
            assert!(process.wait(Duration::from_secs(60)));
            let got = process.exit_status().map(|s| s.into_raw());
            if got.is_none() && !told {
                eprintln!("this host does not tell");
            } else {
                assert_eq!(got, Some(status), "{last}");
            }
            parent.wait().unwrap();
        }
    }
}
