//! `/proc/cgroups` (cgroups(7)): the controllers, all in the unified hierarchy.

use uml_abi::Result;
use uml_core::cgroup::CONTROLLERS;
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::Text;

pub fn show(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    let groups = s.kernel.upgrade().map_or(1, |k| k.cgroups.root().subtree().len());
    out.raw(b"#subsys_name\thierarchy\tnum_cgroups\tenabled\n");
    for (name, _) in CONTROLLERS {
        // The io controller goes by its old name here.
        let name = if name == "io" { "blkio" } else { name };
        writeln!(out, "{name}\t0\t{groups}\t1");
    }
    Ok(())
}
