//! Looking into other processes: process_vm_readv(2), process_vm_writev(2), kcmp(2).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::task::Task;
use uml_core::task::access::{Ids, may_access};
use uml_core::user::{self, IOV_MAX, IoVec};
use uml_ipc::epoll::Epoll;
use uml_ipc::sysv::sem;

use crate::call;
use crate::table::Entry;

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(310, "process_vm_readv", process_vm_readv(Pid, Ptr, Size, Ptr, Size, Flags)),
    call!(311, "process_vm_writev", process_vm_writev(Pid, Ptr, Size, Ptr, Size, Flags)),
    call!(312, "kcmp", kcmp(Pid, Pid, Int, Int, Addr)),
];

/// Bytes moved at a time.
const CHUNK: usize = 64 * 1024;

/// A thread the caller may look into (PTRACE_MODE_ATTACH_REALCREDS): `ESRCH`, `EPERM`.
fn target(cx: &Ctx<'_>, pid: i32) -> Result<Arc<Task>> {
    if pid <= 0 {
        return Err(ESRCH);
    }
    let pid = cx.task.kernel_pid(pid)?;
    let t = {
        let k = cx.task.kernel();
        let tree = k.tree.read();
        tree.task(pid).or_else(|| tree.leader(pid)).ok_or(ESRCH)?
    };
    if may_access(&cx.task, &t, Ids::Real) { Ok(t) } else { Err(EPERM) }
}

/// Reads an array of ranges; `EINVAL` for more than IOV_MAX or a length that is negative as a ssize_t.
fn ranges(cx: &Ctx<'_>, addr: u64, n: u64) -> Result<Vec<(u64, u64)>> {
    let n = usize::try_from(n).ok().filter(|n| *n <= IOV_MAX).ok_or(EINVAL)?;
    let raw: Vec<IoVec> = user::read_array(&cx.task, addr, n)?;
    if raw.iter().any(|v| v.len > i64::MAX as u64) {
        return Err(EINVAL);
    }
    Ok(raw.iter().map(|v| (v.base, v.len)).filter(|v| v.1 != 0).collect())
}

fn process_vm_readv(
    cx: &mut Ctx<'_>,
    pid: i32,
    local: u64,
    nlocal: u64,
    remote: u64,
    nremote: u64,
    flags: u64,
) -> Result<u64> {
    copy(cx, pid, [local, nlocal, remote, nremote], flags, false)
}

fn process_vm_writev(
    cx: &mut Ctx<'_>,
    pid: i32,
    local: u64,
    nlocal: u64,
    remote: u64,
    nremote: u64,
    flags: u64,
) -> Result<u64> {
    copy(cx, pid, [local, nlocal, remote, nremote], flags, true)
}

fn copy(cx: &mut Ctx<'_>, pid: i32, v: [u64; 4], flags: u64, write: bool) -> Result<u64> {
    if flags != 0 {
        return Err(EINVAL);
    }
    let mut local = ranges(cx, v[0], v[1])?;
    let total: u64 = local.iter().map(|r| r.1).fold(0, u64::saturating_add);
    if total == 0 {
        return Ok(0);
    }
    let mut remote = ranges(cx, v[2], v[3])?;
    if remote.is_empty() {
        return Ok(0);
    }
    let theirs = target(cx, pid)?.mm().map_err(|_| ESRCH)?;
    let ours = cx.task.mm()?;
    let (from, to, source, sink) = if write {
        (&mut local, &mut remote, &ours, &theirs)
    } else {
        (&mut remote, &mut local, &theirs, &ours)
    };
    let (mut i, mut j) = (0, 0);
    let mut done = 0u64;
    // What the other side keeps secret is kept from its own process, too.
    let take = |at, buf: &mut [u8]| match write {
        true => source.read_partial(at, buf),
        false => source.read_foreign(at, buf),
    };
    let give = |at, buf: &[u8]| match write {
        true => sink.write_foreign(at, buf),
        false => sink.write_partial(at, buf),
    };
    let mut buf = vec![0; CHUNK];
    while i < from.len() && j < to.len() && done < user::MAX_RW_COUNT as u64 {
        let n = from[i].1.min(to[j].1).min(CHUNK as u64) as usize;
        let got = take(from[i].0, &mut buf[..n]);
        let put = give(to[j].0, &buf[..got]);
        done += put as u64;
        for r in [&mut from[i], &mut to[j]] {
            r.0 = r.0.wrapping_add(put as u64);
            r.1 -= put as u64;
        }
        if put < n {
            return if done == 0 { Err(EFAULT) } else { Ok(done) };
        }
        i += usize::from(from[i].1 == 0);
        j += usize::from(to[j].1 == 0);
        if cx.task.fatal_signal_pending() {
            break;
        }
    }
    Ok(done)
}

/// 0 equal, 1 less, 2 greater, by the place of the objects, which means nothing else.
fn order(a: usize, b: usize) -> u64 {
    match a.cmp(&b) {
        std::cmp::Ordering::Equal => 0,
        std::cmp::Ordering::Less => 1,
        std::cmp::Ordering::Greater => 2,
    }
}

fn place<T: ?Sized>(o: &Arc<T>) -> usize {
    Arc::as_ptr(o).cast::<u8>() as usize
}

fn kcmp(cx: &mut Ctx<'_>, pid1: i32, pid2: i32, kind: i32, idx1: u64, idx2: u64) -> Result<u64> {
    const FILE: i32 = 0;
    const VM: i32 = 1;
    const FILES: i32 = 2;
    const FS: i32 = 3;
    const SIGHAND: i32 = 4;
    const IO: i32 = 5;
    const SYSVSEM: i32 = 6;
    const EPOLL_TFD: i32 = 7;
    let (a, b) = (target(cx, pid1)?, target(cx, pid2)?);
    Ok(match kind {
        FILE => {
            let file = |t: &Task, fd: u64| t.file_any(i32::try_from(fd).map_err(|_| EBADF)?);
            order(place(&file(&a, idx1)?), place(&file(&b, idx2)?))
        }
        VM => {
            let mm = |t: &Task| t.mm().map_or(0, |m| place(&m));
            order(mm(&a), mm(&b))
        }
        FILES => order(place(&a.files()), place(&b.files())),
        FS => order(place(&a.fs()), place(&b.fs())),
        SIGHAND => {
            let hand = |t: &Task| place(&t.process.sighand.lock().actions);
            order(hand(&a), hand(&b))
        }
        // Every thread has its own I/O context here.
        IO => order(place(&a), place(&b)),
        // SEM_UNDO lists belong to processes; those that never asked for one have none.
        SYSVSEM => {
            let list = |t: &Task| if sem::has_undo(t) { place(&t.process) } else { 0 };
            order(list(&a), list(&b))
        }
        EPOLL_TFD => {
            let [efd, tfd, toff]: [u32; 3] = user::read_obj(&cx.task, idx2)?;
            let fd = |n: u64| i32::try_from(n).map_err(|_| EBADF);
            let file = a.file_any(fd(idx1)?)?;
            let epfile = b.file_any(fd(efd.into())?)?;
            let watched = Epoll::of(&epfile)?.watched(fd(tfd.into())?, toff as usize)?;
            order(place(&file), place(&watched))
        }
        _ => return Err(EINVAL),
    })
}
