//! `bench-umld`: what umld costs. One JSON object a line for each figure, like the other benches.
//!
//! usage: bench-umld [INSTANCES]      (default 200)
//!
//! Figures: `start_to_prompt_ms` (umld start to the shell's prompt on the console), `exec_ms` (a program in a running guest),
//! `clone_ms`, and with that many instances of the host's userland running: `fleet_up_s`, `list_ms`, `status_all_ms`, `fleet_down_s`,
//! `daemon_rss_kib`, `daemon_wakeups` (in ten seconds of nothing), `holder_rss_kib` (median, private part).
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 10;

struct Bench {
    umld: PathBuf,
    home: PathBuf,
}

type Outcome<T> = Result<T, String>;

fn report(metric: &str, value: f64, n: usize) {
    println!(
        "{{\"bench\":\"umld\",\"metric\":\"{metric}\",\"value\":{value:.3},\"instances\":{n}}}"
    );
}

fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v.get(v.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Bench {
    fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(&self.umld);
        c.args(args).env("HOME", &self.home).current_dir(&self.home).stdin(Stdio::null());
        c
    }

    /// Runs a command that must succeed; its output and the milliseconds it took.
    fn run(&self, args: &[&str]) -> Outcome<(String, f64)> {
        let begun = Instant::now();
        let out = self.command(args).output().map_err(|e| format!("umld: {e}"))?;
        let ms = begun.elapsed().as_secs_f64() * 1e3;
        if out.status.success() {
            return Ok((String::from_utf8_lossy(&out.stdout).into_owned(), ms));
        }
        Err(format!(
            "umld {}: {}\n{}",
            args.join(" "),
            out.status,
            String::from_utf8_lossy(&out.stderr)
        ))
    }

    fn write(&self, name: &str, text: &str) -> Outcome<()> {
        std::fs::write(self.home.join(name), text).map_err(|e| format!("{name}: {e}"))
    }

    fn log_has(&self, name: &str, what: &str) -> bool {
        let path = self.home.join(format!(".uml/.umld/{name}/con0.log"));
        std::fs::read_to_string(path).is_ok_and(|t| t.contains(what))
    }

    fn one(&self) -> Outcome<()> {
        self.write("shell.toml", "[vm]\nmem = \"128M\"\n[boot]\ncommand = [\"sh\", \"-i\"]\n[guest.env]\nPS1 = \"ready-prompt\"\n")?;
        let mut starts = Vec::new();
        let mut execs = Vec::new();
        for _ in 0..ROUNDS {
            let _ = std::fs::remove_file(self.home.join(".uml/.umld/shell/con0.log"));
            let begun = Instant::now();
            self.run(&["start", "shell.toml"])?;
            while !self.log_has("shell", "ready-prompt") {
                if begun.elapsed() > Duration::from_secs(60) {
                    return Err("no prompt within a minute".into());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            starts.push(begun.elapsed().as_secs_f64() * 1e3);
            execs.push(self.run(&["exec", "shell", "--", "true"])?.1);
            self.run(&["stop", "--now", "shell"])?;
        }
        report("start_to_prompt_ms", median(starts), 1);
        report("exec_ms", median(execs), 1);
        Ok(())
    }

    fn clones(&self) -> Outcome<()> {
        let image = self.home.join("base.img");
        let f = std::fs::File::create(&image).map_err(|e| e.to_string())?;
        f.set_len(1 << 30).map_err(|e| e.to_string())?;
        self.write("base.toml", "[[disk]]\nfile = \"base.img\"\ncow = \"base.cow\"\n")?;
        self.run(&["create", "base.toml"])?;
        let mut times = Vec::new();
        for n in 0..ROUNDS {
            times.push(self.run(&["clone", "base", &format!("clone{n}")])?.1);
        }
        report("clone_ms", median(times), 1);
        for n in 0..ROUNDS {
            self.run(&["rm", &format!("clone{n}")])?;
        }
        self.run(&["rm", "base"]).map(|_| ())
    }

    fn many(&self, n: usize) -> Outcome<()> {
        self.write("idle.toml", "[vm]\nmem = \"32M\"\nncpus = 1\n[boot]\ntimeout = \"300s\"\ncommand = [\"sleep\", \"100000\"]\n[stop]\ncad = \"0s\"\nhalt = \"60s\"\n")?;
        self.write(
            "fleet.toml",
            &format!("[fleet]\ntemplate = \"idle.toml\"\nname = \"i{{n}}\"\ncount = {n}\n"),
        )?;
        let mut daemon =
            self.command(&["daemon"]).stderr(Stdio::null()).spawn().map_err(|e| e.to_string())?;
        let measured = self.with_daemon(n, &daemon);
        let _ = daemon.kill();
        let _ = daemon.wait();
        measured
    }

    fn with_daemon(&self, n: usize, daemon: &Child) -> Outcome<()> {
        let up = self.run(&["up", "--progress=none"]);
        if let Ok((_, ms)) = &up {
            report("fleet_up_s", ms / 1e3, n);
            let lists: Outcome<Vec<f64>> =
                (0..ROUNDS).map(|_| Ok(self.run(&["list"])?.1)).collect();
            report("list_ms", median(lists?), n);
            report("status_all_ms", self.run(&["status", "--json"])?.1, n);
            std::thread::sleep(Duration::from_secs(2));
            let pid = daemon.id();
            report("daemon_rss_kib", field(pid, "VmRSS").unwrap_or(f64::NAN), n);
            let before = field(pid, "voluntary_ctxt_switches").unwrap_or(0.0);
            std::thread::sleep(Duration::from_secs(10));
            let after = field(pid, "voluntary_ctxt_switches").unwrap_or(f64::NAN);
            report("daemon_wakeups", after - before, n);
            report(
                "holder_rss_kib",
                median(self.holders().into_iter().filter_map(|p| field(p, "RssAnon")).collect()),
                n,
            );
        }
        let down = self.run(&["down", "--progress=none"]);
        if let Ok((_, ms)) = &down {
            report("fleet_down_s", ms / 1e3, n);
        }
        up.and(down).map(|_| ())
    }

    fn holders(&self) -> Vec<u32> {
        let dirs = std::fs::read_dir(self.home.join(".uml/.umld")).into_iter().flatten().flatten();
        dirs.filter_map(|d| {
            let text = std::fs::read_to_string(d.path().join("status.json")).ok()?;
            let (_, rest) = text.split_once("\"holder\": ")?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        })
        .collect()
    }
}

/// A number of /proc/PID/status.
fn field(pid: u32, name: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

fn all(n: usize) -> Outcome<()> {
    let exe = std::env::current_exe().map_err(|e| e.to_string())?;
    let umld = exe.parent().unwrap_or(Path::new(".")).join("umld");
    if !umld.is_file() {
        return Err(format!("{} is not built", umld.display()));
    }
    let home = std::env::temp_dir().join(format!("bench-umld.{}", std::process::id()));
    std::fs::create_dir_all(&home).map_err(|e| e.to_string())?;
    let b = Bench { umld, home };
    let done = b.one().and_then(|()| b.clones()).and_then(|()| b.many(n));
    let _ = b.run(&["stop", "--all", "--now"]);
    let _ = std::fs::remove_dir_all(&b.home);
    done
}

fn main() -> ExitCode {
    let n = match std::env::args().nth(1).map(|a| a.parse::<usize>()) {
        None => 200,
        Some(Ok(n)) if (1..=2000).contains(&n) => n,
        _ => {
            eprintln!("usage: bench-umld [INSTANCES]");
            return ExitCode::from(2);
        }
    };
    match all(n) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench-umld: {e}");
            ExitCode::FAILURE
        }
    }
}
