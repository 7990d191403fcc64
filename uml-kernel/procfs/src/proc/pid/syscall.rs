//! `/proc/<pid>/syscall`: the system call the task is in, its arguments, stack pointer and program counter.

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::Task;
use uml_core::task::access::{Ids, may_access};
use uml_core::task::standing::Standing;

use super::Target;
use crate::synth::Text;

pub fn show(t: &Target, reader: &Task, out: &mut Text) -> Result<()> {
    let task = t.task()?;
    // Not EACCES, as other files have it.
    if !may_access(reader, &task, Ids::Fs) {
        return Err(EPERM);
    }
    match task.standing(std::ptr::eq(&*task, reader)) {
        Standing::Running => out.raw(b"running\n"),
        Standing::InCall(nr, s) => {
            write!(out, "{nr}");
            for a in s.args {
                write!(out, " {a:#x}");
            }
            writeln!(out, " {:#x} {:#x}", s.sp, s.pc);
        }
        Standing::Outside(s) => writeln!(out, "-1 {:#x} {:#x}", s.sp, s.pc),
    }
    Ok(())
}
