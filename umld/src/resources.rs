//! Limits: an own cgroup where the host delegates one, rlimits otherwise. Applied by a process to itself before it starts
//! the kernel, which inherits them.

use std::path::{Path, PathBuf};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::Pid;

use crate::failure::{Failure, Result, code};
use crate::spec::check::{cpu_list, cpu_share};
use crate::spec::vm::Resources;

/// Applies limits; says how, for `umld status`.
pub fn apply(name: &str, r: &Resources) -> Result<String> {
    affinity(r)?;
    let wanted = cgroup_values(r);
    let mut how: Vec<String> = Vec::new();
    if r.cpus.is_some() || r.numa.is_some() {
        how.push("affinity".into());
    }
    if wanted.is_empty() {
        return Ok(how.join(", "));
    }
    match enter_cgroup(name, &wanted) {
        Ok((path, missing)) => {
            how.push(format!("cgroup {}", path.display()));
            if !missing.is_empty() {
                how.push(format!("not enforced: {}", missing.join(", ")));
            }
        }
        Err(why) => how.extend(fall_back(r, &why)?),
    }
    Ok(how.join(", "))
}

/// CPUs of a NUMA node.
fn node_cpus(node: u32) -> Result<Vec<usize>> {
    let path = format!("/sys/devices/system/node/node{node}/cpulist");
    let text = std::fs::read_to_string(&path).map_err(|_| {
        Failure::new(
            code::UNAVAILABLE,
            format!("resources.numa: this host has no NUMA node {node}"),
        )
    })?;
    Ok(cpu_list(text.trim()).unwrap_or_default())
}

fn affinity(r: &Resources) -> Result {
    let mut cpus: Option<Vec<usize>> = r.cpus.as_deref().and_then(cpu_list);
    if let Some(n) = r.numa {
        let node = node_cpus(n)?;
        cpus = Some(match cpus {
            Some(c) => c.into_iter().filter(|c| node.contains(c)).collect(),
            None => node,
        });
    }
    let Some(cpus) = cpus else { return Ok(()) };
    let mut set = CpuSet::new();
    for c in &cpus {
        let _ = set.set(*c);
    }
    sched_setaffinity(Pid::from_raw(0), &set).map_err(|e| {
        Failure::new(
            code::UNAVAILABLE,
            format!("resources.cpus: the host does not let it run on CPUs {cpus:?}: {e}"),
        )
    })
}

fn cgroup_values(r: &Resources) -> Vec<(&'static str, String)> {
    let mut v = Vec::new();
    if let Some(w) = r.cpu_weight {
        v.push(("cpu.weight", w.to_string()));
    }
    if let Some(share) = r.cpu_max.as_deref().and_then(cpu_share) {
        v.push(("cpu.max", format!("{} 100000", share * 100)));
    }
    if let Some(m) = r.memory_max {
        v.push(("memory.max", m.0.to_string()));
    }
    if let Some(w) = r.io_weight {
        v.push(("io.weight", w.to_string()));
    }
    if let Some(n) = r.tasks_max {
        v.push(("pids.max", n.to_string()));
    }
    v
}

/// Our cgroup 2 directory.
fn own_cgroup() -> std::result::Result<PathBuf, String> {
    let text = std::fs::read_to_string("/proc/self/cgroup").map_err(|e| e.to_string())?;
    let path = text.lines().find_map(|l| l.strip_prefix("0::")).ok_or("no cgroup 2 here")?;
    for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let dir = Path::new(mount).join(path.trim_start_matches('/'));
        if dir.join("cgroup.controllers").is_file() {
            return Ok(dir);
        }
    }
    Err("cgroup 2 is not mounted".into())
}

/// Moves this process into a leaf of its own below a delegated cgroup.
fn enter_cgroup(
    name: &str,
    wanted: &[(&'static str, String)],
) -> std::result::Result<(PathBuf, Vec<String>), String> {
    let parent = own_cgroup()?;
    let failed = |what: &str, p: &Path, e: std::io::Error| {
        format!("{what} {}: {}", p.display(), uml_formats::strerror(&e))
    };
    let available =
        std::fs::read_to_string(parent.join("cgroup.controllers")).map_err(|e| e.to_string())?;
    let controller = |file: &str| file.split('.').next().unwrap_or_default().to_owned();
    let usable: Vec<String> = available.split_whitespace().map(str::to_owned).collect();
    if !wanted.iter().any(|(f, _)| usable.contains(&controller(f))) {
        return Err(format!(
            "no controller of {} is delegated to {}",
            wanted.iter().map(|(f, _)| *f).collect::<Vec<_>>().join(", "),
            parent.display()
        ));
    }
    let leaf = parent.join(format!("umld-{name}"));
    match std::fs::create_dir(&leaf) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(failed("cannot make", &leaf, e));
        }
        _ => {}
    }
    // Processes may be in leaves only; ours is moved first, then the controllers can be handed down.
    let procs = leaf.join("cgroup.procs");
    std::fs::write(&procs, "0").map_err(|e| failed("cannot enter", &leaf, e))?;
    let mut missing = Vec::new();
    for (file, value) in wanted {
        let on = format!("+{}", controller(file));
        let set = std::fs::write(parent.join("cgroup.subtree_control"), &on)
            .and_then(|()| std::fs::write(leaf.join(file), value));
        if let Err(e) = set {
            missing.push(format!("{file} ({})", uml_formats::strerror(&e)));
        }
    }
    Ok((leaf, missing))
}

/// What rlimits can do of it.
fn fall_back(r: &Resources, why: &str) -> Result<Vec<String>> {
    let mut how = vec![format!("no cgroup: {why}")];
    let refused = |key: &str, e: nix::errno::Errno| {
        Failure::new(code::UNAVAILABLE, format!("resources.{key}: the host refuses the limit: {e}"))
    };
    if let Some(m) = r.memory_max {
        // Data segments of each process, not their sum: the guest's own `mem` bounds the rest.
        setrlimit(Resource::RLIMIT_DATA, m.0, m.0).map_err(|e| refused("memory_max", e))?;
        how.push("rlimit data".into());
    }
    if let Some(n) = r.tasks_max {
        setrlimit(Resource::RLIMIT_NPROC, n, n).map_err(|e| refused("tasks_max", e))?;
        how.push("rlimit nproc".into());
    }
    if let Some(w) = r.cpu_weight.filter(|w| *w < 100) {
        let nice = match w {
            0..=9 => 19,
            10..=49 => 10,
            _ => 5,
        };
        let set = rustix::process::setpriority_process(None, nice);
        set.map_err(|e| refused("cpu_weight", nix::errno::Errno::from_raw(e.raw_os_error())))?;
        how.push(format!("nice {nice}"));
    }
    let unenforced: Vec<&str> =
        [("cpu_max", r.cpu_max.is_some()), ("io_weight", r.io_weight.is_some())]
            .into_iter()
            .filter(|(_, set)| *set)
            .map(|(k, _)| k)
            .collect();
    if !unenforced.is_empty() {
        how.push(format!("not enforced: {}", unenforced.join(", ")));
    }
    Ok(how)
}

/// Removes the cgroup of an instance that is down.
pub fn clean_up(how: &str) {
    if let Some(path) = how.split(", ").find_map(|p| p.strip_prefix("cgroup ")) {
        let _ = std::fs::remove_dir(path);
    }
}
