//! Shared memory segments (shmget(2), shmop(2), shmctl(2)).

use std::os::fd::RawFd;
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::ctx::Ctx;
use uml_core::task::Task;
use uml_mm::vma::{Backing, PROT_ALL, PROT_EXEC, PROT_READ, PROT_WRITE};
use uml_mm::{MapAccess, MapRequest, Mappable, PAGE};

use super::{Object, Perm, Table, now, now_anywhere};

/// Mode bits beyond the permissions (shmctl(2)).
pub const SHM_DEST: u32 = 0o1000;
pub const SHM_LOCKED: u32 = 0o2000;
pub const SHM_RDONLY: i32 = 0o10000;
pub const SHM_RND: i32 = 0o20000;
pub const SHM_REMAP: i32 = 0o40000;
pub const SHM_EXEC: i32 = 0o100000;
const SHM_HUGETLB: i32 = 0o4000;
const SHM_NORESERVE: i32 = 0o10000;

/// What IPC_STAT reports.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    pub perm: Perm,
    pub size: u64,
    pub atime: i64,
    pub dtime: i64,
    pub ctime: i64,
    pub cpid: i32,
    pub lpid: i32,
    pub nattch: u64,
}

/// The bytes, and what is known about them.
struct Memory {
    id: i32,
    /// Where it is known.
    table: Weak<Table<Segment>>,
    object: Arc<dyn Mappable>,
    stat: Mutex<Stat>,
}

/// A shared memory segment.
pub struct Segment {
    memory: Arc<Memory>,
}

impl Object for Segment {
    fn perm(&self) -> Perm {
        self.memory.stat.lock().perm
    }
}

/// The segments of the task's ipc namespace.
pub fn table(task: &Task) -> Arc<Table<Segment>> {
    task.ns().ipc.parts.get()
}

/// shmget(2).
pub fn get(task: &Task, key: i32, size: u64, flags: i32) -> Result<i32> {
    reap();
    if flags & SHM_HUGETLB != 0 {
        // No huge pages are reserved.
        return Err(ENOMEM);
    }
    let check = |s: &Segment| {
        if size > s.memory.stat.lock().size { Err(EINVAL) } else { Ok(()) }
    };
    let table = table(task);
    let known = Arc::downgrade(&table);
    table.get(task, key, flags, check, |id, perm| {
        if size == 0 || i64::try_from(size).is_err() {
            return Err(EINVAL);
        }
        if flags & SHM_NORESERVE == 0 {
            uml_core::memory::commit::check(task, size)?;
        }
        let len = size.next_multiple_of(PAGE);
        if i64::try_from(len).is_err() {
            return Err(ENOMEM);
        }
        let object = uml_core::shm::anonymous(len).map_err(|_| ENOMEM)?;
        let stat = Stat {
            perm,
            size,
            atime: 0,
            dtime: 0,
            ctime: now(task),
            cpid: task.process.pid,
            lpid: 0,
            nattch: 0,
        };
        Ok(Segment {
            memory: Arc::new(Memory {
                id,
                table: known.clone(),
                object,
                stat: Mutex::new(Rank::IPC, stat),
            }),
        })
    })
}

impl Segment {
    /// IPC_STAT.
    pub fn stat(&self) -> Stat {
        *self.memory.stat.lock()
    }

    /// IPC_SET.
    pub fn set(&self, task: &Task, uid: u32, gid: u32, mode: u32) -> Result<()> {
        let mut s = self.memory.stat.lock();
        s.perm.check_owner(task)?;
        s.perm.set(task, uid, gid, mode)?;
        s.ctime = now(task);
        Ok(())
    }

    /// SHM_LOCK and SHM_UNLOCK: the memory is the host's, so only the mark changes.
    pub fn lock(&self, on: bool) {
        let mut s = self.memory.stat.lock();
        s.perm.mode = if on { s.perm.mode | SHM_LOCKED } else { s.perm.mode & !SHM_LOCKED };
    }

    /// IPC_RMID: gone once nobody has it attached; until then nobody finds it by key.
    pub fn remove(&self, task: &Task) -> Result<()> {
        let idle = {
            let mut s = self.memory.stat.lock();
            s.perm.check_owner(task)?;
            s.perm.mode |= SHM_DEST;
            s.perm.key = super::IPC_PRIVATE;
            s.nattch == 0
        };
        if idle {
            drop(table(task).remove(self.memory.id));
        }
        Ok(())
    }
}

impl Mappable for Memory {
    fn punch(&self, off: u64, len: u64) -> Result<()> {
        self.object.punch(off, len)
    }

    fn host_fd(&self, off: u64, len: u64, access: MapAccess) -> Result<RawFd> {
        self.object.host_fd(off, len, access)
    }

    fn identity(&self) -> (u64, u64) {
        (1, self.id as u32 as u64)
    }

    fn name(&self) -> Vec<u8> {
        let key = self.stat.lock().perm.key;
        format!("/SYSV{key:08x} (deleted)").into_bytes()
    }

    fn mapped(&self, delta: i64) {
        let gone = {
            let mut s = self.stat.lock();
            s.nattch = s.nattch.saturating_add_signed(delta);
            if delta < 0 {
                s.dtime = now_anywhere();
            }
            s.nattch == 0 && s.perm.mode & SHM_DEST != 0
        };
        if gone {
            // The table is locked before a map, never after; a lock of a higher rank may be held
            // here, so the removal is left to the next call that looks.
            PENDING.lock().push((self.table.clone(), self.id));
        }
    }

    fn key(&self) -> u64 {
        self.object.key()
    }
}

/// Removed segments whose last attachment went away.
static PENDING: Mutex<Vec<(Weak<Table<Segment>>, i32)>> = Mutex::new(Rank::LEAF, Vec::new());

/// Frees segments that are removed and no longer attached; called by every shared-memory call and at the
/// end of processes.
pub fn reap() {
    let ids = std::mem::take(&mut *PENDING.lock());
    for (table, id) in ids {
        let Some(table) = table.upgrade() else { continue };
        if table.find(id).is_ok_and(|s| s.stat().nattch == 0) {
            drop(table.remove(id));
        }
    }
}

/// shmat(2): returns the address.
pub fn attach(cx: &mut Ctx<'_>, id: i32, addr: u64, flags: i32) -> Result<u64> {
    let task = cx.task.clone();
    let segment = table(&task).find(id)?;
    let stat = segment.stat();
    let (mut prot, mut want) = (PROT_READ, 4);
    if flags & SHM_RDONLY == 0 {
        prot |= PROT_WRITE;
        want |= 2;
    }
    if flags & SHM_EXEC != 0 {
        prot |= PROT_EXEC;
    }
    let mut req = MapRequest::anonymous(stat.size, prot);
    if addr % PAGE != 0 {
        if flags & SHM_RND == 0 {
            return Err(EINVAL);
        }
        req.addr = addr - addr % PAGE;
    } else {
        req.addr = addr;
    }
    if req.addr == 0 {
        if flags & SHM_REMAP != 0 {
            return Err(EINVAL);
        }
    } else {
        req.fixed = true;
        req.noreplace = flags & SHM_REMAP == 0;
    }
    stat.perm.check(&task, want)?;
    req.len = stat.size.next_multiple_of(PAGE);
    req.shared = true;
    req.may = if flags & SHM_RDONLY == 0 { PROT_ALL } else { PROT_ALL & !PROT_WRITE };
    req.backing = Some(Backing { object: segment.memory.clone(), off: 0 });
    let at = task.mm()?.mmap(cx.hw, &req).map_err(|e| if e == EEXIST { EINVAL } else { e })?;
    let mut s = segment.memory.stat.lock();
    s.atime = now(&task);
    s.lpid = task.process.pid;
    Ok(at)
}

/// shmdt(2): unmaps the attachment that begins at `addr`.
pub fn detach(cx: &mut Ctx<'_>, addr: u64) -> Result<u64> {
    if addr % PAGE != 0 {
        return Err(EINVAL);
    }
    let task = cx.task.clone();
    let mm = task.mm()?;
    let segments = table(&task).list();
    let (id, parts) = {
        let map = mm.map();
        // The attachment may have been split or its start unmapped; offsets tell what belongs to it.
        let of = |v: &uml_mm::vma::Vma| {
            let b = v.backing.as_ref()?;
            if v.start.checked_sub(b.off)? != addr {
                return None;
            }
            segments.iter().find(|(_, s)| s.memory.key() == b.object.key()).map(|(id, _)| *id)
        };
        let first = map.vmas.find_from(addr).and_then(of).ok_or(EINVAL)?;
        let parts: Vec<(u64, u64)> = map
            .vmas
            .iter()
            .filter(|v| of(v) == Some(first))
            .map(|v| (v.start, v.end - v.start))
            .collect();
        (first, parts)
    };
    for (start, len) in parts {
        mm.unmap(cx.hw, start, len)?;
    }
    if let Some((_, s)) = segments.iter().find(|(i, _)| *i == id) {
        s.memory.stat.lock().lpid = task.process.pid;
    }
    reap();
    Ok(0)
}
