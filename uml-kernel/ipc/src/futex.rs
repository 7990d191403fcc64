//! Futexes (futex(2)): sleeping on a word of guest memory.
//!
//! A waiter enters its bucket first and reads the word afterwards; a waker changes the word first and
//! looks at the bucket afterwards. So either the waiter sees the new value or the waker sees the
//! waiter, and no lock is held while guest memory is read.
//!
//! Lock order: buckets (rank FUTEX; two of them by ascending index), then the priority-inheritance
//! table (FUTEX_PI).

mod op;
mod pi;
mod requeue;
mod robust;
mod wait;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, MutexGuard, Rank, Wakeable};
use uml_core::ctx::Ctx;
use uml_core::task::Task;

pub use op::{WakeOp, wake_op};
pub use pi::{lock as lock_pi, unlock as unlock_pi};
pub use requeue::{requeue, requeue_pi, wait_requeue_pi};
pub use robust::exit_memory;
pub use wait::{WaitvItem, wait, waitv};

/// Bits of the word of a priority-inheritance or robust futex.
pub const WAITERS: u32 = 0x8000_0000;
pub const OWNER_DIED: u32 = 0x4000_0000;
pub const TID_MASK: u32 = 0x3fff_ffff;
/// Matches every waiter.
pub const BITSET_ANY: u32 = u32::MAX;

/// Identifies a word: see `Mm::futex_key`.
pub type Key = (u64, u64);

/// A word of guest memory as an operand.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    pub addr: u64,
    pub key: Key,
}

impl Word {
    /// The word at `addr`, process-private or found by what is mapped there. `EINVAL` when misaligned.
    pub fn new(task: &Task, addr: u64, shared: bool) -> Result<Word> {
        if addr % 4 != 0 {
            return Err(EINVAL);
        }
        let key = task.mm()?.futex_key(addr, shared)?;
        Ok(Word { addr, key })
    }

    /// Its present value.
    pub fn read(&self, task: &Task) -> Result<u32> {
        let mut b = [0; 4];
        task.mm()?.read(self.addr, &mut b)?;
        Ok(u32::from_le_bytes(b))
    }

    /// Compare and exchange: returns the value found.
    fn cmpxchg(&self, cx: &mut Ctx<'_>, old: u32, new: u32) -> Result<u32> {
        cx.hw.cmpxchg32(self.addr, old, new)
    }
}

/// Where a waiter is.
const QUEUED: u8 = 0;
/// It was woken.
const WOKEN: u8 = 1;
/// It was made the owner of a priority-inheritance futex.
const OWNER: u8 = 2;

struct Waiter {
    tid: i32,
    /// The same as its programs know it, and so as futex words hold it.
    shown: u32,
    waker: Arc<dyn Wakeable>,
    state: AtomicU8,
    /// The former owner died: the new owner puts that into the word.
    inherit_death: AtomicBool,
    /// Index of the bucket it is in; `PI` when it is in the priority-inheritance table.
    place: AtomicUsize,
    /// Real-time priority for the order of priority-inheritance waiters.
    priority: i32,
}

const PI: usize = usize::MAX;

impl Waiter {
    fn new(task: &Task, place: usize) -> Arc<Waiter> {
        Arc::new(Waiter {
            tid: task.tid,
            shown: task.show_pid(task.tid) as u32,
            waker: task.waker(),
            state: AtomicU8::new(QUEUED),
            inherit_death: AtomicBool::new(false),
            place: AtomicUsize::new(place),
            priority: 0,
        })
    }

    fn done(&self) -> Option<u8> {
        match self.state.load(Ordering::SeqCst) {
            QUEUED => None,
            other => Some(other),
        }
    }

    fn finish(&self, state: u8) {
        self.state.store(state, Ordering::SeqCst);
        self.waker.wake(Events::ALL);
    }
}

struct Entry {
    key: Key,
    bitset: u32,
    /// For FUTEX_WAIT_REQUEUE_PI: the futex it may be moved to.
    pi_target: Option<Key>,
    waiter: Arc<Waiter>,
}

type Bucket = VecDeque<Entry>;

const BUCKETS: usize = 1024;

static TABLE: LazyLock<Vec<Mutex<Bucket>>> =
    LazyLock::new(|| (0..BUCKETS).map(|_| Mutex::new(Rank::FUTEX, VecDeque::new())).collect());

fn index(key: Key) -> usize {
    let h = (key.0 ^ key.1.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (h >> 32) as usize % BUCKETS
}

/// The two buckets of two keys, locked in the order of their indices; one when they are the same.
struct Pair {
    first: MutexGuard<'static, Bucket>,
    second: Option<MutexGuard<'static, Bucket>>,
    swapped: bool,
}

impl Pair {
    fn lock(a: Key, b: Key) -> Pair {
        let (i, j) = (index(a), index(b));
        if i == j {
            return Pair { first: TABLE[i].lock(), second: None, swapped: false };
        }
        // Ascending index is the rule for two buckets.
        let first = TABLE[i.min(j)].lock();
        let second = Some(TABLE[i.max(j)].lock_nested());
        Pair { first, second, swapped: i > j }
    }

    /// The bucket of the first key.
    fn a(&mut self) -> &mut Bucket {
        match (&mut self.second, self.swapped) {
            (Some(s), true) => s,
            _ => &mut self.first,
        }
    }

    /// The bucket of the second key.
    fn b(&mut self) -> &mut Bucket {
        match (&mut self.second, self.swapped) {
            (Some(s), false) => s,
            _ => &mut self.first,
        }
    }
}

/// Waiters taken off a bucket, to be woken once its lock is released. The first needs no
/// allocation.
#[derive(Default)]
struct Woken {
    first: Option<Arc<Waiter>>,
    rest: Vec<Arc<Waiter>>,
}

impl Woken {
    fn add(&mut self, w: Arc<Waiter>) {
        if self.first.is_none() {
            self.first = Some(w);
        } else {
            self.rest.push(w);
        }
    }

    fn wake(self) {
        for w in self.first.into_iter().chain(self.rest) {
            w.finish(WOKEN);
        }
    }
}

/// Takes up to `n` waiters (at least one, as Linux does) that match off a bucket.
fn take(bucket: &mut Bucket, key: Key, n: i32, bitset: u32, woken: &mut Woken) -> i32 {
    let mut count = 0;
    let mut i = 0;
    while let Some(e) = bucket.get(i) {
        if e.key != key || e.bitset & bitset == 0 || e.pi_target.is_some() {
            i += 1;
            continue;
        }
        if let Some(e) = bucket.remove(i) {
            woken.add(e.waiter);
        }
        count += 1;
        if count >= n {
            break;
        }
    }
    count
}

/// FUTEX_WAKE and FUTEX_WAKE_BITSET: wakes up to `n` waiters and returns how many.
pub fn wake(key: Key, n: i32, bitset: u32) -> i32 {
    let mut woken = Woken::default();
    let count = take(&mut TABLE[index(key)].lock(), key, n, bitset, &mut woken);
    woken.wake();
    count
}

/// Takes a waiter out of its bucket; false when somebody else already did.
fn remove(waiter: &Arc<Waiter>) -> bool {
    loop {
        let place = waiter.place.load(Ordering::SeqCst);
        if place == PI {
            return pi::remove(waiter);
        }
        let mut bucket = TABLE[place].lock();
        if let Some(i) = bucket.iter().position(|e| Arc::ptr_eq(&e.waiter, waiter)) {
            bucket.remove(i);
            return true;
        }
        // Not here: woken, or moved between reading its place and taking the lock.
        if waiter.place.load(Ordering::SeqCst) == place {
            return false;
        }
    }
}

/// When a wait gives up.
pub type Deadline = Option<Instant>;
