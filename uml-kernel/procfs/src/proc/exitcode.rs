//! `/proc/exitcode`: exit status of the kernel process.

use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::{Text, parse_i64, words};

pub fn show(_: &Subject, task: &Task, out: &mut Text) -> Result<()> {
    writeln!(out, "{}", task.kernel().exit_code.load(Ordering::Relaxed));
    Ok(())
}

/// A number with a C base prefix; `EINVAL` for anything else.
pub fn store(_: &Subject, task: &Task, data: &[u8]) -> Result<()> {
    let w = words(data)?;
    let [word] = w[..] else { return Err(EINVAL) };
    let v = parse_i64(word).map_err(|_| EINVAL)?;
    let v = i32::try_from(v).map_err(|_| EINVAL)?;
    task.kernel().exit_code.store(v, Ordering::Relaxed);
    Ok(())
}
