//! Clocks, sleeping and timers: clock_gettime(2), nanosleep(2), setitimer(2), timer_create(2),
//! timerfd_create(2), adjtimex(2).

use std::time::{Duration, Instant};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Events;
use uml_core::ctx::Ctx;
use uml_core::signal::Restart;
use uml_core::task::{Cap, WaitKind, usage};
use uml_core::time::Clock;
use uml_core::time::itimer::{IntervalTimer, Which, cpu_time, next_look};
use uml_core::time::posix::{Notify, PosixTimer, TimerClock};
use uml_core::user;
use uml_host::clock::HostClock;
use uml_ipc::timerfd::TimerFd;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call;
use crate::table::Entry;
use crate::timespec::{Timespec, Timeval};

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(35, "nanosleep", nanosleep(Ptr, Ptr), Block),
    call!(230, "clock_nanosleep", clock_nanosleep(Int, Int, Ptr, Ptr), Block),
    call!(228, "clock_gettime", clock_gettime(Int, Out)),
    call!(227, "clock_settime", clock_settime(Int, Ptr)),
    call!(229, "clock_getres", clock_getres(Int, Out)),
    call!(96, "gettimeofday", gettimeofday(Out, Out)),
    call!(164, "settimeofday", settimeofday(Ptr, Ptr)),
    call!(201, "time", time(Out)),
    call!(36, "getitimer", getitimer(Int, Out)),
    call!(38, "setitimer", setitimer(Int, Ptr, Out)),
    call!(37, "alarm", alarm(Int)),
    call!(222, "timer_create", timer_create(Int, Ptr, Out)),
    call!(223, "timer_settime", timer_settime(Int, Flags, Ptr, Out)),
    call!(224, "timer_gettime", timer_gettime(Int, Out)),
    call!(225, "timer_getoverrun", timer_getoverrun(Int)),
    call!(226, "timer_delete", timer_delete(Int)),
    call!(159, "adjtimex", adjtimex(Ptr), Never, Partial("reading only; the host keeps the time")),
    call!(
        305,
        "clock_adjtime",
        clock_adjtime(Int, Ptr),
        Never,
        Partial("reading only; the host keeps the time")
    ),
    call!(283, "timerfd_create", timerfd_create(Int, Flags)),
    call!(286, "timerfd_settime", timerfd_settime(Fd, Flags, Ptr, Out)),
    call!(287, "timerfd_gettime", timerfd_gettime(Fd, Out)),
];

/// A clock id of clock_gettime(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClockId {
    Wall { host: HostClock, coarse: bool },
    Boot { host: HostClock, coarse: bool },
    ProcessCpu(i32),
    ThreadCpu(i32),
}

/// Resolution of the coarse clocks: a tick of 250 Hz.
const COARSE_NS: u64 = 4_000_000;

fn clock_id(cx: &Ctx<'_>, id: i32) -> Result<ClockId> {
    let wall = |host, coarse| ClockId::Wall { host, coarse };
    let boot = |host, coarse| ClockId::Boot { host, coarse };
    Ok(match id {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM => wall(HostClock::Realtime, false),
        libc::CLOCK_REALTIME_COARSE => wall(HostClock::RealtimeCoarse, true),
        libc::CLOCK_TAI => wall(HostClock::Tai, false),
        libc::CLOCK_MONOTONIC => boot(HostClock::Monotonic, false),
        libc::CLOCK_MONOTONIC_COARSE => boot(HostClock::MonotonicCoarse, true),
        libc::CLOCK_MONOTONIC_RAW => boot(HostClock::MonotonicRaw, false),
        libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => boot(HostClock::Boottime, false),
        libc::CLOCK_PROCESS_CPUTIME_ID => ClockId::ProcessCpu(cx.task.process.pid),
        libc::CLOCK_THREAD_CPUTIME_ID => ClockId::ThreadCpu(cx.task.tid),
        id if id < 0 && id & 3 != 3 => cpu_clock(cx, id)?,
        _ => return Err(EINVAL),
    })
}

/// CPU clocks of other processes and threads (clock_getcpuclockid(3)): the complement of the id above
/// three bits that say what is counted.
fn cpu_clock(cx: &Ctx<'_>, id: i32) -> Result<ClockId> {
    let (pid, per_thread) = (!(id >> 3), id & 4 != 0);
    let task = &cx.task;
    let kernel = task.kernel();
    if per_thread {
        let tid = if pid == 0 { task.tid } else { task.kernel_pid(pid).map_err(|_| EINVAL)? };
        let target = kernel.tree.read().task(tid).ok_or(EINVAL)?;
        if target.process.pid != task.process.pid {
            return Err(EINVAL);
        }
        return Ok(ClockId::ThreadCpu(tid));
    }
    let pid = if pid == 0 { task.process.pid } else { task.kernel_pid(pid).map_err(|_| EINVAL)? };
    if kernel.tree.read().get(pid).is_none() {
        return Err(EINVAL);
    }
    Ok(ClockId::ProcessCpu(pid))
}

fn read_clock(cx: &Ctx<'_>, id: ClockId) -> Duration {
    let kernel = cx.task.kernel();
    match id {
        ClockId::Wall { host, .. } => kernel.time.wall(host),
        ClockId::Boot { host, .. } => {
            cx.task.ns().time.shown(followed(host), kernel.time.since_boot(host))
        }
        ClockId::ProcessCpu(pid) => {
            let (user, system) = cpu_time(&kernel, pid);
            user + system
        }
        ClockId::ThreadCpu(tid) => {
            let task = kernel.tree.read().task(tid);
            let u = task.map(|t| usage::of_task(&t)).unwrap_or_default();
            Duration::from_nanos(u.user_ns + u.system_ns)
        }
    }
}

/// The clock that timers follow and time namespaces move.
fn followed(host: HostClock) -> Clock {
    if host == HostClock::Boottime { Clock::Boottime } else { Clock::Monotonic }
}

/// A timer's absolute time, as the caller's time namespace reckons it, on the machine's clock. Zero keeps its meaning.
fn absolute(cx: &Ctx<'_>, clock: Clock, at: Duration) -> Duration {
    if at.is_zero() {
        return at;
    }
    cx.task.ns().time.machine(clock, at).max(Duration::from_nanos(1))
}

fn clock_gettime(cx: &mut Ctx<'_>, id: i32, out: u64) -> Result<u64> {
    let now = read_clock(cx, clock_id(cx, id)?);
    user::write_obj(&cx.task, out, &Timespec::from(now))?;
    Ok(0)
}

fn clock_settime(cx: &mut Ctx<'_>, id: i32, new: u64) -> Result<u64> {
    // A CPU clock's owner is looked for after the time was fetched.
    let fetched: Option<Timespec> =
        if id < 0 { Some(user::read_obj(&cx.task, new)?) } else { None };
    let clock = clock_id(cx, id)?;
    match clock {
        ClockId::Wall { host: HostClock::Realtime, coarse: false }
            if id == libc::CLOCK_REALTIME => {}
        ClockId::ProcessCpu(_) | ClockId::ThreadCpu(_) => return Err(EPERM),
        _ => return Err(EINVAL),
    }
    let to = match fetched {
        Some(t) => t,
        None => user::read_obj::<Timespec>(&cx.task, new)?,
    };
    set_clock(cx, to.duration()?)
}

fn set_clock(cx: &Ctx<'_>, to: Duration) -> Result<u64> {
    cx.task.require(Cap::SysTime)?;
    // Beyond 2^63 nanoseconds the clock could not be represented.
    if to.as_secs() > i64::MAX as u64 / 1_000_000_000 {
        return Err(EINVAL);
    }
    cx.task.kernel().time.set_realtime(to);
    Ok(0)
}

fn clock_getres(cx: &mut Ctx<'_>, id: i32, out: u64) -> Result<u64> {
    let ns = match clock_id(cx, id)? {
        ClockId::Wall { coarse: true, .. } | ClockId::Boot { coarse: true, .. } => COARSE_NS,
        _ => 1,
    };
    if out != 0 {
        user::write_obj(&cx.task, out, &Timespec::from_nanos(ns))?;
    }
    Ok(0)
}

/// `struct timezone`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct TimeZone {
    minutes_west: i32,
    dst_time: i32,
}

fn gettimeofday(cx: &mut Ctx<'_>, tv: u64, tz: u64) -> Result<u64> {
    let kernel = cx.task.kernel();
    if tv != 0 {
        user::write_obj(&cx.task, tv, &Timeval::from(kernel.time.realtime()))?;
    }
    if tz != 0 {
        let (minutes_west, dst_time) = *kernel.time.timezone.lock();
        user::write_obj(&cx.task, tz, &TimeZone { minutes_west, dst_time })?;
    }
    Ok(0)
}

fn settimeofday(cx: &mut Ctx<'_>, tv: u64, tz: u64) -> Result<u64> {
    let to = match tv {
        0 => None,
        at => Some(user::read_obj::<Timeval>(&cx.task, at)?.duration()?),
    };
    let zone = match tz {
        0 => None,
        at => Some(user::read_obj::<TimeZone>(&cx.task, at)?),
    };
    cx.task.require(Cap::SysTime)?;
    if let Some(z) = zone {
        if !(-15 * 60..=15 * 60).contains(&z.minutes_west) {
            return Err(EINVAL);
        }
        *cx.task.kernel().time.timezone.lock() = (z.minutes_west, z.dst_time);
    }
    match to {
        Some(to) => set_clock(cx, to),
        None => Ok(0),
    }
}

fn time(cx: &mut Ctx<'_>, out: u64) -> Result<u64> {
    let now = cx.task.kernel().time.realtime().as_secs();
    if out != 0 {
        user::write_obj(&cx.task, out, &now)?;
    }
    Ok(now)
}

/// Sleeps until `deadline`; on a signal the time left goes to `rem`.
fn sleep_until(cx: &mut Ctx<'_>, deadline: Option<Instant>, rem: u64) -> Result<u64> {
    let task = cx.task.clone();
    let never = || None::<()>;
    let result = task.sleep(WaitKind::Interruptible, deadline, "hrtimer_nanosleep", never);
    if result == Err(EINTR) && rem != 0 {
        let left =
            deadline.map_or(Duration::MAX, |d| d.saturating_duration_since(uml_base::clock::now()));
        user::write_obj(&task, rem, &Timespec::from(left))?;
    }
    result.map(|_| 0)
}

fn nanosleep(cx: &mut Ctx<'_>, req: u64, rem: u64) -> Result<u64> {
    let d = user::read_obj::<Timespec>(&cx.task, req)?.duration()?;
    let deadline = cx.deadline_in(d);
    sleep_until(cx, deadline, rem)
}

fn clock_nanosleep(cx: &mut Ctx<'_>, id: i32, flags: i32, req: u64, rem: u64) -> Result<u64> {
    let absolute = flags & libc::TIMER_ABSTIME != 0;
    if absolute {
        cx.task.restart.set(Restart::NoHand);
    }
    let (clock, d) = if id < 0 {
        let d = user::read_obj::<Timespec>(&cx.task, req)?.duration()?;
        (clock_id(cx, id)?, d)
    } else {
        let clock = clock_id(cx, id)?;
        (clock, user::read_obj::<Timespec>(&cx.task, req)?.duration()?)
    };
    match clock {
        ClockId::ThreadCpu(_) if id == libc::CLOCK_THREAD_CPUTIME_ID => Err(EINVAL),
        ClockId::ThreadCpu(tid) if tid == cx.task.tid => Err(EINVAL),
        ClockId::ProcessCpu(_) | ClockId::ThreadCpu(_) => sleep_cpu(cx, clock, d, absolute),
        ClockId::Boot { host: HostClock::MonotonicRaw, .. }
        | ClockId::Boot { coarse: true, .. }
        | ClockId::Wall { coarse: true, .. } => Err(EOPNOTSUPP),
        _ if !absolute => {
            let deadline = cx.deadline_in(d);
            sleep_until(cx, deadline, rem)
        }
        ClockId::Boot { .. } => {
            let now = read_clock(cx, clock);
            let deadline = uml_base::clock::now().checked_add(d.saturating_sub(now));
            sleep_until(cx, deadline, 0)
        }
        ClockId::Wall { .. } => sleep_wall(cx, clock, d),
    }
}

/// Until a settable clock shows `at`, following changes of the clock.
fn sleep_wall(cx: &mut Ctx<'_>, clock: ClockId, at: Duration) -> Result<u64> {
    let task = cx.task.clone();
    let kernel = task.kernel();
    loop {
        let jumps = kernel.time.jumps();
        let now = read_clock(cx, clock);
        if now >= at {
            return Ok(0);
        }
        let deadline = uml_base::clock::now().checked_add(at - now);
        let changed = || (kernel.time.jumps() != jumps).then_some(());
        let queue = &kernel.time.set_queue;
        let kind = WaitKind::Interruptible;
        task.wait(queue, Events::ALL, kind, deadline, "hrtimer_nanosleep", changed)?;
    }
}

/// Until a CPU clock shows a time.
fn sleep_cpu(cx: &mut Ctx<'_>, clock: ClockId, d: Duration, absolute: bool) -> Result<u64> {
    let start = read_clock(cx, clock);
    let at = if absolute { d } else { start.saturating_add(d) };
    let (mut seen, mut idle) = (start, 0);
    loop {
        let now = read_clock(cx, clock);
        if now >= at {
            return Ok(0);
        }
        idle = if now == seen { idle + 1 } else { 0 };
        seen = now;
        let look = next_look(at - now, 1, idle);
        cx.task.sleep(WaitKind::Interruptible, Some(look), "hrtimer_nanosleep", || None::<()>)?;
    }
}

/// `struct itimerval`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct ItimerVal {
    interval: Timeval,
    value: Timeval,
}

fn which(n: i32) -> Result<Which> {
    [Which::Real, Which::Virtual, Which::Prof]
        .get(usize::try_from(n).map_err(|_| EINVAL)?)
        .copied()
        .ok_or(EINVAL)
}

fn interval_timer(cx: &Ctx<'_>, n: i32) -> Result<std::sync::Arc<IntervalTimer>> {
    Ok(IntervalTimer::of(&cx.task.process, &cx.task.kernel(), which(n)?))
}

fn getitimer(cx: &mut Ctx<'_>, n: i32, out: u64) -> Result<u64> {
    let (left, interval) = interval_timer(cx, n)?.get();
    let v = ItimerVal { interval: interval.into(), value: left.into() };
    user::write_obj(&cx.task, out, &v)?;
    Ok(0)
}

fn setitimer(cx: &mut Ctx<'_>, n: i32, new: u64, old: u64) -> Result<u64> {
    // A null pointer clears the timer (setitimer(2) NOTES).
    let v = if new == 0 { ItimerVal::default() } else { user::read_obj(&cx.task, new)? };
    let (value, interval) = (v.value.duration()?, v.interval.duration()?);
    let was = interval_timer(cx, n)?.set(value, interval);
    if old != 0 {
        let v = ItimerVal { interval: was.1.into(), value: was.0.into() };
        user::write_obj(&cx.task, old, &v)?;
    }
    Ok(0)
}

fn alarm(cx: &mut Ctx<'_>, seconds: u32) -> Result<u64> {
    let t = interval_timer(cx, 0)?;
    let (left, _) = t.set(Duration::from_secs(u64::from(seconds)), Duration::ZERO);
    // Rounded to the nearest second, but never down to "none was set".
    let round = left.subsec_millis() >= 500 || (left.as_secs() == 0 && !left.is_zero());
    Ok(left.as_secs() + u64::from(round))
}

/// `struct itimerspec`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct ItimerSpec {
    interval: Timespec,
    value: Timespec,
}

impl From<(Duration, Duration)> for ItimerSpec {
    fn from((value, interval): (Duration, Duration)) -> ItimerSpec {
        ItimerSpec { interval: interval.into(), value: value.into() }
    }
}

/// `struct sigevent`, the part the kernel reads.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct SigEvent {
    value: u64,
    signo: i32,
    notify: i32,
    tid: i32,
    pad: [i32; 11],
}

const _: () = assert!(size_of::<SigEvent>() == 64 && size_of::<ItimerSpec>() == 32);

fn timer_create(cx: &mut Ctx<'_>, id: i32, event: u64, out: u64) -> Result<u64> {
    let event: Option<SigEvent> =
        if event == 0 { None } else { Some(user::read_obj(&cx.task, event)?) };
    let clock = match clock_id(cx, id)? {
        ClockId::Wall { coarse: false, .. } => TimerClock::Wall(Clock::Realtime),
        ClockId::Boot {
            host: host @ (HostClock::Monotonic | HostClock::Boottime),
            coarse: false,
        } => TimerClock::Wall(followed(host)),
        ClockId::Wall { .. } | ClockId::Boot { .. } => return Err(EOPNOTSUPP),
        ClockId::ProcessCpu(pid) => TimerClock::ProcessCpu(pid),
        ClockId::ThreadCpu(tid) => TimerClock::ThreadCpu(tid),
    };
    if matches!(id, libc::CLOCK_REALTIME_ALARM | libc::CLOCK_BOOTTIME_ALARM) {
        cx.task.require(Cap::WakeAlarm)?;
    }
    let notify = event.map(|e| notification(cx, e)).transpose()?;
    let timer = PosixTimer::create(&cx.task, clock, notify)?;
    if let Err(e) = user::write_obj(&cx.task, out, &timer.id) {
        let _ = cx.task.process.timers.delete(timer.id);
        return Err(e);
    }
    Ok(0)
}

fn notification(cx: &Ctx<'_>, e: SigEvent) -> Result<Notify> {
    const SIGEV_SIGNAL: i32 = 0;
    const SIGEV_NONE: i32 = 1;
    const SIGEV_THREAD: i32 = 2;
    const SIGEV_SIGNAL_THREAD_ID: i32 = SIGEV_SIGNAL | 4;
    let signal_ok = (1..=64).contains(&e.signo);
    match e.notify {
        SIGEV_NONE => Ok(Notify::None),
        // SIGEV_THREAD is the C library's business; for the kernel it is a signal.
        SIGEV_SIGNAL | SIGEV_THREAD if signal_ok => Ok(Notify::Signal(e.signo, e.value)),
        SIGEV_SIGNAL_THREAD_ID if signal_ok => {
            let tid = cx.task.kernel_pid(e.tid).map_err(|_| EINVAL)?;
            let target = cx.task.kernel().tree.read().task(tid).ok_or(EINVAL)?;
            if target.process.pid != cx.task.process.pid {
                return Err(EINVAL);
            }
            Ok(Notify::Thread(e.signo, e.value, tid))
        }
        _ => Err(EINVAL),
    }
}

fn timer_settime(cx: &mut Ctx<'_>, id: i32, flags: i32, new: u64, old: u64) -> Result<u64> {
    if new == 0 {
        return Err(EINVAL);
    }
    let v: ItimerSpec = user::read_obj(&cx.task, new)?;
    let (value, interval) = (v.value.duration()?, v.interval.duration()?);
    let timer = cx.task.process.timers.get(id)?;
    let is_absolute = flags & libc::TIMER_ABSTIME != 0;
    let value = match timer.clock() {
        TimerClock::Wall(clock) if is_absolute => absolute(cx, clock, value),
        _ => value,
    };
    let was = timer.set(value, interval, is_absolute);
    if old != 0 {
        user::write_obj(&cx.task, old, &ItimerSpec::from(was))?;
    }
    Ok(0)
}

fn timer_gettime(cx: &mut Ctx<'_>, id: i32, out: u64) -> Result<u64> {
    let timer = cx.task.process.timers.get(id)?;
    user::write_obj(&cx.task, out, &ItimerSpec::from(timer.get()))?;
    Ok(0)
}

fn timer_getoverrun(cx: &mut Ctx<'_>, id: i32) -> Result<u64> {
    Ok(cx.task.process.timers.get(id)?.overrun() as u64)
}

fn timer_delete(cx: &mut Ctx<'_>, id: i32) -> Result<u64> {
    cx.task.process.timers.delete(id)?;
    Ok(0)
}

/// `struct timex`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Timex {
    modes: u32,
    pad0: u32,
    offset: i64,
    freq: i64,
    maxerror: i64,
    esterror: i64,
    status: i32,
    pad1: u32,
    constant: i64,
    precision: i64,
    tolerance: i64,
    time: Timeval,
    tick: i64,
    ppsfreq: i64,
    jitter: i64,
    shift: i32,
    pad2: u32,
    stabil: i64,
    jitcnt: i64,
    calcnt: i64,
    errcnt: i64,
    stbcnt: i64,
    tai: i32,
    pad3: [u32; 11],
}

const _: () = assert!(size_of::<Timex>() == 208);

fn adjtimex(cx: &mut Ctx<'_>, buf: u64) -> Result<u64> {
    clock_adjtime(cx, libc::CLOCK_REALTIME, buf)
}

/// The state of an undisciplined clock (adjtimex(2)). Changing it is refused: the host's clock is what the
/// guest sees, and the host keeps it.
fn clock_adjtime(cx: &mut Ctx<'_>, id: i32, buf: u64) -> Result<u64> {
    const ADJ_OFFSET_SS_READ: u32 = 0xa001;
    const STA_UNSYNC: i32 = 0x40;
    const STA_NANO: i32 = 0x2000;
    const TIME_ERROR: u64 = 5;
    const NTP_PHASE_LIMIT: i64 = 16_000_000;
    let mut t: Timex = user::read_obj(&cx.task, buf)?;
    clock_id(cx, id)?;
    if id != libc::CLOCK_REALTIME {
        return Err(EOPNOTSUPP);
    }
    if t.modes != 0 && t.modes != ADJ_OFFSET_SS_READ {
        return Err(EPERM);
    }
    t.offset = 0;
    t.freq = 0;
    t.maxerror = NTP_PHASE_LIMIT;
    t.esterror = NTP_PHASE_LIMIT;
    t.status = STA_UNSYNC | STA_NANO;
    t.constant = 2;
    t.precision = 1;
    t.tolerance = 500 << 16;
    let now = cx.task.kernel().time.realtime();
    t.time = Timeval { sec: now.as_secs() as i64, usec: i64::from(now.subsec_nanos()) };
    t.tick = 10_000;
    (t.ppsfreq, t.jitter, t.shift, t.stabil) = (0, 0, 0, 0);
    (t.jitcnt, t.calcnt, t.errcnt, t.stbcnt, t.tai) = (0, 0, 0, 0, 0);
    user::write_obj(&cx.task, buf, &t)?;
    Ok(TIME_ERROR)
}

fn timerfd_create(cx: &mut Ctx<'_>, id: i32, flags: i32) -> Result<u64> {
    if flags & !(libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) != 0 {
        return Err(EINVAL);
    }
    let clock = match id {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM => Clock::Realtime,
        libc::CLOCK_MONOTONIC => Clock::Monotonic,
        libc::CLOCK_BOOTTIME | libc::CLOCK_BOOTTIME_ALARM => Clock::Boottime,
        _ => return Err(EINVAL),
    };
    if matches!(id, libc::CLOCK_REALTIME_ALARM | libc::CLOCK_BOOTTIME_ALARM) {
        cx.task.require(Cap::WakeAlarm)?;
    }
    let file = TimerFd::open(&cx.task, clock, id, flags);
    Ok(cx.task.install_fd(file, flags & libc::TFD_CLOEXEC != 0)? as u64)
}

fn timerfd_settime(cx: &mut Ctx<'_>, fd: i32, flags: i32, new: u64, old: u64) -> Result<u64> {
    let v: ItimerSpec = user::read_obj(&cx.task, new)?;
    if flags & !(libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(EINVAL);
    }
    let (value, interval) = (v.value.duration()?, v.interval.duration()?);
    let file = cx.task.file(fd)?;
    let timer = TimerFd::of(&file)?;
    let is_absolute = flags & libc::TFD_TIMER_ABSTIME != 0;
    let value = if is_absolute { absolute(cx, timer.clock(), value) } else { value };
    let cancel = flags & libc::TFD_TIMER_CANCEL_ON_SET != 0;
    let was = timer.set(value, interval, is_absolute, cancel);
    if old != 0 {
        user::write_obj(&cx.task, old, &ItimerSpec::from(was))?;
    }
    Ok(0)
}

fn timerfd_gettime(cx: &mut Ctx<'_>, fd: i32, out: u64) -> Result<u64> {
    let file = cx.task.file(fd)?;
    let v = TimerFd::of(&file)?.get();
    user::write_obj(&cx.task, out, &ItimerSpec::from(v))?;
    Ok(0)
}
