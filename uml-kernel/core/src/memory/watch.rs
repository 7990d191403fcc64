//! The thread that watches how much memory is in use.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::{anonymous_bound, anonymous_exact, limit, oom};
use crate::kernel::Kernel;
use crate::task::RunState;

/// Bytes per second that programs are expected to touch at most, together.
const RATE: u64 = 4 << 30;
/// Bounds of the time between two samples while tasks run.
const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(1);
/// A sample may take this part of the time.
const SHARE: u32 = 20;

/// It sleeps and wants to be woken when programs could touch more than `QUIET_BELOW` bytes. Like the counters of
/// `uml-mm` one set serves the process.
static PARKED: AtomicBool = AtomicBool::new(false);
static QUIET_BELOW: AtomicU64 = AtomicU64::new(u64::MAX);
static THREAD: Mutex<Option<Thread>> = Mutex::new(None);

/// To be called when address spaces grew or a task goes on after a sleep: costs two loads.
pub fn grown() {
    if uml_mm::commit::touchable() > QUIET_BELOW.load(Ordering::Relaxed)
        && PARKED.load(Ordering::Relaxed)
        && PARKED.swap(false, Ordering::SeqCst)
    {
        let t = THREAD.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(t) = t {
            t.unpark();
        }
    }
}

/// The bound changed: the next sample is made now.
pub(super) fn reconsider() {
    QUIET_BELOW.store(0, Ordering::Relaxed);
    grown();
}

/// Starts watching the memory of `kernel`. The thread ends with the kernel's next event after it is dropped.
pub fn start(kernel: &Arc<Kernel>) -> std::io::Result<()> {
    let kernel = Arc::downgrade(kernel);
    let handle = std::thread::Builder::new().name("kswapd0".into()).spawn(move || run(&kernel))?;
    *THREAD.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle.thread().clone());
    Ok(())
}

fn run(kernel: &Weak<Kernel>) {
    loop {
        let next = match kernel.upgrade() {
            Some(k) => check(&k),
            None => return,
        };
        if let Some(pause) = next {
            std::thread::park_timeout(pause);
            continue;
        }
        PARKED.store(true, Ordering::SeqCst);
        // What grew or woke up before the mark was there is seen here.
        let quiet = kernel.upgrade().is_none_or(|k| is_quiet(&k));
        while quiet && PARKED.load(Ordering::SeqCst) {
            std::thread::park();
        }
        PARKED.store(false, Ordering::SeqCst);
    }
}

fn is_quiet(kernel: &Kernel) -> bool {
    uml_mm::commit::touchable() <= QUIET_BELOW.load(Ordering::Relaxed) || !any_running(kernel)
}

fn any_running(kernel: &Kernel) -> bool {
    kernel.tree.read().tasks().any(|t| t.run_state() == RunState::Running)
}

/// Looks at what is in use and acts on it. When to look again; `None`: not before something grows or runs.
fn check(kernel: &Arc<Kernel>) -> Option<Duration> {
    let began = Instant::now();
    let total = kernel.mem_bytes.saturating_sub(kernel.memory.taken());
    let cached = kernel.memory.cached().cached;
    let enough = total.saturating_sub(cached);
    let limited = kernel.memory.limited.groups();
    QUIET_BELOW.store(enough.min(limit::lowest(&limited)), Ordering::Relaxed);
    if is_quiet(kernel) {
        return None;
    }
    let mut free = limit::check(kernel, &limited);
    if uml_mm::commit::touchable() > enough {
        let mut used = anonymous_bound(kernel).saturating_add(cached);
        if used > total {
            used = relieve(kernel, used);
        }
        free = free.min(total.saturating_sub(used));
    }
    let pause = Duration::from_nanos(free.saturating_mul(1_000_000_000) / RATE);
    Some(pause.clamp(SHORTEST, LONGEST).max(began.elapsed() * SHARE))
}

/// Frees memory; returns how much is in use then.
fn relieve(kernel: &Arc<Kernel>, used: u64) -> u64 {
    let total = kernel.mem_bytes.saturating_sub(kernel.memory.taken());
    let freed = kernel.memory.shrink(used - total + total / 64);
    if used - freed.min(used) <= total {
        return used - freed;
    }
    // Pages that forks share were counted more than once.
    let exact = anonymous_exact(kernel).saturating_add(kernel.memory.cached().cached);
    if exact > total {
        oom::out_of_memory(kernel);
    }
    exact
}
