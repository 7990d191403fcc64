//! `/proc/<pid>/stack`: where the task sleeps in the kernel. Only the innermost place has a name here.

use uml_abi::Result;
use uml_core::task::{Cap, Task};

use super::Target;
use crate::synth::Text;

pub fn show(t: &Target, reader: &Task, out: &mut Text) -> Result<()> {
    reader.require(Cap::SysAdmin)?;
    let place = t.inspect(reader)?.wchan();
    if !place.is_empty() {
        writeln!(out, "[<0>] {place}");
    }
    Ok(())
}
