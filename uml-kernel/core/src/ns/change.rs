//! Entering namespaces: clone(2), unshare(2), setns(2).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;

use super::{
    CLONE_NEWTIME, CgroupNs, IpcNs, Namespace, NetNs, NsSet, PidNs, TimeNs, UserNs, UtsNs, next_id,
};
use crate::task::cred::CAP_FULL;
use crate::task::{Cap, Cred, FsContext, Task};
use crate::vfs::MountNs;

const NEWNS: u64 = libc::CLONE_NEWNS as u64;
const NEWUTS: u64 = libc::CLONE_NEWUTS as u64;
const NEWIPC: u64 = libc::CLONE_NEWIPC as u64;
const NEWNET: u64 = libc::CLONE_NEWNET as u64;
const NEWPID: u64 = libc::CLONE_NEWPID as u64;
const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;
const NEWCGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
const FS: u64 = libc::CLONE_FS as u64;
const FILES: u64 = libc::CLONE_FILES as u64;
const VM: u64 = libc::CLONE_VM as u64;
const SIGHAND: u64 = libc::CLONE_SIGHAND as u64;
const THREAD: u64 = libc::CLONE_THREAD as u64;
const SYSVSEM: u64 = libc::CLONE_SYSVSEM as u64;

/// Kinds other than user namespaces.
pub const NOT_USER: u64 = NEWNS | NEWUTS | NEWIPC | NEWNET | NEWPID | NEWCGROUP | CLONE_NEWTIME;
/// Every kind that can be made anew.
pub const ALL: u64 = NOT_USER | NEWUSER;

/// Credentials of the first process of a new user namespace: every capability in it, none outside.
pub fn enter_user(cred: &Cred, ns: Arc<UserNs>) -> Cred {
    Cred {
        cap_effective: CAP_FULL,
        cap_permitted: CAP_FULL,
        cap_inheritable: 0,
        cap_bounding: CAP_FULL,
        cap_ambient: 0,
        securebits: 0,
        user_ns: ns,
        ..cred.clone()
    }
}

/// A new user namespace below the task's, with the credentials inside it. `EPERM` in a chroot(2).
pub fn new_user(task: &Task) -> Result<Cred> {
    let fs = task.fs();
    let (root, top) = (fs.root(), fs.mounts().root());
    // What is mounted on the root of the namespace counts as the root.
    let mut real = top.root_path();
    real.enter_mounts();
    if !root.same(&real) && !root.same(&top.root_path()) {
        return Err(EPERM);
    }
    let cred = task.cred();
    let ns = UserNs::create(&cred)?;
    Ok(enter_user(&cred, ns))
}

/// The set for somebody with `cred` who asks for the kinds in `flags`; `fs` becomes the one of the new mount namespace.
/// `EPERM` without CAP_SYS_ADMIN.
pub fn new_set(task: &Task, flags: u64, cred: &Cred, fs: &FsContext) -> Result<Arc<NsSet>> {
    let old = task.ns();
    if flags & NOT_USER == 0 {
        return Ok(old);
    }
    if !cred.capable_here(Cap::SysAdmin) {
        return Err(EPERM);
    }
    let kernel = task.kernel();
    let owner = &cred.user_ns;
    let mut set = (*old).clone();
    if flags & NEWNS != 0 {
        let ns = kernel.vfs.copy_namespace(&fs.mounts(), fs, owner)?;
        debug_assert!(Arc::ptr_eq(&ns, &fs.mounts()));
    }
    if flags & NEWUTS != 0 {
        let (host, domain) = (old.uts.hostname.lock().clone(), old.uts.domainname.lock().clone());
        set.uts = UtsNs::new(next_id(), owner.clone(), &host, &domain);
    }
    if flags & NEWIPC != 0 {
        set.ipc =
            Arc::new(IpcNs { id: next_id(), owner: owner.clone(), parts: Default::default() });
    }
    if flags & NEWNET != 0 {
        set.net =
            Arc::new(NetNs { id: next_id(), owner: owner.clone(), parts: Default::default() });
    }
    if flags & NEWCGROUP != 0 {
        let root = kernel.cgroups.of_task(task);
        set.cgroup = Arc::new(CgroupNs { id: next_id(), owner: owner.clone(), root });
    }
    if flags & NEWPID != 0 {
        // One level at a time: a task that already has a namespace for its children makes a sibling of it impossible.
        if !Arc::ptr_eq(&old.pid_for_children, &task.process.pid_ns) {
            return Err(EINVAL);
        }
        set.pid_for_children = PidNs::create(&task.process.pid_ns, owner)?;
    }
    if flags & CLONE_NEWTIME != 0 {
        set.time_for_children = TimeNs::create(&old.time, owner);
    }
    Ok(Arc::new(set))
}

/// The set of a task that is about to have memory of its own, by fork(2) or execve(2): it enters the time namespace that
/// was made for it. `None` when it is in that already.
pub fn enter_time(set: &NsSet) -> Option<Arc<NsSet>> {
    if Arc::ptr_eq(&set.time, &set.time_for_children) {
        return None;
    }
    set.time_for_children.enter();
    Some(Arc::new(NsSet { time: set.time_for_children.clone(), ..set.clone() }))
}

/// True when the task is the only thread of its process.
fn alone(task: &Task) -> bool {
    crate::signal::threads_of(&task.kernel(), &task.process).len() <= 1
}

/// unshare(2).
pub fn unshare(task: &Arc<Task>, flags: u64) -> Result<()> {
    let known = ALL | FS | FILES | VM | SIGHAND | THREAD | SYSVSEM;
    if flags & !known != 0 {
        return Err(EINVAL);
    }
    let mut f = flags;
    if f & NEWUSER != 0 {
        f |= THREAD | FS;
    }
    if f & VM != 0 {
        f |= SIGHAND;
    }
    if f & SIGHAND != 0 {
        f |= THREAD;
    }
    if f & NEWNS != 0 {
        f |= FS;
    }
    if f & THREAD != 0 && !alone(task) {
        return Err(EINVAL);
    }
    // Actions or memory shared with another process cannot be parted.
    if f & (VM | SIGHAND) != 0 && task.vfork_pending() {
        return Err(EINVAL);
    }
    let fs = if f & FS != 0 { Arc::new(task.fs().duplicate()) } else { task.fs() };
    let files = (f & FILES != 0).then(|| Arc::new(task.files().duplicate()));
    let cred = if f & NEWUSER != 0 { new_user(task)? } else { (*task.cred()).clone() };
    let set = new_set(task, f, &cred, &fs)?;
    // Nothing fails from here on.
    if f & SYSVSEM != 0 || f & NEWIPC != 0 {
        task.kernel().hooks.leave_ipc(task);
    }
    if f & NEWUSER != 0 {
        task.set_cred(Arc::new(cred));
    }
    if f & FS != 0 {
        task.set_fs(fs);
    }
    if let Some(files) = files {
        drop(task.set_files(Some(files)));
    }
    task.set_ns(set);
    Ok(())
}

/// setns(2) with a namespace file: `kind` is 0 or the CLONE_* flag it must have.
pub fn join(task: &Arc<Task>, ns: &Namespace, kind: u64) -> Result<()> {
    if kind != 0 && kind != ns.kind().clone_flag() {
        return Err(EINVAL);
    }
    let mut j = Joining::new(task);
    j.join(ns)?;
    j.commit();
    Ok(())
}

/// setns(2) with a pidfd: the kinds of `flags` that `target` is in.
pub fn join_task(task: &Arc<Task>, target: &Task, flags: u64) -> Result<()> {
    if flags & !ALL != 0 || flags == 0 {
        return Err(EINVAL);
    }
    if !crate::task::access::may_access(task, target, crate::task::access::Ids::Real) {
        return Err(EPERM);
    }
    let mut j = Joining::new(task);
    // The user namespace first: its capabilities count for the others.
    let mut kinds = super::NsKind::ALL.to_vec();
    kinds.sort_by_key(|k| *k != super::NsKind::User);
    for kind in kinds {
        if flags & kind.clone_flag() != 0 {
            j.join(&Namespace::of(target, kind))?;
        }
    }
    j.commit();
    Ok(())
}

/// A change in the making, so that all of it happens or nothing.
struct Joining<'a> {
    task: &'a Arc<Task>,
    cred: Cred,
    new_cred: bool,
    set: NsSet,
    mounts: Option<Arc<MountNs>>,
}

impl Joining<'_> {
    fn new(task: &Arc<Task>) -> Joining<'_> {
        let cred = (*task.cred()).clone();
        Joining { task, cred, new_cred: false, set: (*task.ns()).clone(), mounts: None }
    }

    fn join(&mut self, ns: &Namespace) -> Result<()> {
        if let Namespace::User(u) = ns {
            return self.join_user(u);
        }
        if matches!(ns, Namespace::Time(_)) && !alone(self.task) {
            return Err(EUSERS);
        }
        let owner = ns.owner().ok_or(EPERM)?;
        if !self.cred.capable_in(&owner, Cap::SysAdmin) || !self.cred.capable_here(Cap::SysAdmin) {
            return Err(EPERM);
        }
        match ns {
            Namespace::Mnt(m) => {
                if !self.cred.capable_here(Cap::SysChroot) {
                    return Err(EPERM);
                }
                // Root and working directory change for everybody who shares them.
                if shares_fs(self.task) {
                    return Err(EINVAL);
                }
                self.mounts = Some(m.clone());
            }
            Namespace::Uts(n) => self.set.uts = n.clone(),
            Namespace::Ipc(n) => self.set.ipc = n.clone(),
            Namespace::Net(n) => self.set.net = n.clone(),
            Namespace::Cgroup(n) => self.set.cgroup = n.clone(),
            Namespace::Pid(n) => {
                if !n.is_within(&self.task.process.pid_ns) {
                    return Err(EINVAL);
                }
                self.set.pid_for_children = n.clone();
            }
            Namespace::Time(n) => {
                self.set.time = n.clone();
                self.set.time_for_children = n.clone();
            }
            Namespace::User(_) => unreachable!("returned above"),
        }
        Ok(())
    }

    fn join_user(&mut self, u: &Arc<UserNs>) -> Result<()> {
        // Going back to the own namespace would give its capabilities again.
        if Arc::ptr_eq(u, &self.cred.user_ns) || !alone(self.task) || shares_fs(self.task) {
            return Err(EINVAL);
        }
        if !self.cred.capable_in(u, Cap::SysAdmin) {
            return Err(EPERM);
        }
        self.cred = enter_user(&self.cred, u.clone());
        self.new_cred = true;
        Ok(())
    }

    fn commit(self) {
        let task = self.task;
        if !Arc::ptr_eq(&self.set.ipc, &task.ns().ipc) {
            task.kernel().hooks.leave_ipc(task);
        }
        if self.new_cred {
            task.set_cred(Arc::new(self.cred));
        }
        if let Some(m) = self.mounts {
            let fs = task.fs();
            let mut root = m.root().root_path();
            root.enter_mounts();
            fs.set_mounts(m);
            drop(fs.set_root(root.clone()));
            drop(fs.set_cwd(root));
        }
        let moved = !Arc::ptr_eq(&self.set.time, &task.ns().time);
        if moved {
            self.set.time.enter();
        }
        task.set_ns(Arc::new(self.set));
        if moved {
            task.clocks_moved();
        }
    }
}

/// True when another task has the same root and working directory.
fn shares_fs(task: &Task) -> bool {
    let fs = task.fs();
    let kernel = task.kernel();
    let tasks: Vec<_> = kernel.tree.read().tasks().cloned().collect();
    tasks.iter().any(|t| t.tid != task.tid && Arc::ptr_eq(&t.fs(), &fs))
}
