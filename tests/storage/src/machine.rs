//! The kernel as a process: a guest with disks whose root is the host's, read-only below a layer in memory.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::suite::program;

/// A guest that runs a shell script.
pub struct Machine {
    child: Child,
    lines: Receiver<String>,
    stderr: Option<std::thread::JoinHandle<String>>,
    script: PathBuf,
}

/// A message of the kernel: `[    0.123456] ...`.
fn from_kernel(line: &str) -> bool {
    let stamp = line.strip_prefix('[').and_then(|l| l.split_once(']'));
    stamp.is_some_and(|(t, _)| t.trim().parse::<f64>().is_ok())
}

/// What a process says, line by line, without the terminal's carriage returns; ends with the process.
pub fn lines_of(out: Option<ChildStdout>) -> Receiver<String> {
    let (tx, lines) = channel();
    if let Some(out) = out {
        std::thread::spawn(move || {
            for l in BufReader::new(out).split(b'\n').map_while(Result::ok) {
                let l = String::from_utf8_lossy(&l).trim_end_matches('\r').to_owned();
                if tx.send(l).is_err() {
                    return;
                }
            }
        });
    }
    lines
}

/// How a guest is started.
pub struct Start<'a> {
    /// Where its files are kept.
    pub dir: &'a Path,
    /// `ubd` options.
    pub disks: &'a [String],
    /// Megabytes.
    pub memory: u32,
    /// What bash runs as the first process; the machine ends when it does. /mnt is an empty directory in memory.
    pub script: &'a str,
}

impl Machine {
    /// Starts a guest.
    pub fn start(s: &Start<'_>) -> Result<Machine, String> {
        let linux = program("linux").ok_or("the program linux is not built")?;
        let script = s.dir.join(format!("init-{}", std::process::id()));
        let text = format!(
            "#!/bin/bash\nexport PATH=/usr/sbin:/sbin:/usr/bin:/bin LC_ALL=C\n\
             mount -t proc proc /proc\nmount -t sysfs sys /sys\nmount -t tmpfs tmp /mnt\n{}\n\
             echo \"machine ends\"\npoweroff -f\nkill -9 $$\n",
            s.script
        );
        std::fs::write(&script, text).map_err(|e| format!("{}: {e}", script.display()))?;
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755))
            .map_err(|e| format!("{}: {e}", script.display()))?;
        let mut c = Command::new(&linux);
        c.arg(format!("mem={}M", s.memory))
            .args(["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", "rootoverlay=tmpfs"])
            .args(["con=null", "con0=null,fd:1", "quiet"])
            .arg(format!("uml_dir={}", s.dir.join("uml").display()))
            .arg(format!("init={}", script.display()))
            .args(s.disks)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = c.spawn().map_err(|e| format!("{}: {e}", linux.display()))?;
        let lines = lines_of(child.stdout.take());
        let stderr = child.stderr.take().map(|mut e| {
            std::thread::spawn(move || {
                let mut s = Vec::new();
                let _ = e.read_to_end(&mut s);
                String::from_utf8_lossy(&s).into_owned()
            })
        });
        Ok(Machine { child, lines, stderr, script })
    }

    /// The next line the guest says; `None` when none came until `deadline` or it has ended.
    pub fn line(&self, deadline: Instant) -> Option<String> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(l) if from_kernel(&l) => {}
                Ok(l) => return Some(l),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// True while the kernel runs.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Process id of the kernel.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9; returns what was said and not read yet.
    pub fn kill(mut self) -> Vec<String> {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.lines.iter().collect()
    }

    /// Waits for the orderly end; returns what the guest said, or an error with what it and the kernel said.
    pub fn finish(mut self, limit: Duration) -> Result<String, String> {
        let deadline = Instant::now() + limit;
        let mut text = String::new();
        while let Some(l) = self.line(deadline) {
            if l == "machine ends" {
                break;
            }
            text.push_str(&l);
            text.push('\n');
        }
        while self.running() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return Err(format!("the guest did not end in time; it said:\n{text}"));
            }
            // What it still says; the end of its output is the end of waiting.
            while self.lines.recv_timeout(Duration::from_millis(20)).is_ok() {}
        }
        let status = self.child.wait().map_err(|e| e.to_string())?;
        let err = self.stderr.take().and_then(|t| t.join().ok()).unwrap_or_default();
        if !status.success() {
            return Err(format!(
                "the kernel ended with {status}; it said:\n{err}\nthe guest:\n{text}"
            ));
        }
        Ok(text)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.script);
    }
}

/// Runs a script in a guest to its end; returns what it said.
pub fn run(s: &Start<'_>, limit: Duration) -> Result<String, String> {
    Machine::start(s)?.finish(limit)
}
