//! Accounting of memory: what the host keeps resident for the group's processes. Limits have no files, because
//! nothing would enforce them.

use uml_abi::Result;
use uml_core::task::Task;
use uml_host::procinfo::Fields;

use super::Subject;
use crate::synth::{Row, Text};

pub static ROWS: &[Row<Subject>] = &[
    Row::text("memory.current", 0o444, show_current),
    Row::text("memory.stat", 0o444, show_stat),
    Row::text("memory.swap.current", 0o444, |s, _, out| {
        writeln!(out, "{}", bytes(&sums(s)?, "VmSwap"));
        Ok(())
    }),
];

/// Sums over the processes of the group and below, in kB. Processes that share an address space (vfork(2)) count
/// once.
fn sums(s: &Subject) -> Result<Fields> {
    let kernel = s.control.kernel()?;
    let mut pids: Vec<i32> = kernel
        .cgroups
        .members(&kernel, &s.group, true)
        .iter()
        .filter_map(|t| t.mm().ok().map(|mm| mm.space().host_pid()))
        .collect();
    pids.sort_unstable();
    pids.dedup();
    let mut out = Fields::new();
    for pid in pids {
        for (k, v) in uml_host::procinfo::status(pid) {
            *out.entry(k).or_default() += v;
        }
    }
    Ok(out)
}

fn bytes(f: &Fields, name: &str) -> u64 {
    f.get(name).copied().unwrap_or(0) << 10
}

fn show_current(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    let f = sums(s)?;
    writeln!(out, "{}", bytes(&f, "RssAnon") + bytes(&f, "RssShmem"));
    Ok(())
}

fn show_stat(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    let f = sums(s)?;
    let lines = [
        ("anon", bytes(&f, "RssAnon")),
        ("file", bytes(&f, "RssShmem")),
        ("pagetables", bytes(&f, "VmPTE")),
        ("shmem", bytes(&f, "RssShmem")),
        ("file_mapped", bytes(&f, "RssFile")),
    ];
    for (name, v) in lines {
        writeln!(out, "{name} {v}");
    }
    Ok(())
}
