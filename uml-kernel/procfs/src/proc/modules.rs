//! `/proc/modules`: the kernel has none; tools want the file.

use uml_abi::Result;
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::Text;

pub fn show(_: &Subject, _: &Task, _: &mut Text) -> Result<()> {
    Ok(())
}
