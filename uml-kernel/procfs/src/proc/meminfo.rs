//! `/proc/meminfo` (proc_meminfo(5)).

use uml_abi::Result;
use uml_core::kernel::Kernel;
use uml_core::memory::commit;
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::Text;

/// Bytes locked in memory.
fn locked(kernel: &Kernel) -> u64 {
    // Threads share their address space: one per process is asked.
    let leaders: Vec<_> = {
        let tree = kernel.tree.read();
        tree.processes().filter_map(|(_, p)| p.threads.values().next().cloned()).collect()
    };
    let of =
        |t: &std::sync::Arc<Task>| t.mm().map_or(0, |mm| mm.map().vmas.total(|v| v.flags.locked));
    leaders.iter().map(of).sum()
}

pub fn show(_: &Subject, task: &Task, out: &mut Text) -> Result<()> {
    let kernel = task.kernel();
    let m = kernel.memory_info();
    let c = m.cached;
    let (committed, locked) = (commit::committed(), locked(&kernel));
    let available = (m.free + c.cached.saturating_sub(c.shmem)).min(m.total);
    let anon = m.anon;
    let files = c.cached.saturating_sub(c.shmem);
    let limit = commit::limit(&kernel);
    let lines: &[(&str, u64)] = &[
        ("MemTotal", m.total),
        ("MemFree", m.free),
        ("MemAvailable", available),
        ("Buffers", 0),
        ("Cached", c.cached),
        ("SwapCached", 0),
        ("Active", anon),
        ("Inactive", files),
        ("Active(anon)", anon),
        ("Inactive(anon)", 0),
        ("Active(file)", 0),
        ("Inactive(file)", files),
        ("Unevictable", locked),
        ("Mlocked", locked),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", c.dirty),
        ("Writeback", 0),
        ("AnonPages", anon),
        ("Mapped", 0),
        ("Shmem", c.shmem),
        ("KReclaimable", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("KernelStack", 0),
        ("PageTables", 0),
        ("NFS_Unstable", 0),
        ("Bounce", 0),
        ("WritebackTmp", 0),
        ("CommitLimit", limit),
        ("Committed_AS", committed),
        ("VmallocTotal", 0),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
    ];
    for (name, bytes) in lines {
        out.kb(name, *bytes);
    }
    Ok(())
}
