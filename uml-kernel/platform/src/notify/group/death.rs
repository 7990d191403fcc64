//! The end of host threads, interruptions, and who is late to come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uml_abi::Result;

use super::{Ctx, Ended, Group, Run, State};
use crate::api::{Kick, Stance};
use crate::notify::serve::{First, serve_and_work};
use crate::process::HostProcess;
use crate::seccomp::stopped;
use crate::seccomp::zygote::INTERRUPT;
use crate::sys;
use crate::watch::{Interrupted, Overdue};

impl Group {
    /// The context's host thread is gone. With `report`, a worker tells its runner when no
    /// worker is serving it.
    pub fn died(self: &Arc<Group>, cx: &Arc<Ctx>, report: bool) {
        let mut wait_for_talker = false;
        let mut tell = false;
        {
            let mut st = self.lock();
            let st = &mut *st;
            let Some(m) = st.members.get_mut(&cx.tid).filter(|m| Arc::ptr_eq(&m.cx, cx)) else {
                return;
            };
            match &m.run {
                Run::Served => {}
                Run::Running | Run::Last(_) => {
                    m.run = Run::Served;
                    st.unserved -= 1;
                    tell = report;
                }
                Run::Leaving(_) => {
                    st.members.remove(&cx.tid);
                    st.unserved -= 1;
                }
                Run::Talk(t) => {
                    wait_for_talker = t.receiving;
                    m.ended = Some(Ended::Died);
                    m.run = Run::Served;
                    st.unserved -= 1;
                    cx.wake.notify_one();
                }
            }
        }
        if tell {
            let cx = cx.clone();
            self.machine.pool.run(Box::new(move || serve_and_work(cx, First::Died)));
        }
        if report && wait_for_talker {
            self.wake_until(|st| match st.members.get(&cx.tid) {
                Some(m) if m.ended.is_some() => st.talker,
                _ => None,
            });
        }
    }

    /// Makes receivers that have nothing left to receive leave.
    pub fn shed(&self) {
        self.wake_until(
            |st| if st.receivers > st.unserved { st.tids.last().copied() } else { None },
        );
    }

    /// Signals the thread that `who` names until it names none. The signal can hit between
    /// a thread's check and its host call, hence the repetition.
    fn wake_until(&self, who: impl Fn(&State) -> Option<i32>) {
        let pid = sys::getpid();
        loop {
            let Some(tid) = who(&self.lock()) else { return };
            if sys::tgkill(pid, tid, sys::wake_signal()).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn kick(&self, cx: &Ctx) {
        let mut st = self.lock();
        if let Some(m) = st.members.get_mut(&cx.tid).filter(|m| std::ptr::eq(&*m.cx, cx)) {
            match m.run {
                Run::Running | Run::Last(_) => {
                    sys::tgkill(cx.space.process.raw_pid(), cx.tid, INTERRUPT).ok();
                    m.signalled.get_or_insert_with(Instant::now);
                    self.machine.watch.arm();
                }
                Run::Served | Run::Talk(_) => m.kick = true,
                Run::Leaving(_) => {}
            }
        }
    }

    /// Threads that were sent an interruption, or asked for registers, before `since` and
    /// have not come.
    pub fn overdue(&self, since: Instant) -> Overdue {
        let st = self.lock();
        let waiting = st.members.values().filter(|m| m.signalled.is_some());
        let late = waiting.clone().filter(|m| m.signalled.is_some_and(|t| t < since));
        (waiting.count() > 0, late.map(|m| -> Arc<dyn Interrupted> { m.cx.clone() }).collect())
    }

    /// Whether a worker has the context, and no conversation with its thread.
    fn is_served(&self, cx: &Ctx) -> bool {
        let st = self.lock();
        let member = st.members.get(&cx.tid).filter(|m| std::ptr::eq(&*m.cx, cx));
        member.is_some_and(|m| matches!(m.run, Run::Served))
    }

    fn is_member(&self, cx: &Ctx) -> bool {
        self.lock().members.get(&cx.tid).is_some_and(|m| std::ptr::eq(&*m.cx, cx))
    }
}

impl Interrupted for Ctx {
    fn process(&self) -> &HostProcess {
        &self.space.process
    }

    fn tid(&self) -> i32 {
        self.tid
    }
}

impl Kick for Ctx {
    fn kick(&self) {
        self.space.group.kick(self);
    }

    fn host_tid(&self) -> i32 {
        if self.space.group.is_member(self) && !self.space.process.is_gone() { self.tid } else { 0 }
    }

    fn confine(&self, cpus: &[usize]) -> Result<()> {
        match self.host_tid() {
            0 => Ok(()),
            tid => sys::set_affinity_of(tid, cpus),
        }
    }

    fn stance(&self) -> Stance {
        if !self.space.group.is_served(self) {
            return Stance::Running;
        }
        if self.stand.in_call() {
            return Stance::InHostCall;
        }
        let base = &self.space.group.machine.base;
        let place = base.place(&self.slot, self.slot_addr);
        stopped::glance(place, base.xstate_size()).map_or(Stance::Running, Stance::Stopped)
    }
}
