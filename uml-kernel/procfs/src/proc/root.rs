//! The table of `/proc` itself.

use crate::synth::{Row, Rows, Spec};

use super::*;

/// Every entry but the processes.
pub static ROWS: &[Row<fs::Subject>] = &[
    Row::text("buddyinfo", 0o444, buddyinfo::show),
    Row::text("cgroups", 0o444, cgroups::show),
    Row::text("cmdline", 0o444, cmdline::show),
    Row::text("consoles", 0o444, consoles::show),
    Row::text("cpuinfo", 0o444, cpuinfo::show),
    Row::text("devices", 0o444, devices::show),
    Row::text("diskstats", 0o444, diskstats::show),
    Row::setting("exitcode", 0o600, exitcode::show, exitcode::store),
    Row::text("filesystems", 0o444, filesystems::show),
    Row::dir("fs", 0o555, fsinfo::root),
    Row::text("interrupts", 0o444, interrupts::show),
    Row::file("kmsg", 0o400, kmsg::file),
    Row::text("loadavg", 0o444, loadavg::show),
    Row::text("locks", 0o444, locks::show),
    Row::text("meminfo", 0o444, meminfo::show),
    Row::text("misc", 0o444, misc::show),
    Row::text("modules", 0o444, modules::show),
    Row::link("mounts", |_| Spec::symlink("self/mounts")),
    Row::link("net", |_| Spec::symlink("self/net")),
    Row::text("partitions", 0o444, partitions::show),
    Row::dir("pressure", 0o555, |s| Spec::dir(Rows::new(pressure::ROWS, s.clone()))),
    Row::link("self", self_link::process),
    Row::text("softirqs", 0o444, softirqs::show),
    Row::text("stat", 0o444, stat::show),
    Row::file("swaps", 0o444, swaps::file),
    Row::dir("sys", 0o555, sys::root),
    Row::command("sysrq-trigger", 0o200, sysrq::store),
    Row::dir("sysvipc", 0o555, |s| Spec::dir(Rows::new(sysvipc::ROWS, s.clone()))),
    Row::link("thread-self", self_link::thread),
    Row::dir("tty", 0o555, |s| Spec::dir(Rows::new(tty::ROWS, s.clone()))),
    Row::text("uptime", 0o444, uptime::show),
    Row::text("version", 0o444, version::show),
    Row::text("vmstat", 0o444, vmstat::show),
    Row::text("zoneinfo", 0o444, zoneinfo::show),
];
