//! fcntl(2).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::file::locks::{LockOwner, Record, table};
use uml_core::file::notify_owner::{F_OWNER_PGRP, F_OWNER_PID, F_OWNER_TID};
use uml_core::file::{File, Owner, leases};
use uml_core::task::{Resource, Task};
use uml_core::user;
use uml_core::vfs::perm::is_owner;
use uml_fs::tmpfs::TmpInode;
use uml_ipc::pipe::Pipe;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call;
use crate::table::Entry;

/// Lines of the table.
pub const TABLE: &[Entry] = &[call!(72, "fcntl", fcntl(Fd, Int, Addr), Sys)];

/// `struct flock` of x86-64.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Flock {
    kind: i16,
    whence: i16,
    pad0: u32,
    start: i64,
    len: i64,
    pid: i32,
    pad1: u32,
}

/// `struct f_owner_ex`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct OwnerEx {
    kind: i32,
    pid: i32,
}

const _: () = assert!(size_of::<Flock>() == 32 && size_of::<OwnerEx>() == 8);

const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const F_GETOWNER_UIDS: i32 = 17;
const F_DUPFD_QUERY: i32 = 1027;
const F_CREATED_QUERY: i32 = 1028;
const F_GET_RW_HINT: i32 = 1035;
const F_SET_RW_HINT: i32 = 1036;
const F_GET_FILE_RW_HINT: i32 = 1037;
const F_SET_FILE_RW_HINT: i32 = 1038;

fn fcntl(cx: &mut Ctx<'_>, fd: i32, cmd: i32, arg: u64) -> Result<u64> {
    let task = &cx.task;
    let file = task.file_any(fd)?;
    let location_ok = matches!(
        cmd,
        libc::F_DUPFD
            | libc::F_DUPFD_CLOEXEC
            | libc::F_GETFD
            | libc::F_SETFD
            | libc::F_GETFL
            | F_DUPFD_QUERY
    );
    if file.is_path() && !location_ok {
        return Err(EBADF);
    }
    match cmd {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
            let min = arg as i32;
            let limit = task.rlimit(Resource::NoFile);
            if min < 0 || min as u64 >= limit {
                return Err(EINVAL);
            }
            let cloexec = cmd == libc::F_DUPFD_CLOEXEC;
            Ok(task.files().install(file, cloexec, min as u64, limit)? as u64)
        }
        F_DUPFD_QUERY => {
            let other = task.file_any(arg as i32)?;
            Ok(u64::from(Arc::ptr_eq(&file, &other)))
        }
        F_CREATED_QUERY => Err(EINVAL),
        libc::F_GETFD => Ok(u64::from(task.files().cloexec(fd)?)),
        libc::F_SETFD => {
            task.files().set_cloexec(fd, arg as i32 & libc::FD_CLOEXEC != 0)?;
            Ok(0)
        }
        // O_LARGEFILE is always reported on x86-64.
        libc::F_GETFL => {
            Ok(u64::from(if file.is_path() { file.flags() } else { file.flags() | 0o100000 }))
        }
        libc::F_SETFL => set_flags(task, &file, fd, arg as u32),
        libc::F_GETLK => get_lock(task, &file, arg, LockOwner::process(task)),
        libc::F_SETLK => set_lock(task, &file, arg, LockOwner::process(task), false),
        libc::F_SETLKW => set_lock(task, &file, arg, LockOwner::process(task), true),
        libc::F_OFD_GETLK => get_lock(task, &file, arg, LockOwner::file(&file)),
        libc::F_OFD_SETLK => set_lock(task, &file, arg, LockOwner::file(&file), false),
        libc::F_OFD_SETLKW => set_lock(task, &file, arg, LockOwner::file(&file), true),
        libc::F_SETOWN => set_signed_owner(task, &file, arg as i32),
        libc::F_GETOWN => Ok(i64::from(signed_owner(task, &file)) as u64),
        F_SETOWN_EX => {
            let o: OwnerEx = user::read_obj(task, arg)?;
            if !matches!(o.kind, F_OWNER_TID | F_OWNER_PID | F_OWNER_PGRP) {
                return Err(EINVAL);
            }
            set_owner(task, &file, o.kind, o.pid)
        }
        F_GETOWN_EX => {
            let (kind, pid) = living_owner(task, &file);
            user::write_obj(task, arg, &OwnerEx { kind, pid })?;
            Ok(0)
        }
        F_GETOWNER_UIDS => {
            let o = file.owner.lock().clone();
            let ns = task.cred().user_ns.clone();
            user::write_obj(task, arg, &[ns.uid(o.uid), ns.uid(o.euid)])?;
            Ok(0)
        }
        F_SETSIG => {
            if arg > uml_core::signal::NSIG as u64 {
                return Err(EINVAL);
            }
            file.owner.lock().signo = arg as i32;
            Ok(0)
        }
        F_GETSIG => Ok(file.owner.lock().signo as u64),
        libc::F_SETPIPE_SZ => {
            let size = u32::try_from(arg).map_err(|_| EINVAL)?;
            Ok(Pipe::of(&file).ok_or(EBADF)?.set_capacity(task, size)? as u64)
        }
        libc::F_GETPIPE_SZ => Ok(Pipe::of(&file).ok_or(EBADF)?.capacity() as u64),
        libc::F_ADD_SEALS => {
            if !file.writable() {
                return Err(EPERM);
            }
            sealed(&file)?.add_seals(arg as u32)?;
            Ok(0)
        }
        libc::F_GET_SEALS => Ok(u64::from(sealed(&file)?.seals()?)),
        libc::F_SETLEASE => {
            let t = leases::table();
            match arg as i32 {
                libc::F_UNLCK => t.unset(&file)?,
                libc::F_RDLCK => t.set(task, &file, fd, leases::Kind::Read)?,
                libc::F_WRLCK => t.set(task, &file, fd, leases::Kind::Write)?,
                _ => return Err(EINVAL),
            }
            Ok(0)
        }
        libc::F_GETLEASE => Ok(match leases::table().get(&file) {
            Some(leases::Kind::Read) => libc::F_RDLCK,
            Some(leases::Kind::Write) => libc::F_WRLCK,
            None => libc::F_UNLCK,
        } as u64),
        libc::F_NOTIFY => crate::dnotify::set(task, &file, fd, arg as u32).map(|()| 0),
        F_GET_RW_HINT | F_GET_FILE_RW_HINT => {
            user::write_obj(task, arg, &0u64)?;
            Ok(0)
        }
        F_SET_RW_HINT | F_SET_FILE_RW_HINT => {
            // A hint for devices that place data by lifetime; values 0 to 5 exist.
            if user::read_obj::<u64>(task, arg)? > 5 { Err(EINVAL) } else { Ok(0) }
        }
        _ => Err(EINVAL),
    }
}

fn set_flags(task: &Arc<Task>, file: &Arc<File>, fd: i32, new: u32) -> Result<u64> {
    let old = file.flags();
    let noatime = libc::O_NOATIME as u32;
    if new & noatime != 0 && old & noatime == 0 && !is_owner(&task.cred(), &file.inode().perm()?) {
        return Err(EPERM);
    }
    file.set_flags_of(task, fd, new)?;
    Ok(0)
}

/// F_SETOWN and its kin of sockets (SIOCSPGRP): a process, or minus a process group.
pub(crate) fn set_signed_owner(task: &Arc<Task>, file: &Arc<File>, id: i32) -> Result<u64> {
    if id == i32::MIN {
        return Err(EINVAL);
    }
    let kind = if id < 0 { F_OWNER_PGRP } else { F_OWNER_PID };
    set_owner(task, file, kind, id.abs())
}

/// F_GETOWN and its kin.
pub(crate) fn signed_owner(task: &Task, file: &File) -> i32 {
    let (kind, id) = living_owner(task, file);
    if kind == F_OWNER_PGRP { -id } else { id }
}

/// The owner's kind and its id as `task` sees it: 0 when nothing of that kind has the number (any more).
fn living_owner(task: &Task, file: &File) -> (i32, i32) {
    let o = file.owner.lock().clone();
    let kernel = task.kernel();
    let tree = kernel.tree.read();
    let lives = match o.kind {
        F_OWNER_PGRP => !tree.group(o.id).is_empty(),
        F_OWNER_TID => tree.task(o.id).is_some(),
        _ => tree.get(o.id).is_some(),
    };
    (o.kind, if lives { task.show_pid(o.id) } else { 0 })
}

fn set_owner(task: &Arc<Task>, file: &Arc<File>, kind: i32, id: i32) -> Result<u64> {
    let id = if id != 0 { task.kernel_pid(id)? } else { 0 };
    if id != 0 {
        let kernel = task.kernel();
        let tree = kernel.tree.read();
        // The number has to be in use; as what does not matter, as on Linux.
        if tree.task(id).is_none() && tree.get(id).is_none() && tree.group(id).is_empty() {
            return Err(ESRCH);
        }
    }
    let cred = task.cred();
    // Whoever tells itself is not kept from that.
    let own = {
        let of_task = task.kernel().tree.read().task(id).map(|t| t.process.pid);
        kind != F_OWNER_PGRP && of_task.unwrap_or(id) == task.process.pid
    };
    let landlock = if own { None } else { cred.landlock.clone() };
    let mut o = file.owner.lock();
    *o = Owner { kind, id, signo: o.signo, uid: cred.uid, euid: cred.euid, landlock };
    Ok(0)
}

fn sealed(file: &Arc<File>) -> Result<&TmpInode> {
    file.inode().as_any().downcast_ref::<TmpInode>().ok_or(EINVAL)
}

/// The byte range of a `struct flock`, relative to the file (fcntl(2), "Advisory record locking").
fn range(file: &File, l: &Flock) -> Result<(u64, u64)> {
    let base = match i32::from(l.whence) {
        libc::SEEK_SET => 0,
        libc::SEEK_CUR => file.pos() as i64,
        libc::SEEK_END => file.ops.size() as i64,
        _ => return Err(EINVAL),
    };
    let start = base.checked_add(l.start).ok_or(EOVERFLOW)?;
    let (start, end) = match l.len {
        0 => (start, None),
        n if n > 0 => (start, Some(start.checked_add(n - 1).ok_or(EOVERFLOW)?)),
        n => (start.checked_add(n).ok_or(EINVAL)?, Some(start - 1)),
    };
    if start < 0 {
        return Err(EINVAL);
    }
    Ok((start as u64, end.map_or(u64::MAX, |e| e as u64)))
}

fn kind_of(l: &Flock) -> Result<Option<bool>> {
    match i32::from(l.kind) {
        libc::F_RDLCK => Ok(Some(false)),
        libc::F_WRLCK => Ok(Some(true)),
        libc::F_UNLCK => Ok(None),
        _ => Err(EINVAL),
    }
}

fn is_ofd(owner: &LockOwner) -> bool {
    matches!(owner, LockOwner::File(_))
}

fn set_lock(
    task: &Arc<Task>,
    file: &Arc<File>,
    arg: u64,
    owner: LockOwner,
    wait: bool,
) -> Result<u64> {
    let l: Flock = user::read_obj(task, arg)?;
    if is_ofd(&owner) && l.pid != 0 {
        return Err(EINVAL);
    }
    let kind = kind_of(&l)?;
    let (start, end) = range(file, &l)?;
    match kind {
        Some(false) if !file.readable() => return Err(EBADF),
        Some(true) if !file.writable() => return Err(EBADF),
        _ => {}
    }
    table().set_record(task, file.inode(), start, end, kind, owner, wait)?;
    Ok(0)
}

fn get_lock(task: &Arc<Task>, file: &Arc<File>, arg: u64, owner: LockOwner) -> Result<u64> {
    let mut l: Flock = user::read_obj(task, arg)?;
    if is_ofd(&owner) && l.pid != 0 {
        return Err(EINVAL);
    }
    let write = kind_of(&l)?.ok_or(EINVAL)?;
    let (start, end) = range(file, &l)?;
    match table().conflict(file.inode(), start, end, write, owner) {
        None => l.kind = libc::F_UNLCK as i16,
        Some(Record { start, end, write, owner }) => {
            l.kind = if write { libc::F_WRLCK } else { libc::F_RDLCK } as i16;
            l.whence = libc::SEEK_SET as i16;
            l.start = start as i64;
            l.len = if end == u64::MAX { 0 } else { (end - start + 1) as i64 };
            let pid = owner.pid();
            l.pid = if pid > 0 { task.show_pid(pid) } else { pid };
        }
    }
    user::write_obj(task, arg, &l)?;
    Ok(0)
}
