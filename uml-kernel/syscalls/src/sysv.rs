//! System V IPC: shmget(2), semget(2), msgget(2) and their families.

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::task::Task;
use uml_core::user;
use uml_ipc::sysv::sem::{SEMMSL, SEMOPM, SEMVMX, SemOp};
use uml_ipc::sysv::{MNI, Perm, msg, sem, shm};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call;
use crate::table::Entry;
use crate::timespec::read_timeout;

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(29, "shmget", shmget(Int, Size, Flags)),
    call!(30, "shmat", shmat(Int, Addr, Flags)),
    call!(31, "shmctl", shmctl(Int, Int, Ptr)),
    call!(67, "shmdt", shmdt(Addr)),
    call!(64, "semget", semget(Int, Int, Flags)),
    call!(65, "semop", semop(Int, Ptr, Size)),
    call!(220, "semtimedop", semtimedop(Int, Ptr, Size, Ptr)),
    call!(66, "semctl", semctl(Int, Int, Int, Ptr)),
    call!(68, "msgget", msgget(Int, Flags)),
    call!(69, "msgsnd", msgsnd(Int, Ptr, Size, Flags)),
    call!(70, "msgrcv", msgrcv(Int, Ptr, Size, Int, Flags), NoHand),
    call!(71, "msgctl", msgctl(Int, Int, Ptr)),
];

const IPC_RMID: i32 = 0;
const IPC_SET: i32 = 1;
const IPC_STAT: i32 = 2;
const IPC_INFO: i32 = 3;
const READ: u32 = 4;

/// `struct ipc64_perm`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawPerm {
    key: i32,
    uid: u32,
    gid: u32,
    cuid: u32,
    cgid: u32,
    mode: u32,
    seq: u16,
    pad: [u16; 3],
    unused: [u64; 2],
}

const _: () = assert!(size_of::<RawPerm>() == 48);

impl RawPerm {
    fn of(task: &Task, p: Perm) -> RawPerm {
        let ns = task.cred().user_ns.clone();
        RawPerm {
            key: p.key,
            uid: ns.uid(p.uid),
            gid: ns.gid(p.gid),
            cuid: ns.uid(p.cuid),
            cgid: ns.gid(p.cgid),
            mode: p.mode,
            seq: p.seq,
            ..RawPerm::default()
        }
    }
}

/// `struct shmid64_ds`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct ShmDs {
    perm: RawPerm,
    size: u64,
    atime: i64,
    dtime: i64,
    ctime: i64,
    cpid: i32,
    lpid: i32,
    nattch: u64,
    unused: [u64; 2],
}

/// `struct semid64_ds`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct SemDs {
    perm: RawPerm,
    otime: i64,
    unused1: u64,
    ctime: i64,
    unused2: u64,
    nsems: u64,
    unused3: [u64; 2],
}

/// `struct msqid64_ds`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct MsqDs {
    perm: RawPerm,
    stime: i64,
    rtime: i64,
    ctime: i64,
    cbytes: u64,
    qnum: u64,
    qbytes: u64,
    lspid: i32,
    lrpid: i32,
    unused: [u64; 2],
}

const _: () =
    assert!(size_of::<ShmDs>() == 112 && size_of::<SemDs>() == 104 && size_of::<MsqDs>() == 120);

fn shmget(cx: &mut Ctx<'_>, key: i32, size: u64, flags: i32) -> Result<u64> {
    Ok(shm::get(&cx.task, key, size, flags)? as u64)
}

fn shmat(cx: &mut Ctx<'_>, id: i32, addr: u64, flags: i32) -> Result<u64> {
    shm::attach(cx, id, addr, flags)
}

fn shmdt(cx: &mut Ctx<'_>, addr: u64) -> Result<u64> {
    shm::detach(cx, addr)
}

fn shmctl(cx: &mut Ctx<'_>, id: i32, cmd: i32, buf: u64) -> Result<u64> {
    const SHM_LOCK: i32 = 11;
    const SHM_UNLOCK: i32 = 12;
    const SHM_STAT: i32 = 13;
    const SHM_INFO: i32 = 14;
    const SHM_STAT_ANY: i32 = 15;
    let task = cx.task.clone();
    shm::reap();
    if id < 0 || cmd < 0 {
        return Err(EINVAL);
    }
    match cmd {
        IPC_INFO => {
            let max = u64::MAX - (1 << 24);
            let info: [u64; 9] = [max, 1, MNI as u64, MNI as u64, max, 0, 0, 0, 0];
            user::write_obj(&task, buf, &info)?;
            Ok(shm::table(&cx.task).highest() as u64)
        }
        SHM_INFO => {
            let all = shm::table(&cx.task).list();
            let pages: u64 = all.iter().map(|(_, s)| s.stat().size.div_ceil(4096)).sum();
            let info: [u64; 6] = [all.len() as u64, pages, pages, 0, 0, 0];
            user::write_obj(&task, buf, &info)?;
            Ok(shm::table(&cx.task).highest() as u64)
        }
        IPC_STAT | SHM_STAT | SHM_STAT_ANY => {
            let (id, s) = match cmd {
                IPC_STAT => (0, shm::table(&cx.task).find(id)?),
                _ => shm::table(&cx.task).at(id)?,
            };
            let st = s.stat();
            if cmd != SHM_STAT_ANY {
                st.perm.check(&task, READ)?;
            }
            let ds = ShmDs {
                perm: RawPerm::of(&task, st.perm),
                size: st.size,
                atime: st.atime,
                dtime: st.dtime,
                ctime: st.ctime,
                cpid: task.show_pid(st.cpid),
                lpid: task.show_pid(st.lpid),
                nattch: st.nattch,
                ..ShmDs::default()
            };
            user::write_obj(&task, buf, &ds)?;
            Ok(id as u64)
        }
        IPC_SET => {
            let ds: ShmDs = user::read_obj(&task, buf)?;
            shm::table(&cx.task).find(id)?.set(&task, ds.perm.uid, ds.perm.gid, ds.perm.mode)?;
            Ok(0)
        }
        IPC_RMID => shm::table(&cx.task).find(id)?.remove(&task).map(|()| 0),
        SHM_LOCK | SHM_UNLOCK => {
            let s = shm::table(&cx.task).find(id)?;
            s.stat().perm.check_owner(&task)?;
            s.lock(cmd == SHM_LOCK);
            Ok(0)
        }
        _ => Err(EINVAL),
    }
}

fn semget(cx: &mut Ctx<'_>, key: i32, n: i32, flags: i32) -> Result<u64> {
    Ok(sem::get(&cx.task, key, n, flags)? as u64)
}

/// `struct sembuf`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawOp {
    num: u16,
    op: i16,
    flags: i16,
}

fn semop(cx: &mut Ctx<'_>, id: i32, ops: u64, n: usize) -> Result<u64> {
    semtimedop(cx, id, ops, n, 0)
}

fn semtimedop(cx: &mut Ctx<'_>, id: i32, ops: u64, n: usize, timeout: u64) -> Result<u64> {
    let deadline = read_timeout(&cx.task, timeout)?.and_then(|d| cx.deadline_in(d));
    if n > SEMOPM {
        return Err(E2BIG);
    }
    if n == 0 {
        return Err(EINVAL);
    }
    let raw: Vec<RawOp> = user::read_array(&cx.task, ops, n)?;
    if id < 0 {
        return Err(EINVAL);
    }
    let ops: Vec<SemOp> =
        raw.iter().map(|o| SemOp { num: o.num, op: o.op, flags: o.flags }).collect();
    let set = sem::table(&cx.task).find(id)?;
    set.check(&cx.task, &ops)?;
    set.operate(&cx.task, &ops, deadline)?;
    Ok(0)
}

fn semctl(cx: &mut Ctx<'_>, id: i32, num: i32, cmd: i32, arg: u64) -> Result<u64> {
    const GETPID: i32 = 11;
    const GETVAL: i32 = 12;
    const GETALL: i32 = 13;
    const GETNCNT: i32 = 14;
    const GETZCNT: i32 = 15;
    const SETVAL: i32 = 16;
    const SETALL: i32 = 17;
    const SEM_STAT: i32 = 18;
    const SEM_INFO: i32 = 19;
    const SEM_STAT_ANY: i32 = 20;
    let task = cx.task.clone();
    if id < 0 {
        return Err(EINVAL);
    }
    match cmd {
        IPC_INFO | SEM_INFO => {
            let all = sem::table(&cx.task).list();
            let sems: u64 = all.iter().map(|(_, s)| s.stat().count).sum();
            let (sets, sems) = if cmd == SEM_INFO {
                (all.len() as i32, i32::try_from(sems).unwrap_or(i32::MAX))
            } else {
                (20, SEMVMX)
            };
            let mns = (MNI * SEMMSL) as i32;
            // semmap, semmni, semmns, semmnu, semmsl, semopm, semume, semusz, semvmx, semaem.
            let info = [
                mns,
                MNI as i32,
                mns,
                mns,
                SEMMSL as i32,
                SEMOPM as i32,
                SEMOPM as i32,
                sets,
                SEMVMX,
                sems,
            ];
            user::write_obj(&task, arg, &info)?;
            Ok(sem::table(&cx.task).highest() as u64)
        }
        IPC_STAT | SEM_STAT | SEM_STAT_ANY => {
            let (id, s) = match cmd {
                IPC_STAT => (0, sem::table(&cx.task).find(id)?),
                _ => sem::table(&cx.task).at(id)?,
            };
            let st = s.stat();
            if cmd != SEM_STAT_ANY {
                st.perm.check(&task, READ)?;
            }
            let ds = SemDs {
                perm: RawPerm::of(&task, st.perm),
                otime: st.otime,
                ctime: st.ctime,
                nsems: st.count,
                ..SemDs::default()
            };
            user::write_obj(&task, arg, &ds)?;
            Ok(id as u64)
        }
        GETALL => {
            let s = sem::table(&cx.task).find(id)?;
            s.stat().perm.check(&task, READ)?;
            user::write_array(&task, arg, &s.values())?;
            Ok(0)
        }
        GETVAL | GETPID | GETNCNT | GETZCNT => {
            let s = sem::table(&cx.task).find(id)?;
            s.stat().perm.check(&task, READ)?;
            let (value, pid, ncnt, zcnt) = s.one(num)?;
            Ok(match cmd {
                GETVAL => value as u64,
                GETPID => task.show_pid(pid) as u64,
                GETNCNT => u64::from(ncnt),
                _ => u64::from(zcnt),
            })
        }
        SETVAL => {
            let s = sem::table(&cx.task).find(id)?;
            s.stat().perm.check(&task, 2)?;
            s.set_value(&task, num, arg as i32)?;
            Ok(0)
        }
        SETALL => {
            let s = sem::table(&cx.task).find(id)?;
            let st = s.stat();
            st.perm.check(&task, 2)?;
            let values: Vec<u16> = user::read_array(&task, arg, st.count as usize)?;
            s.set_values(&task, &values)?;
            Ok(0)
        }
        IPC_SET => {
            let ds: SemDs = user::read_obj(&task, arg)?;
            sem::table(&cx.task).find(id)?.set(&task, ds.perm.uid, ds.perm.gid, ds.perm.mode)?;
            Ok(0)
        }
        IPC_RMID => sem::table(&cx.task).find(id)?.remove(&task, id).map(|()| 0),
        _ => Err(EINVAL),
    }
}

fn msgget(cx: &mut Ctx<'_>, key: i32, flags: i32) -> Result<u64> {
    Ok(msg::get(&cx.task, key, flags)? as u64)
}

fn msgsnd(cx: &mut Ctx<'_>, id: i32, buf: u64, len: usize, flags: i32) -> Result<u64> {
    let kind: i64 = user::read_obj(&cx.task, buf)?;
    if len > msg::MSGMAX || id < 0 || kind < 1 {
        return Err(EINVAL);
    }
    let text = user::read_bytes(&cx.task, buf.wrapping_add(8), len)?;
    msg::table(&cx.task).find(id)?.send(&cx.task, kind, &text, flags)?;
    Ok(0)
}

fn msgrcv(cx: &mut Ctx<'_>, id: i32, buf: u64, max: usize, kind: i64, flags: i32) -> Result<u64> {
    if id < 0 || max > i64::MAX as usize {
        return Err(EINVAL);
    }
    let (kind, text) = msg::table(&cx.task).find(id)?.receive(&cx.task, kind, max, flags)?;
    user::write_obj(&cx.task, buf, &kind)?;
    user::write_bytes(&cx.task, buf.wrapping_add(8), &text)?;
    Ok(text.len() as u64)
}

fn msgctl(cx: &mut Ctx<'_>, id: i32, cmd: i32, buf: u64) -> Result<u64> {
    const MSG_STAT: i32 = 11;
    const MSG_INFO: i32 = 12;
    const MSG_STAT_ANY: i32 = 13;
    let task = cx.task.clone();
    if id < 0 || cmd < 0 {
        return Err(EINVAL);
    }
    match cmd {
        IPC_INFO | MSG_INFO => {
            let all = msg::table(&cx.task).list();
            let (mut pool, mut map, mut tql) = (0, 0, 0);
            if cmd == MSG_INFO {
                pool = all.len() as i32;
                map = all.iter().map(|(_, q)| q.stat().qnum).sum::<u64>() as i32;
                tql = all.iter().map(|(_, q)| q.stat().cbytes).sum::<u64>() as i32;
            }
            // msgpool, msgmap, msgmax, msgmnb, msgmni, msgssz, msgtql, msgseg.
            let max = msg::MSGMAX as i32;
            let info = [pool, map, max, msg::MSGMNB as i32, MNI as i32, 16, tql, 0xffff];
            user::write_obj(&task, buf, &info)?;
            Ok(msg::table(&cx.task).highest() as u64)
        }
        IPC_STAT | MSG_STAT | MSG_STAT_ANY => {
            let (id, q) = match cmd {
                IPC_STAT => (0, msg::table(&cx.task).find(id)?),
                _ => msg::table(&cx.task).at(id)?,
            };
            let st = q.stat();
            if cmd != MSG_STAT_ANY {
                st.perm.check(&task, READ)?;
            }
            let ds = MsqDs {
                perm: RawPerm::of(&task, st.perm),
                stime: st.stime,
                rtime: st.rtime,
                ctime: st.ctime,
                cbytes: st.cbytes,
                qnum: st.qnum,
                qbytes: st.qbytes,
                lspid: task.show_pid(st.lspid),
                lrpid: task.show_pid(st.lrpid),
                ..MsqDs::default()
            };
            user::write_obj(&task, buf, &ds)?;
            Ok(id as u64)
        }
        IPC_SET => {
            let ds: MsqDs = user::read_obj(&task, buf)?;
            let p = ds.perm;
            msg::table(&cx.task).find(id)?.set(&task, p.uid, p.gid, p.mode, ds.qbytes)?;
            Ok(0)
        }
        IPC_RMID => msg::table(&cx.task).find(id)?.remove(&task, id).map(|()| 0),
        _ => Err(EINVAL),
    }
}
