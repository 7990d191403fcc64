//! `/proc/<pid>/wchan`: what the task sleeps for; `0` when it does not sleep.

use uml_abi::Result;
use uml_core::task::Task;

use super::Target;
use crate::synth::Text;

pub fn show(t: &Target, reader: &Task, out: &mut Text) -> Result<()> {
    // As on Linux, those who may not look get the answer of a task that runs.
    match t.inspect(reader) {
        Ok(task) if !task.wchan().is_empty() => out.raw(task.wchan().as_bytes()),
        _ => {
            t.task()?;
            out.raw(b"0");
        }
    }
    Ok(())
}
