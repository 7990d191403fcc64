//! `/proc/cpuinfo`. The identity is that of User Mode Linux, by which `systemd-detect-virt` and others know
//! where they run; the features are the host processor's, which guest programs run on directly.

use uml_abi::Result;
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::Text;

pub fn show(_: &Subject, task: &Task, out: &mut Text) -> Result<()> {
    let host = uml_host::procinfo::cpuinfo();
    let uname = uml_host::procinfo::uname().join(" ");
    let field = |name: &str, default: &'static str| -> String {
        host.get(name).cloned().unwrap_or_else(|| default.to_string())
    };
    let ncpus = task.kernel().ncpus;
    for cpu in 0..ncpus {
        writeln!(out, "processor\t: {cpu}");
        writeln!(out, "vendor_id\t: User Mode Linux");
        writeln!(out, "model name\t: UML");
        writeln!(out, "mode\t\t: skas");
        if let Some(mhz) = host.get("cpu MHz") {
            writeln!(out, "cpu MHz\t\t: {mhz}");
        }
        writeln!(out, "host\t\t: {uname}");
        writeln!(out, "physical id\t: 0");
        writeln!(out, "siblings\t: {ncpus}");
        writeln!(out, "core id\t\t: {cpu}");
        writeln!(out, "cpu cores\t: {ncpus}");
        writeln!(out, "fpu\t\t: {}", field("fpu", "yes"));
        writeln!(out, "flags\t\t: {}", field("flags", ""));
        writeln!(out, "cache_alignment\t: {}", field("cache_alignment", "64"));
        writeln!(out, "bogomips\t: {}", field("bogomips", "0.00"));
        out.raw(b"\n");
    }
    Ok(())
}
