//! Conversations: a stopped context makes host calls for its worker, or another thread or process.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use uml_abi::{Result, errno};

use super::{Birth, BirthState, Ctx, Ended, Group, Run, State, Taken, Talk};
use crate::hostcall::Call;
use crate::notify::confirm::origin;
use crate::notify::serve::{First, serve_and_work};
use crate::seccomp::notif::{Answer, Notif};
use crate::sys;

/// What a waiter's condition says.
enum Wait<T> {
    Over(T),
    On,
    /// Let the host execute this call, then ask again.
    Continue(u64),
    /// Ask again soon even if nothing happens.
    Briefly,
}

impl Group {
    /// Answers the context's event `id` with `answer` and waits for its next event, while
    /// it makes the calls in `expect`. `EIO`-free: the only error is `ESRCH`, when it died.
    pub fn talk(
        self: &Arc<Group>,
        cx: &Arc<Ctx>,
        id: u64,
        answer: Answer,
        expect: Vec<Call>,
    ) -> Result<Notif> {
        self.talk_around(cx, expect, |g| g.answer(cx, id, answer))
    }

    /// As [`Group::talk`]; `answer` gives the answer to the context's event.
    pub fn talk_around(
        self: &Arc<Group>,
        cx: &Arc<Ctx>,
        expect: Vec<Call>,
        answer: impl FnOnce(&Group) -> Result<()>,
    ) -> Result<Notif> {
        let receiving = self.begin(cx, expect);
        if answer(self).is_err() {
            self.died(cx, false);
        }
        let ended = self.wait(cx, receiving, |st| {
            st.members.get_mut(&cx.tid).and_then(|m| m.ended.take()).map_or(Wait::On, Wait::Over)
        });
        match ended {
            Some(Ended::Event(n)) => Ok(n),
            _ => Err(errno::ESRCH),
        }
    }

    fn begin(&self, cx: &Arc<Ctx>, expect: Vec<Call>) -> bool {
        let mut st = self.lock();
        let st = &mut *st;
        let receiving = st.receivers == 0 && st.talker.is_none();
        if let Some(m) = st.members.get_mut(&cx.tid) {
            m.run = Run::Talk(Talk { expect, next: 0, receiving });
            m.ended = None;
            m.signalled = Some(Instant::now());
            st.unserved += 1;
        }
        self.machine.watch.arm();
        if receiving {
            st.talker = Some(sys::my_tid());
            if let Some(b) = st.birth.as_mut().filter(|b| Arc::ptr_eq(&b.parent, cx)) {
                b.receiving = true;
            }
        }
        receiving
    }

    /// Waits until `ready` yields, as the talker or on the context's condition. `None` when
    /// the context is not a member any more.
    fn wait<T>(
        self: &Arc<Group>,
        cx: &Arc<Ctx>,
        receiving: bool,
        mut ready: impl FnMut(&mut State) -> Wait<T>,
    ) -> Option<T> {
        let mut st = self.lock();
        // No process is left to receive from: what remains is said by the reaper, who needs a CPU for that.
        let mut over = false;
        loop {
            let got = ready(&mut st);
            let gone = !st.members.contains_key(&cx.tid);
            if gone || matches!(got, Wait::Over(_)) {
                let promote = receiving && {
                    st.talker = None;
                    st.wants_receiver()
                };
                drop(st);
                if promote {
                    self.promote();
                }
                return match got {
                    Wait::Over(t) => Some(t),
                    _ => None,
                };
            }
            if let Wait::Continue(id) = got {
                drop(st);
                self.listener.send(id, Answer::Continue).ok();
                st = self.lock();
                continue;
            }
            let every = matches!(got, Wait::Briefly).then_some(Duration::from_millis(50));
            if !receiving || over {
                st = match every {
                    None => cx.wake.wait(st).unwrap_or_else(PoisonError::into_inner),
                    Some(t) => {
                        cx.wake.wait_timeout(st, t).unwrap_or_else(PoisonError::into_inner).0
                    }
                };
                continue;
            }
            drop(st);
            let (waiting, hung) =
                every.map_or((true, false), |t| self.listener.poll(t.as_millis() as i32));
            over = hung && !waiting;
            if waiting {
                match self.listener.recv() {
                    Ok(n) => match self.take(&n, None) {
                        Taken::Serve(other, n) => {
                            let first = First::Notified(n);
                            self.machine.pool.run(Box::new(move || serve_and_work(other, first)));
                        }
                        Taken::Continue => drop(self.listener.send(n.id, Answer::Continue)),
                        Taken::Nothing => {}
                    },
                    Err(e) => over = e != errno::EINTR && self.listener.poll(0).1,
                }
            }
            st = self.lock();
        }
    }

    /// Has the context make a clone call and waits for both its result and the child's
    /// first event. The caller holds `births`. Returns the parent's event and the child's.
    pub fn give_birth(
        self: &Arc<Group>,
        cx: &Arc<Ctx>,
        id: u64,
        command: u64,
        clone: Call,
        child: Vec<Call>,
    ) -> Result<(Notif, Result<Notif>)> {
        let since = self.machine.children.epoch();
        {
            let mut st = self.lock();
            st.birth = Some(Birth {
                parent: cx.clone(),
                receiving: false,
                tid: None,
                held: Vec::new(),
                expect: child,
                next: 0,
                state: BirthState::Pending,
            });
            st.unserved += 1;
        }
        let receiving = self.begin(cx, vec![clone]);
        if self.answer(cx, id, Answer::Value(command as i64)).is_err() {
            self.died(cx, false);
        }
        let mut mine = None;
        let outcome = self.wait(cx, receiving, |st| {
            if mine.is_none() {
                mine = st.members.get_mut(&cx.tid).and_then(|m| m.ended.take());
            }
            let parent = match mine {
                None => return Wait::On,
                Some(Ended::Died) => return Wait::Over(Err(errno::ESRCH)),
                Some(Ended::Event(n)) => n,
            };
            let told = parent.args[2] as i64;
            if told <= 0 {
                return Wait::Over(Ok((
                    parent,
                    Err(uml_abi::Errno::from_raw(told.wrapping_neg() as i32)),
                )));
            }
            let tid = told as i32;
            let State { birth: Some(b), unserved, .. } = st else {
                return Wait::Over(Err(errno::ESRCH));
            };
            if b.tid.is_none() {
                b.tid = Some(tid);
                let mut go = None;
                for n in std::mem::take(&mut b.held) {
                    if n.pid as i32 != tid {
                        sys::kill(n.pid as i32, libc::SIGKILL).ok();
                        continue;
                    }
                    go = b.step(&n, origin(&n, self.code()));
                    if go.is_none() {
                        *unserved -= 1;
                    }
                }
                if let Some(id) = go {
                    return Wait::Continue(id);
                }
            }
            match &b.state {
                BirthState::Ready(n) => Wait::Over(Ok((parent, Ok(*n)))),
                // The child can die unseen before its first call.
                BirthState::Pending
                    if !self.machine.children.is_orphan(tid, since)
                        && !cx.space.process.is_gone() =>
                {
                    Wait::Briefly
                }
                _ => Wait::Over(Ok((parent, Err(errno::EAGAIN)))),
            }
        });
        if let Some(b) = self.end_birth() {
            for n in b.held {
                sys::kill(n.pid as i32, libc::SIGKILL).ok();
            }
        }
        outcome.unwrap_or(Err(errno::ESRCH))
    }

    fn end_birth(&self) -> Option<Birth> {
        let mut st = self.lock();
        let b = st.birth.take()?;
        if matches!(b.state, BirthState::Pending) {
            st.unserved -= 1;
        }
        Some(b)
    }
}
