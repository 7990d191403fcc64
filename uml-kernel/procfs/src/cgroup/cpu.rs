//! `cpu.stat`, which every group has. Weights and limits are not offered: the host schedules.

use uml_abi::Result;
use uml_core::task::Task;

use super::Subject;
use crate::synth::{Row, Text};

pub static ROWS: &[Row<Subject>] = &[Row::text("cpu.stat", 0o444, show)];

fn show(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    let kernel = s.control.kernel()?;
    let u = match s.group.parent {
        Some(_) => kernel.cgroups.usage(&kernel, &s.group),
        None => kernel.total_usage(),
    };
    let (user, system) = (u.user_ns / 1000, u.system_ns / 1000);
    writeln!(out, "usage_usec {}\nuser_usec {user}\nsystem_usec {system}", user + system);
    Ok(())
}
