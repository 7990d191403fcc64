//! The io controller (Documentation/admin-guide/cgroup-v2.rst, "IO"): `io.stat`. Weights and limits have no files, because
//! nothing would act on them.

use std::collections::BTreeMap;

use uml_abi::Result;
use uml_core::cgroup::io::{self, IoStat};
use uml_core::kernel::Kernel;
use uml_core::task::Task;
use uml_core::vfs::Dev;

use super::Subject;
use crate::synth::{Row, Text};

pub static ROWS: &[Row<Subject>] = &[Row::text("io.stat", 0o444, show)];

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
