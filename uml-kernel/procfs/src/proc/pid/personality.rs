//! `/proc/<pid>/personality`: the execution domain in hexadecimal (personality(2)).

use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_core::task::Task;

use super::Target;
use crate::synth::Text;

pub fn show(t: &Target, reader: &Task, out: &mut Text) -> Result<()> {
    writeln!(out, "{:08x}", t.inspect(reader)?.process.personality.load(Ordering::Relaxed));
    Ok(())
}
