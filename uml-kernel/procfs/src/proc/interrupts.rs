//! `/proc/interrupts`.

use uml_abi::Result;
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::Text;

pub fn show(s: &Subject, task: &Task, out: &mut Text) -> Result<()> {
    let ncpus = task.kernel().ncpus;
    out.raw(b"           ");
    for cpu in 0..ncpus {
        write!(out, "CPU{cpu:<8}");
    }
    out.raw(b"\n");
    for i in s.sources.interrupts() {
        write!(out, "{:3}: ", i.number);
        for cpu in 0..ncpus {
            // Devices are served by host threads, not by CPUs: everything is counted on the first.
            write!(out, "{:10} ", if cpu == 0 { i.count } else { 0 });
        }
        writeln!(out, " {:>8}  {}", i.handler, i.names);
    }
    Ok(())
}
