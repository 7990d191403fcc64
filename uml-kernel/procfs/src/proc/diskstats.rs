//! `/proc/diskstats`: requests of block devices.

use uml_abi::Result;
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::Text;

pub fn show(_: &Subject, task: &Task, out: &mut Text) -> Result<()> {
    for d in task.kernel().vfs.registry.block_devices() {
        write!(out, "{:4} {:7} {}", d.dev().major, d.dev().minor, d.name());
        for f in d.stats().fields() {
            write!(out, " {f}");
        }
        out.raw(b"\n");
    }
    Ok(())
}
