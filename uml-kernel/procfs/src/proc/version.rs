//! `/proc/version`.

use uml_abi::Result;
use uml_core::task::Task;
use uml_core::version::{RELEASE, VERSION};

use super::fs::Subject;
use crate::synth::Text;

pub fn show(_: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    writeln!(out, "Linux version {RELEASE} (uml@rust) (rustc) {VERSION}");
    Ok(())
}
