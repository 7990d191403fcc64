//! poll(2), ppoll(2), select(2), pselect6(2).

use std::time::{Duration, Instant};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Events;
use uml_core::ctx::Ctx;
use uml_core::task::Resource;
use uml_core::user;
use uml_ipc::poll::{PollItem, poll as wait_for};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call;
use crate::table::Entry;
use crate::timespec::{Timespec, Timeval, read_timeout, with_mask};

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(7, "poll", poll(Ptr, Size, Int), Block),
    call!(271, "ppoll", ppoll(Ptr, Size, Ptr, Ptr, Size), NoHand),
    call!(23, "select", select(Int, Ptr, Ptr, Ptr, Ptr), NoHand),
    call!(270, "pselect6", pselect6(Int, Ptr, Ptr, Ptr, Ptr, Ptr), NoHand),
];

/// `struct pollfd`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct PollFd {
    fd: i32,
    events: i16,
    revents: i16,
}

/// When to give up: never, or at a moment. A moment beyond the clock's range is never.
fn deadline(cx: &mut Ctx<'_>, timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|t| cx.deadline_in(t))
}

fn poll(cx: &mut Ctx<'_>, fds: u64, n: usize, timeout_ms: i32) -> Result<u64> {
    let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
    do_poll(cx, fds, n, timeout)
}

fn ppoll(
    cx: &mut Ctx<'_>,
    fds: u64,
    n: usize,
    timeout: u64,
    mask: u64,
    mask_size: usize,
) -> Result<u64> {
    let limit = read_timeout(&cx.task, timeout)?;
    let result = with_mask(cx, mask, mask_size, |cx| do_poll(cx, fds, n, limit));
    if let Some(limit) = limit {
        // What is left is written back, also on errors; a bad pointer does not matter here.
        let left = remaining(cx, limit);
        let _ = user::write_obj(&cx.task, timeout, &Timespec::from(left));
    }
    result
}

fn remaining(cx: &mut Ctx<'_>, limit: Duration) -> Duration {
    match cx.deadline_in(limit) {
        Some(d) => d.saturating_duration_since(uml_base::clock::now()),
        None => limit,
    }
}

fn do_poll(cx: &mut Ctx<'_>, addr: u64, n: usize, timeout: Option<Duration>) -> Result<u64> {
    // nfds_t is compared as an unsigned int, as Linux does.
    let n = n as u32 as usize;
    if n as u64 > cx.task.rlimit(Resource::NoFile) {
        return Err(EINVAL);
    }
    let task = cx.task.clone();
    let mut fds: Vec<PollFd> = user::read_array(&task, addr, n)?;
    let deadline = deadline(cx, timeout);
    let mut items = Vec::new();
    let mut index = Vec::new();
    for (i, f) in fds.iter_mut().enumerate() {
        f.revents = 0;
        if f.fd >= 0 {
            items.push(PollItem::new(task.file(f.fd).ok(), Events(u32::from(f.events as u16))));
            index.push(i);
        }
    }
    let ready = wait_for(&task, &mut items, deadline)?;
    for (item, i) in items.iter().zip(index) {
        fds[i].revents = item.ready.0 as i16;
    }
    // Only revents are the kernel's to write, but the rest is what was read.
    user::write_array(&task, addr, &fds)?;
    Ok(ready as u64)
}

/// What the three sets of select(2) mean in terms of poll(2).
const READ_SET: Events =
    Events(Events::READABLE.0 | Events::RDBAND.0 | Events::HUP.0 | Events::ERR.0);
const WRITE_SET: Events = Events(Events::WRITABLE.0 | Events::WRBAND.0 | Events::ERR.0);
const EXCEPT_SET: Events = Events::PRI;

/// The timeout of select(2): where it is, and how its two words are read and written.
struct Timeout {
    at: u64,
    read: fn([i64; 2]) -> Result<Duration>,
    write: fn(Duration) -> [i64; 2],
}

/// `struct timeval`: microseconds beyond a second carry over; negative results are refused.
fn of_timeval([sec, usec]: [i64; 2]) -> Result<Duration> {
    let sec = sec.checked_add(usec / 1_000_000).ok_or(EINVAL)?;
    Timespec { sec, nsec: usec % 1_000_000 * 1000 }.duration()
}

fn of_timespec([sec, nsec]: [i64; 2]) -> Result<Duration> {
    Timespec { sec, nsec }.duration()
}

fn to_timeval(left: Duration) -> [i64; 2] {
    let t = Timeval::from(left);
    [t.sec, t.usec]
}

fn to_timespec(left: Duration) -> [i64; 2] {
    let t = Timespec::from(left);
    [t.sec, t.nsec]
}

fn select(cx: &mut Ctx<'_>, n: i32, r: u64, w: u64, e: u64, timeout: u64) -> Result<u64> {
    let timeout = Timeout { at: timeout, read: of_timeval, write: to_timeval };
    select_until(cx, n, [r, w, e], &timeout, [0; 2])
}

fn pselect6(
    cx: &mut Ctx<'_>,
    n: i32,
    r: u64,
    w: u64,
    e: u64,
    timeout: u64,
    sig: u64,
) -> Result<u64> {
    let mask = if sig == 0 { [0; 2] } else { user::read_obj::<[u64; 2]>(&cx.task, sig)? };
    let timeout = Timeout { at: timeout, read: of_timespec, write: to_timespec };
    select_until(cx, n, [r, w, e], &timeout, mask)
}

/// The sets of descriptors, of as many words each.
type Sets = [Vec<u64>; 3];

/// Places of the sets that are given.
fn places(sets: [u64; 3], words: usize) -> impl Iterator<Item = (u64, usize)> {
    sets.into_iter().filter(|at| *at != 0).map(move |at| (at, words))
}

/// Words of a set: no descriptor beyond the table's size can be in one.
fn set_words(cx: &Ctx<'_>, n: i32) -> Result<(usize, usize)> {
    let n = usize::try_from(n).map_err(|_| EINVAL)?.min(cx.task.files().size());
    Ok((n, n.div_ceil(64)))
}

/// Timeout and sets with one copy. `None` when anything is wrong, which is then found step by step, in the order of Linux.
fn read_at_once(
    cx: &Ctx<'_>,
    n: i32,
    sets: [u64; 3],
    timeout: &Timeout,
) -> Option<(Duration, Sets)> {
    let (_, words) = set_words(cx, n).ok()?;
    let all: Vec<_> = [(timeout.at, 2)].into_iter().chain(places(sets, words)).collect();
    let v = user::read_words(&cx.task, &all).ok()?;
    let limit = (timeout.read)([v[0] as i64, v[1] as i64]).ok()?;
    let mut rest = v.get(2..)?;
    let given = sets.map(|at| {
        let n = if at == 0 { 0 } else { words };
        let (set, after) = rest.split_at(n.min(rest.len()));
        rest = after;
        if at == 0 { vec![0; words] } else { set.to_vec() }
    });
    Some((limit, given))
}

fn select_until(
    cx: &mut Ctx<'_>,
    n: i32,
    sets: [u64; 3],
    timeout: &Timeout,
    [mask, size]: [u64; 2],
) -> Result<u64> {
    let at_once = if timeout.at == 0 { None } else { read_at_once(cx, n, sets, timeout) };
    let (limit, given) = match at_once {
        Some((limit, given)) => (Some(limit), Some(given)),
        None if timeout.at == 0 => (None, None),
        None => {
            let words: [i64; 2] = user::read_obj(&cx.task, timeout.at)?;
            (Some((timeout.read)(words)?), None)
        }
    };
    let result = with_mask(cx, mask, size as usize, |cx| do_select(cx, n, sets, given, limit));
    let left = limit.map(|l| (timeout.write)(remaining(cx, l)));
    let task = &cx.task;
    // What is left of the time is written back, also on errors; a bad pointer does not matter there.
    let (count, found, words) = match result {
        Ok(found) => found,
        Err(e) => {
            if let Some(left) = left {
                let _ = user::write_obj(task, timeout.at, &left);
            }
            return Err(e);
        }
    };
    let mut all: Vec<_> = places(sets, words).collect();
    let mut values: Vec<u64> =
        found.iter().zip(sets).filter(|f| f.1 != 0).flat_map(|f| f.0).copied().collect();
    let must = values.len() * 8;
    if let Some(left) = left {
        all.push((timeout.at, 2));
        values.extend(left.map(|n| n as u64));
    }
    let done = if values.is_empty() { 0 } else { user::write_words(task, &all, &values)? };
    if done >= must {
        return Ok(count);
    }
    if let Some(left) = left {
        let _ = user::write_obj(task, timeout.at, &left);
    }
    Err(EFAULT)
}

/// Waits; returns how many bits are set, the sets, and the words of each.
fn do_select(
    cx: &mut Ctx<'_>,
    n: i32,
    sets: [u64; 3],
    given: Option<Sets>,
    timeout: Option<Duration>,
) -> Result<(u64, Sets, usize)> {
    let task = cx.task.clone();
    let (n, words) = set_words(cx, n)?;
    let wanted = match given {
        Some(sets) => sets,
        None => {
            let mut wanted = [vec![0u64; words], vec![0; words], vec![0; words]];
            for (set, addr) in wanted.iter_mut().zip(sets) {
                if addr != 0 {
                    *set = user::read_array(&task, addr, words)?;
                }
            }
            wanted
        }
    };
    let deadline = deadline(cx, timeout);
    let masks = [READ_SET, WRITE_SET, EXCEPT_SET];
    let mut items = Vec::new();
    let mut fds = Vec::new();
    for fd in 0..n {
        let bit = 1u64 << (fd % 64);
        let mut events = Events::NONE;
        for (set, mask) in wanted.iter().zip(masks) {
            events |= mask.when(set.get(fd / 64).is_some_and(|w| w & bit != 0));
        }
        if !events.is_empty() {
            items.push(PollItem::new(Some(task.file(fd as i32)?), events));
            fds.push(fd);
        }
    }
    wait_for(&task, &mut items, deadline)?;
    let mut found = [vec![0u64; words], vec![0; words], vec![0; words]];
    let mut count = 0;
    for (item, fd) in items.iter().zip(fds) {
        let bit = 1u64 << (fd % 64);
        for ((out, asked), mask) in found.iter_mut().zip(&wanted).zip(masks) {
            if asked[fd / 64] & bit != 0 && item.ready.intersects(mask) {
                out[fd / 64] |= bit;
                count += 1;
            }
        }
    }
    Ok((count, found, words))
}
