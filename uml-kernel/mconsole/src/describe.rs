//! Tasks as lines of text.
//!
//! Everything here is a sample taken from outside: a task may move on while it is described.

use std::sync::Arc;

use uml_core::kernel::Kernel;
use uml_core::task::tree::ChildState;
use uml_core::task::{RunState, Task};
use uml_mm::Mm;
use uml_procfs::proc::pid::memory;

/// Rows of four words of the guest's stack.
const STACK_ROWS: usize = 3;
const WORDS_A_ROW: usize = 4;

/// Every task by process and thread; a zombie by its leader.
pub fn tasks(kernel: &Kernel) -> Vec<Arc<Task>> {
    let tree = kernel.tree.read();
    let mut all = Vec::with_capacity(tree.task_count());
    for (_, p) in tree.processes() {
        if p.threads.is_empty() {
            all.push(p.leader.clone());
        } else {
            all.extend(p.threads.values().cloned());
        }
    }
    all
}

/// One task of every process.
pub fn leaders(kernel: &Kernel) -> Vec<Arc<Task>> {
    let tree = kernel.tree.read();
    tree.processes().map(|(_, p)| p.leader.clone()).collect()
}

/// Command name, with anything that would upset a terminal replaced.
pub fn name(task: &Task) -> String {
    let comm = task.comm();
    String::from_utf8_lossy(&comm).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Process id of the parent; 0 for init.
pub fn parent(task: &Task) -> i32 {
    task.kernel().tree.read().get(task.process.pid).map_or(0, |p| p.parent)
}

/// What it is doing; a process that was stopped or ended is that as a whole.
pub fn state(task: &Task) -> RunState {
    match task.kernel().tree.read().get(task.process.pid).map(|p| p.state) {
        Some(ChildState::Zombie(_)) => RunState::Zombie,
        _ => task.run_state(),
    }
}

/// Where it is: the place it sleeps at, the system call it is in, or `-` in guest code.
pub fn place(task: &Task) -> String {
    match (task.wchan(), task.current_call()) {
        ("", None) => "-".into(),
        ("", Some(nr)) => call_name(nr),
        (wchan, _) => wchan.into(),
    }
}

fn call_name(nr: u64) -> String {
    match uml_syscalls::table::lookup(nr) {
        Some(entry) => format!("sys_{}", entry.name),
        None => format!("sys_{nr}"),
    }
}

/// Resident memory of its process in bytes.
pub fn resident(task: &Task) -> u64 {
    let pid = task.mm().map_or(0, |mm| mm.space().host_pid());
    if pid == 0 {
        return 0;
    }
    uml_host::procinfo::statm(pid).map_or(0, |s| s.resident.saturating_mul(4096))
}

/// The line that begins the description of a task.
pub fn headline(task: &Task) -> String {
    format!(
        "task:{:<15} state:{} pid:{:<5} tgid:{:<5} ppid:{:<5} place:{}",
        name(task),
        state(task).letter(),
        task.tid,
        task.process.pid,
        parent(task),
        place(task)
    )
}

/// The guest's stack and where the task is: in the kernel by name, in the guest by mapping.
pub fn stack(task: &Task) -> Vec<String> {
    let mm = task.mm().ok();
    let at = uml_host::procinfo::stopped_at(task.host_tid());
    // Inside the kernel's own part of the address space there is no guest stack to show.
    let at = at.zip(mm.as_ref()).filter(|((sp, _), mm)| *sp < mm.user_max()).map(|(at, _)| at);
    let mut lines = vec!["Stack:".to_owned()];
    if let (Some(mm), Some((sp, _))) = (&mm, at) {
        lines.extend(words(mm, sp));
    }
    lines.push("Call Trace:".into());
    let wchan = task.wchan();
    if !wchan.is_empty() {
        lines.push(format!(" [<0>] {wchan}"));
    }
    if let Some(nr) = task.current_call() {
        lines.push(format!(" [<0>] {}", call_name(nr)));
    }
    if let (Some(mm), Some((_, pc))) = (&mm, at) {
        lines.push(format!(" [<{pc:016x}>] ? {}", mapping(mm, pc)));
    }
    lines
}

fn words(mm: &Mm, sp: u64) -> Vec<String> {
    let mut bytes = [0; STACK_ROWS * WORDS_A_ROW * 8];
    let n = mm.read_foreign(sp, &mut bytes);
    bytes[..n]
        .chunks_exact(8)
        .map(|w| format!(" {:016x}", u64::from_le_bytes(w.try_into().unwrap_or_default())))
        .collect::<Vec<_>>()
        .chunks(WORDS_A_ROW)
        .map(|row| row.concat())
        .collect()
}

/// The mapping an address is in, and how far: `libc.so.6+0x1234/0x1d0000`.
fn mapping(mm: &Mm, addr: u64) -> String {
    let area = mm.map().vmas.find(addr).cloned();
    let Some(v) = area else { return "not mapped".into() };
    let name = memory::area_name(&v).unwrap_or_default();
    let name = String::from_utf8_lossy(&name);
    let name = name.rsplit('/').next().filter(|n| !n.is_empty()).unwrap_or("anonymous");
    let off = v.backing.as_ref().map_or(0, |b| b.off).saturating_add(addr - v.start);
    format!("{name}+{off:#x}/{:#x}", v.len())
}
