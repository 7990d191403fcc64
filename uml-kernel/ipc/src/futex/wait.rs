//! FUTEX_WAIT, FUTEX_WAIT_BITSET and futex_waitv(2).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::{Task, WaitKind};

use super::{BITSET_ANY, Deadline, Entry, Key, TABLE, Waiter, Word, index, remove};

fn enqueue(key: Key, bitset: u32, pi_target: Option<Key>, task: &Task) -> Arc<Waiter> {
    let i = index(key);
    let waiter = Waiter::new(task, i);
    TABLE[i].lock().push_back(Entry { key, bitset, pi_target, waiter: waiter.clone() });
    waiter
}

/// Enters the queue of `word` and checks that it still holds `expected`: `EAGAIN` when not. `Ok(None)` when a
/// wake-up arrived in between: the wait is over.
pub(super) fn begin(
    task: &Task,
    word: Word,
    expected: u32,
    bitset: u32,
    pi_target: Option<Key>,
) -> Result<Option<Arc<Waiter>>> {
    let waiter = enqueue(word.key, bitset, pi_target, task);
    let problem = match word.read(task) {
        Ok(v) if v == expected => return Ok(Some(waiter)),
        Ok(_) => EAGAIN,
        Err(e) => e,
    };
    if remove(&waiter) { Err(problem) } else { Ok(None) }
}

/// Sleeps until `word` is woken. `EAGAIN` when it does not hold `expected`, `ETIMEDOUT`, `EINTR`.
pub fn wait(task: &Task, word: Word, expected: u32, bitset: u32, deadline: Deadline) -> Result<()> {
    let Some(waiter) = begin(task, word, expected, bitset, None)? else { return Ok(()) };
    let kind = WaitKind::Interruptible;
    let problem = match task.sleep(kind, deadline, "futex_wait_queue", || waiter.done()) {
        Ok(Some(_)) => return Ok(()),
        Ok(None) => ETIMEDOUT,
        Err(e) => e,
    };
    // A wake-up that was spent on us counts, whatever else ended the sleep.
    if remove(&waiter) { Err(problem) } else { Ok(()) }
}

/// One futex of futex_waitv(2).
#[derive(Clone, Copy, Debug)]
pub struct WaitvItem {
    pub word: Word,
    pub expected: u32,
}

/// Sleeps until one of several futexes is woken and returns its index.
pub fn waitv(task: &Task, items: &[WaitvItem], deadline: Deadline) -> Result<usize> {
    let waiters: Vec<_> =
        items.iter().map(|i| enqueue(i.word.key, BITSET_ANY, None, task)).collect();
    // Leaves every queue; a futex that was woken in the meantime decides the result.
    let leave = || {
        let mut woken = None;
        for (i, w) in waiters.iter().enumerate() {
            if !remove(w) {
                woken = Some(i);
            }
        }
        woken
    };
    for i in items {
        let problem = match i.word.read(task) {
            Ok(v) if v == i.expected => continue,
            Ok(_) => EAGAIN,
            Err(e) => e,
        };
        return leave().ok_or(problem);
    }
    let woken = || waiters.iter().any(|w| w.done().is_some()).then_some(());
    let result = task.sleep(WaitKind::Interruptible, deadline, "futex_wait_multiple", woken);
    match (leave(), result) {
        (Some(i), _) => Ok(i),
        (None, Err(e)) => Err(e),
        (None, Ok(_)) => Err(ETIMEDOUT),
    }
}
