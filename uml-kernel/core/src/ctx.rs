//! A task during one of its events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uml_platform::{Context, Next, Regs, Syscall};

use crate::kernel::Kernel;
use crate::ptrace::Place;
use crate::signal::SigInfo;
use crate::task::Task;

/// How the guest gets the outcome of the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The handler's result goes into the return register.
    Value,
    /// The registers were written as a whole (sigreturn, handler frames).
    Registers,
    /// The host performs the call as the guest made it.
    PassThrough,
}

/// What system-call handlers get: the task and its stopped hardware context.
pub struct Ctx<'a> {
    pub task: Arc<Task>,
    pub(crate) kernel: Arc<Kernel>,
    pub hw: &'a mut dyn Context,
    pub reply: Reply,
    /// Set when the context does not simply go on (exit, execve).
    pub next: Option<Next>,
    /// The system call being made.
    pub(crate) call: Option<Syscall>,
    /// What the tracer left in the last stop: registers it changed, the signal's information, and for the next
    /// event the place it is reported at.
    pub(crate) trace_regs: Option<Regs>,
    pub(crate) trace_info: Option<SigInfo>,
    pub(crate) trace_place: Option<Place>,
    /// When the present call's relative timeout ends: kept while the call starts over after a stop
    /// or an ignored signal, see [`Ctx::deadline_in`].
    deadline: Option<Instant>,
}

impl<'a> Ctx<'a> {
    /// A task with its context.
    pub fn new(task: Arc<Task>, hw: &'a mut dyn Context) -> Ctx<'a> {
        Ctx {
            kernel: task.kernel(),
            task,
            hw,
            reply: Reply::Value,
            next: None,
            call: None,
            trace_regs: None,
            trace_info: None,
            trace_place: None,
            deadline: None,
        }
    }

    /// The moment `timeout` from the start of the call. A call that starts over because a signal
    /// without a handler interrupted it gets the same moment again; one that would lie beyond the
    /// clock's range is never (`None`).
    pub fn deadline_in(&mut self, timeout: Duration) -> Option<Instant> {
        if self.deadline.is_none() {
            self.deadline = uml_base::clock::now().checked_add(timeout);
        }
        self.deadline
    }
}
