//! `/proc/devices`: majors with drivers.

use uml_abi::Result;
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::Text;

pub fn show(_: &Subject, task: &Task, out: &mut Text) -> Result<()> {
    let kernel = task.kernel();
    let reg = &kernel.vfs.registry;
    out.raw(b"Character devices:\n");
    for (major, name) in reg.char_majors() {
        writeln!(out, "{major:3} {name}");
    }
    out.raw(b"\nBlock devices:\n");
    for (major, name) in reg.block_majors() {
        writeln!(out, "{major:3} {name}");
    }
    Ok(())
}
