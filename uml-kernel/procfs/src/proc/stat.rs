//! `/proc/stat` (proc_stat(5)).

use uml_abi::Result;
use uml_core::task::{RunState, Task};
use uml_core::time::Clock;
use uml_core::vfs::now;

use super::fs::Subject;
use crate::synth::Text;

/// Nanoseconds in a clock tick (USER_HZ is 100).
pub const TICK: u64 = 10_000_000;

pub fn show(s: &Subject, task: &Task, out: &mut Text) -> Result<()> {
    let kernel = task.kernel();
    let usage = kernel.total_usage();
    let uptime = kernel.uptime();
    let n = kernel.ncpus as u64;
    let (user, system) = (usage.user_ns / TICK, usage.system_ns / TICK);
    let all = uptime.as_nanos() as u64 / TICK * n;
    let idle = all.saturating_sub(user + system);
    let mut line = |name: &str, [u, s, i]: [u64; 3]| {
        writeln!(out, "{name} {u} 0 {s} {i} 0 0 0 0 0 0");
    };
    line("cpu ", [user, system, idle]);
    // The host moves threads between its CPUs; the guest's are charged alike.
    for cpu in 0..n {
        let share = |v: u64| v / n + u64::from(cpu < v % n);
        line(&format!("cpu{cpu}"), [user, system, idle].map(share));
    }
    let interrupts = s.sources.interrupts();
    write!(out, "intr {}", interrupts.iter().map(|i| i.count).sum::<u64>());
    let last = interrupts.iter().map(|i| i.number).max();
    for number in 0..=last.unwrap_or(0) {
        let count = interrupts.iter().filter(|i| i.number == number).map(|i| i.count).sum::<u64>();
        write!(out, " {count}");
    }
    let (mut running, mut blocked) = (0, 0);
    for t in kernel.tree.read().tasks() {
        match t.run_state() {
            RunState::Running => running += 1,
            RunState::Blocked => blocked += 1,
            _ => {}
        }
    }
    writeln!(out, "\nctxt {}", usage.nvcsw + usage.nivcsw);
    let shown = task.ns().time.shown(Clock::Boottime, uptime);
    writeln!(out, "btime {}", now().sec - shown.as_secs() as i64);
    writeln!(out, "processes {}", kernel.forks());
    writeln!(out, "procs_running {running}");
    writeln!(out, "procs_blocked {blocked}");
    writeln!(out, "softirq 0 0 0 0 0 0 0 0 0 0 0");
    Ok(())
}
