//! The memory controller (Documentation/admin-guide/cgroup-v2.rst, "Memory").
//!
//! The limit and `memory.current` are of anonymous memory ([`uml_core::memory::limit`]); the other rows of `memory.stat` are
//! what the host keeps resident for the group's processes. `memory.high`, `memory.low` and `memory.min` have no files, because
//! nothing would act on them; nor has swap, of which there is none.

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::file::FileOps;
use uml_core::memory::limit::{self, Event};
use uml_core::task::Task;
use uml_host::procinfo::Fields;

use super::Subject;
use super::core_files::show_limit;
use super::dir::watched;
use crate::synth::{Regular, Row, Seen, Spec, Text, TextFile, WatchedText, parse_u64, words};

pub static ROWS: &[Row<Subject>] = &[
    Row::text("memory.current", 0o444, show_current),
    watched("memory.events", |s| Spec::file(0, EventsFile { of: s.clone(), below: true })),
    watched("memory.events.local", |s| Spec::file(0, EventsFile { of: s.clone(), below: false })),
    Row::setting("memory.max", 0o644, show_max, store_max),
    Row::setting("memory.oom.group", 0o644, show_oom_group, store_oom_group),
    Row::text("memory.peak", 0o444, |s, _, out| {
        writeln!(out, "{}", s.group.memory.peak());
        Ok(())
    }),
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
    writeln!(out, "{}", limit::current(&*s.control.kernel()?, &s.group));
    Ok(())
}

fn show_max(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    show_limit(s.group.memory.max(), out)
}

fn store_max(s: &Subject, _: &Task, data: &[u8]) -> Result<()> {
    let w = words(data)?;
    let [word] = w[..] else { return Err(EINVAL) };
    let max = if word == "max" { None } else { Some(parse_size(word)?) };
    limit::set_max(&*s.control.kernel()?, &s.group, max);
    Ok(())
}

/// Bytes with an optional suffix from K to E; what does not fit is as much as there can be.
fn parse_size(word: &str) -> Result<u64> {
    let (number, shift) = match word.bytes().last().map(|b| b.to_ascii_uppercase()) {
        Some(b) if "KMGTPE".contains(b as char) && !word.starts_with("0x") => {
            let power = "KMGTPE".bytes().position(|s| s == b).unwrap_or(0) as u32 + 1;
            (&word[..word.len() - 1], 10 * power)
        }
        _ => (word, 0),
    };
    match parse_u64(number) {
        Ok(n) => Ok(n.saturating_mul(1 << shift)),
        Err(ERANGE) => Ok(u64::MAX),
        Err(e) => Err(e),
    }
}

fn show_oom_group(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    writeln!(out, "{}", u8::from(s.group.memory.oom_group()));
    Ok(())
}

fn store_oom_group(s: &Subject, _: &Task, data: &[u8]) -> Result<()> {
    let w = words(data)?;
    match w[..] {
        [on @ ("0" | "1")] => s.group.memory.set_oom_group(on == "1"),
        _ => return Err(EINVAL),
    }
    Ok(())
}

/// `memory.events`, and `memory.events.local` without the groups below.
struct EventsFile {
    of: Subject,
    below: bool,
}

impl Regular for EventsFile {
    fn open(&self, _: u32) -> Result<Box<dyn FileOps>> {
        let (group, counted, below) = (self.of.group.clone(), self.of.group.clone(), self.below);
        let text = TextFile::new(move |_, out| {
            let count = |event| group.memory.count(event, below);
            // Without memory.low and memory.high nothing is counted for them.
            writeln!(out, "low 0\nhigh 0\nmax {}\noom {}", count(Event::Max), count(Event::Oom));
            writeln!(out, "oom_kill {}", count(Event::OomKill));
            writeln!(out, "oom_group_kill {}", count(Event::OomGroupKill));
            Ok(())
        });
        let generation = move || counted.memory.generation();
        let queue = self.of.group.memory.changes.clone();
        Ok(Box::new(WatchedText::new(text, queue, generation, Seen::ByRead)))
    }
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
