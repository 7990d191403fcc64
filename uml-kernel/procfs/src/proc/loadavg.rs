//! `/proc/loadavg`.

use uml_abi::Result;
use uml_core::task::{RunState, Task};

use super::fs::Subject;
use crate::synth::Text;

pub fn show(_: &Subject, task: &Task, out: &mut Text) -> Result<()> {
    let kernel = task.kernel();
    let [a, b, c] = kernel.load.averages();
    let tree = kernel.tree.read();
    let running = tree.tasks().filter(|t| t.run_state() == RunState::Running).count();
    let total = tree.task_count();
    let last = task.process.pid_ns.last().unwrap_or_else(|| tree.last_pid());
    writeln!(out, "{a:.2} {b:.2} {c:.2} {running}/{total} {last}");
    Ok(())
}
