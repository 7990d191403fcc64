//! Processes and threads: clone, execve, exit, wait, ids, groups and sessions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::exec::{self, MAX_ARG_STRLEN, Program};
use uml_core::signal::Restart;
use uml_core::task::clone::{CLEAR_SIGHAND, CloneArgs, INTO_CGROUP, clone_task};
use uml_core::task::wait::{Found, Which, wait_child};
use uml_core::task::{Task, exit};
use uml_core::{user, vfs};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call;
use crate::table::Entry;

pub const TABLE: &[Entry] = &[
    call!(39, "getpid", getpid()),
    call!(56, "clone", clone(Flags, Addr, Ptr, Ptr, Addr)),
    call!(57, "fork", fork()),
    call!(58, "vfork", vfork()),
    call!(59, "execve", execve(Path, Ptr, Ptr)),
    call!(60, "exit", exit_thread(Int)),
    call!(61, "wait4", wait4(Pid, Ptr, Flags, Ptr), Sys),
    call!(109, "setpgid", setpgid(Pid, Pid)),
    call!(110, "getppid", getppid()),
    call!(111, "getpgrp", getpgrp()),
    call!(112, "setsid", setsid()),
    call!(121, "getpgid", getpgid(Pid)),
    call!(124, "getsid", getsid(Pid)),
    call!(186, "gettid", gettid()),
    call!(218, "set_tid_address", set_tid_address(Ptr)),
    call!(231, "exit_group", exit_group(Int)),
    call!(247, "waitid", waitid(Int, Pid, Ptr, Flags, Ptr), Sys),
    call!(322, "execveat", execveat(DirFd, Path, Ptr, Ptr, Flags)),
    call!(435, "clone3", clone3(Ptr, Size)),
];

fn getpid(cx: &mut Ctx<'_>) -> Result<u64> {
    Ok(cx.task.show_pid(cx.task.process.pid) as u64)
}

fn gettid(cx: &mut Ctx<'_>) -> Result<u64> {
    Ok(cx.task.show_pid(cx.task.tid) as u64)
}

fn getppid(cx: &mut Ctx<'_>) -> Result<u64> {
    let k = cx.task.kernel();
    let tree = k.tree.read();
    let parent = tree.get(cx.task.process.pid).map_or(0, |p| p.parent);
    Ok(cx.task.show_pid(parent) as u64)
}

fn clone(
    cx: &mut Ctx<'_>,
    flags: u64,
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
) -> Result<u64> {
    // The exit signal is in the low byte; the pidfd goes where the parent's tid would (clone(2)).
    let args = CloneArgs {
        flags: flags & 0xffff_ff00,
        exit_signal: (flags & 0xff) as i32,
        stack,
        tls,
        parent_tid,
        child_tid,
        pidfd: parent_tid,
        ..CloneArgs::default()
    };
    let both = (libc::CLONE_PIDFD | libc::CLONE_PARENT_SETTID) as u64;
    if flags & both == both {
        return Err(EINVAL);
    }
    clone_task(cx, &args).map(|t| t as u64)
}

fn fork(cx: &mut Ctx<'_>) -> Result<u64> {
    clone_task(cx, &CloneArgs { exit_signal: libc::SIGCHLD, ..CloneArgs::default() })
        .map(|t| t as u64)
}

fn vfork(cx: &mut Ctx<'_>) -> Result<u64> {
    let flags = (libc::CLONE_VFORK | libc::CLONE_VM) as u64;
    clone_task(cx, &CloneArgs { flags, exit_signal: libc::SIGCHLD, ..CloneArgs::default() })
        .map(|t| t as u64)
}

/// `struct clone_args` of clone3(2), all versions.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawCloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}
const _: () = assert!(size_of::<RawCloneArgs>() == 88);

fn clone3(cx: &mut Ctx<'_>, uargs: u64, size: usize) -> Result<u64> {
    const VERSION_0: usize = 64;
    if size < VERSION_0 {
        return Err(EINVAL);
    }
    if size > 4096 {
        return Err(E2BIG);
    }
    let bytes = user::read_bytes(&cx.task, uargs, size)?;
    let known = size_of::<RawCloneArgs>();
    if bytes.iter().skip(known).any(|b| *b != 0) {
        return Err(E2BIG);
    }
    let mut raw = RawCloneArgs::default();
    let n = size.min(known);
    raw.as_mut_bytes()[..n].copy_from_slice(&bytes[..n]);
    let bad_stack = (raw.stack == 0) != (raw.stack_size == 0);
    let exit_with_thread =
        raw.exit_signal != 0 && raw.flags & (libc::CLONE_THREAD | libc::CLONE_PARENT) as u64 != 0;
    let known_flags = 0x3_ffff_ff80_u64 & !(libc::CLONE_DETACHED as u64);
    if bad_stack || exit_with_thread || raw.flags & !known_flags != 0 || raw.exit_signal > 64 {
        return Err(EINVAL);
    }
    if raw.flags & (CLEAR_SIGHAND | INTO_CGROUP) == 0 && raw.flags >> 32 != 0 {
        return Err(EINVAL);
    }
    let without_cgroup = size < known || raw.cgroup > i32::MAX as u64;
    if raw.flags & INTO_CGROUP != 0 && without_cgroup {
        return Err(EINVAL);
    }
    if raw.set_tid_size > 32 || (raw.set_tid == 0) != (raw.set_tid_size == 0) {
        return Err(EINVAL);
    }
    let args = CloneArgs {
        flags: raw.flags,
        exit_signal: raw.exit_signal as i32,
        stack: raw.stack.wrapping_add(raw.stack_size),
        tls: raw.tls,
        parent_tid: raw.parent_tid,
        child_tid: raw.child_tid,
        pidfd: raw.pidfd,
        set_tid: user::read_array(&cx.task, raw.set_tid, raw.set_tid_size as usize)?,
        cgroup: raw.cgroup as i32,
    };
    clone_task(cx, &args).map(|t| t as u64)
}

/// Reads an argument vector; `NULL` counts as empty (execve(2) NOTES). `left` is the room in bytes.
fn read_vector(task: &Task, mut addr: u64, left: &mut u64) -> Result<Vec<Vec<u8>>> {
    let mut out = Vec::new();
    if addr == 0 {
        return Ok(out);
    }
    loop {
        let p: u64 = user::read_obj(task, addr)?;
        if p == 0 {
            return Ok(out);
        }
        let s = user::read_cstr(task, p, MAX_ARG_STRLEN, E2BIG)?;
        let cost = s.len() as u64 + 1 + 8;
        *left = left.checked_sub(cost).ok_or(E2BIG)?;
        out.push(s);
        addr = addr.wrapping_add(8);
    }
}

fn run(
    cx: &mut Ctx<'_>,
    file: Arc<uml_core::file::File>,
    filename: Vec<u8>,
    argv: u64,
    envp: u64,
    inaccessible: bool,
) -> Result<u64> {
    let mut left = exec::args_limit(&cx.task);
    let mut args = read_vector(&cx.task, argv, &mut left)?;
    let env = read_vector(&cx.task, envp, &mut left)?;
    if args.is_empty() {
        // Programs rely on argv[0]; Linux supplies an empty one.
        args.push(Vec::new());
    }
    exec::exec(cx, Program { file, filename, args, env, inaccessible })
}

fn execve(cx: &mut Ctx<'_>, path: u64, argv: u64, envp: u64) -> Result<u64> {
    let path = user::read_path(&cx.task, path)?;
    let file = vfs::open_exec(&cx.task, &path)?;
    run(cx, file, path, argv, envp, false)
}

fn execveat(
    cx: &mut Ctx<'_>,
    dirfd: i32,
    path: u64,
    argv: u64,
    envp: u64,
    flags: i32,
) -> Result<u64> {
    let path = user::read_path(&cx.task, path)?;
    if flags & !(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(EINVAL);
    }
    let file = vfs::open_exec_at(&cx.task, dirfd, &path, flags)?;
    let mut closes = false;
    let name = if path.starts_with(b"/") || dirfd == libc::AT_FDCWD {
        path
    } else {
        closes = cx.task.files().cloexec(dirfd)?;
        if path.is_empty() {
            format!("/dev/fd/{dirfd}").into_bytes()
        } else {
            [format!("/dev/fd/{dirfd}/").as_bytes(), &path].concat()
        }
    };
    run(cx, file, name, argv, envp, closes)
}

fn exit_thread(cx: &mut Ctx<'_>, code: i32) -> Result<u64> {
    exit::exit_task(cx, Some(code));
    Ok(0)
}

fn exit_group(cx: &mut Ctx<'_>, code: i32) -> Result<u64> {
    exit::begin_group_exit(&cx.task, exit::exited(code));
    exit::exit_task(cx, Some(code));
    Ok(0)
}

fn set_tid_address(cx: &mut Ctx<'_>, addr: u64) -> Result<u64> {
    cx.task.personal.lock().clear_child_tid = addr;
    Ok(cx.task.show_pid(cx.task.tid) as u64)
}

/// `struct rusage` with the counters that exist here.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Rusage {
    pub utime: [i64; 2],
    pub stime: [i64; 2],
    pub maxrss: i64,
    pub ixrss: i64,
    pub idrss: i64,
    pub isrss: i64,
    pub minflt: i64,
    pub majflt: i64,
    pub nswap: i64,
    pub inblock: i64,
    pub oublock: i64,
    pub msgsnd: i64,
    pub msgrcv: i64,
    pub nsignals: i64,
    pub nvcsw: i64,
    pub nivcsw: i64,
}
const _: () = assert!(size_of::<Rusage>() == 144);

impl Rusage {
    /// From the kernel's counters.
    pub fn from_usage(u: &uml_core::task::process::Usage) -> Rusage {
        let time = |ns: u64| [(ns / 1_000_000_000) as i64, (ns % 1_000_000_000 / 1000) as i64];
        Rusage {
            utime: time(u.user_ns),
            stime: time(u.system_ns),
            maxrss: u.max_rss_kb as i64,
            minflt: u.minflt as i64,
            majflt: u.majflt as i64,
            nvcsw: u.nvcsw as i64,
            nivcsw: u.nivcsw as i64,
            inblock: u.in_sectors as i64,
            oublock: u.out_sectors as i64,
            ..Rusage::default()
        }
    }
}

fn own_group(cx: &Ctx<'_>) -> i32 {
    let k = cx.task.kernel();
    let tree = k.tree.read();
    tree.get(cx.task.process.pid).map_or(0, |p| p.pgrp)
}

fn wait4(cx: &mut Ctx<'_>, pid: i32, status: u64, options: i32, rusage: u64) -> Result<u64> {
    let known = libc::WNOHANG
        | libc::WUNTRACED
        | libc::WCONTINUED
        | libc::__WALL
        | libc::__WCLONE
        | libc::__WNOTHREAD;
    if options & !known != 0 {
        return Err(EINVAL);
    }
    let which = match pid {
        i32::MIN => return Err(ESRCH),
        -1 => Which::Any,
        0 => Which::Group(own_group(cx)),
        p if p < 0 => Which::Group(cx.task.kernel_pid(-p).map_err(|_| ECHILD)?),
        p => Which::Pid(cx.task.kernel_pid(p).map_err(|_| ECHILD)?),
    };
    let Some(found) = wait_child(&cx.task, which, options | libc::WEXITED)? else {
        return Ok(0);
    };
    if status != 0 {
        user::write_obj(&cx.task, status, &found.status)?;
    }
    if rusage != 0 {
        user::write_obj(&cx.task, rusage, &Rusage::from_usage(&found.usage))?;
    }
    Ok(cx.task.show_pid(found.pid) as u64)
}

fn waitid(
    cx: &mut Ctx<'_>,
    kind: i32,
    id: i32,
    info: u64,
    options: i32,
    rusage: u64,
) -> Result<u64> {
    let found = waitid_find(cx, kind, id, options);
    if rusage != 0
        && let Ok(Some(f)) = &found
    {
        user::write_obj(&cx.task, rusage, &Rusage::from_usage(&f.usage))?;
    }
    if info != 0 {
        // Only these fields are written (waitid(2)); all zero when nothing was found, also by a call that
        // fails.
        let mut b = [0u8; 32];
        if let Ok(Some(f)) = &found {
            b[0..4].copy_from_slice(&libc::SIGCHLD.to_le_bytes());
            b[8..12].copy_from_slice(&f.code.to_le_bytes());
            let uid = cx.task.cred().user_ns.uid(f.uid);
            b[16..20].copy_from_slice(&cx.task.show_pid(f.pid).to_le_bytes());
            b[20..24].copy_from_slice(&uid.to_le_bytes());
            b[24..28].copy_from_slice(&f.value.to_le_bytes());
        }
        user::write_bytes(&cx.task, info, &b)?;
    }
    cx.task.restart.set(Restart::Table);
    found.map(|_| 0)
}

fn waitid_find(cx: &mut Ctx<'_>, kind: i32, id: i32, options: i32) -> Result<Option<Found>> {
    let wanted = libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED;
    let known =
        wanted | libc::WNOHANG | libc::WNOWAIT | libc::__WALL | libc::__WCLONE | libc::__WNOTHREAD;
    if options & !known != 0 || options & wanted == 0 {
        return Err(EINVAL);
    }
    const P_ALL: i32 = 0;
    const P_PID: i32 = 1;
    const P_PGID: i32 = 2;
    const P_PIDFD: i32 = 3;
    let mut options = options;
    let which = match kind {
        P_ALL => Which::Any,
        P_PID if id > 0 => Which::Pid(cx.task.kernel_pid(id).map_err(|_| ECHILD)?),
        P_PGID if id == 0 => Which::Group(own_group(cx)),
        P_PGID if id > 0 => Which::Group(cx.task.kernel_pid(id).map_err(|_| ECHILD)?),
        P_PIDFD => {
            let file = cx.task.file(id)?;
            let (pid, nonblock) = cx.task.kernel().hooks.pidfd_target(&file)?;
            if nonblock && options & libc::WNOHANG == 0 {
                options |= libc::WNOHANG;
                let found = wait_child(&cx.task, Which::Pid(pid), options | libc::WNOWAIT)?;
                if found.is_none() {
                    return Err(EAGAIN);
                }
            }
            Which::Pid(pid)
        }
        _ => return Err(EINVAL),
    };
    wait_child(&cx.task, which, options)
}

fn setpgid(cx: &mut Ctx<'_>, pid: i32, pgid: i32) -> Result<u64> {
    let me = cx.task.process.pid;
    if pgid < 0 || (pgid == 0 && pid < 0) {
        return Err(EINVAL);
    }
    let pid = if pid == 0 { me } else { cx.task.kernel_pid(pid)? };
    let pgid = if pgid == 0 { pid } else { cx.task.kernel_pid(pgid).map_err(|_| EPERM)? };
    let k = cx.task.kernel();
    let mut tree = k.tree.write();
    let session = tree.get(me).ok_or(ESRCH)?.session;
    // A thread that leads no process has no group of its own.
    let absent = if tree.task(pid).is_some() { EINVAL } else { ESRCH };
    let target = tree.get(pid).ok_or(absent)?;
    if pid != me {
        if target.parent != me {
            return Err(ESRCH);
        }
        if target.session != session {
            return Err(EPERM);
        }
        if target.process.did_exec.load(Ordering::Relaxed) {
            return Err(EACCES);
        }
    }
    if target.session == pid {
        return Err(EPERM);
    }
    if pgid != pid {
        let same =
            tree.group(pgid).iter().any(|m| tree.get(*m).is_some_and(|p| p.session == session));
        if !same {
            return Err(EPERM);
        }
    }
    tree.set_group(pid, pgid);
    Ok(0)
}

fn getpgrp(cx: &mut Ctx<'_>) -> Result<u64> {
    Ok(cx.task.show_pid(own_group(cx)) as u64)
}

fn getpgid(cx: &mut Ctx<'_>, pid: i32) -> Result<u64> {
    let pid = if pid == 0 { cx.task.process.pid } else { cx.task.kernel_pid(pid)? };
    let k = cx.task.kernel();
    let tree = k.tree.read();
    let pid = tree.task(pid).map_or(pid, |t| t.process.pid);
    tree.get(pid).map(|p| cx.task.show_pid(p.pgrp) as u64).ok_or(ESRCH)
}

fn getsid(cx: &mut Ctx<'_>, pid: i32) -> Result<u64> {
    let pid = if pid == 0 { cx.task.process.pid } else { cx.task.kernel_pid(pid)? };
    let k = cx.task.kernel();
    let tree = k.tree.read();
    let pid = tree.task(pid).map_or(pid, |t| t.process.pid);
    tree.get(pid).map(|p| cx.task.show_pid(p.session) as u64).ok_or(ESRCH)
}

fn setsid(cx: &mut Ctx<'_>) -> Result<u64> {
    let me = cx.task.process.pid;
    let k = cx.task.kernel();
    let mut tree = k.tree.write();
    if !tree.group(me).is_empty() {
        // A group with this id exists: usually the caller leads one.
        return Err(EPERM);
    }
    tree.new_session(me);
    Ok(cx.task.show_pid(me) as u64)
}
