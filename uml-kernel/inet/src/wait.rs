//! Sleeping for sockets.

use std::sync::Arc;
use std::time::Instant;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, WaitQueue};
use uml_core::signal::Restart;
use uml_core::task::{Task, WaitKind};

/// Sleeps until `ready`, or `EAGAIN` when the time is up. A wait with a limit (SO_RCVTIMEO,
/// SO_SNDTIMEO) is never restarted (signal(7)).
pub(crate) fn until(
    task: &Task,
    queue: &Arc<WaitQueue>,
    mask: Events,
    deadline: Option<Instant>,
    reason: &'static str,
    mut ready: impl FnMut() -> bool,
) -> Result<()> {
    if deadline.is_some() {
        task.restart.set(Restart::Never);
    }
    let cond = || ready().then_some(());
    task.wait(queue, mask, WaitKind::Interruptible, deadline, reason, cond)?.ok_or(EAGAIN)
}
