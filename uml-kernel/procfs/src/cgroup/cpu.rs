//! The cpu controller (Documentation/admin-guide/cgroup-v2.rst, "CPU"): `cpu.stat`, which every group has, `cpu.max`
//! and weights. Idle groups and bursts have no files, because the host schedules and nothing would act on them.

use std::time::Duration;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::cgroup::bandwidth::{self, Max};
use uml_core::cgroup::{CPU, weight};
use uml_core::task::Task;

use super::Subject;
use crate::synth::{Row, Text, parse_i64, parse_u64, words};

pub static ROWS: &[Row<Subject>] = &[Row::text("cpu.stat", 0o444, show)];

/// Files of groups that have the controller.
pub static LIMITS: &[Row<Subject>] = &[
    Row::setting("cpu.max", 0o644, show_max, store_max),
    Row::setting("cpu.weight", 0o644, show_weight, store_weight),
    Row::setting("cpu.weight.nice", 0o644, show_nice, store_nice),
];

fn show_weight(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    writeln!(out, "{}", s.group.weight.get());
    Ok(())
}

fn store_weight(s: &Subject, _: &Task, data: &[u8]) -> Result<()> {
    let w = words(data)?;
    let [word] = w[..] else { return Err(EINVAL) };
    weight::set(&s.control.kernel()?, &s.group, parse_u64(word)?)
}

fn show_nice(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    writeln!(out, "{}", weight::nice(s.group.weight.get()));
    Ok(())
}

fn store_nice(s: &Subject, _: &Task, data: &[u8]) -> Result<()> {
    let w = words(data)?;
    let [word] = w[..] else { return Err(EINVAL) };
    let weight = weight::of_nice(parse_i64(word)?).ok_or(ERANGE)?;
    weight::set(&s.control.kernel()?, &s.group, weight)
}

fn show(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    let kernel = s.control.kernel()?;
    let u = match s.group.parent {
        Some(_) => kernel.cgroups.usage(&kernel, &s.group),
        None => kernel.total_usage(),
    };
    let (user, system) = (u.user_ns / 1000, u.system_ns / 1000);
    writeln!(out, "usage_usec {}\nuser_usec {user}\nsystem_usec {system}", user + system);
    if s.group.parent.is_some() && s.group.controllers() & CPU != 0 {
        let t = s.group.cpu.stat();
        writeln!(out, "nr_periods {}\nnr_throttled {}", t.periods, t.throttled);
        writeln!(out, "throttled_usec {}", t.throttled_time.as_micros());
    }
    Ok(())
}

fn show_max(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    let max = s.group.cpu.max();
    match max.quota {
        Some(q) => write!(out, "{}", q.as_micros()),
        None => write!(out, "max"),
    }
    writeln!(out, " {}", max.period.as_micros());
    Ok(())
}

/// `QUOTA [PERIOD]` in microseconds; the quota may be `max`.
fn store_max(s: &Subject, _: &Task, data: &[u8]) -> Result<()> {
    let w = words(data)?;
    let micros = |w: &str| parse_u64(w).map(Duration::from_micros).map_err(|_| EINVAL);
    let (quota, period) = match w[..] {
        [quota] => (quota, s.group.cpu.max().period),
        [quota, period] => (quota, micros(period)?),
        _ => return Err(EINVAL),
    };
    let quota = if quota == "max" { None } else { Some(micros(quota)?) };
    bandwidth::set_max(&s.control.kernel()?, &s.group, Max { quota, period })
}
