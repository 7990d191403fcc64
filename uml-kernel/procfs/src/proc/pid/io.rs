//! `/proc/<pid>/io` (proc_pid_io(5)).

use uml_abi::Result;
use uml_core::task::{IoCount, Task};

use super::Target;
use crate::synth::Text;

pub fn show(t: &Target, reader: &Task, out: &mut Text) -> Result<()> {
    let task = t.inspect(reader)?;
    let sum = IoCount::default();
    if t.is_thread() {
        sum.add(&task.io);
    } else {
        sum.add(&task.process.dead_io);
        for th in t.threads()? {
            sum.add(&th.io);
        }
    }
    let [rchar, wchar, syscr, syscw] = sum.get();
    writeln!(out, "rchar: {rchar}\nwchar: {wchar}\nsyscr: {syscr}\nsyscw: {syscw}");
    // Storage is read and written by page caches, which do not know for whom.
    writeln!(out, "read_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0");
    Ok(())
}
