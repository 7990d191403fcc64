//! Contexts that keep one worker from their start to their end (trap, ptrace).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use uml_abi::Result;

use crate::api::{Context, Event, Next, Runner};
use crate::pool::{Pool, panic_message};
use crate::seat::Seat;

/// What came of a resume.
pub enum Resumed {
    Running,
    /// A kick came since the last event; the context is still stopped.
    Kicked,
    Dead,
}

pub trait Paired: Context + Sized + 'static {
    fn pool(&self) -> &Arc<Pool>;

    /// Where the guest thread and its worker run.
    fn seat(&self) -> &Arc<Seat>;

    /// Notes that the context is started: it does not end with the value any more.
    fn keep(&mut self);

    /// On the worker: makes the guest thread ready to be resumed.
    fn begin(&mut self) -> Result<()>;

    fn resume(&mut self) -> Resumed;

    /// Waits for what the guest does next.
    fn next_event(&mut self) -> Event;

    /// The resume did not happen for a kick; there is no pending call any more.
    fn interrupted(&mut self);

    /// Ends the context.
    fn finish(&mut self);

    /// Kills the host process.
    fn kill(&self);

    fn report_panic(&self, message: &str);
}

/// Gives a context a worker, which starts it.
pub fn start<C: Paired>(mut c: C, runner: Arc<dyn Runner>) {
    c.keep();
    runner.attached(c.kick_handle());
    let pool = c.pool().clone();
    pool.run_here(Box::new(move || {
        c.seat().take_worker();
        let first = c.begin().err().map(|_| Event::Died);
        run(c, runner, first);
    }));
}

/// Serves the context to its end; without an event, it is resumed first.
fn run<C: Paired>(mut c: C, runner: Arc<dyn Runner>, mut event: Option<Event>) {
    loop {
        if let Some(e) = event {
            match handle(&mut c, &runner, e) {
                Next::Resume if e != Event::Died => {}
                Next::Switch(new) if e != Event::Died => {
                    let Ok(new) = new.into_any().downcast::<C>() else {
                        c.report_panic("switch to a context of another platform");
                        c.finish();
                        return;
                    };
                    c.finish();
                    c = *new;
                    c.keep();
                    c.seat().take_worker();
                    runner.attached(c.kick_handle());
                    if c.begin().is_err() {
                        event = Some(Event::Died);
                        continue;
                    }
                }
                _ => {
                    c.finish();
                    return;
                }
            }
        }
        event = Some(match c.resume() {
            Resumed::Running => c.next_event(),
            Resumed::Kicked => {
                c.interrupted();
                Event::Interrupted
            }
            Resumed::Dead => Event::Died,
        });
    }
}

/// One event; a panic of the kernel above ends the process.
fn handle<C: Paired>(c: &mut C, runner: &Arc<dyn Runner>, mut event: Event) -> Next {
    loop {
        match catch_unwind(AssertUnwindSafe(|| runner.clone().on_event(c, event))) {
            Ok(_) if event == Event::Died => return Next::Exit,
            Ok(next) => return next,
            Err(payload) => {
                c.report_panic(panic_message(&*payload));
                c.kill();
                if event == Event::Died {
                    return Next::Exit;
                }
                event = Event::Died;
            }
        }
    }
}
