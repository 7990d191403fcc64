//! `/proc/misc`: devices of the misc major.

use uml_abi::Result;
use uml_core::device::Subsystem;
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::Text;

pub fn show(_: &Subject, task: &Task, out: &mut Text) -> Result<()> {
    for d in task.kernel().devices.list() {
        if d.spec.subsystem == Subsystem::Class("misc")
            && let Some((_, dev)) = d.dev()
        {
            writeln!(out, "{:3} {}", dev.minor, d.spec.name);
        }
    }
    Ok(())
}
