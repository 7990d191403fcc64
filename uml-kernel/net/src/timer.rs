//! Timers of a namespace: one queue, and entries that are lazily armed again.
//!
//! An owner keeps at most one entry that matters: when its real deadline moves later nothing happens, and the
//! entry, once due, finds out. Entries of owners that are gone are dropped when they are due.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering as Order};
use std::sync::{Arc, OnceLock, Weak};

use uml_base::{Mutex, Rank};

use crate::stack::Cx;
use crate::time::Time;

/// Something with a deadline.
pub trait Expire: Send + Sync {
    /// An entry is due; the owner looks at what its deadline really is. No lock is held.
    fn expired(self: Arc<Self>, cx: &mut Cx);
}

struct Entry {
    at: Time,
    number: u64,
    target: Weak<dyn Expire>,
}

impl PartialEq for Entry {
    fn eq(&self, o: &Entry) -> bool {
        (self.at, self.number) == (o.at, o.number)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, o: &Entry) -> Option<Ordering> {
        Some(self.cmp(o))
    }
}

impl Ord for Entry {
    // The heap's greatest is the earliest.
    fn cmp(&self, o: &Entry) -> Ordering {
        (o.at, o.number).cmp(&(self.at, self.number))
    }
}

type Alarm = Box<dyn Fn(Time) + Send + Sync>;

/// The queue.
pub struct Timers {
    heap: Mutex<BinaryHeap<Entry>>,
    number: AtomicU64,
    alarm: OnceLock<Alarm>,
}

impl Default for Timers {
    fn default() -> Self {
        Timers {
            heap: Mutex::new(Rank::LEAF, BinaryHeap::new()),
            number: AtomicU64::new(0),
            alarm: OnceLock::new(),
        }
    }
}

impl Timers {
    /// Sets what is told of the earliest deadline whenever it moves nearer, once. It may be called with
    /// a socket's lock held.
    pub fn set_alarm(&self, alarm: Alarm) {
        let _ = self.alarm.set(alarm);
    }

    /// Enters a deadline.
    pub fn arm(&self, at: Time, target: Weak<dyn Expire>) {
        let number = self.number.fetch_add(1, Order::Relaxed);
        let first = {
            let mut heap = self.heap.lock();
            let first = heap.peek().is_none_or(|e| at < e.at);
            heap.push(Entry { at, number, target });
            first
        };
        if first && let Some(alarm) = self.alarm.get() {
            alarm(at);
        }
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Time> {
        self.heap.lock().peek().map(|e| e.at)
    }

    /// One entry that is due.
    pub(crate) fn pop(&self, now: Time) -> Option<Arc<dyn Expire>> {
        let mut heap = self.heap.lock();
        while heap.peek().is_some_and(|e| e.at <= now) {
            if let Some(t) = heap.pop().and_then(|e| e.target.upgrade()) {
                return Some(t);
            }
        }
        None
    }
}
