//! Serving: from an event to whatever follows from it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};

use uml_stub::cmd;

use super::context::{At, Cx};
use super::group::{Ctx, Onward, Resumed, work};
use super::park;
use crate::api::{Event, Next, Runner};
use crate::hostcall::{Call, put_calls};
use crate::pool::panic_message;
use crate::seccomp::notif::{Answer, Notif};
use crate::seccomp::stopped::{ENOSYS, Outcome};

/// Why a worker starts to serve a context.
pub enum First {
    Notified(Notif),
    /// It stopped in the handler at this event, with its frame in place, and was kicked
    /// before it ran.
    Kicked(u64),
    Died,
}

/// Serves one event of a context, and whatever follows from it without the guest running.
/// Says where the worker goes next.
pub fn serve(cx: Arc<Ctx>, first: First) -> Onward {
    let runner = cx.runner.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Some(runner) = runner else { return Onward::Park };
    park::serving(Some(&cx));
    let mut runner = Some(runner);
    let mut switched = false;
    let mut c = Cx::new(cx);
    let mut event = match first {
        First::Notified(n) => c.classify(n),
        First::Kicked(id) if c.reload(id).is_ok() => Event::Interrupted,
        First::Kicked(_) | First::Died => Event::Died,
    };
    loop {
        let Some(r) = runner.take().or_else(|| c.runner()) else { return Onward::Park };
        let next = catch_unwind(AssertUnwindSafe(|| r.on_event(&mut c, event)));
        let next = match next {
            Ok(next) => next,
            Err(payload) => {
                c.cx.space.group.machine.report_panic(panic_message(&*payload));
                c.cx.space.process.kill();
                if event == Event::Died {
                    Next::Exit
                } else {
                    c.set_at(At::Gone);
                    event = Event::Died;
                    continue;
                }
            }
        };
        match next {
            Next::Resume if event != Event::Died => {}
            Next::Switch(new) if event != Event::Died => {
                let Ok(new) = new.into_any().downcast::<Cx>() else {
                    c.cx.space
                        .group
                        .machine
                        .report_panic("switch to a context of another platform");
                    c.finish();
                    return Onward::Park;
                };
                let runner = c.runner();
                c.finish();
                let Some(runner) = runner else { return Onward::Park };
                c = *new;
                switched = true;
                park::serving(Some(&c.cx));
                c.attach(&runner);
            }
            _ => {
                c.finish();
                return Onward::Park;
            }
        }
        match c.resume(true) {
            Resumed::Running(Onward::Same) if switched => {
                return Onward::Other(c.cx.space.group.clone());
            }
            Resumed::Running(onward) => return onward,
            Resumed::Kicked => {
                c.state.call = None;
                event = Event::Interrupted;
            }
            Resumed::Dead => event = Event::Died,
        }
    }
}

/// Serves one event and goes on from there.
pub fn serve_and_work(cx: Arc<Ctx>, first: First) {
    let group = cx.space.group.clone();
    match serve(cx, first) {
        Onward::Same => work(group, true),
        Onward::Other(new) => work(new, true),
        Onward::Park => park::serving(None),
    }
}

/// After a resume by somebody who is not a worker: hands what is left to do to one.
pub fn run_again(cx: &Arc<Ctx>, resumed: Resumed, kicked: First) {
    let first = match resumed {
        Resumed::Running(_) => return,
        Resumed::Kicked => kicked,
        Resumed::Dead => First::Died,
    };
    let c = cx.clone();
    cx.space.group.machine.pool.run(Box::new(move || serve_and_work(c, first)));
}

/// Starts a context made ahead ([`crate::api::Platform::start`]).
pub fn start(mut c: Box<Cx>, runner: Arc<dyn Runner>) {
    c.attach(&runner);
    let resumed = c.resume(false);
    let kicked = match c.at {
        At::Handler(id) => First::Kicked(id),
        _ => First::Died,
    };
    run_again(&c.cx, resumed, kicked);
}

impl Cx {
    fn runner(&self) -> Option<Arc<dyn Runner>> {
        self.cx.runner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn attach(&mut self, runner: &Arc<dyn Runner>) {
        self.unstarted = false;
        *self.cx.runner.lock().unwrap_or_else(PoisonError::into_inner) = Some(runner.clone());
        runner.attached(self.cx.clone());
    }

    /// Resumes the guest, or finds out why that is not to be.
    fn resume(&mut self, worker: bool) -> Resumed {
        loop {
            let Some((id, answer, last)) = self.prepare_resume() else {
                self.set_at(At::Gone);
                return Resumed::Dead;
            };
            match self.cx.space.group.resume(&self.cx, id, answer, last, worker) {
                // The host makes the call with the interruption pending.
                Resumed::Kicked if answer == Answer::Continue || last.is_some() => {
                    self.interrupt();
                }
                Resumed::Dead => {
                    self.set_at(At::Gone);
                    return Resumed::Dead;
                }
                done => return done,
            }
        }
    }

    /// Puts everything in place for the guest to continue; returns its event, the answer to it, and the
    /// call the thread is then going to make.
    fn prepare_resume(&mut self) -> Option<(u64, Answer, Option<Call>)> {
        self.sync();
        match (self.at, self.state.outcome) {
            (At::Gone, _) => return None,
            (At::Call(n), Outcome::Pass) => return Some((n.id, Answer::Continue, None)),
            (At::Call(n), Outcome::Value(v)) => return Some((n.id, Answer::Value(v), None)),
            // The kernel above forgot to say; the call does not exist for the guest then.
            (At::Call(n), _) => {
                self.state.outcome = Outcome::Value(ENOSYS);
                return Some((n.id, Answer::Value(ENOSYS), None));
            }
            (At::Handler(_), Outcome::Pass) => {
                let c = self.state.call.map(|c| Call::new(c.nr as i64, c.args))?;
                let (_, result) = self.run_calls(vec![c]).ok()?;
                self.state.outcome = Outcome::Value(result);
            }
            (At::Handler(_), _) => {}
        }
        let p = self.cx.space.group.machine.base.place(&self.cx.slot, self.cx.slot_addr);
        self.state.store(p);
        let At::Handler(id) = self.at else { return None };
        match self.last {
            None => Some((id, Answer::Value(cmd::RESUME as i64), None)),
            Some(call) if self.proposed == Some(call) => Some((id, Answer::Continue, None)),
            Some(call) => {
                put_calls(&self.cx.slot, &[call]);
                Some((id, Answer::Value(cmd::LAST as i64), Some(call)))
            }
        }
    }

    /// Ends the context.
    pub fn finish(&mut self) {
        self.sync();
        self.unstarted = false;
        let cx = self.cx.clone();
        let group = &cx.space.group;
        *cx.runner.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if cx.space.leave() {
            group.remove(&cx);
            cx.space.process.kill();
            return;
        }
        // The host knows the address space by its first thread: that one stays in its last call until
        // the process ends.
        if cx.tid == cx.space.process.raw_pid() {
            group.remove(&cx);
            return;
        }
        // The others of the space may go on for long, also after an execve(2) or the death of this one
        // (vfork(2)), so its host thread ends now.
        if let At::Call(n) = self.at
            && self.state.exiting()
        {
            group.remove(&cx);
            cx.space.slots().release(cx.position, cx.slot.clone());
            group.listener.send(n.id, Answer::Continue).ok();
            return;
        }
        self.last = None;
        match self.enter_handler() {
            Ok(id) => {
                let exit = Call::new(libc::SYS_exit, [0; 6]);
                put_calls(&cx.slot, &[exit]);
                group.leave(&cx, id, Answer::Value(1), exit);
            }
            Err(_) => group.remove(&cx),
        }
    }
}
