//! What the end of a thread means for futexes: the robust list (get_robust_list(2)) and
//! clear_child_tid (set_tid_address(2)).

use uml_abi::Result;
use uml_core::ctx::Ctx;
use uml_core::user;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{BITSET_ANY, OWNER_DIED, TID_MASK, WAITERS, Word, pi, wake};

/// `struct robust_list_head`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Head {
    next: u64,
    futex_offset: i64,
    pending: u64,
}

/// Longest list that is walked, against loops (ROBUST_LIST_LIMIT).
const LIMIT: usize = 2048;

/// The task is about to give up its memory: walks the robust list, hands over what it owns, clears
/// and wakes the thread id word.
pub fn exit_memory(cx: &mut Ctx<'_>) {
    let (list, clear_tid) = {
        let mut p = cx.task.personal.lock();
        (std::mem::take(&mut p.robust_list), std::mem::take(&mut p.clear_child_tid))
    };
    if list != 0 {
        // A list that cannot be read ends the walk, nothing more.
        let _ = walk(cx, list);
    }
    pi::owner_exits(cx.task.tid);
    // Nobody is left to look at the word when the memory goes with the task.
    let shared = cx.task.shares_memory();
    if clear_tid != 0 && shared && user::write_obj(&cx.task, clear_tid, &0u32).is_ok() {
        for shared in [true, false] {
            if let Ok(w) = Word::new(&cx.task, clear_tid, shared) {
                wake(w.key, 1, BITSET_ANY);
            }
        }
    }
}

/// An entry's address and whether it is a priority-inheritance futex.
fn split(entry: u64) -> (u64, bool) {
    (entry & !1, entry & 1 != 0)
}

fn walk(cx: &mut Ctx<'_>, list: u64) -> Result<()> {
    let head: Head = user::read_obj(&cx.task, list)?;
    let (pending, pending_pi) = split(head.pending);
    let (mut entry, mut is_pi) = split(head.next);
    for _ in 0..LIMIT {
        if entry == list {
            break;
        }
        // Read before the futex is released: another thread may reuse the memory.
        let next = user::read_obj::<u64>(&cx.task, entry);
        if entry != pending {
            owner_died(cx, entry.wrapping_add_signed(head.futex_offset), is_pi, false)?;
        }
        (entry, is_pi) = split(next?);
    }
    if pending != 0 {
        owner_died(cx, pending.wrapping_add_signed(head.futex_offset), pending_pi, true)?;
    }
    Ok(())
}

/// Marks one futex whose owner exits and wakes a waiter.
fn owner_died(cx: &mut Ctx<'_>, addr: u64, is_pi: bool, pending: bool) -> Result<()> {
    let word = Word::new(&cx.task, addr, false)?;
    let task = cx.task.clone();
    // Waiters may have come with either kind of key.
    let wake_one = || {
        let shared = Word::new(&task, addr, true).map(|w| w.key);
        if shared.map_or(0, |k| wake(k, 1, BITSET_ANY)) == 0 && shared != Ok(word.key) {
            wake(word.key, 1, BITSET_ANY);
        }
    };
    let mut value = word.read(&cx.task)?;
    loop {
        // Unlocked but not yet woken when it died.
        if pending && !is_pi && value == 0 {
            wake_one();
            return Ok(());
        }
        if value & TID_MASK != cx.task.show_pid(cx.task.tid) as u32 {
            return Ok(());
        }
        let found = word.cmpxchg(cx, value, (value & WAITERS) | OWNER_DIED)?;
        if found != value {
            value = found;
            continue;
        }
        if !is_pi && value & WAITERS != 0 {
            wake_one();
        }
        return Ok(());
    }
}
