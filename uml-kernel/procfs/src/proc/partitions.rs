//! `/proc/partitions`.

use uml_abi::Result;
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::Text;

pub fn show(_: &Subject, task: &Task, out: &mut Text) -> Result<()> {
    let devices = task.kernel().vfs.registry.block_devices();
    if devices.is_empty() {
        return Ok(());
    }
    out.raw(b"major minor  #blocks  name\n\n");
    for d in devices.iter().filter(|d| d.size() != 0) {
        let dev = d.dev();
        writeln!(out, "{:4}  {:7} {:10} {}", dev.major, dev.minor, d.size() >> 10, d.name());
    }
    Ok(())
}
