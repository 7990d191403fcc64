//! System V IPC (sysvipc(7)): shared memory, semaphore sets, message queues.
//!
//! Objects live in tables by identifier until they are removed; a sleeper notices a removal by its object's
//! mark (`EIDRM`).

pub mod list;
pub mod msg;
pub mod sem;
pub mod shm;

use std::collections::BTreeMap;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::task::{Cap, Task};

/// Makes an object nobody can find by key.
pub const IPC_PRIVATE: i32 = 0;
pub const IPC_CREAT: i32 = 0o1000;
pub const IPC_EXCL: i32 = 0o2000;
pub const IPC_NOWAIT: i32 = 0o4000;
/// Most objects of a kind (`/proc/sys/kernel/{shmmni,msgmni}` and `sem`).
pub const MNI: usize = 32000;
const INDEX_BITS: u32 = 15;

/// Owner and mode of an object (`struct ipc_perm`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Perm {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
    pub seq: u16,
}

impl Perm {
    fn new(task: &Task, key: i32, mode: i32) -> Perm {
        let c = task.cred();
        Perm {
            key,
            uid: c.euid,
            gid: c.egid,
            cuid: c.euid,
            cgid: c.egid,
            mode: mode as u32 & 0o777,
            seq: 0,
        }
    }

    /// `EACCES` unless the task has the access bits of `want` (rw, as for "other").
    pub fn check(&self, task: &Task, want: u32) -> Result<()> {
        let c = task.cred();
        let shift = if c.euid == self.uid || c.euid == self.cuid {
            6
        } else if c.in_egroup(self.gid) || c.in_egroup(self.cgid) {
            3
        } else {
            0
        };
        if want & !(self.mode >> shift) & 6 == 0
            || c.capable_in(&task.ns().ipc.owner, Cap::IpcOwner)
        {
            Ok(())
        } else {
            Err(EACCES)
        }
    }

    /// `EPERM` unless the task owns the object (IPC_SET, IPC_RMID).
    pub fn check_owner(&self, task: &Task) -> Result<()> {
        let c = task.cred();
        if c.euid == self.uid
            || c.euid == self.cuid
            || c.capable_in(&task.ns().ipc.owner, Cap::SysAdmin)
        {
            Ok(())
        } else {
            Err(EPERM)
        }
    }

    /// IPC_SET: owner, group (as the task names them) and permission bits. `EINVAL` for ids without a mapping.
    pub fn set(&mut self, task: &Task, uid: u32, gid: u32, mode: u32) -> Result<()> {
        let ns = task.cred().user_ns.clone();
        (self.uid, self.gid) = (ns.kuid(uid)?, ns.kgid(gid)?);
        self.mode = (self.mode & !0o777) | (mode & 0o777);
        Ok(())
    }
}

/// An object with permissions.
pub trait Object: Send + Sync {
    fn perm(&self) -> Perm;
}

struct Slots<T> {
    objects: BTreeMap<i32, Arc<T>>,
    next: i32,
    seq: u16,
}

/// The objects of one kind.
pub struct Table<T> {
    slots: Mutex<Slots<T>>,
}

impl<T: Object> Default for Table<T> {
    fn default() -> Self {
        Table {
            slots: Mutex::new(
                Rank::SOCKET_TABLE,
                Slots { objects: BTreeMap::new(), next: 0, seq: 0 },
            ),
        }
    }
}

impl<T: Object> Table<T> {
    /// The *get calls: finds by key or makes one. `check` looks at an existing object (size,
    /// count); `make` gets the identifier and the permissions.
    pub fn get(
        &self,
        task: &Task,
        key: i32,
        flags: i32,
        check: impl FnOnce(&T) -> Result<()>,
        make: impl FnOnce(i32, Perm) -> Result<T>,
    ) -> Result<i32> {
        let mut s = self.slots.lock();
        if key != IPC_PRIVATE {
            let found = s.objects.iter().find(|(_, o)| o.perm().key == key);
            if let Some((id, o)) = found {
                if flags & IPC_CREAT != 0 && flags & IPC_EXCL != 0 {
                    return Err(EEXIST);
                }
                check(o)?;
                let want = (flags >> 6 | flags >> 3 | flags) as u32 & 6;
                o.perm().check(task, want)?;
                return Ok(*id);
            }
            if flags & IPC_CREAT == 0 {
                return Err(ENOENT);
            }
        }
        if s.objects.len() >= MNI {
            return Err(ENOSPC);
        }
        let mask = (1 << INDEX_BITS) - 1;
        let used: std::collections::BTreeSet<i32> = s.objects.keys().map(|id| id & mask).collect();
        let index = (0..MNI as i32)
            .map(|i| (s.next + i) % MNI as i32)
            .find(|i| !used.contains(i))
            .ok_or(ENOSPC)?;
        if index < s.next {
            // Identifiers come back with another sequence number.
            s.seq = (s.seq + 1) & 0x7fff;
        }
        let id = i32::from(s.seq) << INDEX_BITS | index;
        let mut perm = Perm::new(task, key, flags);
        perm.seq = s.seq;
        let object = make(id, perm)?;
        s.next = index + 1;
        s.objects.insert(id, Arc::new(object));
        Ok(id)
    }

    /// The object `id`; `EINVAL` when there is none.
    pub fn find(&self, id: i32) -> Result<Arc<T>> {
        self.slots.lock().objects.get(&id).cloned().ok_or(EINVAL)
    }

    /// The *_STAT commands: by position in the table; the identifier too.
    pub fn at(&self, index: i32) -> Result<(i32, Arc<T>)> {
        let mask = (1 << INDEX_BITS) - 1;
        let s = self.slots.lock();
        let found = s.objects.iter().find(|(id, _)| **id & mask == index);
        found.map(|(id, o)| (*id, o.clone())).ok_or(EINVAL)
    }

    /// Takes the object out.
    pub fn remove(&self, id: i32) -> Option<Arc<T>> {
        self.slots.lock().objects.remove(&id)
    }

    /// Every object, for /proc/sysvipc and the *_INFO commands.
    pub fn list(&self) -> Vec<(i32, Arc<T>)> {
        self.slots.lock().objects.iter().map(|(id, o)| (*id, o.clone())).collect()
    }

    /// Highest used position, which the *_INFO commands return.
    pub fn highest(&self) -> i32 {
        let mask = (1 << INDEX_BITS) - 1;
        self.slots.lock().objects.keys().map(|id| id & mask).max().unwrap_or(0)
    }
}

/// Seconds since the epoch by the machine's clock.
pub(crate) fn now(task: &Task) -> i64 {
    task.kernel().time.realtime().as_secs() as i64
}

/// As [`now`] where there is no task: when a mapping goes away with its process.
pub(crate) fn now_anywhere() -> i64 {
    uml_core::vfs::now().sec
}
