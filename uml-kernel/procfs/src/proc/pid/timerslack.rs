//! `/proc/<pid>/timerslack_ns` (prctl(2) PR_SET_TIMERSLACK for others).

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::{Cap, Task};

use super::Target;
use crate::synth::{Text, parse_u64, words};

/// The default, which 0 asks for.
const DEFAULT: u64 = 50_000;

fn target(t: &Target, caller: &Task) -> Result<std::sync::Arc<Task>> {
    let task = t.task()?;
    if task.process.pid != caller.process.pid {
        caller.require(Cap::SysNice)?;
    }
    Ok(task)
}

pub fn show(t: &Target, reader: &Task, out: &mut Text) -> Result<()> {
    writeln!(out, "{}", target(t, reader)?.personal.lock().timer_slack);
    Ok(())
}

pub fn store(t: &Target, writer: &Task, data: &[u8]) -> Result<()> {
    let w = words(data)?;
    let [word] = w[..] else { return Err(EINVAL) };
    let v = parse_u64(word)?;
    target(t, writer)?.personal.lock().timer_slack = if v == 0 { DEFAULT } else { v };
    Ok(())
}
