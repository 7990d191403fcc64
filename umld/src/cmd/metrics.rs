//! `umld metrics`: OpenMetrics text, for the textfile collector of an exporter.

use std::fmt::Write;

use crate::failure::Result;
use crate::instance::{self, Instance};
use crate::state::{State, Store};

/// Prints them.
pub fn run() -> Result<u8> {
    super::print(&text(&instance::all(&Store::open()?)?))
}

/// The text of all instances.
pub fn text(list: &[Instance]) -> String {
    let mut out = String::new();
    let processes = instance::Processes::now();
    let used: Vec<(u64, f64, usize)> = list
        .iter()
        .map(|i| match i.pid {
            Some(pid) => {
                let pids = processes.of(pid);
                let (m, c) = instance::usage(&pids);
                (m, c, pids.len())
            }
            None => (0, 0.0, 0),
        })
        .collect();
    let mut family = |name: &str, kind: &str, help: &str, value: &dyn Fn(usize) -> Option<f64>| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# TYPE {name} {kind}\n# HELP {name} {help}");
        let suffix = if kind == "counter" { "_total" } else { "" };
        for (k, i) in list.iter().enumerate() {
            if let Some(v) = value(k) {
                let label = i.name.replace('\\', "\\\\").replace('"', "\\\"");
                let _ = writeln!(out, "{name}{suffix}{{instance=\"{label}\"}} {v}");
            }
        }
    };
    let up = |i: &Instance| i.pid.is_some();
    family("umld_instance_up", "gauge", "Whether the kernel process runs.", &|k| {
        Some(f64::from(up(&list[k])))
    });
    family("umld_instance_paused", "gauge", "Whether it is paused.", &|k| {
        Some(f64::from(list[k].state == State::Paused))
    });
    family("umld_instance_failed", "gauge", "Whether it ended in failure.", &|k| {
        Some(f64::from(list[k].state == State::Failed))
    });
    family("umld_instance_uptime_seconds", "gauge", "Time since its start.", &|k| list[k].uptime);
    family("umld_instance_boot_seconds", "gauge", "Time from start to init.", &|k| {
        let s = &list[k].status;
        Some(s.booted? - s.started?)
    });
    family("umld_instance_restarts", "counter", "Restarts by policy.", &|k| {
        Some(f64::from(list[k].status.restarts))
    });
    family("umld_instance_memory_bytes", "gauge", "Resident memory on the host.", &|k| {
        up(&list[k]).then(|| used[k].0 as f64)
    });
    family("umld_instance_cpu_seconds", "counter", "CPU time taken.", &|k| {
        up(&list[k]).then(|| used[k].1)
    });
    family("umld_instance_processes", "gauge", "Host processes.", &|k| {
        up(&list[k]).then(|| used[k].2 as f64)
    });
    out + "# EOF\n"
}
