//! Time for the stack: the machine's clock, and its timer queue as alarm.

use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use uml_base::{Mutex, Rank};
use uml_core::kernel::Kernel;
use uml_core::time::{Timer, TimerTarget};
use uml_net::stack::Stack;
use uml_net::{Clock, Time};
use uml_netfilter::Netfilter;

static KERNEL: OnceLock<Weak<Kernel>> = OnceLock::new();
static START: OnceLock<Instant> = OnceLock::new();

/// Remembers the machine whose clock stacks follow.
pub(crate) fn install(kernel: &Arc<Kernel>) {
    let _ = KERNEL.set(Arc::downgrade(kernel));
}

fn kernel() -> Option<Arc<Kernel>> {
    KERNEL.get().and_then(Weak::upgrade)
}

/// Where the stack's time begins: a second before its first use, so that no moment is zero.
fn start() -> Instant {
    *START.get_or_init(|| {
        let now = uml_base::clock::now();
        now.checked_sub(Duration::from_secs(1)).unwrap_or(now)
    })
}

struct MachineClock;

impl Clock for MachineClock {
    fn now(&self) -> Time {
        let d = uml_base::clock::now().saturating_duration_since(start());
        Time(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX - 1).max(1))
    }

    fn realtime(&self) -> u64 {
        let d = kernel().map_or(Duration::ZERO, |k| k.time.realtime());
        u64::try_from(d.as_nanos()).unwrap_or(0)
    }

    fn processor(&self) -> u32 {
        kernel().map_or(0, |k| k.current_cpu())
    }
}

/// The stack of a network namespace, its filters, and its alarm.
pub struct NetPart {
    pub stack: Arc<Stack>,
    pub netfilter: Arc<Netfilter>,
    _alarm: Arc<Alarm>,
}

impl Default for NetPart {
    fn default() -> Self {
        let mut seed = [0; 32];
        uml_host::random::fill(&mut seed);
        let stack = Stack::new(Arc::new(MachineClock), seed);
        let alarm = Arc::new(Alarm {
            stack: Arc::downgrade(&stack),
            state: Mutex::new(Rank::LEAF, State { timer: None, at: Time::NEVER }),
        });
        if let Some(k) = kernel() {
            let target: Weak<dyn TimerTarget> =
                Arc::downgrade(&(alarm.clone() as Arc<dyn TimerTarget>));
            alarm.state.lock().timer = Some(k.time.timer(target));
        }
        let weak = Arc::downgrade(&alarm);
        stack.timers.set_alarm(Box::new(move |at| {
            if let Some(a) = weak.upgrade() {
                a.nearer(at);
            }
        }));
        crate::rtnetlink::watch(&stack);
        crate::sock_diag::watch(&stack);
        NetPart { stack, netfilter: Netfilter::new(), _alarm: alarm }
    }
}

impl Drop for NetPart {
    fn drop(&mut self) {
        // What stands for something of the host goes back to the first namespace.
        let Some(k) = kernel() else { return };
        let home = k.namespaces.net.parts.get::<NetPart>().stack.clone();
        if !Arc::ptr_eq(&home, &self.stack) {
            self.stack.end(Some(home));
        }
    }
}

struct State {
    timer: Option<Timer>,
    at: Time,
}

struct Alarm {
    stack: Weak<Stack>,
    state: Mutex<State>,
}

impl Alarm {
    fn nearer(&self, at: Time) {
        let mut s = self.state.lock();
        if at < s.at {
            s.at = at;
            if let Some(t) = &s.timer {
                t.set(start().checked_add(Duration::from_nanos(at.0)));
            }
        }
    }
}

impl TimerTarget for Alarm {
    fn expired(&self) {
        self.state.lock().at = Time::NEVER;
        if let Some(stack) = self.stack.upgrade()
            && let Some(next) = stack.run_timers()
        {
            self.nearer(next);
        }
    }
}
