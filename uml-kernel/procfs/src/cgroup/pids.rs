//! The pids controller (Documentation/admin-guide/cgroup-v2.rst, "PID").

use uml_abi::Result;
use uml_core::task::Task;

use super::Subject;
use super::core_files::{parse_limit, show_limit};
use crate::synth::{Row, Text};

pub static ROWS: &[Row<Subject>] = &[
    Row::text("pids.current", 0o444, |s, _, out| {
        writeln!(out, "{}", s.group.pids.current().0);
        Ok(())
    }),
    Row::text("pids.events", 0o444, |s, _, out| {
        writeln!(out, "max {}", s.group.pids.refused());
        Ok(())
    }),
    Row::setting("pids.max", 0o644, show_max, store_max),
    Row::text("pids.peak", 0o444, |s, _, out| {
        writeln!(out, "{}", s.group.pids.current().1);
        Ok(())
    }),
];

fn show_max(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    show_limit(s.group.pids.max(), out)
}

fn store_max(s: &Subject, _: &Task, data: &[u8]) -> Result<()> {
    s.group.pids.set_max(parse_limit(data)?);
    Ok(())
}
