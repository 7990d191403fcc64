//! FUTEX_REQUEUE, FUTEX_CMP_REQUEUE, and the priority-inheritance pair FUTEX_WAIT_REQUEUE_PI and
//! FUTEX_CMP_REQUEUE_PI.

use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::task::{Task, WaitKind};

use super::{
    BITSET_ANY, Bucket, Deadline, Entry, Key, OWNER, PI, Pair, TABLE, TID_MASK, WAITERS, WOKEN,
    Woken, Word, index, pi, remove, take, wait,
};

/// Wakes up to `wake` waiters of `from` and moves up to `requeue` more to `to`. With `expected`, `EAGAIN` unless
/// the first word holds it. Returns how many were woken and moved
/// (also without `expected`, whatever futex(2) says of FUTEX_REQUEUE).
pub fn requeue(
    task: &Task,
    from: Word,
    to: Word,
    wake: i32,
    requeue: i32,
    expected: Option<u32>,
) -> Result<i32> {
    if wake < 0 || requeue < 0 {
        return Err(EINVAL);
    }
    if expected.is_some() {
        // Makes the page present, so that the read under the locks does not fault.
        from.read(task)?;
    }
    let mut woken = Woken::default();
    let mut pair = Pair::lock(from.key, to.key);
    if let Some(v) = expected
        && from.read(task)? != v
    {
        return Err(EAGAIN);
    }
    let n = if wake > 0 { take(pair.a(), from.key, wake, BITSET_ANY, &mut woken) } else { 0 };
    let mut moved = 0;
    let place = index(to.key);
    // Counted first: with equal keys the moved ones turn up again.
    let there = pair.a().iter().filter(|e| e.key == from.key && e.pi_target.is_none()).count();
    let limit = requeue.min(i32::try_from(there).unwrap_or(i32::MAX));
    while moved < limit {
        let Some(mut e) = take_entry(pair.a(), from.key, None) else { break };
        moved += 1;
        e.key = to.key;
        e.waiter.place.store(place, Ordering::SeqCst);
        pair.b().push_back(e);
    }
    drop(pair);
    woken.wake();
    Ok(n + moved)
}

fn take_entry(bucket: &mut Bucket, key: Key, target: Option<Key>) -> Option<Entry> {
    let i = bucket.iter().position(|e| e.key == key && e.pi_target == target)?;
    bucket.remove(i)
}

/// FUTEX_WAIT_REQUEUE_PI: waits on `from` until moved to `to` and made its owner.
pub fn wait_requeue_pi(
    cx: &mut Ctx<'_>,
    from: Word,
    expected: u32,
    deadline: Deadline,
    to: Word,
) -> Result<()> {
    if from.key == to.key {
        return Err(EINVAL);
    }
    let task = cx.task.clone();
    let waiter = wait::begin(&task, from, expected, BITSET_ANY, Some(to.key))?;
    let Some(waiter) = waiter else {
        // Only FUTEX_CMP_REQUEUE_PI takes such waiters off the queue.
        return Ok(());
    };
    let kind = WaitKind::Interruptible;
    let problem = match task.sleep(kind, deadline, "futex_wait_requeue_pi", || waiter.done()) {
        Ok(Some(_)) => None,
        Ok(None) => Some(ETIMEDOUT),
        // A signal before the move is reported as a value change (Linux: EWOULDBLOCK or restart).
        Err(e) => Some(e),
    };
    match problem {
        Some(e) if remove(&waiter) => return Err(e),
        _ => {}
    }
    match waiter.done() {
        Some(OWNER) => pi::own(cx, to, &waiter),
        _ => Ok(()),
    }
}

/// FUTEX_CMP_REQUEUE_PI: gives the priority-inheritance futex `to` to one waiter of `from` if it is free and
/// moves up to `requeue` (and that one, if it was not) to its queue.
pub fn requeue_pi(
    cx: &mut Ctx<'_>,
    from: Word,
    to: Word,
    wake: i32,
    requeue: i32,
    expected: u32,
) -> Result<i32> {
    if wake != 1 || requeue < 0 || from.key == to.key {
        return Err(EINVAL);
    }
    let task = cx.task.clone();
    from.read(&task)?;
    to.read(&task)?;
    let mut bucket = TABLE[index(from.key)].lock();
    if from.read(&task)? != expected {
        return Err(EAGAIN);
    }
    // Waiters that did not name this target must not be moved (futex(2)).
    if bucket.iter().any(|e| e.key == from.key && e.pi_target != Some(to.key)) {
        return Err(EINVAL);
    }
    let mut pi = pi::table();
    let mut count = 0;
    let limit = requeue.saturating_add(wake);
    while count < limit {
        let Some(i) = bucket.iter().position(|e| e.key == from.key) else { break };
        let waiter = bucket[i].waiter.clone();
        let mut value = to.read(&task)?;
        let more = bucket.iter().filter(|e| e.key == from.key).count() > 1;
        let granted = loop {
            let free = value & TID_MASK == 0 && !pi.has_waiters(to.key);
            let new = if free {
                waiter.shown | (value & super::OWNER_DIED) | if more { WAITERS } else { 0 }
            } else {
                value | WAITERS
            };
            let found = to.cmpxchg(cx, value, new)?;
            if found == value {
                break free;
            }
            value = found;
        };
        bucket.remove(i);
        count += 1;
        if granted {
            waiter.finish(WOKEN);
        } else {
            waiter.place.store(PI, Ordering::SeqCst);
            pi.add(to.key, task.kernel_pid((value & TID_MASK) as i32)?, waiter);
        }
    }
    Ok(count)
}
