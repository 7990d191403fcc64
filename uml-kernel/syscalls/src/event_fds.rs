//! Signals and processes as descriptors: signalfd(2), pidfd_open(2), pidfd_send_signal(2),
//! pidfd_getfd(2).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::signal::{SIGINFO_SIZE, SigInfo, may_signal, send_to_process};
use uml_core::task::{Cap, Process, Task};
use uml_core::user;
use uml_ipc::pidfd::PidFd;
use uml_ipc::signalfd::SignalFd;

use crate::call;
use crate::table::Entry;

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(282, "signalfd", signalfd(Fd, Ptr, Size)),
    call!(289, "signalfd4", signalfd4(Fd, Ptr, Size, Flags)),
    call!(434, "pidfd_open", pidfd_open(Pid, Flags)),
    call!(424, "pidfd_send_signal", pidfd_send_signal(Fd, Sig, Ptr, Flags)),
    call!(438, "pidfd_getfd", pidfd_getfd(Fd, Fd, Flags)),
];

fn signalfd(cx: &mut Ctx<'_>, fd: i32, mask: u64, size: usize) -> Result<u64> {
    signalfd4(cx, fd, mask, size, 0)
}

fn signalfd4(cx: &mut Ctx<'_>, fd: i32, mask: u64, size: usize, flags: i32) -> Result<u64> {
    if size != 8 {
        return Err(EINVAL);
    }
    let mask: u64 = user::read_obj(&cx.task, mask)?;
    if flags & !(libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) != 0 {
        return Err(EINVAL);
    }
    if fd != -1 {
        let file = cx.task.file(fd)?;
        SignalFd::of(&file)?.set_mask(&cx.task, mask);
        return Ok(fd as u64);
    }
    let file = SignalFd::open(&cx.task, mask, flags);
    Ok(cx.task.install_fd(file, flags & libc::SFD_CLOEXEC != 0)? as u64)
}

fn pidfd_open(cx: &mut Ctx<'_>, pid: i32, flags: i32) -> Result<u64> {
    if flags & !libc::O_NONBLOCK != 0 || pid <= 0 {
        return Err(EINVAL);
    }
    let pid = cx.task.kernel_pid(pid)?;
    let process = {
        let kernel = cx.task.kernel();
        let tree = kernel.tree.read();
        match (tree.get(pid), tree.task(pid)) {
            (Some(p), _) => p.process.clone(),
            // A thread that does not lead its process (PIDFD_THREAD would be needed).
            (None, Some(_)) => return Err(EINVAL),
            (None, None) => return Err(ESRCH),
        }
    };
    let file = PidFd::open(&cx.task, &process, flags);
    Ok(cx.task.install_fd(file, true)? as u64)
}

/// A live or zombie member of the process behind a pidfd; `ESRCH` once it was waited for.
fn target(cx: &Ctx<'_>, fd: i32) -> Result<Arc<Task>> {
    let file = cx.task.file(fd)?;
    member(cx, PidFd::of(&file)?)
}

fn member(cx: &Ctx<'_>, process: &Arc<Process>) -> Result<Arc<Task>> {
    let kernel = cx.task.kernel();
    let tree = kernel.tree.read();
    let entry = tree.get(process.pid).ok_or(ESRCH)?;
    if !Arc::ptr_eq(&entry.process, process) {
        return Err(ESRCH);
    }
    tree.leader(process.pid).ok_or(ESRCH)
}

fn pidfd_send_signal(cx: &mut Ctx<'_>, fd: i32, sig: i32, info: u64, flags: u32) -> Result<u64> {
    if flags != 0 {
        return Err(EINVAL);
    }
    let file = cx.task.file(fd)?;
    // A directory of /proc does as well.
    let task = match (PidFd::of(&file), cx.task.kernel().hooks.proc_dir_of.get()) {
        (Ok(process), _) => member(cx, process)?,
        (Err(e), None) => return Err(e),
        (Err(e), Some(process_of)) => member(cx, &process_of(&file).ok_or(e)??)?,
    };
    // No signal crosses into a pid namespace that is not the caller's or below it.
    if !task.process.pid_ns.is_within(&cx.task.process.pid_ns) {
        return Err(EINVAL);
    }
    if !(0..=64).contains(&sig) {
        return Err(EINVAL);
    }
    let info = match info {
        0 => SigInfo::user(sig, &cx.task),
        at => {
            let bytes: [u8; SIGINFO_SIZE] = user::read_obj(&cx.task, at)?;
            let info = SigInfo::from_bytes(&bytes);
            if info.signo != sig {
                return Err(EINVAL);
            }
            // Only to oneself may one pretend to be the kernel or tkill(2).
            let own = task.process.pid == cx.task.process.pid;
            if !own && (info.code >= 0 || info.code == uml_core::signal::SI_TKILL) {
                return Err(EPERM);
            }
            info
        }
    };
    if !may_signal(&cx.task, &task, sig) {
        return Err(EPERM);
    }
    if sig != 0 && !send_to_process(&cx.task.kernel(), &task.process, info, false) {
        return Err(EAGAIN);
    }
    Ok(0)
}

fn pidfd_getfd(cx: &mut Ctx<'_>, fd: i32, target_fd: i32, flags: u32) -> Result<u64> {
    if flags != 0 {
        return Err(EINVAL);
    }
    let task = target(cx, fd)?;
    // PTRACE_MODE_ATTACH_REALCREDS (ptrace(2)).
    let (me, you) = (cx.task.cred(), task.cred());
    let same = [you.uid, you.euid, you.suid].iter().all(|u| *u == me.uid)
        && [you.gid, you.egid, you.sgid].iter().all(|g| *g == me.gid)
        && you.cap_permitted & !me.cap_permitted == 0
        && task.process.dumpable.load(std::sync::atomic::Ordering::Relaxed) == 1;
    let own = task.process.pid == cx.task.process.pid;
    if !own && !same && !me.capable(Cap::SysPtrace) {
        return Err(EPERM);
    }
    let file = task.file_any(target_fd)?;
    Ok(cx.task.install_fd(file, true)? as u64)
}
