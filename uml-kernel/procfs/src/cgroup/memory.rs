//! The memory controller (Documentation/admin-guide/cgroup-v2.rst, "Memory").
//!
//! Limits and `memory.current` are of anonymous memory ([`uml_core::memory::limit`]); the other rows of `memory.stat` are
//! what the host keeps resident for the group's processes. The page cache is no group's. There is no swap: its files show that,
//! and their limits are kept by themselves.

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::file::FileOps;
use uml_core::memory::limit::{self, Event, Setting};
use uml_core::task::Task;
use uml_host::procinfo::Fields;

use super::Subject;
use super::core_files::show_limit;
use super::dir::watched;
use crate::synth::{Regular, Row, Seen, Spec, Text, TextFile, WatchedText, parse_u64, words};

/// A limit or a promise in bytes.
macro_rules! setting {
    ($name:literal, $setting:ident) => {
        Row::setting(
            $name,
            0o644,
            |s, _, out| show_limit(s.group.memory.get(Setting::$setting), out),
            |s, _, data| store(s, Setting::$setting, data),
        )
    };
}

/// Files of every group, the root among them.
pub static EVERY: &[Row<Subject>] =
    &[Row::command("memory.reclaim", 0o200, reclaim), Row::text("memory.stat", 0o444, show_stat)];

/// Files of groups that have the controller.
pub static ROWS: &[Row<Subject>] = &[
    Row::text("memory.current", 0o444, show_current),
    watched("memory.events", |s| Spec::file(0, EventsFile { of: s.clone(), below: true })),
    watched("memory.events.local", |s| Spec::file(0, EventsFile { of: s.clone(), below: false })),
    setting!("memory.high", High),
    setting!("memory.low", Low),
    setting!("memory.max", Max),
    setting!("memory.min", Min),
    Row::setting("memory.oom.group", 0o644, show_oom_group, store_oom_group),
    Row::text("memory.peak", 0o444, |s, _, out| {
        writeln!(out, "{}", s.group.memory.peak());
        Ok(())
    }),
    Row::text("memory.swap.current", 0o444, |s, _, out| {
        writeln!(out, "{}", resident(s)?.get("Swap").map_or(0, |kb| kb << 10));
        Ok(())
    }),
    // Nothing is ever to be swapped, so nothing fails.
    Row::text("memory.swap.events", 0o444, |_, _, out| {
        writeln!(out, "high 0\nmax 0\nfail 0");
        Ok(())
    }),
    setting!("memory.swap.high", SwapHigh),
    setting!("memory.swap.max", SwapMax),
];

/// Sums over the address spaces of the group and below, in kB; pages that several share count in parts.
fn resident(s: &Subject) -> Result<Fields> {
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
        let tables = uml_host::procinfo::status(pid).remove_entry("VmPTE");
        for (k, v) in uml_host::procinfo::smaps_rollup(pid).into_iter().chain(tables) {
            *out.entry(k).or_default() += v;
        }
    }
    Ok(out)
}

fn show_current(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    writeln!(out, "{}", limit::current(&*s.control.kernel()?, &s.group));
    Ok(())
}

fn store(s: &Subject, setting: Setting, data: &[u8]) -> Result<()> {
    let w = words(data)?;
    let [word] = w[..] else { return Err(EINVAL) };
    let bytes = if word == "max" { None } else { Some(parse_size(word)?) };
    limit::set(&*s.control.kernel()?, &s.group, setting, bytes);
    Ok(())
}

/// `EAGAIN` when less than that was given back: only the page cache can be, and it is the whole machine's.
fn reclaim(s: &Subject, _: &Task, data: &[u8]) -> Result<()> {
    let w = words(data)?;
    let [word] = w[..] else { return Err(EINVAL) };
    let wanted = parse_size(word)? & !(uml_mm::PAGE - 1);
    let _stall = uml_base::pressure::memory();
    let freed = match s.group.parent {
        None if wanted != 0 => s.control.kernel()?.memory.shrink(wanted),
        _ => 0,
    };
    if freed < wanted { Err(EAGAIN) } else { Ok(()) }
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
            // Nothing is taken from a group, so never what memory.low protects.
            writeln!(out, "low 0\nhigh {}", count(Event::High));
            writeln!(out, "max {}\noom {}", count(Event::Max), count(Event::Oom));
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
    let kernel = s.control.kernel()?;
    let f = resident(s)?;
    let bytes = |name: &str| f.get(name).map_or(0, |kb| kb << 10);
    let (anon, file, shmem) = match s.group.parent {
        // Mapped files of the group that have no other home than memory.
        Some(_) => (bytes("Pss_Anon"), bytes("Pss_Shmem"), bytes("Pss_Shmem")),
        None => {
            let m = kernel.memory_info();
            (m.anon, m.cached.cached, m.cached.shmem)
        }
    };
    let (faults, major) = kernel.cgroups.faults(&kernel, &s.group);
    let lines = [
        ("anon", anon),
        ("file", file),
        ("pagetables", bytes("VmPTE")),
        ("shmem", shmem),
        ("file_mapped", bytes("Pss_File") + bytes("Pss_Shmem")),
        ("pgfault", faults),
        ("pgmajfault", major),
    ];
    for (name, v) in lines {
        writeln!(out, "{name} {v}");
    }
    Ok(())
}
