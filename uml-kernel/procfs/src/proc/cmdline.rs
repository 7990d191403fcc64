//! `/proc/cmdline`: the kernel command line.

use uml_abi::Result;
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::Text;

pub fn show(_: &Subject, task: &Task, out: &mut Text) -> Result<()> {
    let line = task.kernel().command_line.lock().clone();
    writeln!(out, "{line}");
    Ok(())
}
