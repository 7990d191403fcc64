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
    let [rchar, wchar, syscr, syscw, read, written, cancelled] = sum.get();
    writeln!(out, "rchar: {rchar}\nwchar: {wchar}\nsyscr: {syscr}\nsyscw: {syscw}");
    writeln!(out, "read_bytes: {read}\nwrite_bytes: {written}\ncancelled_write_bytes: {cancelled}");
    Ok(())
}
