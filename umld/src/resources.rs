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
    let (by_manager, wanted) = by_unit(wanted);
    how.extend(by_manager);
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

fn cgroup_values(r: &Resources) -> Limits {
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

/// Limits by the control file that has them.
type Limits = Vec<(&'static str, String)>;

/// What of the limits the unit that this process is the main one of has already, in words, and the rest of them: the
/// generator has made properties of the unit of them (systemd.resource-control(5)). A limit that the unit has, and the
/// host's kernel has no file for, is told as not enforced; a leaf would not have one either.
fn by_unit(wanted: Limits) -> (Option<String>, Limits) {
    let is_main =
        std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|p| p == std::process::id().to_string());
    let own = own_cgroup().ok().filter(|_| is_main);
    match own {
        Some(dir) => set_in(&dir, wanted),
        None => (None, wanted),
    }
}

/// The property of a unit that sets a control file.
fn property(file: &str) -> &'static str {
    match file {
        "cpu.weight" => "CPUWeight",
        "cpu.max" => "CPUQuota",
        "memory.max" => "MemoryMax",
        "io.weight" => "IOWeight",
        _ => "TasksMax",
    }
}

/// The same for a unit's directory.
fn set_in(dir: &Path, wanted: Limits) -> (Option<String>, Limits) {
    let Some(unit) = dir.file_name().and_then(|n| n.to_str()).filter(|n| n.ends_with(".service"))
    else {
        return (None, wanted);
    };
    let (mut set, mut missing, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    for (file, value) in wanted {
        let has = std::fs::read_to_string(dir.join(file));
        // io.weight begins with a word, and memory is counted in pages.
        let number = |t: &str| t.trim().trim_start_matches("default ").to_owned();
        let same = |h: &str| match (h.parse::<u64>(), value.parse::<u64>()) {
            (Ok(h), Ok(v)) if file == "memory.max" => h / 4096 == v / 4096,
            _ => h == value,
        };
        match has {
            Ok(h) if same(&number(&h)) => set.push(property(file)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && is_weight(file) => {
                missing.push(format!("{file} (the host's kernel has none)"));
            }
            _ => rest.push((file, value)),
        }
    }
    let mut how = Vec::new();
    if !set.is_empty() {
        how.push(format!("properties of {unit}: {}", set.join(" ")));
    }
    if !missing.is_empty() {
        how.push(format!("not enforced: {}", missing.join(", ")));
    }
    ((!how.is_empty()).then(|| how.join(", ")), rest)
}

fn is_weight(file: &str) -> bool {
    file.ends_with(".weight")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_a_unit_has_are_not_made_again() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("uml@x.service");
        std::fs::create_dir(&dir).unwrap();
        let wanted = |m: &str| -> Limits {
            [
                ("cpu.weight", "50"),
                ("cpu.max", "50000 100000"),
                ("memory.max", m),
                ("io.weight", "20"),
                ("pids.max", "60"),
            ]
            .map(|(f, v)| (f, v.to_owned()))
            .into()
        };
        // A unit without limits of its own: all is ours to do.
        for (file, text) in [
            ("cpu.weight", "100"),
            ("cpu.max", "max 100000"),
            ("memory.max", "max"),
            ("io.weight", "default 100"),
            ("pids.max", "max"),
        ] {
            std::fs::write(dir.join(file), format!("{text}\n")).unwrap();
        }
        let all = wanted("1000000");
        assert_eq!(set_in(&dir, all.clone()), (None, all));
        // Those of the generator; the kernel has rounded the memory down, and has no weights for the disk.
        for (file, value) in wanted("999424") {
            std::fs::write(dir.join(file), format!("{value}\n")).unwrap();
        }
        std::fs::write(dir.join("io.weight"), "default 20\n").unwrap();
        let (how, rest) = set_in(&dir, wanted("1000000"));
        let how = how.unwrap();
        assert_eq!(
            how,
            "properties of uml@x.service: CPUWeight CPUQuota MemoryMax IOWeight TasksMax"
        );
        assert!(rest.is_empty());
        std::fs::remove_file(dir.join("io.weight")).unwrap();
        let (how, rest) = set_in(&dir, wanted("2000000"));
        let how = how.unwrap();
        assert!(how.ends_with("not enforced: io.weight (the host's kernel has none)"), "{how}");
        assert_eq!(rest, [("memory.max", "2000000".to_owned())]);
        // Not a unit of ours: a session, for instance.
        let other = base.path().join("session-1.scope");
        std::fs::rename(&dir, &other).unwrap();
        assert_eq!(set_in(&other, wanted("1000000")).0, None);
    }
}
