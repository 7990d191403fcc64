//! Memory of an idle guest, from the host's /proc.

use crate::collect::{Figures, Running};
use crate::subject::Subject;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

/// Parent of every process.
fn parents() -> BTreeMap<u32, u32> {
    let mut map = BTreeMap::new();
    for e in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = e.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let ppid = stat
            .rsplit_once(')')
            .and_then(|(_, r)| r.split_whitespace().nth(1))
            .and_then(|p| p.parse().ok());
        if let Some(p) = ppid {
            map.insert(pid, p);
        }
    }
    map
}

/// A process and all its descendants.
pub fn tree(root: u32) -> Vec<u32> {
    let p = parents();
    let mut all = vec![root];
    let mut i = 0;
    while i < all.len() {
        let me = all[i];
        all.extend(p.iter().filter(|(_, pp)| **pp == me).map(|(c, _)| *c));
        i += 1;
    }
    all
}

/// Ends the descendants of a process that left its group; each is one that this program started.
pub fn kill_tree(root: u32) {
    for pid in tree(root).into_iter().skip(1) {
        let _ = Command::new("kill")
            .args(["-KILL", &pid.to_string()])
            .stderr(std::process::Stdio::null())
            .status();
    }
}

/// A field of smaps_rollup in kB.
fn rollup(pid: u32, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    text.lines()
        .find(|l| l.starts_with(key))
        .and_then(|l| l.split_whitespace().nth(1))
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

fn name(pid: u32) -> String {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    exe.and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned())).unwrap_or_default()
}

/// Memory of a guest with one waiting shell: the kernel process alone, and everything that belongs to the guest.
pub fn idle(s: &Subject, f: &mut Figures) {
    let running = match Running::start(s.command(&["idle".into()])) {
        Ok(r) => r,
        Err(e) => return f.error("idle_kernel_rss", &e),
    };
    loop {
        match running.line(Duration::from_secs(60)) {
            Ok(Some(l)) if l.contains("UBENCH IDLE") => break,
            Ok(Some(_)) => {}
            Ok(None) => return f.error("idle_kernel_rss", "the guest ended"),
            Err(e) => return f.error("idle_kernel_rss", &e),
        }
    }
    // Until two looks agree: the shell has started and everything sleeps.
    let mut last = 0;
    for _ in 0..50 {
        let now: u64 = tree(running.pid()).iter().map(|p| rollup(*p, "Pss:")).sum();
        if now == last {
            break;
        }
        last = now;
        std::thread::sleep(Duration::from_millis(100));
    }
    let pids = tree(running.pid());
    let kernel = s.kernel.unwrap_or_default();
    // The first of that name is the kernel; guest processes of stock UML carry it too.
    let main = pids.iter().find(|p| name(**p) == kernel || name(**p).starts_with(kernel));
    match main {
        Some(p) => f.value("idle_kernel_rss", "MiB", vec![rollup(*p, "Rss:") as f64 / 1024.0]),
        None => f.error("idle_kernel_rss", &format!("no process runs {kernel}")),
    }
    let total: u64 = pids.iter().map(|p| rollup(*p, "Pss:")).sum();
    f.value("idle_total_pss", "MiB", vec![total as f64 / 1024.0]);
    f.value("idle_processes", "", vec![pids.len() as f64]);
}
