//! `/proc/<pid>/task/<tid>/children`. Children belong to the process; they are shown for its leader.

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::Task;

use super::Target;
use crate::synth::Text;

pub fn show(t: &Target, _: &Task, out: &mut Text) -> Result<()> {
    let task = t.task()?;
    if !task.is_leader() {
        return Ok(());
    }
    let kernel = t.kernel()?;
    let tree = kernel.tree.read();
    for c in &tree.get(t.pid).ok_or(ESRCH)?.children {
        write!(out, "{} ", t.mnt.pid_ns.show(*c));
    }
    Ok(())
}
