//! The host processes of guests and their ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::process::HostProcess;
use crate::sys;
use uml_abi::errno;

/// A guest address space as the reaper sees it.
pub trait Child: Send + Sync {
    fn process(&self) -> &HostProcess;

    /// The process is dead and reaped.
    fn ended(self: Arc<Self>);
}

/// Orphans remembered at most; each is asked for within moments or never.
const ORPHANS: usize = 4096;

/// Exited processes that were not registered, with the time of their death.
#[derive(Default)]
struct Orphans {
    dead: HashMap<i32, Epoch>,
    now: u64,
}

/// A moment in the order of deaths. Host pids are used again, so a death counts for a
/// process only if it is not older than the attempt to make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(u64);

impl Orphans {
    fn has(&self, pid: i32, since: Epoch) -> bool {
        self.dead.get(&pid).is_some_and(|&at| at > since)
    }
}

/// All host processes of a backend.
pub struct Children<S> {
    known: Mutex<HashMap<i32, Arc<S>>>,
    orphans: Mutex<Orphans>,
    stopping: AtomicBool,
    /// Held from the look at a dead process until it is reaped, because its pid may be that
    /// of another process right after.
    burial: Mutex<()>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Child> Children<S> {
    pub fn new() -> Children<S> {
        Children {
            known: Mutex::default(),
            orphans: Mutex::default(),
            stopping: AtomicBool::new(false),
            burial: Mutex::default(),
        }
    }

    /// The present moment, to be taken before a process is made.
    pub fn epoch(&self) -> Epoch {
        Epoch(lock(&self.orphans).now)
    }

    /// Makes a process known to the reaper that was made after `since`.
    pub fn register(&self, space: &Arc<S>, since: Epoch) {
        let pid = space.process().raw_pid();
        let mut orphans = lock(&self.orphans);
        if orphans.has(pid, since) {
            // It was faster, and is reaped.
            orphans.dead.remove(&pid);
            space.process().retire();
        } else {
            lock(&self.known).insert(pid, space.clone());
            drop(orphans);
            if self.stopping() {
                space.process().kill();
            }
        }
    }

    /// Whether a process made after `since` exited before it was registered.
    pub fn is_orphan(&self, pid: i32, since: Epoch) -> bool {
        lock(&self.orphans).has(pid, since)
    }

    /// Kills a process that will not be registered, and waits until it is dead.
    pub fn kill_unregistered(&self, pid: i32, since: Epoch) {
        while !self.is_orphan(pid, since) && sys::kill(pid, libc::SIGKILL).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn all(&self) -> Vec<Arc<S>> {
        lock(&self.known).values().cloned().collect()
    }

    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Kills every process, and those that are still to come.
    pub fn shut_down(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for s in self.all() {
            s.process().kill();
        }
    }

    /// The reaper: runs on the thread that is the parent of all processes, until it has
    /// none left. `zygote` is a process of no space.
    pub fn reap(&self, zygote: i32) {
        loop {
            match sys::wait_exit() {
                Ok(pid) => self.bury_dead(pid, pid == zygote),
                Err(errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Waits until a process that was killed is dead, reaps it and tells its space. For a
    /// process whose threads are traced, instead of the reaper, who would see their stops.
    pub fn bury(&self, pid: i32) {
        sys::wait_dead(pid);
        self.bury_dead(pid, false);
    }

    /// Reaps an exited process and tells its space.
    fn bury_dead(&self, pid: i32, nobodys: bool) {
        let burial = lock(&self.burial);
        if !sys::has_exited(pid) {
            return;
        }
        let space = {
            let mut orphans = lock(&self.orphans);
            let space = lock(&self.known).remove(&pid);
            if space.is_none() && !nobodys {
                // Most are never asked for: they must not pile up.
                if orphans.dead.len() >= ORPHANS {
                    orphans.dead.clear();
                }
                orphans.now += 1;
                let now = Epoch(orphans.now);
                orphans.dead.insert(pid, now);
            }
            space
        };
        if let Some(s) = &space {
            s.process().retire();
        }
        sys::reap(pid);
        drop(burial);
        if let Some(s) = space {
            s.ended();
        }
    }
}
