//! `mem`: where the machine's memory is.

use std::fmt::Write;

use crate::describe;
use crate::server::Client;

/// Processes listed.
const TOP: usize = 10;

pub fn run(client: &Client<'_>) {
    let kernel = client.kernel();
    let m = kernel.memory_info();
    let own = uml_host::procinfo::statm(std::process::id() as i32).unwrap_or_default();
    let mut out = String::new();
    let mut line = |name: &str, bytes: u64| {
        // A string takes whatever is written to it.
        let _ = writeln!(out, "{name:<24}{:>12} kB", bytes >> 10);
    };
    line("total", m.total);
    line("free", m.free);
    line("used", m.total.saturating_sub(m.free));
    line("file contents", m.cached.cached);
    line("of these in memory only", m.cached.shmem);
    line("of these to be written", m.cached.dirty);
    line("taken by the operator", kernel.memory.taken());
    line("kernel process", own.resident.saturating_mul(4096));
    let mut processes: Vec<(u64, String)> = describe::leaders(kernel)
        .iter()
        .map(|t| {
            let text = format!("{:>5} {}", t.process.pid, describe::name(t));
            (describe::resident(t), text)
        })
        .collect();
    let count = processes.len();
    processes.sort_by_key(|process| std::cmp::Reverse(process.0));
    let _ = writeln!(out, "\n     RSS   PID COMMAND ({} of {count})", count.min(TOP));
    for (bytes, text) in processes.iter().take(TOP) {
        let _ = writeln!(out, "{:>8} {text}", bytes >> 10);
    }
    client.ok(out);
}
