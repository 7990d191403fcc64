//! `/proc/vmstat`: what vmstat(8) and others read of it.

use uml_abi::Result;
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::Text;

pub fn show(_: &Subject, task: &Task, out: &mut Text) -> Result<()> {
    let kernel = task.kernel();
    let m = kernel.memory_info();
    let (mut read, mut written) = (0, 0);
    for d in kernel.vfs.registry.block_devices() {
        let s = d.stats();
        read += s.reads.bytes >> 10;
        written += s.writes.bytes >> 10;
    }
    let pages = |bytes: u64| bytes / 4096;
    let lines: &[(&str, u64)] = &[
        ("nr_free_pages", pages(m.free)),
        ("nr_anon_pages", pages(m.anon)),
        ("nr_file_pages", pages(m.cached.cached)),
        ("nr_dirty", pages(m.cached.dirty)),
        ("nr_writeback", 0),
        ("nr_shmem", pages(m.cached.shmem)),
        ("pgpgin", read),
        ("pgpgout", written),
        ("pswpin", 0),
        ("pswpout", 0),
        ("oom_kill", kernel.memory.kills()),
    ];
    for (name, v) in lines {
        writeln!(out, "{name} {v}");
    }
    Ok(())
}
