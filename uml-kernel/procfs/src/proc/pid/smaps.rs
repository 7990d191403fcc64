//! `/proc/<pid>/{smaps,smaps_rollup}`: resident sizes by area, which the host knows (proc_pid_smaps(5)).

use uml_abi::Result;
use uml_core::task::Task;
use uml_host::procinfo::{Fields, Mapping};
use uml_mm::vma::{PROT_EXEC, PROT_READ, PROT_WRITE, Vma};

use super::{Target, maps};
use crate::synth::Text;

/// Lines that sum host values, in Linux's order.
const SUMS: [&str; 19] = [
    "Rss",
    "Pss",
    "Pss_Dirty",
    "Shared_Clean",
    "Shared_Dirty",
    "Private_Clean",
    "Private_Dirty",
    "Referenced",
    "Anonymous",
    "KSM",
    "LazyFree",
    "AnonHugePages",
    "ShmemPmdMapped",
    "FilePmdMapped",
    "Shared_Hugetlb",
    "Private_Hugetlb",
    "Swap",
    "SwapPss",
    "Locked",
];

/// Adds what the host says of `v`. A host mapping that covers several areas counts for each by its share.
fn resident(v: &Vma, host: &[Mapping]) -> Fields {
    let mut out = Fields::new();
    let first = host.partition_point(|m| m.end <= v.start);
    for m in host[first..].iter().take_while(|m| m.start < v.end) {
        let overlap = m.end.min(v.end).saturating_sub(m.start.max(v.start));
        let whole = (m.end - m.start).max(1);
        for (k, n) in &m.fields {
            let share = (u128::from(*n) * u128::from(overlap) / u128::from(whole)) as u64;
            *out.entry(k.clone()).or_default() += share;
        }
    }
    out
}

fn sizes(f: &Fields, out: &mut Text) {
    for name in &SUMS {
        let v = f.get(*name).copied().unwrap_or(0);
        out.kb_line(name, v);
    }
}

fn flags(v: &Vma, out: &mut Text) {
    let f = &v.flags;
    let names = [
        (f.prot & PROT_READ != 0, "rd"),
        (f.prot & PROT_WRITE != 0, "wr"),
        (f.prot & PROT_EXEC != 0, "ex"),
        (f.shared, "sh"),
        (f.may & PROT_READ != 0, "mr"),
        (f.may & PROT_WRITE != 0, "mw"),
        (f.may & PROT_EXEC != 0, "me"),
        (f.shared && f.may & PROT_WRITE != 0, "ms"),
        (f.growsdown, "gd"),
        (f.locked, "lo"),
        (f.dontfork, "dc"),
        (f.noreserve, "nr"),
        (f.wipeonfork, "wf"),
        (f.dontdump, "dd"),
    ];
    out.raw(b"VmFlags:");
    for (set, name) in names {
        if set {
            write!(out, " {name}");
        }
    }
    out.raw(b" \n");
}

fn host_maps(t: &Target) -> Result<Vec<Mapping>> {
    Ok(match t.task()?.mm() {
        Ok(mm) => uml_host::procinfo::smaps(mm.space().host_pid()),
        Err(_) => Vec::new(),
    })
}

pub fn show(t: &Target, reader: &Task, out: &mut Text) -> Result<()> {
    let areas = maps::areas(t, reader)?;
    let host = host_maps(t)?;
    for v in areas {
        maps::line(&v, out)?;
        out.raw(b"\n");
        out.kb("Size", v.len());
        out.kb("KernelPageSize", 4096);
        out.kb("MMUPageSize", 4096);
        sizes(&resident(&v, &host), out);
        writeln!(out, "THPeligible:           0");
        flags(&v, out);
    }
    Ok(())
}

pub fn rollup(t: &Target, reader: &Task, out: &mut Text) -> Result<()> {
    let areas = maps::areas(t, reader)?;
    let host = host_maps(t)?;
    let (Some(first), Some(last)) = (areas.first(), areas.last()) else { return Ok(()) };
    let head = format!("{:08x}-{:08x} ---p 00000000 00:00 0 ", first.start, last.end);
    writeln!(out, "{head:<73}[rollup]");
    let mut sum = Fields::new();
    for v in &areas {
        let f = resident(v, &host);
        let pss = f.get("Pss").copied().unwrap_or(0);
        let kind = match &v.backing {
            None => "Pss_Anon",
            Some(_) if v.flags.shared => "Pss_Shmem",
            Some(_) => "Pss_File",
        };
        *sum.entry(kind.into()).or_default() += pss;
        for (k, n) in f {
            *sum.entry(k).or_default() += n;
        }
    }
    let order = ["Rss", "Pss", "Pss_Dirty", "Pss_Anon", "Pss_File", "Pss_Shmem"];
    for name in order.iter().chain(&SUMS[3..]) {
        let v = sum.get(*name).copied().unwrap_or(0);
        out.kb_line(name, v);
    }
    Ok(())
}
