//! Stopping a kernel: the polite ways first.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::mconsole;
use crate::process::Process;
use crate::spec::vm::StopTimes;

/// What is done to stop a kernel, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Ctrl-Alt-Del through the management console: the guest's init shuts down.
    Cad,
    /// The kernel halts at once.
    Halt,
    /// SIGTERM to the kernel process.
    Term,
    /// SIGKILL.
    Kill,
}

impl Step {
    /// As people know it.
    pub fn name(self) -> &'static str {
        match self {
            Step::Cad => "Ctrl-Alt-Del",
            Step::Halt => "halt",
            Step::Term => "SIGTERM",
            Step::Kill => "SIGKILL",
        }
    }

    /// What to say when it worked.
    pub fn worked(self) -> String {
        match self {
            Step::Cad => "stopped by the guest after Ctrl-Alt-Del".into(),
            Step::Halt => "halted by the kernel".into(),
            s => format!("ended by {}", s.name()),
        }
    }
}

/// Tries each step that has a time until the process is gone; tells `report` of each as it begins. None when even the
/// last did not work.
pub fn stop(
    process: &Process,
    socket: Option<&Path>,
    times: &StopTimes,
    report: &mut dyn FnMut(Step, Option<String>),
) -> Option<Step> {
    let steps = [
        (Step::Cad, times.cad),
        (Step::Halt, times.halt),
        (Step::Term, times.term),
        (Step::Kill, times.kill),
    ];
    for (step, patience) in steps {
        if patience.is_zero() && step != Step::Kill {
            continue;
        }
        // From before anything can come of it.
        let reboots = socket.filter(|_| step == Step::Cad).map(Reboots::watch);
        let done = match (step, socket) {
            (Step::Cad | Step::Halt, None) => continue,
            (Step::Cad, Some(s)) => {
                // A stopped machine hears nothing but its console.
                let _ = mconsole::request_within(s, "go", Duration::from_secs(1));
                mconsole::request_within(s, "cad", patience.min(mconsole::PATIENCE)).map(|_| ())
            }
            (Step::Halt, Some(s)) => {
                mconsole::request_within(s, "halt", patience.min(mconsole::PATIENCE)).map(|_| ())
            }
            (Step::Term, _) => process
                .signal(Signal::TERM)
                .map_err(|e| crate::failure::Failure::other(e.to_string())),
            (Step::Kill, _) => process
                .signal(Signal::KILL)
                .map_err(|e| crate::failure::Failure::other(e.to_string())),
        };
        match done {
            Ok(()) => {
                report(step, None);
                let patience = patience.max(Duration::from_millis(1));
                let outcome = match reboots {
                    Some(r) => r.wait(process, patience),
                    None if process.wait(patience) => Outcome::Ended,
                    None => Outcome::Late,
                };
                match outcome {
                    Outcome::Ended => return Some(step),
                    // The usual answer of an init to Ctrl-Alt-Del. What is halted next has only just begun.
                    Outcome::Rebooted => {
                        report(step, Some("the guest shut down and rebooted".into()))
                    }
                    Outcome::Late => {}
                }
            }
            Err(e) => {
                report(step, Some(e.text));
                // It may have ended by itself meanwhile.
                if process.wait(Duration::ZERO) {
                    return Some(step);
                }
            }
        }
    }
    None
}

/// What came of Ctrl-Alt-Del.
enum Outcome {
    Ended,
    Rebooted,
    Late,
}

/// Tells when a kernel boots again: it stays the process it is, but makes its management socket anew.
struct Reboots<'a> {
    socket: &'a Path,
    /// Inode and time of the socket at first.
    before: Option<(u64, i64, i64)>,
    watch: Option<Inotify>,
}

impl<'a> Reboots<'a> {
    /// From now on.
    fn watch(socket: &'a Path) -> Reboots<'a> {
        let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
        let r = Reboots { socket, before: identity(socket), watch };
        r.look();
        r
    }

    /// Watches the directory that has the socket's place now, and the one above it: it is made anew too. Where that cannot
    /// be, a reboot shows when the time is over.
    fn look(&self) {
        let dir = self.socket.parent();
        for d in [dir.and_then(Path::parent), dir].into_iter().flatten() {
            if let Some(w) = &self.watch {
                let _ = w.add_watch(d, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO);
            }
        }
    }

    /// Waits for the end of the process, or for a reboot.
    fn wait(&self, process: &Process, patience: Duration) -> Outcome {
        let deadline = Instant::now() + patience;
        loop {
            self.look();
            if identity(self.socket).is_some_and(|now| Some(now) != self.before) {
                return Outcome::Rebooted;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let ms =
                PollTimeout::try_from(left.as_millis().min(1 << 30)).unwrap_or(PollTimeout::MAX);
            let mut fds = vec![PollFd::new(process.as_fd(), PollFlags::POLLIN)];
            fds.extend(self.watch.as_ref().map(|w| PollFd::new(w.as_fd(), PollFlags::POLLIN)));
            match poll(&mut fds, ms) {
                Ok(n) if n > 0 => {}
                Ok(_) if Instant::now() >= deadline => return Outcome::Late,
                Ok(_) | Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => return Outcome::Late,
            }
            if fds[0].any().unwrap_or(false) {
                return Outcome::Ended;
            }
            // What was made is looked at, not what was said of it.
            while self.watch.as_ref().is_some_and(|w| w.read_events().is_ok_and(|e| !e.is_empty()))
            {
            }
        }
    }
}

fn identity(socket: &Path) -> Option<(u64, i64, i64)> {
    std::fs::symlink_metadata(socket).ok().map(|m| (m.ino(), m.ctime(), m.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Makes an instance's directory as kernels do: complete, then by its name.
    fn appear(base: &Path) {
        let temporary = base.join(".new");
        fs::create_dir(&temporary).unwrap();
        fs::write(temporary.join("mconsole"), "").unwrap();
        fs::rename(&temporary, base.join("vm")).unwrap();
    }

    #[test]
    fn a_reboot_is_told_from_an_end_and_from_silence() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("vm");
        let socket = dir.join("mconsole");
        for round in 0..20 {
            appear(base.path());
            let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
            let process = Process::open(child.id() as i32).unwrap();
            let r = Reboots::watch(&socket);
            assert!(matches!(r.wait(&process, Duration::from_millis(5)), Outcome::Late));
            std::thread::scope(|s| {
                s.spawn(|| {
                    fs::remove_dir_all(&dir).unwrap();
                    if round % 2 == 0 {
                        appear(base.path());
                    } else {
                        // The stock kernel's way: the directory, then what is in it.
                        fs::create_dir(&dir).unwrap();
                        fs::write(&socket, "").unwrap();
                    }
                });
                let o = r.wait(&process, Duration::from_secs(20));
                assert!(matches!(o, Outcome::Rebooted), "round {round}");
            });
            let r = Reboots::watch(&socket);
            child.kill().unwrap();
            assert!(matches!(r.wait(&process, Duration::from_secs(20)), Outcome::Ended));
            child.wait().unwrap();
            fs::remove_dir_all(&dir).unwrap();
        }
    }
}
