//! The io controller (Documentation/admin-guide/cgroup-v2.rst, "IO"): `io.stat` and `io.max`. Weights have no file, because
//! nothing would act on them.

use std::collections::BTreeMap;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::cgroup::io::{self, IoStat};
use uml_core::kernel::Kernel;
use uml_core::task::Task;
use uml_core::vfs::Dev;

use super::Subject;
use crate::synth::{Row, Text, words};

pub static ROWS: &[Row<Subject>] = &[Row::text("io.stat", 0o444, show)];

/// Files of groups below the root.
pub static LIMITS: &[Row<Subject>] = &[Row::setting("io.max", 0o644, show_max, store_max)];

fn show_max(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    for (dev, m) in s.group.io.max() {
        let v = |limit: Option<u64>| limit.map_or("max".into(), |n| n.to_string());
        write!(out, "{}:{} ", dev.major, dev.minor);
        write!(out, "rbps={} wbps={} ", v(m.bytes[0]), v(m.bytes[1]));
        writeln!(out, "riops={} wiops={}", v(m.requests[0]), v(m.requests[1]));
    }
    Ok(())
}

/// Requests in a second that count as no limit.
const NO_LIMIT: u64 = u32::MAX as u64;

/// `MAJ:MIN KEY=VALUE ...`: what is not named stays. `EINVAL` for what is none of that, `ENODEV` for a number that is no
/// whole disk, `ERANGE` for 0.
fn store_max(s: &Subject, _: &Task, data: &[u8]) -> Result<()> {
    let w = words(data)?;
    let (dev, rest) = w.split_first().ok_or(EINVAL)?;
    let (major, minor) = dev.split_once(':').ok_or(EINVAL)?;
    let number = |n: &str| n.parse::<u32>().map_err(|_| EINVAL);
    let dev = Dev::new(number(major)?, number(minor)?);
    let kernel = s.control.kernel()?;
    let disks = kernel.vfs.registry.block_devices();
    disks.iter().find(|d| d.dev() == dev && d.partition().is_none()).ok_or(ENODEV)?;
    let mut max = s.group.io.max().remove(&dev).unwrap_or_default();
    for word in rest {
        let (key, value) = word.split_once('=').ok_or(EINVAL)?;
        let value = match value {
            "max" => None,
            n => Some(n.parse::<u64>().map_err(|_| EINVAL)?),
        };
        if value == Some(0) {
            return Err(ERANGE);
        }
        let cell = match key {
            "rbps" => &mut max.bytes[0],
            "wbps" => &mut max.bytes[1],
            "riops" => &mut max.requests[0],
            "wiops" => &mut max.requests[1],
            _ => return Err(EINVAL),
        };
        *cell = value.filter(|n| *n != u64::MAX && (!key.ends_with("iops") || *n < NO_LIMIT));
    }
    io::set_max(&kernel, &s.group, dev, max);
    Ok(())
}

/// What the whole machine did, kernel threads included.
fn of_machine(kernel: &Kernel) -> BTreeMap<Dev, IoStat> {
    let disks = kernel.vfs.registry.block_devices();
    let disks = disks.iter().filter(|d| d.partition().is_none());
    disks
        .map(|d| {
            let s = d.stats();
            let kinds = [s.reads, s.writes, s.discards];
            let stat =
                IoStat { requests: kinds.map(|k| k.requests), bytes: kinds.map(|k| k.bytes) };
            (d.dev(), stat)
        })
        .filter(|(_, s)| *s != IoStat::default())
        .collect()
}

fn show(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    let all = match s.group.parent {
        Some(_) => io::stat(&s.group),
        None => of_machine(&*s.control.kernel()?),
    };
    for (dev, IoStat { requests: [r, w, d], bytes: [rb, wb, db] }) in all {
        write!(out, "{}:{} rbytes={rb} wbytes={wb} ", dev.major, dev.minor);
        writeln!(out, "rios={r} wios={w} dbytes={db} dios={d}");
    }
    Ok(())
}
