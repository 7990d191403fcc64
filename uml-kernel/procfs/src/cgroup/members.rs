//! `cgroup.procs` and `cgroup.threads`: who is in a group, and moving there.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::cgroup::Cgroup;
use uml_core::file::Io;
use uml_core::ns::CgroupNs;
use uml_core::task::{Cred, Task};

use super::Subject;
use crate::synth::{Text, words};

pub fn show_procs(s: &Subject, reader: &Task, out: &mut Text) -> Result<()> {
    if s.group.is_threaded() {
        // Processes belong to the root of the threaded subtree.
        return Err(EOPNOTSUPP);
    }
    let kernel = s.control.kernel()?;
    for t in kernel.cgroups.members(&kernel, &s.group, false) {
        // 0 where the reader does not see the process.
        writeln!(out, "{}", reader.show_pid(t.process.pid));
    }
    Ok(())
}

pub fn show_threads(s: &Subject, reader: &Task, out: &mut Text) -> Result<()> {
    let kernel = s.control.kernel()?;
    let tasks = kernel.cgroups.tasks(&kernel, &s.group, false);
    let mut tids: Vec<i32> = tasks.iter().map(|t| t.tid).collect();
    tids.sort_unstable();
    for t in tids {
        writeln!(out, "{}", reader.show_pid(t));
    }
    Ok(())
}

/// What was written to the file `name` by `io.task`. `border` is the namespace that the file was opened in, where it keeps
/// those inside.
pub fn store(
    name: &str,
    s: &Subject,
    io: &Io<'_>,
    border: Option<&Arc<CgroupNs>>,
    data: &[u8],
) -> Result<()> {
    match name {
        "cgroup.procs" => store_procs(s, io, border, data),
        "cgroup.threads" => store_threads(s, io, border, data),
        _ => Err(EIO),
    }
}

/// `ENOENT` unless `from` and `to` are both on this side of the border.
fn within(border: Option<&Arc<CgroupNs>>, from: &Cgroup, to: &Cgroup) -> Result<()> {
    let visible = |g: &Cgroup| border.is_none_or(|ns| g.is_within(&ns.root));
    if visible(from) && visible(to) { Ok(()) } else { Err(ENOENT) }
}

/// Whether `cred` may move a process of the group `from` to the group of `s` or start one there: `cred` must be allowed to write
/// `cgroup.procs` of the nearest common ancestor, or the error says why not: a delegate cannot pull processes in from outside
/// ("Delegation Containment").
pub fn may_enter(
    s: &Subject,
    from: &Cgroup,
    cred: &Cred,
    border: Option<&Arc<CgroupNs>>,
) -> Result<()> {
    let common = s.group.chain().find(|g| from.is_within(g)).ok_or(ENOENT)?;
    s.control.attrs.may_write(common, "cgroup.procs", cred)?;
    within(border, from, &s.group)
}

/// Moves the process with the given pid (0: the writer's own) here, as who opened the file may: nobody with more rights does it
/// by writing to a descriptor he was given.
fn store_procs(
    s: &Subject,
    io: &Io<'_>,
    border: Option<&Arc<CgroupNs>>,
    data: &[u8],
) -> Result<()> {
    let kernel = s.control.kernel()?;
    let pid = match number(data)? {
        0 => io.task.process.pid,
        n => io.task.kernel_pid(n)?,
    };
    let (task, leader) = {
        let tree = kernel.tree.read();
        let task = tree.task(pid).or_else(|| tree.leader(pid)).ok_or(ESRCH)?;
        let leader = tree.leader(task.process.pid).unwrap_or_else(|| task.clone());
        (task, leader)
    };
    may_enter(s, &kernel.cgroups.of_task(&leader), io.opener, border)?;
    kernel.cgroups.migrate(&kernel, &task, &s.group)
}

/// The number that was written.
fn number(data: &[u8]) -> Result<i32> {
    let w = words(data)?;
    let [word] = w[..] else { return Err(EINVAL) };
    word.parse().ok().filter(|n| *n >= 0).ok_or(EINVAL)
}

/// Moves the thread with the given number (0: the writer) here, from another group of the same domain.
fn store_threads(
    s: &Subject,
    io: &Io<'_>,
    border: Option<&Arc<CgroupNs>>,
    data: &[u8],
) -> Result<()> {
    let kernel = s.control.kernel()?;
    let tid = match number(data)? {
        0 => io.task.tid,
        n => io.task.kernel_pid(n)?,
    };
    let task = kernel.tree.read().task(tid).ok_or(ESRCH)?;
    may_enter(s, &kernel.cgroups.of_task(&task), io.opener, border)?;
    kernel.cgroups.migrate_thread(&kernel, &task, &s.group)
}
