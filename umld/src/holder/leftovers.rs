//! Processes that a killed kernel leaves behind. A stock kernel's stand still for a tracer that is gone, and nobody would end them;
//! the holder is their reaper (prctl(2), PR_SET_CHILD_SUBREAPER). Our kernel's die with it and have to be collected only.

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

/// Has orphans of descendants become children of this process.
pub fn inherit() -> nix::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)
}

/// Collects the children that ended, but for the kernel itself.
pub fn collect(kernel: Option<i32>) {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) = waitid(Id::All, look)
    {
        if Some(pid.as_raw()) == kernel || waitpid(pid, Some(WaitPidFlag::WNOHANG)).is_err() {
            return;
        }
    }
}

/// Kills the children that are stopped: the kernel that could let them go on is gone.
pub fn end_stopped() {
    let me = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok()) {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name, in parentheses, may hold anything (proc_pid_stat(5)).
        let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let stopped = matches!(fields.next(), Some("T" | "t"));
        if stopped && fields.next() == Some(&me) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
