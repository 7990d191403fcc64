//! `ps`: every task, with what it waits for.

use std::fmt::Write;

use uml_core::task::usage;

use crate::describe;
use crate::server::Client;

pub fn run(client: &Client<'_>) {
    let mut out = String::from("  PID   TID  PPID S WAITS FOR            TIME      RSS COMMAND\n");
    for t in describe::tasks(client.kernel()) {
        let u = usage::of_task(&t);
        let centis = (u.user_ns + u.system_ns) / 10_000_000;
        let time = format!("{}:{:02}.{:02}", centis / 6000, centis / 100 % 60, centis % 100);
        // A string takes whatever is written to it.
        let _ = writeln!(
            out,
            "{:>5} {:>5} {:>5} {} {:<18} {time:>8} {:>8} {}",
            t.process.pid,
            t.tid,
            describe::parent(&t),
            describe::state(&t).letter(),
            describe::place(&t),
            describe::resident(&t) >> 10,
            describe::name(&t)
        );
    }
    client.ok(out);
}
