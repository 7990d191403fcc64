//! `/proc/softirqs`: deferred work runs in host threads here, so the counters stay at zero.

use uml_abi::Result;
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::Text;

const NAMES: [&str; 10] =
    ["HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"];

pub fn show(_: &Subject, task: &Task, out: &mut Text) -> Result<()> {
    let ncpus = task.kernel().ncpus;
    out.raw(b"                    ");
    for cpu in 0..ncpus {
        write!(out, "CPU{cpu:<8}");
    }
    out.raw(b"\n");
    for n in NAMES {
        write!(out, "{n:>12}:");
        for _ in 0..ncpus {
            write!(out, " {:10}", 0);
        }
        out.raw(b"\n");
    }
    Ok(())
}
