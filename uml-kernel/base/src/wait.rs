//! Wait queues: who wants to know when something changes.
//!
//! A waiter registers, re-checks its condition, sleeps, and unregisters; since wakers
//! change the state before they wake, no wake-up is lost. Waking allocates nothing and takes no
//! lock but the queue's own.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::Thread;

use crate::lock::{Mutex, Rank};
use crate::poll::Events;

/// Threads to unpark when the outermost queue being woken is unlocked again.
struct Unpark {
    depth: usize,
    count: usize,
    threads: [Option<Thread>; UNPARK_MAX],
}

/// More threads than this are unparked at once.
const UNPARK_MAX: usize = 8;

thread_local! {
    static UNPARK: RefCell<Unpark> =
        const { RefCell::new(Unpark { depth: 0, count: 0, threads: [const { None }; UNPARK_MAX] }) };
}

/// Unparks a thread on behalf of [`Wakeable::wake`], which runs with the queue locked: a thread that
/// preempts its waker would run into that lock, so it is unparked after it.
pub fn unpark(thread: Thread) {
    let now = UNPARK.with_borrow_mut(|u| {
        if u.depth == 0 || u.count == UNPARK_MAX {
            return Some(thread);
        }
        u.threads[u.count] = Some(thread);
        u.count += 1;
        None
    });
    if let Some(t) = now {
        t.unpark();
    }
}

/// While one exists on a thread, [`unpark`] is put off.
struct Unparking;

impl Unparking {
    fn new() -> Unparking {
        UNPARK.with_borrow_mut(|u| u.depth += 1);
        Unparking
    }
}

impl Drop for Unparking {
    fn drop(&mut self) {
        loop {
            let next = UNPARK.with_borrow_mut(|u| {
                if u.depth > 1 || u.count == 0 {
                    u.depth -= 1;
                    return None;
                }
                u.count -= 1;
                u.threads[u.count].take()
            });
            match next {
                Some(t) => t.unpark(),
                None => return,
            }
        }
    }
}

/// Something that can be woken: a sleeping task, an epoll item.
pub trait Wakeable: Send + Sync {
    /// Called with the queue's lock held: must not block, allocate or touch the queue.
    /// Returns whether the wake-up was used (an exclusive wake-up that was not goes on to the
    /// next waiter).
    fn wake(&self, events: Events) -> bool;
}

struct Entry {
    id: u64,
    mask: Events,
    exclusive: bool,
    target: Arc<dyn Wakeable>,
}

/// A list of waiters. Objects that are polled hold it in an `Arc`.
pub struct WaitQueue {
    list: Mutex<Vec<Entry>>,
    /// Length of `list`, so that waking an empty queue costs one load.
    len: AtomicUsize,
}

/// Names a registration on one queue.
#[derive(Debug, PartialEq, Eq)]
pub struct WaitToken(u64);

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Default for WaitQueue {
    fn default() -> Self {
        WaitQueue::new()
    }
}

impl WaitQueue {
    /// An empty queue.
    pub const fn new() -> WaitQueue {
        WaitQueue { list: Mutex::new(Rank::LEAF, Vec::new()), len: AtomicUsize::new(0) }
    }

    /// An empty queue behind an `Arc`, as polled objects hold it.
    pub fn shared() -> Arc<WaitQueue> {
        Arc::new(WaitQueue::new())
    }

    /// Adds a waiter for events in `mask`. An `exclusive` waiter is woken alone by
    /// [`WaitQueue::wake_one`].
    pub fn register(&self, target: Arc<dyn Wakeable>, mask: Events, exclusive: bool) -> WaitToken {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let mut list = self.list.lock();
        list.push(Entry { id, mask, exclusive, target });
        self.len.store(list.len(), Ordering::SeqCst);
        WaitToken(id)
    }

    /// Removes a waiter.
    pub fn unregister(&self, token: &WaitToken) {
        let mut list = self.list.lock();
        if let Some(i) = list.iter().position(|e| e.id == token.0) {
            list.remove(i);
        }
        self.len.store(list.len(), Ordering::SeqCst);
    }

    /// Wakes every waiter interested in `events`.
    pub fn wake_all(&self, events: Events) {
        self.wake(events, usize::MAX);
    }

    /// Wakes every non-exclusive waiter interested in `events` and one exclusive one.
    pub fn wake_one(&self, events: Events) {
        self.wake(events, 1);
    }

    fn wake(&self, events: Events, mut exclusive: usize) {
        if self.len.load(Ordering::SeqCst) == 0 {
            return;
        }
        let _unparking = Unparking::new();
        let list = self.list.lock();
        for e in list.iter().filter(|e| e.mask.intersects(events)) {
            if e.exclusive && exclusive == 0 {
                continue;
            }
            if e.target.wake(events) && e.exclusive {
                exclusive -= 1;
            }
        }
    }

    /// True when somebody waits.
    pub fn has_waiters(&self) -> bool {
        self.len.load(Ordering::SeqCst) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    struct Count(AtomicU32);
    impl Wakeable for Count {
        fn wake(&self, _: Events) -> bool {
            self.0.fetch_add(1, Ordering::SeqCst);
            true
        }
    }

    #[test]
    fn exclusive_waiters_are_woken_one_at_a_time() {
        let q = WaitQueue::new();
        let a = Arc::new(Count(AtomicU32::new(0)));
        let b = Arc::new(Count(AtomicU32::new(0)));
        let c = Arc::new(Count(AtomicU32::new(0)));
        let ta = q.register(a.clone(), Events::IN, true);
        q.register(b.clone(), Events::IN, true);
        q.register(c.clone(), Events::ALL, false);
        q.wake_one(Events::IN);
        assert_eq!(a.0.load(Ordering::SeqCst), 1);
        assert_eq!(b.0.load(Ordering::SeqCst), 0);
        assert_eq!(c.0.load(Ordering::SeqCst), 1);
        q.unregister(&ta);
        q.wake_one(Events::IN);
        assert_eq!(b.0.load(Ordering::SeqCst), 1);
        q.wake_all(Events::OUT);
        assert_eq!(b.0.load(Ordering::SeqCst), 1);
        assert_eq!(c.0.load(Ordering::SeqCst), 3);
    }
}
