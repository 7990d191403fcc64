//! Instance names: many starts at once, and names left behind by a crash.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use storage_tests::suite::Verdict;

use crate::machine::{Kernel, Machine, Start};
use crate::request;

const STARTS: usize = 32;

fn start(dir: &Path, n: usize) -> Result<Machine, String> {
    let dir = dir.join(format!("s{n}"));
    fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    // The last option of a name counts: all share one directory.
    let shared = dir.parent().unwrap_or(&dir).join("shared");
    let options = [format!("uml_dir={}/", shared.display())];
    let script = "echo up; sleep 100000";
    Machine::start(&Start {
        kernel: Kernel::Ours,
        dir: &dir,
        umid: "race",
        memory: 64,
        script,
        options: &options,
    })
}

fn race(dir: &Path, round: usize) -> Result<Vec<Machine>, String> {
    let all: Vec<Result<Machine, String>> = std::thread::scope(|s| {
        let threads: Vec<_> =
            (0..STARTS).map(|n| s.spawn(move || start(dir, round * STARTS + n))).collect();
        threads.into_iter().map(|t| t.join().map_err(|_| "a start panicked".to_owned())?).collect()
    });
    all.into_iter().collect()
}

/// Of 32 one has the name; all have consoles, and those answer for them.
fn check(machines: &[Machine], shared: &Path) -> Result<usize, String> {
    let mut seen = BTreeSet::new();
    let mut winner = None;
    for (n, m) in machines.iter().enumerate() {
        let console = m.console().ok_or("a machine has no console")?;
        if !seen.insert(console.clone()) {
            return Err(format!("two machines say {}", console.display()));
        }
        if console == shared.join("race/mconsole") {
            winner = Some(n);
        }
        let pid = fs::read_to_string(console.with_file_name("pid")).map_err(|e| e.to_string())?;
        if pid != format!("{}\n", m.pid()) {
            return Err(format!("{}: pid {pid:?} instead of {}", console.display(), m.pid()));
        }
        request::ask(&console, "version")?;
    }
    winner.ok_or_else(|| "nobody has the name".into())
}

fn try_it(dir: &Path) -> Result<(), String> {
    let shared = dir.join("shared");
    // Left behind by a machine that is gone: the pid is of nobody.
    fs::create_dir_all(shared.join("race")).map_err(|e| e.to_string())?;
    fs::write(shared.join("race/pid"), "4194305\n").map_err(|e| e.to_string())?;
    fs::write(shared.join("race/mconsole"), "").map_err(|e| e.to_string())?;
    let mut machines = race(dir, 0)?;
    let winner = check(&machines, &shared)?;
    // A crash leaves the directory, and the next start takes it over.
    let mut crashed = machines.swap_remove(winner);
    kill(Pid::from_raw(crashed.pid()), Signal::SIGKILL).map_err(|e| e.to_string())?;
    crashed.wait()?;
    if !shared.join("race/pid").exists() {
        return Err("a killed machine left nothing".into());
    }
    let next = start(dir, STARTS)?;
    check(std::slice::from_ref(&next), &shared)?;
    for m in machines.iter().chain([&next]) {
        let console = m.console().ok_or("a machine has no console")?;
        request::ask(&console, "halt")?;
    }
    for m in machines.iter_mut() {
        m.wait()?;
    }
    drop(next);
    let left: Vec<_> = fs::read_dir(&shared).map_err(|e| e.to_string())?.flatten().collect();
    if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
}

/// 32 starts with one name over a stale directory of it; then a crash.
pub fn concurrent(dir: &Path) -> Verdict {
    try_it(dir).into()
}
