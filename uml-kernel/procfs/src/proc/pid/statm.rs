//! `/proc/<pid>/statm`: sizes in pages (proc_pid_statm(5)).

use uml_abi::Result;
use uml_core::task::Task;

use super::{Target, status};
use crate::synth::Text;

pub fn show(t: &Target, _: &Task, out: &mut Text) -> Result<()> {
    let Ok(mm) = t.task()?.mm() else {
        out.raw(b"0 0 0 0 0 0 0\n");
        return Ok(());
    };
    let s = status::Sizes::of(&mm);
    let host = uml_host::procinfo::statm(mm.space().host_pid()).unwrap_or_default();
    let p = |bytes: u64| bytes / 4096;
    let (size, text, data) = (p(s.total), p(s.exe), p(s.data + s.stack));
    writeln!(out, "{size} {} {} {text} 0 {data} 0", host.resident.min(size), host.shared.min(size));
    Ok(())
}
