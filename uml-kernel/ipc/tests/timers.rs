//! timerfd_create(2), timer_create(2) and setitimer(2).

mod common;

use std::time::Duration;

use common::{kernel, read, task};
use uml_abi::errno::*;
use uml_base::Events;
use uml_core::signal::{SI_TIMER, SigFields, bit};
use uml_core::task::{Task, WaitKind};
use uml_core::time::Clock;
use uml_core::time::itimer::{IntervalTimer, Which};
use uml_core::time::posix::{Notify, PosixTimer, TimerClock};
use uml_ipc::timerfd::TimerFd;

const MS: Duration = Duration::from_millis(1);

fn wait_signal(t: &Task, set: u64) -> uml_core::signal::SigInfo {
    let got = || t.dequeue_signal(set);
    let r = t.wait(&t.process.signal_wait, Events::ALL, WaitKind::Killable, None, "sigwait", got);
    r.unwrap().unwrap()
}

#[test]
fn a_timerfd_counts_expirations() {
    let k = kernel();
    let t = task(&k);
    let f = TimerFd::open(&t, Clock::Monotonic, libc::CLOCK_MONOTONIC, 0);
    let timer = TimerFd::of(&f).unwrap();
    assert_eq!(timer.get(), (Duration::ZERO, Duration::ZERO));
    let start = k.time.monotonic();
    timer.set(3 * MS, Duration::ZERO, false, false);
    assert_eq!(f.ops.poll(None), Events::NONE);
    assert_eq!(read(&t, &f, 8), Ok(1u64.to_le_bytes().to_vec()));
    assert!(k.time.monotonic() - start >= 3 * MS);
    assert_eq!(timer.get().0, Duration::ZERO);
    // Periodic and absolute, begun in the past: the missed periods are counted.
    let now = k.time.monotonic();
    let begin = now.saturating_sub(Duration::from_nanos(1)).max(Duration::from_nanos(1));
    timer.set(begin, MS, true, false);
    let mut total = 0u64;
    while total < 5 {
        let b = read(&t, &f, 8).unwrap();
        total += u64::from_le_bytes(b.try_into().unwrap());
    }
    assert!(k.time.monotonic() - begin >= 4 * MS);
    timer.set(Duration::ZERO, Duration::ZERO, false, false);
    f.set_flags(libc::O_NONBLOCK as u32).unwrap();
    assert_eq!(read(&t, &f, 8), Err(EAGAIN));
    assert_eq!(read(&t, &f, 4), Err(EINVAL));
}

#[test]
fn setting_the_clock_moves_and_cancels_timers() {
    let k = kernel();
    let t = task(&k);
    let hour = Duration::from_secs(3600);
    let follow = TimerFd::open(&t, Clock::Realtime, libc::CLOCK_REALTIME, libc::TFD_NONBLOCK);
    let cancel = TimerFd::open(&t, Clock::Realtime, libc::CLOCK_REALTIME, libc::TFD_NONBLOCK);
    let at = k.time.realtime() + hour;
    TimerFd::of(&follow).unwrap().set(at, Duration::ZERO, true, false);
    TimerFd::of(&cancel).unwrap().set(at, Duration::ZERO, true, true);
    let before = k.time.monotonic();
    k.time.set_realtime(at + MS);
    assert!(k.time.realtime() >= at + MS);
    assert!(k.time.monotonic() - before < hour);
    assert_eq!(cancel.ops.poll(None), Events::READABLE);
    assert_eq!(read(&t, &cancel, 8), Err(ECANCELED));
    follow.set_flags(0).unwrap();
    assert_eq!(read(&t, &follow, 8), Ok(1u64.to_le_bytes().to_vec()));
}

#[test]
fn a_posix_timer_signals_with_its_overrun() {
    let k = kernel();
    let t = task(&k);
    let usr1 = bit(libc::SIGUSR1);
    t.set_blocked(usr1);
    let wall = TimerClock::Wall(Clock::Monotonic);
    let timer = PosixTimer::create(&t, wall, Some(Notify::Signal(libc::SIGUSR1, 77))).unwrap();
    timer.set(MS, Duration::ZERO, false);
    let info = wait_signal(&t, usr1);
    assert_eq!(info.code, SI_TIMER);
    assert_eq!(info.fields, SigFields::Timer { id: timer.id, overrun: 0, value: 77 });
    assert_eq!(timer.get().0, Duration::ZERO);
    // Periodic: while the signal is not taken, expirations add up.
    timer.set(MS, MS, false);
    let until = k.time.monotonic() + 10 * MS;
    let deadline = k.time.instant_of(Clock::Monotonic, until);
    t.sleep(WaitKind::Killable, deadline, "test", || None::<()>).unwrap();
    let SigFields::Timer { overrun, .. } = wait_signal(&t, usr1).fields else { panic!() };
    assert!(overrun >= 8, "{overrun}");
    assert_eq!(timer.overrun(), overrun);
    wait_signal(&t, usr1);
    t.process.timers.delete(timer.id).unwrap();
    assert!(matches!(t.process.timers.get(timer.id), Err(EINVAL)));
}

#[test]
fn an_interval_timer_repeats() {
    let k = kernel();
    let t = task(&k);
    let alrm = bit(libc::SIGALRM);
    t.set_blocked(alrm);
    let timer = IntervalTimer::of(&t.process, &k, Which::Real);
    assert_eq!(timer.set(2 * MS, 2 * MS), (Duration::ZERO, Duration::ZERO));
    let start = k.time.monotonic();
    for _ in 0..3 {
        wait_signal(&t, alrm);
    }
    assert!(k.time.monotonic() - start >= 5 * MS);
    let (left, interval) = timer.set(Duration::ZERO, Duration::ZERO);
    assert!(!left.is_zero() && interval == 2 * MS);
    assert_eq!(timer.get().0, Duration::ZERO);
}
