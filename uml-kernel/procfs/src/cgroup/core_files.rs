//! `cgroup.*`.

use std::fmt::Display;
use std::sync::atomic::{AtomicI64, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::cgroup::{CONTROLLERS, CPU, IO, MEMORY, bandwidth, io, weight};
use uml_core::file::FileOps;
use uml_core::memory::limit;
use uml_core::task::Task;

use super::dir::watched;
use super::{Subject, members};
use crate::synth::{Regular, Row, Seen, Spec, Text, TextFile, WatchedText, words};

/// Files of every group.
pub static ROWS: &[Row<Subject>] = &[
    Row::text("cgroup.controllers", 0o444, |s, _, out| {
        names(s.group.controllers(), out);
        Ok(())
    }),
    Row::setting("cgroup.max.depth", 0o644, show_depth, store_depth),
    Row::setting("cgroup.max.descendants", 0o644, show_descendants, store_descendants),
    Row::text("cgroup.procs", 0o644, members::show_procs),
    Row::text("cgroup.stat", 0o444, show_stat),
    Row::setting("cgroup.subtree_control", 0o644, show_control, store_control),
    Row::text("cgroup.threads", 0o644, members::show_threads),
];

/// Files of groups below the root.
pub static BELOW_ROOT: &[Row<Subject>] = &[
    watched("cgroup.events", |s| Spec::file(0, EventsFile(s.clone()))),
    Row::setting("cgroup.freeze", 0o644, show_freeze, store_freeze),
    Row::command("cgroup.kill", 0o200, store_kill),
    Row::setting("cgroup.type", 0o644, show_type, store_type),
];

fn names(set: u32, out: &mut Text) {
    let on: Vec<&str> = CONTROLLERS.iter().filter(|c| set & c.1 != 0).map(|c| c.0).collect();
    writeln!(out, "{}", on.join(" "));
}

fn show_control(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    names(s.group.subtree_control(), out);
    Ok(())
}

/// `+name` and `-name`, several at once, all or none.
fn store_control(s: &Subject, _: &Task, data: &[u8]) -> Result<()> {
    let (mut enable, mut disable) = (0, 0);
    for w in words(data)? {
        let (set, name) = match w.split_at_checked(1) {
            Some(("+", n)) => (true, n),
            Some(("-", n)) => (false, n),
            _ => return Err(EINVAL),
        };
        let bit = CONTROLLERS.iter().find(|c| c.0 == name).ok_or(EINVAL)?.1;
        if set {
            (enable, disable) = (enable | bit, disable & !bit);
        } else {
            (enable, disable) = (enable & !bit, disable | bit);
        }
    }
    let kernel = s.control.kernel()?;
    kernel.cgroups.control(&s.group, enable, disable)?;
    // Limits go with the controller.
    for g in s.group.children() {
        if disable & CPU != 0 {
            bandwidth::set_max(&kernel, &g, bandwidth::Max::default())?;
            weight::set(&kernel, &g, weight::DEFAULT)?;
        }
        if disable & MEMORY != 0 {
            limit::reset(&kernel, &g);
        }
        if disable & IO != 0 {
            io::reset(&kernel, &g);
        }
    }
    Ok(())
}

/// A limit, or `max` where there is none.
pub fn show_limit(limit: Option<impl Display>, out: &mut Text) -> Result<()> {
    match limit {
        Some(n) => writeln!(out, "{n}"),
        None => writeln!(out, "max"),
    }
    Ok(())
}

/// A limit of groups below; negative for none.
fn show_cell(cell: &AtomicI64, out: &mut Text) -> Result<()> {
    show_limit(Some(cell.load(Ordering::Relaxed)).filter(|n| *n >= 0), out)
}

/// A number or `max`; `EINVAL` for what is neither, `ERANGE` below zero.
pub fn parse_limit(data: &[u8]) -> Result<Option<i64>> {
    let w = words(data)?;
    match w[..] {
        ["max"] => Ok(None),
        [n] => match crate::synth::parse_i64(n)? {
            n if n < 0 => Err(ERANGE),
            n => Ok(Some(n)),
        },
        _ => Err(EINVAL),
    }
}

fn show_depth(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    show_cell(&s.group.max_depth, out)
}

fn store_depth(s: &Subject, _: &Task, data: &[u8]) -> Result<()> {
    s.group.max_depth.store(parse_limit(data)?.unwrap_or(-1), Ordering::Relaxed);
    Ok(())
}

fn show_descendants(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    show_cell(&s.group.max_descendants, out)
}

fn store_descendants(s: &Subject, _: &Task, data: &[u8]) -> Result<()> {
    s.group.max_descendants.store(parse_limit(data)?.unwrap_or(-1), Ordering::Relaxed);
    Ok(())
}

fn show_stat(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    let n = s.group.subtree().len() - 1;
    writeln!(out, "nr_descendants {n}\nnr_dying_descendants 0");
    Ok(())
}

fn show_freeze(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    writeln!(out, "{}", u8::from(s.group.freeze()));
    Ok(())
}

fn store_freeze(s: &Subject, _: &Task, data: &[u8]) -> Result<()> {
    let w = words(data)?;
    let on = match w[..] {
        ["0"] => false,
        ["1"] => true,
        [n] => return Err(if crate::synth::parse_i64(n).is_ok() { ERANGE } else { EINVAL }),
        _ => return Err(EINVAL),
    };
    let kernel = s.control.kernel()?;
    kernel.cgroups.set_freeze(&kernel, &s.group, on);
    Ok(())
}

fn store_kill(s: &Subject, _: &Task, data: &[u8]) -> Result<()> {
    let w = words(data)?;
    match w[..] {
        ["1"] => {}
        [n] => return Err(if crate::synth::parse_i64(n).is_ok() { ERANGE } else { EINVAL }),
        _ => return Err(EINVAL),
    }
    if s.group.is_threaded() {
        // Threads are killed with their process.
        return Err(EOPNOTSUPP);
    }
    let kernel = s.control.kernel()?;
    kernel.cgroups.kill(&kernel, &s.group);
    Ok(())
}

fn show_type(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    writeln!(out, "{}", s.group.kind().name());
    Ok(())
}

/// A group becomes threaded; there is no way back.
fn store_type(s: &Subject, _: &Task, data: &[u8]) -> Result<()> {
    let w = words(data)?;
    if w[..] != ["threaded"] {
        return Err(EINVAL);
    }
    let kernel = s.control.kernel()?;
    kernel.cgroups.make_threaded(&s.group)?;
    // Its memory and disks are its domain's from now on.
    limit::reset(&kernel, &s.group);
    io::reset(&kernel, &s.group);
    Ok(())
}

struct EventsFile(Subject);

impl Regular for EventsFile {
    fn open(&self, _: u32) -> Result<Box<dyn FileOps>> {
        let (s, counted) = (self.0.clone(), self.0.group.clone());
        let text = TextFile::new(move |_, out| {
            let kernel = s.control.kernel()?;
            let frozen = kernel.cgroups.is_frozen(&kernel, &s.group);
            writeln!(out, "populated {}", u8::from(s.group.populated()));
            writeln!(out, "frozen {}", u8::from(frozen));
            Ok(())
        });
        let generation = move || counted.events_seen.load(Ordering::SeqCst);
        let queue = self.0.group.events.clone();
        Ok(Box::new(WatchedText::new(text, queue, generation, Seen::ByRead)))
    }
}
