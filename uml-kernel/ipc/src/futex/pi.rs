//! Priority-inheritance futexes: the word holds the owner's thread id, the kernel hands it over.
//!
//! The host schedules, so no priority is lent; what remains is ownership, hand-over in the order of
//! real-time priority, and the detection of deadlocks and dead owners.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, MutexGuard, Rank};
use uml_core::ctx::Ctx;
use uml_core::task::WaitKind;

use super::{Deadline, Key, OWNER, OWNER_DIED, PI, TID_MASK, WAITERS, Waiter, Word};

/// A contended futex.
struct State {
    owner: i32,
    waiters: VecDeque<Arc<Waiter>>,
}

#[derive(Default)]
pub(super) struct Table {
    states: HashMap<Key, State>,
    /// What each waiting thread waits for.
    waiting: HashMap<i32, Key>,
}

static TABLE: LazyLock<Mutex<Table>> =
    LazyLock::new(|| Mutex::new(Rank::FUTEX_PI, Table::default()));

pub(super) fn table() -> MutexGuard<'static, Table> {
    TABLE.lock()
}

impl Table {
    pub fn has_waiters(&self, key: Key) -> bool {
        self.states.contains_key(&key)
    }

    /// Queues a waiter behind those of at least its priority.
    pub fn add(&mut self, key: Key, owner: i32, waiter: Arc<Waiter>) {
        self.waiting.insert(waiter.tid, key);
        let s = self.states.entry(key).or_insert_with(|| State { owner, waiters: VecDeque::new() });
        let at = s.waiters.iter().position(|w| w.priority < waiter.priority);
        s.waiters.insert(at.unwrap_or(s.waiters.len()), waiter);
    }

    /// Takes the next owner; the second value says whether others still wait.
    fn next(&mut self, key: Key) -> Option<(Arc<Waiter>, bool)> {
        let s = self.states.get_mut(&key)?;
        let w = s.waiters.pop_front()?;
        s.owner = w.tid;
        let more = !s.waiters.is_empty();
        self.waiting.remove(&w.tid);
        if !more {
            self.states.remove(&key);
        }
        Some((w, more))
    }

    /// Whether waiting for a futex held by `owner` would make `tid` wait for itself.
    fn deadlocks(&self, tid: i32, owner: i32) -> bool {
        let mut at = owner;
        for _ in 0..=self.waiting.len() {
            if at == tid {
                return true;
            }
            match self.waiting.get(&at).and_then(|k| self.states.get(k)) {
                Some(s) => at = s.owner,
                None => return false,
            }
        }
        false
    }
}

/// Takes a waiter out; false when it was made owner already.
pub(super) fn remove(waiter: &Arc<Waiter>) -> bool {
    let mut t = table();
    let Some(key) = t.waiting.get(&waiter.tid).copied() else { return false };
    let Some(s) = t.states.get_mut(&key) else { return false };
    let Some(i) = s.waiters.iter().position(|w| Arc::ptr_eq(w, waiter)) else { return false };
    s.waiters.remove(i);
    if s.waiters.is_empty() {
        t.states.remove(&key);
    }
    t.waiting.remove(&waiter.tid);
    true
}

/// The task was made owner: after the death of the former owner it writes the word itself.
pub(super) fn own(cx: &mut Ctx<'_>, word: Word, waiter: &Waiter) -> Result<()> {
    if !waiter.inherit_death.load(Ordering::SeqCst) {
        return Ok(());
    }
    let mut value = word.read(&cx.task)?;
    loop {
        let new = (value & WAITERS) | OWNER_DIED | waiter.shown;
        let found = word.cmpxchg(cx, value, new)?;
        if found == value {
            return Ok(());
        }
        value = found;
    }
}

/// FUTEX_LOCK_PI and FUTEX_LOCK_PI2; FUTEX_TRYLOCK_PI with `try_only`.
pub fn lock(cx: &mut Ctx<'_>, word: Word, deadline: Deadline, try_only: bool) -> Result<()> {
    let task = cx.task.clone();
    let tid = task.show_pid(task.tid) as u32;
    let mut value = word.read(&task)?;
    let waiter = loop {
        let mut t = table();
        let owner = value & TID_MASK;
        if owner == tid {
            return Err(EDEADLK);
        }
        if owner == 0 && !t.has_waiters(word.key) {
            let found = word.cmpxchg(cx, value, tid | (value & OWNER_DIED))?;
            if found == value {
                return Ok(());
            }
            value = found;
            continue;
        }
        if try_only {
            return Err(EAGAIN);
        }
        let held_by = match t.states.get(&word.key) {
            Some(s) => s.owner,
            None => task.kernel_pid(owner as i32)?,
        };
        if held_by == task.tid || t.deadlocks(task.tid, held_by) {
            return Err(EDEADLK);
        }
        // From here on the owner must come to the kernel to unlock.
        let found = word.cmpxchg(cx, value, value | WAITERS)?;
        if found != value {
            value = found;
            continue;
        }
        let mut w = Waiter {
            tid: task.tid,
            shown: tid,
            waker: task.waker(),
            state: Default::default(),
            inherit_death: Default::default(),
            place: PI.into(),
            priority: 0,
        };
        {
            let p = task.personal.lock();
            w.priority = if matches!(p.sched_policy, 1 | 2) { p.sched_priority } else { 0 };
        }
        let w = Arc::new(w);
        t.add(word.key, held_by, w.clone());
        drop(t);
        // The owner may have died before its exit could see the waiter.
        if task.kernel().tree.read().task(held_by).is_none() && remove(&w) {
            return Err(ESRCH);
        }
        break w;
    };
    let kind = WaitKind::Interruptible;
    let problem = match task.sleep(kind, deadline, "futex_lock_pi", || waiter.done()) {
        Ok(Some(_)) => None,
        Ok(None) => Some(ETIMEDOUT),
        Err(e) => Some(e),
    };
    if let Some(e) = problem
        && remove(&waiter)
    {
        return Err(e);
    }
    own(cx, word, &waiter)
}

/// FUTEX_UNLOCK_PI: hands the futex to the first waiter, or frees it.
pub fn unlock(cx: &mut Ctx<'_>, word: Word) -> Result<()> {
    let task = cx.task.clone();
    let mut value = word.read(&task)?;
    loop {
        if value & TID_MASK != task.show_pid(task.tid) as u32 {
            return Err(EPERM);
        }
        let mut t = table();
        let next = t.states.get(&word.key).and_then(|s| {
            let w = s.waiters.front()?;
            Some((w.shown, s.waiters.len() > 1))
        });
        let new = match next {
            Some((tid, more)) => tid | if more { WAITERS } else { 0 },
            None => 0,
        };
        let found = word.cmpxchg(cx, value, new)?;
        if found != value {
            value = found;
            continue;
        }
        if let Some((w, _)) = t.next(word.key) {
            drop(t);
            w.finish(OWNER);
        }
        return Ok(());
    }
}

/// The thread `tid` exits: futexes it owns go to their first waiters, which learn of the death.
pub(super) fn owner_exits(tid: i32) {
    let mut t = table();
    if t.states.is_empty() {
        return;
    }
    let owned: Vec<Key> =
        t.states.iter().filter(|(_, s)| s.owner == tid).map(|(k, _)| *k).collect();
    let heirs: Vec<_> = owned.iter().filter_map(|k| t.next(*k)).collect();
    drop(t);
    for (w, _) in heirs {
        w.inherit_death.store(true, Ordering::SeqCst);
        w.finish(OWNER);
    }
}
