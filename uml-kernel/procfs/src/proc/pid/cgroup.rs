//! `/proc/<pid>/cgroup` (cgroups(7)).

use uml_abi::Result;
use uml_core::task::Task;

use super::Target;
use crate::synth::Text;

pub fn show(t: &Target, reader: &Task, out: &mut Text) -> Result<()> {
    let task = t.task()?;
    let group = t.kernel()?.cgroups.of_task(&task);
    out.raw(b"0::");
    out.raw(&group.path_from(&reader.ns().cgroup.root));
    out.raw(if group.is_removed() { b" (deleted)\n" } else { b"\n" });
    Ok(())
}
