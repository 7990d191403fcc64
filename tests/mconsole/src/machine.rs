//! A kernel as a process: ours or a stock one, its root the host's, a script as its first program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use storage_tests::machine::lines_of;
use storage_tests::suite::program;

use crate::request;

/// How long anything may take that takes well under a second on an idle host.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    Ours,
    /// 7.2 of Debian sid, in a root of its own ([`storage_tests::interchange::stock_root`]); starting it needs root.
    Stock,
    /// 6.1 of Debian 12. On processors with AMX it cannot run programs: it waits for its root for ever.
    Stock61,
}

/// Where the 6.1 kernel is: `$UML_STOCK_61` or tests/cache/stock-6.1.
pub(crate) fn stock_61() -> Option<PathBuf> {
    let given = std::env::var_os("UML_STOCK_61").map(PathBuf::from);
    let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cache/stock-6.1");
    let file = given.unwrap_or(cached).join("usr/bin/linux.uml").canonicalize().ok()?;
    file.exists().then_some(file)
}

impl Kernel {
    /// What it lacks here, if anything.
    pub fn missing(self) -> Option<String> {
        match self {
            Kernel::Ours => program("linux").is_none().then(|| "linux is not built".into()),
            Kernel::Stock if storage_tests::interchange::stock_root().is_none() => {
                Some("no stock UML in tests/cache/stock-sid".into())
            }
            Kernel::Stock if !nix::unistd::geteuid().is_root() => {
                Some("stock UML is started in its own root, which needs root".into())
            }
            Kernel::Stock61 if stock_61().is_none() => {
                Some("no stock UML 6.1 in tests/cache/stock-6.1".into())
            }
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Kernel::Ours => "ours",
            Kernel::Stock => "stock 7.2",
            Kernel::Stock61 => "stock 6.1",
        }
    }
}

/// How a kernel is started.
pub struct Start<'a> {
    pub kernel: Kernel,
    /// Where its files are kept; its instance directory is below.
    pub dir: &'a Path,
    pub umid: &'a str,
    /// Megabytes.
    pub memory: u32,
    /// What a shell runs as the first process, with /proc, and an empty directory in memory as /tmp. It should print `up`.
    pub script: &'a str,
    pub options: &'a [String],
}

/// A running kernel; ended when dropped.
pub struct Machine {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
    pub kernel: Kernel,
    /// Its management console.
    pub socket: PathBuf,
    /// Its home directory, as clients see it: `<home>/.uml/<umid>`.
    pub home: PathBuf,
    pub umid: String,
}

pub(crate) fn executable(file: &Path, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|e| format!("{}: {e}", file.display()))?;
    fs::set_permissions(file, PermissionsExt::from_mode(0o755)).map_err(|e| e.to_string())
}

/// A shared library for LD_PRELOAD, made of C.
pub fn library(dir: &Path, name: &str, text: &str) -> Result<PathBuf, String> {
    let source = dir.join(format!("{name}.c"));
    let made = source.with_extension("so");
    fs::write(&source, text).map_err(|e| format!("{}: {e}", source.display()))?;
    let gcc = program("gcc").ok_or("gcc is not installed")?;
    let out = Command::new(gcc)
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&made, &source])
        .output()
        .map_err(|e| format!("gcc: {e}"))?;
    match out.status.success() {
        true => Ok(made),
        false => Err(format!("gcc: {}", String::from_utf8_lossy(&out.stderr))),
    }
}

impl Machine {
    /// Starts a kernel and waits until its script prints `up` (6.1: until its console answers).
    pub fn start(s: &Start<'_>) -> Result<Machine, String> {
        Machine::start_with(s, &[])
    }

    /// The same with more environment.
    pub fn start_with(s: &Start<'_>, environment: &[(&str, &str)]) -> Result<Machine, String> {
        let home = s.dir.join(format!("home-{}", s.umid));
        let uml = home.join(".uml");
        fs::create_dir_all(&uml).map_err(|e| e.to_string())?;
        let init = s.dir.join(format!("init-{}", s.umid));
        executable(
            &init,
            &format!(
                "#!/bin/bash\nexport PATH=/usr/sbin:/sbin:/usr/bin:/bin LC_ALL=C HOME=/tmp TERM=xterm\nmount -t proc proc /proc\n\
                 mount -t sysfs sys /sys\nmount -t tmpfs tmp /tmp\nmount -t devtmpfs dev /dev 2>/dev/null\n\
                 mkdir -p /dev/pts; mount -t devpts pts /dev/pts\n{}\n",
                s.script
            ),
        )?;
        let mut c = match s.kernel {
            Kernel::Ours => {
                let mut c = Command::new(program("linux").ok_or("the program linux is not built")?);
                c.args(["rootflags=/", "rw", "rootoverlay=tmpfs", "root=/dev/root"]);
                c.arg("rootfstype=hostfs");
                c
            }
            Kernel::Stock => {
                let root = storage_tests::interchange::stock_root().ok_or("no stock UML")?;
                let mut c = storage_tests::interchange::entered(&root, s.dir);
                c.args([
                    "root=/dev/root",
                    "rootfstype=hostfs",
                    "hostfs=/host",
                    "rw",
                    "console=tty0",
                ]);
                c
            }
            Kernel::Stock61 => {
                let mut c = Command::new(stock_61().ok_or("no stock UML 6.1")?);
                c.args(["root=/dev/ubda", "rootwait", "console=tty0"]);
                c
            }
        };
        c.arg(format!("mem={}M", s.memory))
            .args(["con=null", "ssl=null", "con0=null,fd:1", "printk.time=1"])
            .arg(format!("uml_dir={}/", uml.display()))
            .arg(format!("umid={}", s.umid))
            .arg(format!("init={}", init.display()))
            .args(s.options)
            .envs(environment.iter().copied())
            .current_dir(s.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        let mut child = c.spawn().map_err(|e| format!("{c:?}: {e}"))?;
        let lines = lines_of(child.stdout.take());
        let socket = uml.join(s.umid).join("mconsole");
        let (kernel, umid) = (s.kernel, s.umid.to_owned());
        let mut m = Machine { child, lines, said: Vec::new(), kernel, socket, home, umid };
        match s.kernel {
            Kernel::Stock61 => m.line(|l| l.contains("Waiting for root device"))?,
            _ => m.line(|l| l == "up")?,
        };
        Ok(m)
    }

    /// Waits for a line of the console that `wanted` likes.
    pub fn line(&mut self, wanted: impl Fn(&str) -> bool) -> Result<String, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(l) => {
                    self.said.push(l.clone());
                    if wanted(&l) {
                        return Ok(l);
                    }
                }
                Err(why) => {
                    let from = self.said.len().saturating_sub(12);
                    let last = self.said[from..].join("\n");
                    let why = match why {
                        RecvTimeoutError::Timeout => "did not say what was waited for",
                        RecvTimeoutError::Disconnected => "ended",
                    };
                    return Err(format!(
                        "the {} kernel {why}; its last lines:\n{last}",
                        self.kernel.name()
                    ));
                }
            }
        }
    }

    /// How often this line was seen so far.
    pub fn times(&self, line: &str) -> usize {
        self.said.iter().filter(|l| *l == line).count()
    }

    /// The rest of the first line so far that starts with `start`.
    pub fn said(&self, start: &str) -> Option<String> {
        self.said.iter().find_map(|l| l.strip_prefix(start)).map(str::to_owned)
    }

    /// Where its console is, by its own words.
    pub fn console(&self) -> Option<PathBuf> {
        let line = self.said.iter().find_map(|l| l.split_once("initialized on ").map(|(_, p)| p));
        line.map(PathBuf::from)
    }

    /// A command of the console; an error unless it is answered with success.
    pub fn ok(&self, command: &str) -> Result<String, String> {
        let a = request::ask(&self.socket, command)?;
        if a.err == 0 { Ok(a.text) } else { Err(format!("{command}: err {} {}", a.err, a.text)) }
    }

    /// The device of a pts line, once a program has opened it.
    pub fn pts(&self, line: &str) -> Result<String, String> {
        let mut device = String::new();
        crate::keys::until(
            || {
                let shown = self.ok(&format!("config {line}"))?;
                device = shown.strip_prefix("pts:").unwrap_or_default().to_owned();
                Ok(!device.is_empty())
            },
            &format!("{line} has no pts"),
        )?;
        Ok(device)
    }

    /// The process.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Waits for its end; its exit status.
    pub fn wait(&mut self) -> Result<i32, String> {
        use std::os::unix::process::ExitStatusExt;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(s) = self.child.try_wait().map_err(|e| e.to_string())? {
                return Ok(s.code().unwrap_or_else(|| 128 + s.signal().unwrap_or(0)));
            }
            if Instant::now() > deadline {
                return Err(format!("the {} kernel did not end", self.kernel.name()));
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        // The stock kernel ends its helpers only when it is asked to.
        let _ = request::ask(&self.socket, "halt");
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        let _ = kill(Pid::from_raw(-self.pid()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}
