//! `umld doctor`: what this host offers to machines, and how to get what is missing.

use std::path::Path;
use std::process::Command;

use serde::Serialize;

use crate::cli::Format;
use crate::cmd::{print, table};
use crate::failure::{Result, code};
use crate::state::Store;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// All is well.
    Ok,
    /// Something is slower or missing; machines run.
    Warning,
    /// Machines cannot run.
    Missing,
}

/// One thing examined. The field names are stable.
#[derive(Debug, Serialize)]
pub struct Finding {
    name: &'static str,
    grade: Grade,
    found: String,
    remedy: String,
}

fn finding(name: &'static str, grade: Grade, found: impl Into<String>, remedy: &str) -> Finding {
    let remedy = if grade == Grade::Ok { String::new() } else { remedy.into() };
    Finding { name, grade, found: found.into(), remedy }
}

/// Prints the findings; status 69 when machines cannot run.
pub fn run(a: &Format) -> Result<u8> {
    let all = examine();
    if a.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&all).unwrap_or_default()))?;
    } else if a.quiet {
        let bad = all.iter().filter(|f| f.grade != Grade::Ok);
        print(&bad.map(|f| format!("{}\n", f.name)).collect::<String>())?;
    } else {
        let rows: Vec<Vec<String>> = all
            .iter()
            .map(|f| {
                let grade = match f.grade {
                    Grade::Ok => "ok",
                    Grade::Warning => "warning",
                    Grade::Missing => "MISSING",
                };
                vec![f.name.into(), grade.into(), f.found.clone()]
            })
            .collect();
        let mut text = table(&["WHAT", "GRADE", "FOUND"], &rows);
        for f in all.iter().filter(|f| !f.remedy.is_empty()) {
            text += &format!("\n{}: {}\n", f.name, f.remedy);
        }
        print(&text)?;
    }
    let missing = all.iter().any(|f| f.grade == Grade::Missing);
    Ok(if missing { code::UNAVAILABLE } else { 0 })
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|t| t.trim().to_owned())
}

/// Looks at everything.
pub fn examine() -> Vec<Finding> {
    vec![
        kernel(),
        seccomp(),
        ptrace(),
        xstate(),
        memfd(),
        tempdir(),
        home(),
        limits("open files", "Max open files", 1024),
        limits("processes", "Max processes", 512),
        overcommit(),
        cgroup(),
        device(
            "/dev/net/tun",
            "tap network interfaces",
            "modprobe tun, and chmod 0666 /dev/net/tun or be in its group",
        ),
        ping(),
        program("mke2fs", "umld image", Grade::Warning),
        program("e2fsck", "umld image check", Grade::Warning),
        program("resize2fs", "umld image resize", Grade::Warning),
        image_builder(),
        passt(),
    ]
}

/// Whether mode `user` can send echo requests.
fn ping() -> Finding {
    let range = read("/proc/sys/net/ipv4/ping_group_range").unwrap_or_default();
    let mut n = range.split_whitespace().filter_map(|w| w.parse::<u32>().ok());
    let (from, to) = (n.next().unwrap_or(1), n.next().unwrap_or(0));
    let mine = nix::unistd::getgroups().unwrap_or_default();
    let mine = mine.into_iter().chain([nix::unistd::getegid()]);
    let may = mine.map(|g| g.as_raw()).any(|g| (from..=to).contains(&g));
    finding(
        "ping from guests",
        if may { Grade::Ok } else { Grade::Warning },
        range,
        "only needed for echo requests of guests with network mode user: \
        sysctl net.ipv4.ping_group_range=\"0 2147483647\"",
    )
}

fn kernel() -> Finding {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut n = release.split(['.', '-']).map(|p| p.parse::<u32>().unwrap_or(0));
    let version = (n.next().unwrap_or(0), n.next().unwrap_or(0));
    let grade = if version >= (6, 6) { Grade::Ok } else { Grade::Warning };
    finding(
        "host kernel",
        grade,
        release,
        "6.6 or later lets guest and kernel share a CPU's caches; 5.19 or later is needed for \
        the notify platform, older ones use ptrace",
    )
}

fn seccomp() -> Finding {
    let actions = read("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let has = |a: &str| actions.split_whitespace().any(|w| w == a);
    let grade = match (has("user_notif"), has("trap")) {
        (true, true) => Grade::Ok,
        _ => Grade::Warning,
    };
    let found = if actions.is_empty() { "none".into() } else { actions };
    finding(
        "seccomp",
        grade,
        found,
        "a host kernel with CONFIG_SECCOMP_FILTER offers user_notif and trap; without, guest programs run under \
        ptrace, slower",
    )
}

fn ptrace() -> Finding {
    let (grade, found) = match read("/proc/sys/kernel/yama/ptrace_scope").as_deref() {
        None => (Grade::Ok, "not restricted".into()),
        Some("0" | "1") => (Grade::Ok, "own children".into()),
        Some("2") => (Grade::Warning, "only with CAP_SYS_PTRACE".to_owned()),
        Some(other) => (Grade::Warning, format!("scope {other}: nobody")),
    };
    finding(
        "ptrace",
        grade,
        found,
        "sysctl kernel.yama.ptrace_scope=1 permits the ptrace platform and stock kernels",
    )
}

fn xstate() -> Finding {
    let cpu = read("/proc/cpuinfo").unwrap_or_default();
    let flags = cpu.lines().find(|l| l.starts_with("flags")).unwrap_or_default().to_owned();
    let has = |f: &str| flags.split_whitespace().any(|w| w == f);
    let amx = has("amx_tile");
    let found = match (has("xsave"), has("avx512f"), amx) {
        (false, _, _) => "no xsave",
        (_, _, true) => "xsave with AVX-512 and AMX (more than 10 KiB)",
        (_, true, _) => "xsave with AVX-512 (2.6 KiB)",
        _ => "xsave",
    };
    // Stock kernels before 6.10 had a fixed area.
    let grade = if amx { Grade::Warning } else { Grade::Ok };
    finding(
        "register state",
        grade,
        found,
        "stock kernels older than 6.10 cannot save states this large and fail; the built-in kernel can",
    )
}

fn memfd() -> Finding {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    match memfd_create(c"umld-doctor", MFdFlags::empty()) {
        Ok(_) => finding("memfd", Grade::Ok, "available", ""),
        Err(e) => finding(
            "memfd",
            Grade::Missing,
            e.desc(),
            "the host kernel needs CONFIG_MEMFD_CREATE, and no filter may forbid memfd_create",
        ),
    }
}

fn tempdir() -> Finding {
    let dir = ["TMPDIR", "TMP", "TEMP"]
        .iter()
        .find_map(|v| std::env::var(v).ok().filter(|d| !d.is_empty()))
        .unwrap_or("/dev/shm".into());
    let found = match nix::sys::statvfs::statvfs(Path::new(&dir)) {
        Ok(s) if s.flags().contains(nix::sys::statvfs::FsFlags::ST_NOEXEC) => {
            return finding(
                "memory directory",
                Grade::Warning,
                format!("{dir} is mounted noexec"),
                "stock kernels keep guest memory there \
                and need to map it executable: mount -o remount,exec, or set resources.tmpdir to another tmpfs",
            );
        }
        Ok(s) => {
            let free = s.blocks_available() * s.fragment_size();
            format!("{dir}, {} free", crate::spec::values::human(free))
        }
        Err(e) => {
            return finding(
                "memory directory",
                Grade::Warning,
                format!("{dir}: {}", e.desc()),
                "set TMPDIR to a tmpfs",
            );
        }
    };
    finding("memory directory", Grade::Ok, found, "")
}

fn home() -> Finding {
    match Store::open() {
        Err(e) => finding("instance directory", Grade::Missing, e.text, "set HOME"),
        Ok(s) => {
            let left = 107usize.saturating_sub(s.uml.path().as_os_str().len() + "//mconsole".len());
            let path = s.uml.path().display().to_string();
            let grade = if left >= 20 { Grade::Ok } else { Grade::Warning };
            finding(
                "socket paths",
                grade,
                format!("{path}: names of {} bytes fit", left.min(63)),
                "use a shorter HOME; the built-in kernel takes longer paths, \
                stock kernels and clients do not",
            )
        }
    }
}

fn limits(name: &'static str, line: &str, least: u64) -> Finding {
    let text = read("/proc/self/limits").unwrap_or_default();
    let value = text.lines().find_map(|l| l.strip_prefix(line)).unwrap_or_default().to_owned();
    let soft = value.split_whitespace().next().unwrap_or("unknown").to_owned();
    let grade = match soft.parse::<u64>() {
        Ok(n) if n < least => Grade::Warning,
        _ => Grade::Ok,
    };
    finding(name, grade, soft, "raise it with ulimit or in limits.conf(5); each machine takes some")
}

fn overcommit() -> Finding {
    let mode = read("/proc/sys/vm/overcommit_memory").unwrap_or_default();
    let grade = if mode == "2" { Grade::Warning } else { Grade::Ok };
    let found = match mode.as_str() {
        "0" => "heuristic",
        "1" => "always",
        "2" => "strict",
        _ => "unknown",
    };
    finding(
        "memory overcommit",
        grade,
        found,
        "with strict accounting every machine's whole memory counts at once: sysctl vm.overcommit_memory=0",
    )
}

fn cgroup() -> Finding {
    let remedy = "run under systemd with Delegate=yes (umld.service has it), or systemd-run --user --scope -p Delegate=yes; without, limits are rlimits";
    let own = read("/proc/self/cgroup").unwrap_or_default();
    let Some(path) = own.lines().find_map(|l| l.strip_prefix("0::").map(str::to_owned)) else {
        return finding("cgroup delegation", Grade::Warning, "no cgroup 2", remedy);
    };
    for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let dir = Path::new(mount).join(path.trim_start_matches('/'));
        let Ok(controllers) = std::fs::read_to_string(dir.join("cgroup.controllers")) else {
            continue;
        };
        let writable = nix::unistd::access(&dir, nix::unistd::AccessFlags::W_OK).is_ok();
        let useful = ["cpu", "memory", "pids"]
            .iter()
            .all(|c| controllers.split_whitespace().any(|w| w == *c));
        let shown = if controllers.trim().is_empty() {
            "none".into()
        } else {
            controllers.trim().to_owned()
        };
        let grade = if writable && useful { Grade::Ok } else { Grade::Warning };
        let may = if writable { "" } else { ", not writable" };
        return finding("cgroup delegation", grade, format!("controllers: {shown}{may}"), remedy);
    }
    finding("cgroup delegation", Grade::Warning, "cgroup 2 is not mounted", remedy)
}

fn device(path: &'static str, what: &str, remedy: &str) -> Finding {
    let open = std::fs::File::options().read(true).write(true).open(path);
    let (grade, found) = match open {
        Ok(_) => (Grade::Ok, "usable".to_owned()),
        Err(e) => (Grade::Warning, format!("{} ({what})", uml_formats::strerror(&e))),
    };
    finding(path, grade, found, remedy)
}

fn program(name: &'static str, what: &str, otherwise: Grade) -> Finding {
    match which(name) {
        Some(p) => finding(name, Grade::Ok, p.display().to_string(), ""),
        None => finding(
            name,
            otherwise,
            format!("not installed ({what})"),
            &format!(
                "install it: apt install {}",
                match name {
                    "mke2fs" | "e2fsck" | "resize2fs" => "e2fsprogs",
                    n => n,
                }
            ),
        ),
    }
}

/// What `umld image build --suite` would use.
fn image_builder() -> Finding {
    let by = |name| which(name).map(|p| p.display().to_string());
    let as_root = by("debootstrap").filter(|_| nix::unistd::geteuid().is_root());
    let (grade, found) = match (by("mmdebstrap").or(as_root), by("debootstrap")) {
        (Some(path), _) => (Grade::Ok, path),
        (None, Some(path)) => (Grade::Warning, format!("{path}, which needs root")),
        (None, None) => (Grade::Warning, "neither mmdebstrap nor debootstrap is installed".into()),
    };
    finding(
        "image builder",
        grade,
        found,
        "only needed for umld image build --suite: apt install mmdebstrap",
    )
}

/// Other tools for machines without privileges need it for their network; it is looked for here, too.
fn passt() -> Finding {
    let found = which("passt").map_or("not installed".into(), |p| p.display().to_string());
    let found = format!("{found}; not needed: network mode user has a router of its own");
    finding("passt", Grade::Ok, found, "")
}

/// A program in PATH or in the directories of system programs.
pub fn which(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    std::env::split_paths(&path).map(|d| d.join(name)).find(|p| p.is_file())
}

/// A command for a program that may be in /sbin, or the failure that says what to install.
pub fn command(name: &'static str, package: &str) -> Result<Command> {
    which(name).map(Command::new).ok_or_else(|| {
        crate::failure::Failure::new(
            code::UNAVAILABLE,
            format!("{name} is not installed; install the package {package}"),
        )
    })
}
