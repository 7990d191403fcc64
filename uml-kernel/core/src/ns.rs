//! Namespaces (namespaces(7)): what of the machine a group of processes sees.
//!
//! A task holds its namespaces in one immutable [`NsSet`], its user namespace in its credentials, its mount
//! namespace with root and working directory, and its pid namespace with its process. Inside the kernel ids of users,
//! groups and processes are those of the initial namespaces; they are translated where they meet a program:
//! [`user::UserNs`] and [`pid::PidNs`] have the functions.
//!
//! Entry points: [`change`] (clone(2), unshare(2), setns(2)), [`nsfs`] (the files behind /proc/<pid>/ns).

pub mod change;
pub mod nsfs;
pub mod pid;
pub mod time;
pub mod user;

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};

use crate::cgroup::Cgroup;
use crate::task::{Cap, Task};
use crate::vfs::MountNs;

pub use pid::PidNs;
pub use time::TimeNs;
pub use user::UserNs;

/// Kinds of namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NsKind {
    Cgroup,
    Ipc,
    Mnt,
    Net,
    Pid,
    Time,
    User,
    Uts,
}

/// CLONE_NEWTIME, which is in the bits of the exit signal and so not for clone(2).
pub const CLONE_NEWTIME: u64 = 0x80;

impl NsKind {
    /// Every kind.
    pub const ALL: [NsKind; 8] = [
        NsKind::Cgroup,
        NsKind::Ipc,
        NsKind::Mnt,
        NsKind::Net,
        NsKind::Pid,
        NsKind::Time,
        NsKind::User,
        NsKind::Uts,
    ];

    /// The name in link texts.
    pub fn name(self) -> &'static str {
        match self {
            NsKind::Cgroup => "cgroup",
            NsKind::Ipc => "ipc",
            NsKind::Mnt => "mnt",
            NsKind::Net => "net",
            NsKind::Pid => "pid",
            NsKind::Time => "time",
            NsKind::User => "user",
            NsKind::Uts => "uts",
        }
    }

    /// Its CLONE_* flag (NS_GET_NSTYPE).
    pub fn clone_flag(self) -> u64 {
        match self {
            NsKind::Cgroup => libc::CLONE_NEWCGROUP as u64,
            NsKind::Ipc => libc::CLONE_NEWIPC as u64,
            NsKind::Mnt => libc::CLONE_NEWNS as u64,
            NsKind::Net => libc::CLONE_NEWNET as u64,
            NsKind::Pid => libc::CLONE_NEWPID as u64,
            NsKind::Time => CLONE_NEWTIME,
            NsKind::User => libc::CLONE_NEWUSER as u64,
            NsKind::Uts => libc::CLONE_NEWUTS as u64,
        }
    }
}

/// Inode number of the first namespace made after boot.
const FIRST: u64 = 4_026_531_841;

/// A number for a new namespace; never reused.
pub fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(FIRST);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Host name and domain name (uts_namespaces(7)).
pub struct UtsNs {
    pub id: u64,
    pub owner: Arc<UserNs>,
    pub hostname: Mutex<Vec<u8>>,
    pub domainname: Mutex<Vec<u8>>,
}

impl UtsNs {
    fn new(id: u64, owner: Arc<UserNs>, host: &[u8], domain: &[u8]) -> Arc<UtsNs> {
        Arc::new(UtsNs {
            id,
            owner,
            hostname: Mutex::new(Rank::LEAF, host.to_vec()),
            domainname: Mutex::new(Rank::LEAF, domain.to_vec()),
        })
    }
}

/// Tables that belong to a namespace and are kept by a crate above: one of each type.
#[derive(Default)]
pub struct Parts(OnceLock<Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>>);

impl Parts {
    /// The table of type `T`, made at first use.
    pub fn get<T: Any + Default + Send + Sync>(&self) -> Arc<T> {
        let all = self.0.get_or_init(|| Mutex::new(Rank::LEAF, HashMap::new()));
        let mut all = all.lock();
        let part = all.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(T::default())).clone();
        match part.downcast::<T>() {
            Ok(t) => t,
            Err(_) => unreachable!("entered under its own type"),
        }
    }
}

/// System V objects and POSIX message queues (ipc_namespaces(7)); the tables are the IPC crate's.
pub struct IpcNs {
    pub id: u64,
    pub owner: Arc<UserNs>,
    pub parts: Parts,
}

/// Network devices and everything about them (network_namespaces(7)); what is in it is the network crates'.
pub struct NetNs {
    pub id: u64,
    pub owner: Arc<UserNs>,
    pub parts: Parts,
}

/// The part of the cgroup hierarchy that is visible (cgroup_namespaces(7)).
pub struct CgroupNs {
    pub id: u64,
    pub owner: Arc<UserNs>,
    pub root: Arc<Cgroup>,
}

/// What a task sees besides mounts, users and processes.
#[derive(Clone)]
pub struct NsSet {
    pub uts: Arc<UtsNs>,
    pub ipc: Arc<IpcNs>,
    pub net: Arc<NetNs>,
    pub cgroup: Arc<CgroupNs>,
    /// Of children to come; the task's own is its process's.
    pub pid_for_children: Arc<PidNs>,
    pub time: Arc<TimeNs>,
    /// Of processes to come, and of the task's own programs to come.
    pub time_for_children: Arc<TimeNs>,
}

impl NsSet {
    /// The namespaces that exist from the start, with the numbers Linux reserves for them.
    pub fn initial(root: &Arc<Cgroup>) -> NsSet {
        let owner = UserNs::initial;
        NsSet {
            uts: UtsNs::new(0xefff_fffe, owner(), b"(none)", b"(none)"),
            ipc: Arc::new(IpcNs { id: 0xefff_ffff, owner: owner(), parts: Parts::default() }),
            net: Arc::new(NetNs { id: 0xf000_0000, owner: owner(), parts: Parts::default() }),
            cgroup: Arc::new(CgroupNs { id: 0xefff_fffb, owner: owner(), root: root.clone() }),
            pid_for_children: PidNs::initial(),
            time: TimeNs::initial(),
            time_for_children: TimeNs::initial(),
        }
    }
}

/// One namespace of any kind.
#[derive(Clone)]
pub enum Namespace {
    Cgroup(Arc<CgroupNs>),
    Ipc(Arc<IpcNs>),
    Mnt(Arc<MountNs>),
    Net(Arc<NetNs>),
    Pid(Arc<PidNs>),
    Time(Arc<TimeNs>),
    User(Arc<UserNs>),
    Uts(Arc<UtsNs>),
}

impl Namespace {
    /// The one of `kind` that `task` is in.
    pub fn of(task: &Task, kind: NsKind) -> Namespace {
        let set = task.ns();
        match kind {
            NsKind::Cgroup => Namespace::Cgroup(set.cgroup.clone()),
            NsKind::Ipc => Namespace::Ipc(set.ipc.clone()),
            NsKind::Mnt => Namespace::Mnt(task.fs().mounts()),
            NsKind::Net => Namespace::Net(set.net.clone()),
            NsKind::Pid => Namespace::Pid(task.process.pid_ns.clone()),
            NsKind::Time => Namespace::Time(set.time.clone()),
            NsKind::User => Namespace::User(task.cred().user_ns.clone()),
            NsKind::Uts => Namespace::Uts(set.uts.clone()),
        }
    }

    /// Its kind.
    pub fn kind(&self) -> NsKind {
        match self {
            Namespace::Cgroup(_) => NsKind::Cgroup,
            Namespace::Ipc(_) => NsKind::Ipc,
            Namespace::Mnt(_) => NsKind::Mnt,
            Namespace::Net(_) => NsKind::Net,
            Namespace::Pid(_) => NsKind::Pid,
            Namespace::Time(_) => NsKind::Time,
            Namespace::User(_) => NsKind::User,
            Namespace::Uts(_) => NsKind::Uts,
        }
    }

    /// Its inode number.
    pub fn id(&self) -> u64 {
        match self {
            Namespace::Cgroup(n) => n.id,
            Namespace::Ipc(n) => n.id,
            Namespace::Mnt(n) => n.id,
            Namespace::Net(n) => n.id,
            Namespace::Pid(n) => n.id,
            Namespace::Time(n) => n.id,
            Namespace::User(n) => n.id,
            Namespace::Uts(n) => n.id,
        }
    }

    /// The user namespace whose capabilities count in it; for a user namespace its parent (`None` for the first).
    pub fn owner(&self) -> Option<Arc<UserNs>> {
        match self {
            Namespace::Cgroup(n) => Some(n.owner.clone()),
            Namespace::Ipc(n) => Some(n.owner.clone()),
            Namespace::Mnt(n) => Some(n.owner()),
            Namespace::Net(n) => Some(n.owner.clone()),
            Namespace::Pid(n) => Some(n.owner.clone()),
            Namespace::Time(n) => Some(n.owner.clone()),
            Namespace::User(n) => n.parent.clone(),
            Namespace::Uts(n) => Some(n.owner.clone()),
        }
    }
}

impl Task {
    /// `EPERM` unless the task has `cap` in the user namespace `ns`.
    pub fn require_in(&self, ns: &Arc<UserNs>, cap: Cap) -> Result<()> {
        if self.cred().capable_in(ns, cap) { Ok(()) } else { Err(EPERM) }
    }
}

impl std::fmt::Display for Namespace {
    /// The text of links to it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:[{}]", self.kind().name(), self.id())
    }
}
