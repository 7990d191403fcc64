//! epoll_create(2), epoll_ctl(2), epoll_wait(2) and their variants; eventfd(2).

use std::time::Duration;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::user;
use uml_ipc::epoll::{Epoll, EpollEvent};
use uml_ipc::eventfd::EventFd;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call;
use crate::table::Entry;
use crate::timespec::{read_timeout, with_mask};

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(213, "epoll_create", epoll_create(Int)),
    call!(291, "epoll_create1", epoll_create1(Flags)),
    call!(233, "epoll_ctl", epoll_ctl(Fd, Int, Fd, Ptr)),
    call!(232, "epoll_wait", epoll_wait(Fd, Ptr, Int, Int)),
    call!(281, "epoll_pwait", epoll_pwait(Fd, Ptr, Int, Int, Ptr, Size)),
    call!(441, "epoll_pwait2", epoll_pwait2(Fd, Ptr, Int, Ptr, Ptr, Size)),
    call!(284, "eventfd", eventfd(Int)),
    call!(290, "eventfd2", eventfd2(Int, Flags)),
];

/// `struct epoll_event`, packed on x86-64.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawEvent {
    events: u32,
    data: [u32; 2],
}

const _: () = assert!(size_of::<RawEvent>() == 12);

impl From<RawEvent> for EpollEvent {
    fn from(r: RawEvent) -> EpollEvent {
        let data = u64::from(r.data[0]) | u64::from(r.data[1]) << 32;
        EpollEvent { events: r.events, data }
    }
}

impl From<EpollEvent> for RawEvent {
    fn from(e: EpollEvent) -> RawEvent {
        RawEvent { events: e.events, data: [e.data as u32, (e.data >> 32) as u32] }
    }
}

fn epoll_create(cx: &mut Ctx<'_>, size: i32) -> Result<u64> {
    if size <= 0 {
        return Err(EINVAL);
    }
    epoll_create1(cx, 0)
}

fn epoll_create1(cx: &mut Ctx<'_>, flags: i32) -> Result<u64> {
    if flags & !libc::EPOLL_CLOEXEC != 0 {
        return Err(EINVAL);
    }
    let file = Epoll::open(&cx.task);
    Ok(cx.task.install_fd(file, flags & libc::EPOLL_CLOEXEC != 0)? as u64)
}

fn epoll_ctl(cx: &mut Ctx<'_>, epfd: i32, op: i32, fd: i32, event: u64) -> Result<u64> {
    let task = &cx.task;
    let event: Option<EpollEvent> = match op {
        libc::EPOLL_CTL_DEL => None,
        _ => Some(user::read_obj::<RawEvent>(task, event)?.into()),
    };
    let epfile = task.file(epfd)?;
    let file = task.file(fd)?;
    if !file.ops.pollable() {
        return Err(EPERM);
    }
    let epoll = Epoll::of(&epfile)?;
    match (op, event) {
        (libc::EPOLL_CTL_ADD, Some(e)) => epoll.add(task, fd, &file, e)?,
        (libc::EPOLL_CTL_MOD, Some(e)) => epoll.modify(task, fd, &file, e)?,
        (libc::EPOLL_CTL_DEL, None) => epoll.delete(fd, &file)?,
        _ => return Err(EINVAL),
    }
    Ok(0)
}

fn do_wait(
    cx: &mut Ctx<'_>,
    epfd: i32,
    events: u64,
    max: i32,
    timeout: Option<Duration>,
) -> Result<u64> {
    let task = cx.task.clone();
    let epfile = task.file(epfd)?;
    if max <= 0 || max as usize > i32::MAX as usize / size_of::<RawEvent>() {
        return Err(EINVAL);
    }
    let epoll = Epoll::of(&epfile)?;
    let deadline = timeout.and_then(|t| cx.deadline_in(t));
    let mut at = events;
    let n = epoll.wait(&task, max as usize, deadline, |found| {
        let raw: Vec<RawEvent> = found.iter().map(|e| (*e).into()).collect();
        user::write_array(&task, at, &raw)?;
        at = at.wrapping_add(size_of_val(&raw[..]) as u64);
        Ok(())
    })?;
    Ok(n as u64)
}

fn millis(timeout: i32) -> Option<Duration> {
    u64::try_from(timeout).ok().map(Duration::from_millis)
}

fn epoll_wait(cx: &mut Ctx<'_>, epfd: i32, events: u64, max: i32, timeout: i32) -> Result<u64> {
    do_wait(cx, epfd, events, max, millis(timeout))
}

fn epoll_pwait(
    cx: &mut Ctx<'_>,
    epfd: i32,
    events: u64,
    max: i32,
    timeout: i32,
    mask: u64,
    size: usize,
) -> Result<u64> {
    with_mask(cx, mask, size, |cx| do_wait(cx, epfd, events, max, millis(timeout)))
}

fn epoll_pwait2(
    cx: &mut Ctx<'_>,
    epfd: i32,
    events: u64,
    max: i32,
    timeout: u64,
    mask: u64,
    size: usize,
) -> Result<u64> {
    let timeout = read_timeout(&cx.task, timeout)?;
    with_mask(cx, mask, size, |cx| do_wait(cx, epfd, events, max, timeout))
}

fn eventfd(cx: &mut Ctx<'_>, initial: u32) -> Result<u64> {
    eventfd2(cx, initial, 0)
}

fn eventfd2(cx: &mut Ctx<'_>, initial: u32, flags: i32) -> Result<u64> {
    if flags & !(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE) != 0 {
        return Err(EINVAL);
    }
    let file = EventFd::open(&cx.task, initial, flags);
    Ok(cx.task.install_fd(file, flags & libc::EFD_CLOEXEC != 0)? as u64)
}
