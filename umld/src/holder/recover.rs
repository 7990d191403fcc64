//! Consoles of a kernel whose holder was killed together with the daemon that kept duplicates.
//!
//! The kernel process has a duplicate of each console's master side. It never uses it, but with it the terminal is not
//! hung up when everybody else is gone, so the guest's session lives on; and the next holder takes it from there
//! (pidfd_getfd(2)) where it may: ptrace(2) access to the process decides, which Yama denies to others than root.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::daemon::keep::Kept;

/// Takes what is not in `kept` from the kernel process `pid`.
pub fn take(pid: i32, kept: &mut Kept) {
    let ptys = lines(pid);
    if ptys.keys().all(|l| kept.contains_key(l)) {
        return;
    }
    let process = Pid::from_raw(pid).and_then(|p| pidfd_open(p, PidfdFlags::empty()).ok());
    let Some(process) = process else { return };
    let masters = masters(pid);
    for (line, pty) in ptys {
        if let Some(fd) = masters.get(&pty).filter(|_| !kept.contains_key(&line)) {
            match pidfd_getfd(&process, *fd, PidfdGetfdFlags::empty()) {
                Ok(master) => drop(kept.insert(line, master)),
                Err(e) => eprintln!("umld: {line} of process {pid} is lost: {e}"),
            }
        }
    }
}

/// Lines of a kernel's command line that have a pseudo-terminal, and its number.
fn lines(pid: i32) -> BTreeMap<String, u32> {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&words).into_owned();
    let pty = |word: &str| {
        let (line, fd) = word.split_once("=fd:")?;
        let fd: u32 = fd.parse().ok()?;
        let path = fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok()?;
        let number = path.to_str()?.strip_prefix("/dev/pts/")?.parse().ok()?;
        Some((line.to_owned(), number))
    };
    words.split('\0').filter_map(pty).collect()
}

/// Descriptors of master sides, by the pseudo-terminal's number (`tty-index` in proc_pid_fdinfo(5)).
fn masters(pid: i32) -> BTreeMap<u32, i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let master = |e: fs::DirEntry| {
        let text = fs::read_to_string(e.path()).ok()?;
        let index = text.lines().find_map(|l| l.strip_prefix("tty-index:"))?;
        Some((index.trim().parse().ok()?, e.file_name().to_str()?.parse().ok()?))
    };
    entries.filter_map(master).collect()
}
