//! Leases on files (fcntl(2), "Leases").
//!
//! A lease hangs on an inode, identified by address; the file that holds it keeps the inode. Whoever opens or
//! truncates the file in conflict with one tells its holder and waits until the lease is given up,
//! lowered, or /proc/sys/fs/lease-break-time has passed. Without any lease an open pays one load.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, Rank, WaitQueue};

use crate::file::notify_owner::{self, F_OWNER_PID, POLL_MSG};
use crate::file::{File, Owner};
use crate::kernel::Kernel;
use crate::task::{Cap, Task, WaitKind};
use crate::vfs::{Inode, inode_key, open};

/// F_RDLCK or F_WRLCK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
}

/// What the holder has been asked to do, and until when.
#[derive(Clone, Copy)]
struct Breaking {
    /// `Some(Read)`: lower to a read lease.
    to: Option<Kind>,
    until: Instant,
}

struct Lease {
    /// The holding open file description, by address: the lease ends with it.
    holder: usize,
    file: Weak<File>,
    /// The descriptor it was set through (`si_fd`).
    fd: i32,
    pid: i32,
    kind: Kind,
    breaking: Option<Breaking>,
}

struct Leased {
    leases: Vec<Lease>,
    queue: Arc<WaitQueue>,
}

/// A lease as /proc/locks shows it.
pub struct Shown {
    pub file: Arc<File>,
    pub pid: i32,
    pub kind: Kind,
    pub breaking: bool,
}

/// The machine's leases.
pub struct LeaseTable {
    map: Mutex<HashMap<usize, Leased>>,
    count: AtomicUsize,
}

/// The table. Inodes are identified by address, so one serves every machine of the process.
pub fn table() -> &'static LeaseTable {
    static T: OnceLock<LeaseTable> = OnceLock::new();
    T.get_or_init(|| LeaseTable {
        map: Mutex::new(Rank::LEAF, HashMap::new()),
        count: AtomicUsize::new(0),
    })
}

fn id(file: &File) -> usize {
    std::ptr::from_ref(file) as usize
}

/// True when a descriptor of some process, other than of `file` itself, refers to its inode.
fn open_elsewhere(kernel: &Kernel, file: &Arc<File>) -> bool {
    let tables: Vec<_> = kernel.tree.read().tasks().map(|t| t.files()).collect();
    let key = inode_key(file.inode());
    tables.iter().any(|t| {
        t.list()
            .into_iter()
            .filter_map(|fd| t.get(fd).ok())
            .any(|f| !Arc::ptr_eq(&f, file) && !f.is_path() && inode_key(f.inode()) == key)
    })
}

impl LeaseTable {
    fn idle(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// F_GETLEASE: the lease `file` holds; one being broken counts as what it is to become.
    pub fn get(&self, file: &File) -> Option<Kind> {
        let map = self.map.lock();
        let l = map.get(&inode_key(file.inode()))?.leases.iter().find(|l| l.holder == id(file))?;
        l.breaking.map_or(Some(l.kind), |b| b.to)
    }

    /// F_SETLEASE with F_UNLCK; `EAGAIN` when `file` holds none.
    pub fn unset(&self, file: &File) -> Result<()> {
        if self.remove(file.inode(), id(file)) { Ok(()) } else { Err(EAGAIN) }
    }

    /// F_SETLEASE with F_RDLCK or F_WRLCK. `EAGAIN` when the file is open in conflict with it or another holds
    /// a lease that conflicts, `EACCES` for files of others, `EINVAL` for what is no regular file.
    pub fn set(&self, task: &Task, file: &Arc<File>, fd: i32, kind: Kind) -> Result<()> {
        let inode = file.inode();
        if task.cred().fsuid != inode.perm()?.uid && !task.cred().capable(Cap::Lease) {
            return Err(EACCES);
        }
        if inode.file_type() != libc::S_IFREG {
            return Err(EINVAL);
        }
        if task.kernel().sysctl.fs_leases_enable.get() == 0 {
            return Err(EINVAL);
        }
        let free = || {
            let own = usize::from(kind == Kind::Write && file.writable());
            open::writers(inode) == own
                && !(kind == Kind::Write && open_elsewhere(&task.kernel(), file))
        };
        if !free() {
            return Err(EAGAIN);
        }
        {
            let mut map = self.map.lock();
            let e = map
                .entry(inode_key(inode))
                .or_insert_with(|| Leased { leases: Vec::new(), queue: WaitQueue::shared() });
            let others = e.leases.iter().filter(|l| l.holder != id(file));
            let conflict = others
                .clone()
                .any(|l| kind == Kind::Write || l.kind == Kind::Write || l.breaking.is_some());
            if conflict {
                return Err(EAGAIN);
            }
            match e.leases.iter_mut().find(|l| l.holder == id(file)) {
                Some(l) => {
                    // While it is being broken it can only be lowered, as asked.
                    if l.breaking.is_some_and(|b| b.to != Some(kind)) {
                        return Err(EAGAIN);
                    }
                    l.kind = kind;
                    l.fd = fd;
                    l.breaking = None;
                }
                None => e.leases.push(Lease {
                    holder: id(file),
                    file: Arc::downgrade(file),
                    fd,
                    pid: task.process.pid,
                    kind,
                    breaking: None,
                }),
            }
            e.queue.wake_all(Events::ALL);
            self.count.store(map.len(), Ordering::SeqCst);
        }
        // An open that began before the lease was seen may have ended since.
        if !free() {
            self.remove(inode, id(file));
            return Err(EAGAIN);
        }
        let c = task.cred();
        let mut o = file.owner.lock();
        if o.id == 0 {
            let id = task.process.pid;
            *o = Owner {
                kind: F_OWNER_PID,
                id,
                signo: o.signo,
                uid: c.uid,
                euid: c.euid,
                landlock: None,
            };
        }
        Ok(())
    }

    fn remove(&self, inode: &Arc<dyn Inode>, holder: usize) -> bool {
        let mut map = self.map.lock();
        let key = inode_key(inode);
        let Some(e) = map.get_mut(&key) else { return false };
        let before = e.leases.len();
        e.leases.retain(|l| l.holder != holder);
        let found = e.leases.len() != before;
        e.queue.wake_all(Events::ALL);
        if e.leases.is_empty() {
            map.remove(&key);
        }
        self.count.store(map.len(), Ordering::SeqCst);
        found
    }

    /// The last reference to an open file is gone.
    pub(crate) fn release_file(&self, inode: &Arc<dyn Inode>, file: &File) {
        if !self.idle() {
            self.remove(inode, id(file));
        }
    }

    /// Before a file is opened (`write`: for writing or truncation): breaks the leases in the way. `EAGAIN`
    /// with `nonblock` while one is still held, `EINTR` on a signal.
    pub fn break_for(
        &self,
        task: &Task,
        inode: &Arc<dyn Inode>,
        write: bool,
        nonblock: bool,
    ) -> Result<()> {
        if self.idle() {
            return Ok(());
        }
        let kernel = task.kernel();
        let seconds = kernel.sysctl.fs_lease_break_time.get();
        let patience = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        loop {
            let Some((queue, until)) = self.begin(&kernel, inode, write, patience) else {
                return Ok(());
            };
            if nonblock {
                return Err(EAGAIN);
            }
            let clear = || (!self.conflicts(inode, write)).then_some(());
            let kind = WaitKind::Interruptible;
            let done = task.wait(&queue, Events::ALL, kind, Some(until), "lease_break", clear)?;
            if done.is_none() {
                self.expire(inode);
            }
        }
    }

    fn conflicts(&self, inode: &Arc<dyn Inode>, write: bool) -> bool {
        let map = self.map.lock();
        let leases = map.get(&inode_key(inode)).map_or(&[][..], |e| &e.leases);
        leases.iter().any(|l| write || l.kind == Kind::Write)
    }

    /// Tells the holders of conflicting leases; the queue to wait on and until when.
    fn begin(
        &self,
        kernel: &Kernel,
        inode: &Arc<dyn Inode>,
        write: bool,
        patience: Duration,
    ) -> Option<(Arc<WaitQueue>, Instant)> {
        let to = if write { None } else { Some(Kind::Read) };
        let until = uml_base::clock::now() + patience;
        let mut tell = Vec::new();
        let r = {
            let mut map = self.map.lock();
            let e = map.get_mut(&inode_key(inode))?;
            let mut last = None;
            for l in e.leases.iter_mut().filter(|l| write || l.kind == Kind::Write) {
                let asked = l.breaking.is_some_and(|b| b.to.is_none() || b.to == to);
                if !asked {
                    l.breaking = Some(Breaking { to, until });
                    tell.push((l.file.clone(), l.fd));
                }
                let end = l.breaking.map_or(until, |b| b.until);
                last = Some(last.map_or(end, |x: Instant| x.max(end)));
            }
            (e.queue.clone(), last?)
        };
        for (file, fd) in tell {
            if let Some(f) = file.upgrade() {
                let owner = f.owner.lock().clone();
                notify_owner::signal(kernel, &owner, fd, POLL_MSG);
            }
        }
        Some(r)
    }

    /// Takes from holders whose time is up what they were asked for.
    fn expire(&self, inode: &Arc<dyn Inode>) {
        let now = uml_base::clock::now();
        let mut map = self.map.lock();
        let key = inode_key(inode);
        let Some(e) = map.get_mut(&key) else { return };
        e.leases.retain_mut(|l| match l.breaking {
            Some(b) if b.until <= now => match b.to {
                Some(kind) => {
                    l.kind = kind;
                    l.breaking = None;
                    true
                }
                None => false,
            },
            _ => true,
        });
        e.queue.wake_all(Events::ALL);
        if e.leases.is_empty() {
            map.remove(&key);
        }
        self.count.store(map.len(), Ordering::SeqCst);
    }

    /// Every lease, for /proc/locks.
    pub fn list(&self) -> Vec<Shown> {
        let map = self.map.lock();
        let leases = map.values().flat_map(|e| &e.leases);
        leases
            .filter_map(|l| {
                let (pid, kind, breaking) = (l.pid, l.kind, l.breaking.is_some());
                Some(Shown { file: l.file.upgrade()?, pid, kind, breaking })
            })
            .collect()
    }
}
