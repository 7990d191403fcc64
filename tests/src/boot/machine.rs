//! Running one machine on a pty, or on pipes, and looking at what it leaves behind.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use uml_host::{pty, terminal};

/// How long a machine may take for one step; far more than any needs.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long a process that was killed may take to be gone on a busy host.
const LAST_BREATH: Duration = Duration::from_secs(15);

/// Where a case works: a directory of its own with its own copy of the kernel, so that its processes can be
/// told from all others.
pub struct Bench {
    pub dir: PathBuf,
    linux: PathBuf,
}

/// How a run ended.
pub struct End {
    /// Exit status, or 128 and the signal.
    pub status: i32,
    /// Everything on the terminal, or on standard output and error.
    pub text: String,
}

impl Bench {
    /// A directory for the case `name`.
    pub fn new(linux: &Path, name: &str) -> Result<Bench, String> {
        let dir = std::env::temp_dir().join(format!("uml-boot-{}-{name}", std::process::id()));
        fs::create_dir_all(dir.join("home")).map_err(|e| format!("{}: {e}", dir.display()))?;
        let own = dir.join("linux");
        fs::copy(linux, &own).map_err(|e| format!("{}: {e}", linux.display()))?;
        Ok(Bench { dir, linux: own })
    }

    /// The kernel with arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(&self.linux);
        c.args(args).current_dir(&self.dir).env("HOME", self.dir.join("home"));
        c.env_remove("DISPLAY");
        c
    }

    /// Runs without a terminal, input empty.
    pub fn run(&self, args: &[&str]) -> Result<End, String> {
        self.finish(self.command(args))
    }

    /// Runs a prepared command, input empty, to its end.
    pub fn finish(&self, mut c: Command) -> Result<End, String> {
        let log = self.dir.join("output");
        let out = fs::File::create(&log).map_err(|e| e.to_string())?;
        let err = out.try_clone().map_err(|e| e.to_string())?;
        c.stdin(Stdio::null()).stdout(out).stderr(err);
        let mut child = c.spawn().map_err(|e| format!("cannot start: {e}"))?;
        let status = wait(&mut child)?;
        let text = fs::read(&log).map_err(|e| e.to_string())?;
        Ok(End { status, text: String::from_utf8_lossy(&text).into_owned() })
    }

    /// Runs on a terminal: for each pair, waits until the first text was printed (after the one before) and types
    /// the second. `{}` in an answer is left alone.
    pub fn talk(&self, args: &[&str], script: &[(&str, &str)]) -> Result<End, String> {
        let text = |e: std::io::Error| e.to_string();
        let pty = pty::open_pts().map_err(text)?;
        let slave = pty.open_slave().map_err(text)?;
        let echoed = terminal::echoes(slave.as_fd()).map_err(text)?;
        let mut c = self.command(args);
        let end = |s: &std::os::fd::OwnedFd| s.try_clone().map(Stdio::from).map_err(text);
        c.stdin(end(&slave)?).stdout(end(&slave)?).stderr(end(&slave)?);
        let mut child = c.spawn().map_err(text)?;
        drop(c);
        let mut master = fs::File::from(pty.into_master());
        let (mut all, mut seen, mut step) = (Vec::new(), 0, 0);
        let mut last = Instant::now();
        let status = loop {
            let mut b = [0; 65536];
            let got = match master.read(&mut b) {
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => 0,
                Err(e) => return Err(fail(&mut child, &all, &e.to_string())),
            };
            all.extend_from_slice(&b[..got]);
            while let Some((wanted, answer)) = script.get(step) {
                let Some(at) = find(&all[seen..], wanted.as_bytes()) else { break };
                seen += at + wanted.len();
                step += 1;
                last = Instant::now();
                master.write_all(format!("{answer}\n").as_bytes()).map_err(text)?;
            }
            if got == 0 {
                if let Some(s) = child.try_wait().map_err(text)? {
                    break s.code().unwrap_or_else(|| 128 + s.signal().unwrap_or(0));
                }
                if last.elapsed() > PATIENCE {
                    let wanted = script.get(step).map_or("the end", |s| s.0);
                    return Err(fail(&mut child, &all, &format!("waited for {wanted:?} in vain")));
                }
                let _ = uml_host::wait::ready(master.as_fd(), 1);
                std::thread::park_timeout(Duration::from_millis(20));
            }
        };
        let text_of = String::from_utf8_lossy(&all).into_owned();
        if step < script.len() {
            return Err(format!(
                "ended with {status} before {:?}: {}",
                script[step].0,
                tail(&text_of)
            ));
        }
        if terminal::echoes(slave.as_fd()).map_err(text)? != echoed {
            return Err("the terminal was left in another mode".into());
        }
        Ok(End { status, text: text_of })
    }

    /// No process, instance directory or file of the case may be left, whatever happened in it.
    pub fn check_leftovers(&self) -> Result<(), String> {
        let exe = fs::canonicalize(&self.linux).map_err(|e| e.to_string())?;
        let begun = Instant::now();
        loop {
            let mut running = Vec::new();
            for e in fs::read_dir("/proc").map_err(|e| e.to_string())?.flatten() {
                if fs::read_link(e.path().join("exe")).is_ok_and(|p| p == exe) {
                    running.push(e.file_name().to_string_lossy().into_owned());
                }
            }
            if running.is_empty() {
                break;
            }
            // A killed process is gone some time after its killer.
            if begun.elapsed() > LAST_BREATH {
                return Err(format!("left processes behind: {}", running.join(" ")));
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let uml = self.dir.join("home/.uml");
        let left: Vec<_> = fs::read_dir(&uml).into_iter().flatten().flatten().collect();
        // A panic keeps its directory as a sign; the case takes it away when it expects one.
        if let Some(e) = left.first() {
            return Err(format!("left {} behind", e.path().display()));
        }
        fs::remove_dir_all(&self.dir).map_err(|e| format!("{}: {e}", self.dir.display()))
    }

    /// Takes away what a panic or a kill leaves; an error when it left nothing.
    pub fn expect_panic_directory(&self, umid: &str) -> Result<(), String> {
        let d = self.dir.join("home/.uml").join(umid);
        fs::remove_dir_all(&d).map_err(|e| format!("{} after a panic: {e}", d.display()))
    }

    /// Number of live processes of the machine.
    pub fn wait(&self, child: &mut Child) -> Result<i32, String> {
        wait(child)
    }
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len().max(1)).position(|w| w == needle)
}

fn tail(s: &str) -> String {
    let lines: Vec<&str> = s.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

fn fail(child: &mut Child, all: &[u8], why: &str) -> String {
    // It is ours and did not end by itself.
    let _ = child.kill();
    let _ = child.wait();
    format!("{why}; last lines:\n{}", tail(&String::from_utf8_lossy(all)))
}

fn wait(child: &mut Child) -> Result<i32, String> {
    let start = Instant::now();
    loop {
        if let Some(s) = child.try_wait().map_err(|e| e.to_string())? {
            return Ok(s.code().unwrap_or_else(|| 128 + s.signal().unwrap_or(0)));
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return Err("did not end in its time".into());
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

impl End {
    /// An error unless the status is `status` and every text was printed.
    pub fn expect(&self, status: i32, texts: &[&str]) -> Result<(), String> {
        if self.status != status {
            return Err(format!(
                "status {} instead of {status}:\n{}",
                self.status,
                tail(&self.text)
            ));
        }
        match texts.iter().find(|t| !self.text.contains(**t)) {
            Some(t) => Err(format!("did not print {t:?}:\n{}", tail(&self.text))),
            None => Ok(()),
        }
    }
}
