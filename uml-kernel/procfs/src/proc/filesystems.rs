//! `/proc/filesystems`: what mount(2) knows.

use uml_abi::Result;
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::Text;

pub fn show(_: &Subject, task: &Task, out: &mut Text) -> Result<()> {
    for f in task.kernel().vfs.registry.fs_list() {
        writeln!(out, "{}\t{}", if f.nodev() { "nodev" } else { "" }, f.name());
    }
    Ok(())
}
