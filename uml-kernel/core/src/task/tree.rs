//! Who is whose parent, group and session; pids.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;

use crate::ns::PidNs;
use crate::task::{Process, Task};

/// What happened to a child, as its parent may wait for it (wait(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildState {
    Running,
    /// Stopped by the signal; `reported` once a WUNTRACED wait saw it.
    Stopped {
        signal: i32,
        reported: bool,
    },
    /// Continued; cleared once a WCONTINUED wait saw it.
    Continued,
    /// Exited with this wait status.
    Zombie(i32),
}

/// One process in the tree.
pub struct TreeEntry {
    pub process: Arc<Process>,
    /// The thread that carries (or carried) the process id; it stays after its end, so that /proc can
    /// show name and owner of a zombie.
    pub leader: Arc<Task>,
    /// Live threads by tid; the leader stays until the last thread is gone.
    pub threads: BTreeMap<i32, Arc<Task>>,
    /// 0 for init.
    pub parent: i32,
    pub children: BTreeSet<i32>,
    pub pgrp: i32,
    pub session: i32,
    pub state: ChildState,
}

impl TreeEntry {
    /// Every thread of the process; its leader is one, dead or alive, until the process has been waited for.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Task>> {
        let dead = Some(&self.leader).filter(|l| !self.threads.contains_key(&l.tid));
        dead.into_iter().chain(self.threads.values())
    }
}

/// Sessions have a leader and perhaps a controlling terminal, which the tty layer keeps by
/// session id.
#[derive(Default)]
pub struct Tree {
    procs: BTreeMap<i32, TreeEntry>,
    tasks: HashMap<i32, Arc<Task>>,
    groups: HashMap<i32, BTreeSet<i32>>,
    last_pid: i32,
    /// Pids of tasks that are being made and may have no other.
    reserved: BTreeSet<i32>,
}

/// Default of the largest pid plus one (/proc/sys/kernel/pid_max).
pub const PID_MAX: i32 = 32768;

impl Tree {
    /// The next unused pid below `pid_max`; `EAGAIN` when all are taken.
    pub fn alloc_pid(&mut self, pid_max: i32) -> Result<i32> {
        let mut pid = self.last_pid;
        for _ in 0..pid_max {
            // Pids below 300 are not reused after the first round, as on Linux.
            pid = if pid + 1 >= pid_max { 300 } else { pid + 1 };
            if !self.in_use(pid) {
                self.last_pid = pid;
                PidNs::forget_everywhere(pid);
                return Ok(pid);
            }
        }
        Err(EAGAIN)
    }

    /// Takes the unused pid `pid` for a task that is being made (clone3(2) set_tid); `EEXIST` when it is in use.
    pub fn reserve(&mut self, pid: i32) -> Result<i32> {
        if self.in_use(pid) {
            return Err(EEXIST);
        }
        self.reserved.insert(pid);
        PidNs::forget_everywhere(pid);
        Ok(pid)
    }

    /// The task with the reserved pid is in the tree, or did not come to be.
    pub fn unreserve(&mut self, pid: i32) {
        self.reserved.remove(&pid);
    }

    /// True while `pid` names a thread, process, group or session.
    pub fn in_use(&self, pid: i32) -> bool {
        self.tasks.contains_key(&pid)
            || self.reserved.contains(&pid)
            || self.procs.contains_key(&pid)
            || self.groups.contains_key(&pid)
            || self.procs.values().any(|p| p.session == pid)
    }

    /// Adds a process with its first thread.
    pub fn add_process(&mut self, leader: &Arc<Task>, parent: i32, pgrp: i32, session: i32) {
        let pid = leader.process.pid;
        if let Some(p) = self.procs.get_mut(&parent) {
            p.children.insert(pid);
        }
        self.groups.entry(pgrp).or_default().insert(pid);
        self.tasks.insert(leader.tid, leader.clone());
        self.procs.insert(
            pid,
            TreeEntry {
                process: leader.process.clone(),
                leader: leader.clone(),
                threads: BTreeMap::from([(leader.tid, leader.clone())]),
                parent,
                children: BTreeSet::new(),
                pgrp,
                session,
                state: ChildState::Running,
            },
        );
    }

    /// Adds a thread to its process.
    pub fn add_thread(&mut self, task: &Arc<Task>) -> Result<()> {
        let p = self.procs.get_mut(&task.process.pid).ok_or(ESRCH)?;
        p.threads.insert(task.tid, task.clone());
        self.tasks.insert(task.tid, task.clone());
        Ok(())
    }

    /// Removes a thread; returns how many are left.
    pub fn remove_thread(&mut self, task: &Task) -> usize {
        self.tasks.remove(&task.tid);
        match self.procs.get_mut(&task.process.pid) {
            Some(p) => {
                p.threads.remove(&task.tid);
                p.threads.len()
            }
            None => 0,
        }
    }

    /// execve(2) by a thread that is not the leader: it takes over the leader's tid.
    pub fn rename_task(&mut self, old_tid: i32, task: &Arc<Task>) {
        self.tasks.remove(&old_tid);
        self.tasks.insert(task.tid, task.clone());
        if let Some(p) = self.procs.get_mut(&task.process.pid) {
            p.threads.remove(&old_tid);
            p.threads.insert(task.tid, task.clone());
            p.leader = task.clone();
        }
    }

    /// Forgets a process that has been waited for.
    pub fn remove_process(&mut self, pid: i32) {
        let Some(p) = self.procs.remove(&pid) else { return };
        for tid in p.threads.keys() {
            self.tasks.remove(tid);
        }
        if let Some(parent) = self.procs.get_mut(&p.parent) {
            parent.children.remove(&pid);
        }
        self.leave_group(p.pgrp, pid);
    }

    fn leave_group(&mut self, pgrp: i32, pid: i32) {
        if let Some(g) = self.groups.get_mut(&pgrp) {
            g.remove(&pid);
            if g.is_empty() {
                self.groups.remove(&pgrp);
            }
        }
    }

    /// The process `pid`.
    pub fn get(&self, pid: i32) -> Option<&TreeEntry> {
        self.procs.get(&pid)
    }

    /// The process `pid`, for changing its relations.
    pub fn get_mut(&mut self, pid: i32) -> Option<&mut TreeEntry> {
        self.procs.get_mut(&pid)
    }

    /// The thread `tid`.
    pub fn task(&self, tid: i32) -> Option<Arc<Task>> {
        self.tasks.get(&tid).cloned()
    }

    /// The process `pid`, by one of its live threads (the leader if it lives).
    pub fn leader(&self, pid: i32) -> Option<Arc<Task>> {
        let p = self.procs.get(&pid)?;
        p.threads.get(&pid).or_else(|| p.threads.values().next()).cloned()
    }

    /// Every process, by pid.
    pub fn processes(&self) -> impl Iterator<Item = (i32, &TreeEntry)> {
        self.procs.iter().map(|(pid, p)| (*pid, p))
    }

    /// Every thread.
    pub fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values()
    }

    /// Number of threads.
    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    /// Most recently allocated pid (/proc/loadavg).
    pub fn last_pid(&self) -> i32 {
        self.last_pid
    }

    /// Members of a process group.
    pub fn group(&self, pgrp: i32) -> Vec<i32> {
        self.groups.get(&pgrp).map(|g| g.iter().copied().collect()).unwrap_or_default()
    }

    /// Moves a process to another group.
    pub fn set_group(&mut self, pid: i32, pgrp: i32) {
        let Some(p) = self.procs.get_mut(&pid) else { return };
        let old = std::mem::replace(&mut p.pgrp, pgrp);
        if old != pgrp {
            self.leave_group(old, pid);
        }
        self.groups.entry(pgrp).or_default().insert(pid);
    }

    /// Makes `pid` the leader of a new session and group.
    pub fn new_session(&mut self, pid: i32) {
        self.set_group(pid, pid);
        if let Some(p) = self.procs.get_mut(&pid) {
            p.session = pid;
            p.process.no_terminal.store(false, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Gives the children of `pid` to `heir`; returns those that are zombies. Whatever signal their end would have sent to
    /// the parent that made them (clone(2)), the heir gets SIGCHLD, and its wait(2) finds them as it does all others.
    pub fn reparent(&mut self, pid: i32, heir: i32) -> Vec<i32> {
        let Some(p) = self.procs.get_mut(&pid) else { return Vec::new() };
        let children = std::mem::take(&mut p.children);
        let mut zombies = Vec::new();
        for c in children {
            if let Some(child) = self.procs.get_mut(&c) {
                child.parent = heir;
                child
                    .process
                    .exit_signal
                    .store(libc::SIGCHLD, std::sync::atomic::Ordering::Relaxed);
                if matches!(child.state, ChildState::Zombie(_)) {
                    zombies.push(c);
                }
            }
            if let Some(h) = self.procs.get_mut(&heir) {
                h.children.insert(c);
            }
        }
        zombies
    }

    /// True when no member of the group has a parent in another group of the same session
    /// (setpgid(2): orphaned process group), leaving `except` out of account.
    pub fn is_orphaned(&self, pgrp: i32, except: i32) -> bool {
        !self.group(pgrp).iter().any(|&pid| {
            if pid == except {
                return false;
            }
            let Some(p) = self.procs.get(&pid) else { return false };
            if matches!(p.state, ChildState::Zombie(_)) {
                return false;
            }
            self.procs
                .get(&p.parent)
                .is_some_and(|pp| pp.pgrp != pgrp && pp.session == p.session && p.parent != 1)
        })
    }
}
