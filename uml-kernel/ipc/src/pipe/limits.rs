//! How much pipe memory there may be (pipe(7), "/proc files"): `pipe-max-size`,
//! `pipe-user-pages-soft`, `pipe-user-pages-hard`.

use std::collections::BTreeMap;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::task::{Cap, Cred};

use super::{DEFAULT_SLOTS, PAGE};

/// Largest capacity an unprivileged process may set, in bytes (`pipe-max-size`).
pub const MAX_SIZE: usize = 1024 * 1024;
/// Pages a user may have before new pipes get two pages only (`pipe-user-pages-soft`).
const USER_SOFT: usize = 16384;
/// Slots of a pipe made beyond the soft limit.
const MIN_SLOTS: usize = 2;

static USERS: Mutex<BTreeMap<u32, usize>> = Mutex::new(Rank::LEAF, BTreeMap::new());

/// Accounts a new pipe and says how many slots it gets.
pub(super) fn charge_new(cred: &Cred) -> Result<usize> {
    let privileged = cred.capable(Cap::SysResource) || cred.capable(Cap::SysAdmin);
    let mut users = USERS.lock();
    let pages = users.entry(cred.uid).or_default();
    let slots =
        if *pages + DEFAULT_SLOTS > USER_SOFT && !privileged { MIN_SLOTS } else { DEFAULT_SLOTS };
    *pages += slots;
    Ok(slots)
}

/// Accounts a change of capacity; `EPERM` when it grows beyond the user's limit.
pub(super) fn recharge(uid: u32, old: usize, new: usize, privileged: bool) -> Result<()> {
    let mut users = USERS.lock();
    let pages = users.entry(uid).or_default();
    let total = pages.saturating_sub(old) + new;
    if new > old && total > USER_SOFT && !privileged {
        return Err(EPERM);
    }
    *pages = total;
    Ok(())
}

/// Forgets a pipe's slots.
pub(super) fn uncharge(uid: u32, slots: usize) {
    let mut users = USERS.lock();
    if let Some(pages) = users.get_mut(&uid) {
        *pages = pages.saturating_sub(slots);
        if *pages == 0 {
            users.remove(&uid);
        }
    }
}

/// The capacity that a request for `size` bytes means: a power of two of pages.
pub(super) fn round_size(size: u32) -> Result<usize> {
    if size > 1 << 31 {
        return Err(EINVAL);
    }
    Ok((size as usize).max(PAGE).next_power_of_two())
}
