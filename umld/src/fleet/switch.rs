//! The processes of a fleet's switches: this program as `uml_switch`, one for each.
//!
//! A switch holds a lock (flock) on its log as long as it runs, by having it as its standard output: so nobody starts a second one,
//! and its end, however it came, is seen.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Serialize;
use uml_switch::manage::{self, Status};

use super::net::Switch;
use crate::cmd::doctor::which;
use crate::failure::{Context, Failure, Result, code};
use crate::state::Store;

/// How long a switch may take to begin to answer or to end, and a member's port to be noticed as closed.
const PATIENCE: Duration = Duration::from_secs(10);
const PORTS_PATIENCE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(10);
/// What is shown of the log of a switch that did not start.
const LOG_SHOWN: usize = 2000;

/// The control socket of a switch.
pub fn control(store: &Store, name: &str) -> PathBuf {
    store.switch(name).join("ctl")
}

fn log(store: &Store, name: &str) -> PathBuf {
    store.switch(name).join("log")
}

/// Whether somebody holds the lock on its log.
fn runs(store: &Store, name: &str) -> Result<bool> {
    let path = log(store, name);
    let file = match File::open(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        r => r.at("cannot open", &path)?,
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(e) => Err(Failure::io("cannot lock", &path, &e.into())),
    }
}

/// Asks until there is an answer or the switch has ended.
fn answer(store: &Store, name: &str) -> Result<Status> {
    let end = Instant::now() + PATIENCE;
    loop {
        match manage::status(&control(store, name)) {
            Ok(s) => return Ok(s),
            Err(e) if Instant::now() > end || !runs(store, name)? => {
                return Err(Failure::new(code::UNAVAILABLE, format!("switch \"{name}\": {e}")));
            }
            Err(_) => std::thread::sleep(STEP),
        }
    }
}

/// Starts it unless it runs, and keeps what is needed to start it again. What happened, in words.
pub fn up(store: &Store, s: &Switch) -> Result<String> {
    let dir = store.switch(&s.name);
    store.create()?;
    std::fs::DirBuilder::new().mode(0o700).recursive(true).create(&dir).at("cannot make", &dir)?;
    let kept = dir.join("switch.toml");
    let text = toml::to_string(s).map_err(|e| Failure::other(e.to_string()))?;
    std::fs::write(&kept, text).at("cannot write", &kept)?;
    start(store, s)
}

/// Starts a switch that a fleet had, unless it runs. A name that no fleet on this host used is left to the kernel to complain about.
pub fn up_again(store: &Store, name: &str) -> Result {
    let kept = store.switch(name).join("switch.toml");
    if !kept.exists() {
        return Ok(());
    }
    let (_, s): (_, Switch) = crate::spec::load::read(&kept)?;
    start(store, &Switch { name: name.to_owned(), ..s }).map(|_| ())
}

fn start(store: &Store, s: &Switch) -> Result<String> {
    let path = log(store, &s.name);
    let log = File::options().create(true).append(true).open(&path).at("cannot open", &path)?;
    // Held by a switch that runs or comes up, or for a moment by somebody who looks.
    let end = Instant::now() + PATIENCE;
    loop {
        match flock(&log, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK) => match manage::status(&control(store, &s.name)) {
                Ok(_) => return Ok("was running already".into()),
                Err(e) if Instant::now() > end => {
                    let text = format!("switch \"{}\" runs and does not answer: {e}", s.name);
                    return Err(Failure::new(code::TIMEOUT, text));
                }
                Err(_) => std::thread::sleep(STEP),
            },
            Err(e) => return Err(Failure::io("cannot lock", &path, &e.into())),
        }
    }
    log.set_len(0).at("cannot empty", &path)?;
    // Without systemd's help it is as it was without systemd.
    let scoped =
        in_scope(&s.name).is_some_and(|c| run(c, store, s, &log).is_ok_and(|s| s.success()));
    let status = if scoped { ExitStatus::default() } else { run(plain()?, store, s, &log)? };
    // Only the switch holds the lock from now on.
    drop(log);
    if !status.success() {
        let said = std::fs::read(&path).unwrap_or_default();
        let said = String::from_utf8_lossy(&said[said.len().saturating_sub(LOG_SHOWN)..]);
        let text = format!("switch \"{}\" did not start: {}", s.name, said.trim());
        return Err(Failure::new(code::UNAVAILABLE, text));
    }
    answer(store, &s.name)?;
    Ok("up".into())
}

/// This program as `uml_switch`.
fn plain() -> Result<Command> {
    let mut c = Command::new(own_program()?);
    c.arg0("uml_switch");
    Ok(c)
}

fn own_program() -> Result<PathBuf> {
    std::env::current_exe()
        .map_err(|e| Failure::other(format!("cannot find this program's own file: {e}")))
}

/// The same in a scope of its own, where a service manager started us (systemd-run(1), systemd.exec(5)): a switch would end with
/// the unit of the member that happened to start it, and others are on it.
fn in_scope(name: &str) -> Option<Command> {
    std::env::var_os("INVOCATION_ID")?;
    let mut c = Command::new(which("systemd-run")?);
    if !nix::unistd::geteuid().is_root() {
        c.arg("--user");
    }
    c.args(["--scope", "--collect", "--quiet", "--slice=uml.slice"]);
    c.arg(format!("--description=Switch {name} of User Mode Linux machines"));
    c.arg("--").arg(own_program().ok()?).arg("uml_switch");
    Some(c)
}

/// Runs it until it listens and has left the caller's session.
fn run(mut command: Command, store: &Store, s: &Switch, log: &File) -> Result<ExitStatus> {
    let both = || log.try_clone().at("cannot use", &self::log(store, &s.name));
    command
        .arg("-unix")
        .arg(control(store, &s.name))
        .args(s.hub.then_some("-hub"))
        .arg("-daemon")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        .stdin(Stdio::null())
        .stdout(both()?)
        .stderr(both()?)
        .status()
        .map_err(|e| Failure::new(crate::failure::status_of(&e), format!("uml_switch: {e}")))
}

/// Ends it, unless somebody is on it. What happened, in words.
pub fn down(store: &Store, name: &str) -> Result<String> {
    if !runs(store, name)? {
        return Ok("was down".into());
    }
    let ends = Instant::now() + PORTS_PATIENCE;
    let status = loop {
        let s = answer(store, name)?;
        match s.ports.len() {
            0 => break s,
            n if Instant::now() > ends => return Ok(format!("stays: {n} ports are in use")),
            _ => std::thread::sleep(STEP),
        }
    };
    let pid = i32::try_from(status.pid).unwrap_or(0);
    kill(Pid::from_raw(pid), Signal::SIGTERM)
        .map_err(|e| Failure::other(format!("switch \"{name}\" (pid {pid}): {}", e.desc())))?;
    let end = Instant::now() + PATIENCE;
    while runs(store, name)? {
        if Instant::now() > end {
            let text = format!("switch \"{name}\" (pid {pid}) does not end");
            return Err(Failure::new(code::TIMEOUT, text));
        }
        std::thread::sleep(STEP);
    }
    Ok("down".into())
}

/// A switch as `umld status -f` shows it. The JSON field names are stable.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// `switch`, which tells it from an instance.
    pub kind: &'static str,
    /// `running`, `stopped`, or `failed` when it runs and does not answer.
    pub state: &'static str,
    /// Its process.
    pub pid: Option<u32>,
    /// Seconds since it started.
    pub uptime: Option<u64>,
    /// Ports in use.
    pub ports: Option<usize>,
    /// Its control socket.
    pub socket: PathBuf,
}

/// How it is.
pub fn report(store: &Store, name: &str) -> Report {
    let socket = control(store, name);
    let status = match runs(store, name) {
        Ok(false) => Err("stopped"),
        _ => manage::status(&socket).map_err(|_| "failed"),
    };
    let (state, s) = match status {
        Ok(s) => ("running", Some(s)),
        Err(state) => (state, None),
    };
    Report {
        name: name.to_owned(),
        kind: "switch",
        state,
        pid: s.as_ref().map(|s| s.pid),
        uptime: s.as_ref().map(|s| s.uptime_seconds),
        ports: s.as_ref().map(|s| s.ports.len()),
        socket,
    }
}

impl Report {
    /// Whether it moves frames.
    pub fn is_up(&self) -> bool {
        self.pid.is_some()
    }

    /// For a table.
    pub fn row(&self) -> Vec<String> {
        let or = |v: Option<String>| v.unwrap_or_else(|| "-".into());
        let shown = |p: &Path| p.display().to_string();
        vec![
            self.name.clone(),
            self.state.into(),
            or(self.pid.map(|p| p.to_string())),
            or(self.uptime.map(|t| crate::cmd::span(t as f64))),
            or(self.ports.map(|p| p.to_string())),
            shown(&self.socket),
        ]
    }
}
