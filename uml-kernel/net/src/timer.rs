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

/// Which entry of an owner matters: the earliest it has made that has not been due. A deadline that comes nearer makes
/// another entry; the one it replaces must not count when it is due in its turn, or each of them would make one more.
pub struct Armed(Mutex<Time>);

impl Default for Armed {
    fn default() -> Self {
        Armed(Mutex::new(Rank::LEAF, Time::NEVER))
    }
}

impl Armed {
    /// Enters `at` for `target` unless an earlier entry is there already, which will find out.
    pub fn arm(&self, timers: &Timers, at: Time, target: impl FnOnce() -> Weak<dyn Expire>) {
        let mut armed = self.0.lock();
        if at < *armed {
            *armed = at;
            drop(armed);
            timers.arm(at, target());
        }
    }

    /// Whether the entry that is due at `now` is the one that matters; there is none then until the next
    /// [`Armed::arm`].
    pub fn due(&self, now: Time) -> bool {
        let mut armed = self.0.lock();
        let due = *armed <= now;
        if due {
            *armed = Time::NEVER;
        }
        due
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SEC;

    #[test]
    fn replaced_entries_do_not_count() {
        let (timers, armed) = (Timers::default(), Armed::default());
        let nobody = || Weak::<crate::fragment::Reassembly>::new() as Weak<dyn Expire>;
        let begin = Time(1000 * SEC);
        for nearer in 0..50u64 {
            armed.arm(&timers, begin + (100 - nearer) * SEC, nobody);
        }
        assert_eq!(timers.heap.lock().len(), 50);
        // Whenever one that matters is due, the owner wants to be asked again a second later.
        let mut asked = 0;
        for second in 1..=200 {
            let now = begin + second * SEC;
            while timers.heap.lock().peek().is_some_and(|e| e.at <= now) {
                timers.heap.lock().pop();
                if armed.due(now) {
                    asked += 1;
                    armed.arm(&timers, now + SEC, nobody);
                }
            }
        }
        assert_eq!(asked, 150);
        assert_eq!(timers.heap.lock().len(), 1);
    }
}
