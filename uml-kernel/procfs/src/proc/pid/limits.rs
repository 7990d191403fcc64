//! `/proc/<pid>/limits`.

use uml_abi::Result;
use uml_core::task::Task;
use uml_core::task::rlimit::{INFINITY, Resource};

use super::Target;
use crate::synth::Text;

const NAMES: [(Resource, &str, &str); 16] = [
    (Resource::Cpu, "Max cpu time", "seconds"),
    (Resource::Fsize, "Max file size", "bytes"),
    (Resource::Data, "Max data size", "bytes"),
    (Resource::Stack, "Max stack size", "bytes"),
    (Resource::Core, "Max core file size", "bytes"),
    (Resource::Rss, "Max resident set", "bytes"),
    (Resource::Nproc, "Max processes", "processes"),
    (Resource::NoFile, "Max open files", "files"),
    (Resource::Memlock, "Max locked memory", "bytes"),
    (Resource::As, "Max address space", "bytes"),
    (Resource::Locks, "Max file locks", "locks"),
    (Resource::Sigpending, "Max pending signals", "signals"),
    (Resource::Msgqueue, "Max msgqueue size", "bytes"),
    (Resource::Nice, "Max nice priority", ""),
    (Resource::Rtprio, "Max realtime priority", ""),
    (Resource::Rttime, "Max realtime timeout", "us"),
];

pub fn show(t: &Target, _: &Task, out: &mut Text) -> Result<()> {
    let task = t.task()?;
    let limits = task.process.rlimits.lock().clone();
    writeln!(out, "{:<25} {:<20} {:<20} {:<10}", "Limit", "Soft Limit", "Hard Limit", "Units");
    let text = |v: u64| if v == INFINITY { "unlimited".to_string() } else { v.to_string() };
    for (r, name, unit) in NAMES {
        let l = limits.get(r);
        writeln!(out, "{name:<25} {:<20} {:<20} {unit:<10}", text(l.soft), text(l.hard));
    }
    Ok(())
}
