//! `/proc/zoneinfo`: one zone.

use uml_abi::Result;
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::Text;

pub fn show(_: &Subject, task: &Task, out: &mut Text) -> Result<()> {
    let kernel = task.kernel();
    let m = kernel.memory_info();
    let total = m.total / 4096;
    let min = kernel.sysctl.vm_min_free_kbytes.unsigned() / 4;
    writeln!(out, "Node 0, zone {:>8}", "Normal");
    writeln!(out, "  pages free     {}", m.free / 4096);
    writeln!(out, "        boost    0");
    writeln!(out, "        min      {min}");
    writeln!(out, "        low      {}", min + min / 4);
    writeln!(out, "        high     {}", min + min / 2);
    writeln!(out, "        spanned  {total}");
    writeln!(out, "        present  {total}");
    writeln!(out, "        managed  {total}");
    writeln!(out, "        protection: (0, 0)");
    writeln!(out, "  start_pfn:           0");
    Ok(())
}
