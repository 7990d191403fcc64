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
    call!(7, "poll", poll(Ptr, Size, Int), NoHand),
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

fn select(cx: &mut Ctx<'_>, n: i32, r: u64, w: u64, e: u64, timeout: u64) -> Result<u64> {
    let limit = match timeout {
        0 => None,
        at => {
            let tv: Timeval = user::read_obj(&cx.task, at)?;
            // Microseconds beyond a second carry over; negative results are refused.
            let sec = tv.sec.checked_add(tv.usec / 1_000_000).ok_or(EINVAL)?;
            let ts = Timespec { sec, nsec: tv.usec % 1_000_000 * 1000 };
            Some(ts.duration()?)
        }
    };
    let result = do_select(cx, n, [r, w, e], limit);
    if let Some(limit) = limit {
        let left = remaining(cx, limit);
        let _ = user::write_obj(&cx.task, timeout, &Timeval::from(left));
    }
    result
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
    let [mask, size] = if sig == 0 { [0; 2] } else { user::read_obj::<[u64; 2]>(&cx.task, sig)? };
    let limit = read_timeout(&cx.task, timeout)?;
    let result = with_mask(cx, mask, size as usize, |cx| do_select(cx, n, [r, w, e], limit));
    if let Some(limit) = limit {
        let left = remaining(cx, limit);
        let _ = user::write_obj(&cx.task, timeout, &Timespec::from(left));
    }
    result
}

fn do_select(cx: &mut Ctx<'_>, n: i32, sets: [u64; 3], timeout: Option<Duration>) -> Result<u64> {
    let task = cx.task.clone();
    let n = usize::try_from(n).map_err(|_| EINVAL)?.min(task.files().size());
    let words = n.div_ceil(64);
    let mut wanted = [vec![0u64; words], vec![0; words], vec![0; words]];
    for (set, addr) in wanted.iter_mut().zip(sets) {
        if addr != 0 {
            *set = user::read_array(&task, addr, words)?;
        }
    }
    let deadline = deadline(cx, timeout);
    let masks = [READ_SET, WRITE_SET, EXCEPT_SET];
    let mut items = Vec::new();
    let mut fds = Vec::new();
    for fd in 0..n {
        let bit = 1u64 << (fd % 64);
        let mut events = Events::NONE;
        for (set, mask) in wanted.iter().zip(masks) {
            events |= mask.when(set[fd / 64] & bit != 0);
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
    for (set, addr) in found.iter().zip(sets) {
        if addr != 0 {
            user::write_array(&task, addr, set)?;
        }
    }
    Ok(count)
}
