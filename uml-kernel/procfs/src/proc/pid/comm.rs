//! `/proc/<pid>/comm`: the command name; threads of the same process may set it.

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::Task;

use super::Target;
use crate::synth::Text;

pub fn show(t: &Target, _: &Task, out: &mut Text) -> Result<()> {
    out.raw(&t.task()?.comm());
    out.raw(b"\n");
    Ok(())
}

pub fn store(t: &Target, writer: &Task, data: &[u8]) -> Result<()> {
    let task = t.task()?;
    if task.process.pid != writer.process.pid {
        return Err(EINVAL);
    }
    // A newline stays part of the name, as with prctl(2); what is too long is cut.
    task.set_comm(data);
    Ok(())
}
