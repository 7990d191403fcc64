//! `/proc/<pid>/environ`: the initial environment, each variable ended by NUL.

use uml_abi::Result;
use uml_core::task::Task;

use super::{Target, memory};
use crate::synth::Text;

pub fn show(t: &Target, reader: &Task, out: &mut Text) -> Result<()> {
    if let Some(mm) = t.inspect_mm(reader)? {
        let l = mm.map().layout;
        out.raw(&memory::range(&mm, l.env_start, l.env_end));
    }
    Ok(())
}
