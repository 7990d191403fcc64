//! The OOM killer: which process is ended when the machine's memory, or what a control group may have of it, has run out
//! (proc_pid_oom_score_adj(5), cgroup-v2.rst).

use std::cmp::Reverse;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use uml_base::{pr_err, pr_info, pr_warn};
use uml_host::procinfo::Fields;
use uml_mm::{Mm, PAGE};

use super::limit::{self, Event};
use super::spaces;
use crate::cgroup::Cgroup;
use crate::kernel::Kernel;
use crate::signal::kill_process;
use crate::task::{Process, Task};

/// oom_score_adj that exempts a process.
const NEVER: i64 = -1000;
/// How long a killed process may take to give its memory back before another is chosen.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two complaints that nothing can be killed.
const COMPLAIN: Duration = Duration::from_secs(5);

/// Who was killed last, and is on the way out.
#[derive(Default)]
pub struct Victims {
    last: Option<(Weak<Process>, Instant)>,
    /// Killed, but it kept its memory: not chosen again.
    stuck: Vec<Weak<Process>>,
    complained: Option<Instant>,
}

/// A process and its memory, in pages.
struct Candidate {
    task: Arc<Task>,
    mm: Arc<Mm>,
    anon: u64,
    file: u64,
    shmem: u64,
    tables: u64,
    adj: i64,
}

impl Candidate {
    fn of(task: Arc<Task>, mm: Arc<Mm>) -> Candidate {
        let f: Fields = uml_host::procinfo::status(mm.space().host_pid());
        let pages = |name: &str| f.get(name).map_or(0, |kb| (kb << 10) / PAGE);
        let adj = i64::from(task.process.oom_score_adj.load(Ordering::Relaxed));
        Candidate {
            anon: pages("RssAnon"),
            file: pages("RssFile"),
            shmem: pages("RssShmem"),
            tables: pages("VmPTE"),
            task,
            mm,
            adj,
        }
    }

    fn resident(&self) -> u64 {
        self.anon + self.file + self.shmem
    }

    /// Pages its end would free, biased by the adjustment; `None` for who is exempt: init, whoever asked
    /// for it, and who has no memory.
    fn badness(&self, total: u64) -> Option<i64> {
        if self.task.process.pid == 1 || self.adj == NEVER || self.resident() == 0 {
            return None;
        }
        let pages = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let bias = pages(total).saturating_mul(self.adj) / 1000;
        // More than there is may have been taken since the last sample; it shall not outweigh an adjustment
        // that means "all memory".
        Some(pages((self.resident() + self.tables).min(total)).saturating_add(bias))
    }

    fn name(&self) -> String {
        let comm = self.task.comm();
        let text = String::from_utf8_lossy(&comm).into_owned();
        text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
    }

    fn uid(&self) -> u32 {
        self.task.cred().uid
    }

    fn virtual_pages(&self) -> u64 {
        self.mm.map().vmas.total(|_| true) / PAGE
    }
}

/// Every process, or those of a group and the groups below.
fn candidates(kernel: &Kernel, group: Option<&Arc<Cgroup>>) -> Vec<Candidate> {
    let all = match group {
        Some(g) => limit::members(kernel, g),
        None => spaces(kernel),
    };
    all.into_iter().map(|(t, mm)| Candidate::of(t, mm)).collect()
}

/// True while a process that was killed before still holds memory.
fn dying(kernel: &Kernel) -> bool {
    let mut v = kernel.memory.victims.lock();
    let Some((process, since)) = v.last.clone() else { return false };
    let holds = process.upgrade().is_some_and(|p| {
        let tree = kernel.tree.read();
        let alive = |e: &crate::task::tree::TreeEntry| !e.threads.is_empty();
        tree.get(p.pid).is_some_and(|e| Arc::ptr_eq(&e.process, &p) && alive(e))
    });
    if holds && since.elapsed() < PATIENCE {
        return true;
    }
    v.last = None;
    if holds {
        v.stuck.push(process);
    }
    v.stuck.retain(|p| p.strong_count() > 0);
    false
}

/// Memory has run out: kills a process, unless one that was killed is still on the way out.
pub fn out_of_memory(kernel: &Arc<Kernel>) {
    if dying(kernel) {
        return;
    }
    if kernel.sysctl.vm_panic_on_oom.unsigned() != 0 {
        return kernel.panic("Out of memory: system-wide panic_on_oom is enabled");
    }
    if !kill(kernel, "Out of memory") {
        complain(kernel);
    }
}

/// `group` has more than its limit: kills one of its processes, unless one that was killed is still on the way out.
pub(super) fn out_of_group(kernel: &Arc<Kernel>, group: &Arc<Cgroup>) {
    if dying(kernel) {
        return;
    }
    limit::tell(kernel, group, Event::Max);
    limit::tell(kernel, group, Event::Oom);
    if !kill_within(kernel, "Memory cgroup out of memory", Some(group)) {
        complain(kernel);
    }
}

fn complain(kernel: &Kernel) {
    let mut v = kernel.memory.victims.lock();
    if v.complained.is_none_or(|t| t.elapsed() > COMPLAIN) {
        v.complained = Some(Instant::now());
        drop(v);
        pr_warn!("Out of memory and no killable processes...");
    }
}

/// Kills the process with most memory, weighed by its adjustment, and logs why, `reason` leading the line that names
/// it. False when no process may be killed.
pub fn kill(kernel: &Arc<Kernel>, reason: &str) -> bool {
    kill_within(kernel, reason, None)
}

fn kill_within(kernel: &Arc<Kernel>, reason: &str, group: Option<&Arc<Cgroup>>) -> bool {
    let limit = group.and_then(|g| g.memory.max()).unwrap_or(u64::MAX);
    let total = kernel.mem_bytes.min(limit) / PAGE;
    let all = candidates(kernel, group);
    let stuck: Vec<_> = {
        let v = kernel.memory.victims.lock();
        v.stuck.iter().filter_map(Weak::upgrade).collect()
    };
    let eligible = |c: &&Candidate| !stuck.iter().any(|p| Arc::ptr_eq(p, &c.task.process));
    let worst = all
        .iter()
        .filter(eligible)
        .filter_map(|c| c.badness(total).map(|points| (points, c)))
        .min_by_key(|(points, c)| (Reverse(*points), c.task.process.pid));
    let Some((_, victim)) = worst else { return false };
    report(kernel, &all, victim, group);
    let together = killed_together(kernel, &victim.task.process, group);
    let others: Vec<Candidate> = match &together {
        Some(g) => candidates(kernel, Some(g))
            .into_iter()
            .filter(|c| {
                c.adj != NEVER && c.task.process.pid != 1 && !Arc::ptr_eq(&c.mm, &victim.mm)
            })
            .collect(),
        None => Vec::new(),
    };
    // Counted first: whoever is told of the end reads why (memory.events).
    tell_end(kernel, reason, victim);
    if let Some(g) = together {
        let path = String::from_utf8_lossy(&g.path()).into_owned();
        pr_info!("Tasks in {path} are going to be killed due to memory.oom.group set");
        others.iter().for_each(|c| tell_end(kernel, reason, c));
        limit::tell(kernel, &g, Event::OomGroupKill);
    }
    kernel.memory.victims.lock().last =
        Some((Arc::downgrade(&victim.task.process), Instant::now()));
    // The victim last: its parent shall not see its end and go on.
    for c in others.iter().chain([victim]) {
        // Whoever shares the memory (vfork(2), CLONE_VM) keeps it in place.
        for p in sharers(kernel, &c.mm) {
            kill_process(kernel, &p);
        }
    }
    true
}

/// The group that dies with `victim`: the highest one with `memory.oom.group` below the one that ran out of memory
/// (`domain`, or the whole machine), itself included.
fn killed_together(
    kernel: &Kernel,
    victim: &Process,
    domain: Option<&Arc<Cgroup>>,
) -> Option<Arc<Cgroup>> {
    let domain = domain.unwrap_or(kernel.cgroups.root());
    let mut at = Some(kernel.cgroups.of(victim)).filter(|g| g.is_within(domain));
    let mut found = None;
    while let Some(g) = at {
        if g.memory.oom_group() {
            found = Some(g.clone());
        }
        at = g.parent.clone().filter(|p| p.is_within(domain));
    }
    found
}

/// Logs and counts one process that is killed.
fn tell_end(kernel: &Kernel, reason: &str, victim: &Candidate) {
    let kb = |pages: u64| pages * (PAGE >> 10);
    pr_err!(
        "{reason}: Killed process {} ({}) total-vm:{}kB, anon-rss:{}kB, file-rss:{}kB, shmem-rss:{}kB, UID:{} pgtables:{}kB oom_score_adj:{}",
        victim.task.process.pid,
        victim.name(),
        kb(victim.virtual_pages()),
        kb(victim.anon),
        kb(victim.file),
        kb(victim.shmem),
        victim.uid(),
        kb(victim.tables),
        victim.adj
    );
    kernel.memory.kills.fetch_add(1, Ordering::Relaxed);
    let group = kernel.cgroups.of(&victim.task.process);
    limit::tell(kernel, &group, Event::OomKill);
}

fn sharers(kernel: &Kernel, mm: &Arc<Mm>) -> Vec<Arc<Process>> {
    let tasks: Vec<_> = kernel.tree.read().tasks().cloned().collect();
    let mut out: Vec<Arc<Process>> = Vec::new();
    for t in tasks {
        let same = t.mm().is_ok_and(|m| Arc::ptr_eq(&m, mm));
        if same && t.process.pid != 1 && !out.iter().any(|p| Arc::ptr_eq(p, &t.process)) {
            out.push(t.process.clone());
        }
    }
    out
}

/// The state of memory and of every process, as Linux logs it before it kills.
fn report(kernel: &Kernel, all: &[Candidate], victim: &Candidate, group: Option<&Arc<Cgroup>>) {
    pr_warn!("{} invoked oom-killer: order=0, oom_score_adj={}", victim.name(), victim.adj);
    let cached = kernel.memory.cached();
    let anon: u64 = all.iter().map(|c| c.anon).sum();
    let pages = |bytes: u64| bytes / PAGE;
    pr_warn!("Mem-Info:");
    pr_warn!(
        "active_anon:{anon} file:{} shmem:{} dirty:{} total:{}",
        pages(cached.cached.saturating_sub(cached.shmem)),
        pages(cached.shmem),
        pages(cached.dirty),
        pages(kernel.mem_bytes)
    );
    if kernel.sysctl.vm_oom_dump_tasks.unsigned() != 0 {
        pr_info!("Tasks state (memory values in pages):");
        pr_info!(
            "[  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes swapents oom_score_adj name"
        );
        for c in all {
            let pid = c.task.process.pid;
            pr_info!(
                "[{:7}] {:5} {:5} {:8} {:8} {:8} {:8} {:9} {:8} {:8}         {:5} {}",
                pid,
                c.uid(),
                pid,
                c.virtual_pages(),
                c.resident(),
                c.anon,
                c.file,
                c.shmem,
                c.tables * PAGE,
                0,
                c.adj,
                c.name()
            );
        }
    }
    let pid = victim.task.process.pid;
    let path = |g: &Arc<Cgroup>| String::from_utf8_lossy(&g.path()).into_owned();
    let own = path(&kernel.cgroups.of(&victim.task.process));
    let constraint = match group {
        Some(g) => {
            format!("CONSTRAINT_MEMCG,nodemask=(null),oom_memcg={},task_memcg={own}", path(g))
        }
        None => format!("CONSTRAINT_NONE,nodemask=(null),global_oom,task_memcg={own}"),
    };
    pr_info!(
        "oom-kill:constraint={constraint},task={},pid={pid},uid={}",
        victim.name(),
        victim.uid()
    );
}
