//! `/proc/uptime`: seconds since boot, and seconds all CPUs together were idle.

use uml_abi::Result;
use uml_core::task::Task;
use uml_core::time::Clock;

use super::fs::Subject;
use crate::synth::Text;

pub fn show(_: &Subject, task: &Task, out: &mut Text) -> Result<()> {
    let kernel = task.kernel();
    let machine = kernel.uptime();
    let up = task.ns().time.shown(Clock::Boottime, machine).as_nanos() as u64;
    let u = kernel.total_usage();
    let idle =
        (machine.as_nanos() as u64 * kernel.ncpus as u64).saturating_sub(u.user_ns + u.system_ns);
    let secs = |ns: u64| (ns / 1_000_000_000, ns / 10_000_000 % 100);
    let ((a, b), (c, d)) = (secs(up), secs(idle));
    writeln!(out, "{a}.{b:02} {c}.{d:02}");
    Ok(())
}
