//! `/proc/<pid>/auxv`: the auxiliary vector the program got.

use uml_abi::Result;
use uml_core::task::Task;

use super::Target;
use crate::synth::Text;

pub fn show(t: &Target, reader: &Task, out: &mut Text) -> Result<()> {
    if let Some(mm) = t.inspect_mm(reader)? {
        out.raw(&mm.map().auxv);
    }
    Ok(())
}
