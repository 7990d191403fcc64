//! Instances as commands see them: those umld started, those it knows, and those somebody started by hand.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::failure::{Failure, Result, code};
use crate::state::{Dir, State, Status, Store, now, process_started};

/// An instance.
#[derive(Clone, Debug, Serialize)]
pub struct Instance {
    /// Its umid.
    pub name: String,
    /// What it does now.
    pub state: State,
    /// Whether umld started it; the others were started by hand.
    pub managed: bool,
    /// Host pid of the kernel process while it runs.
    pub pid: Option<i32>,
    /// Seconds it has been up.
    pub uptime: Option<f64>,
    /// Resident memory of its processes on the host, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Management socket.
    pub socket: Option<PathBuf>,
    /// What the holder knows; defaults for instances started by hand.
    #[serde(skip)]
    pub status: Status,
    /// Its directory.
    #[serde(skip)]
    pub dir: Dir,
}

impl Instance {
    /// The running kernel's pid; status 3 when it is stopped.
    pub fn running(&self) -> Result<i32> {
        self.pid.ok_or_else(|| self.is_stopped())
    }

    /// The failure for commands that need a running instance.
    pub fn is_stopped(&self) -> Failure {
        Failure::new(
            code::STOPPED,
            format!(
                "instance \"{}\" is not running; start it with: umld start {}",
                self.name, self.name
            ),
        )
    }

    /// The management socket of a running instance.
    pub fn console(&self) -> Result<PathBuf> {
        self.running()?;
        self.socket.clone().ok_or_else(|| {
            Failure::other(format!("instance \"{}\" has no management console", self.name))
        })
    }

    /// Whether a holder keeps it.
    pub fn has_holder(&self) -> bool {
        self.status.holder.is_some() && self.status.state.is_up()
    }
}

/// Every instance, by name.
pub fn all(store: &Store) -> Result<Vec<Instance>> {
    let by_hand = store.uml.list().map_err(|e| Failure::io("cannot list", store.uml.path(), &e))?;
    let mut found: Vec<Instance> = Vec::new();
    for name in store.names()? {
        let dir = store.dir(&name);
        let status = dir.status();
        let running = by_hand.iter().find(|i| i.umid == name && is_alive(i));
        found.push(known(dir, status, running));
    }
    for i in by_hand {
        if found.iter().any(|f| f.name == i.umid) || !is_alive(&i) {
            // Left behind by a machine that crashed; the next one with this name takes it over.
            continue;
        }
        found.push(stranger(store, i));
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn known(dir: Dir, status: Status, running: Option<&uml_formats::umid::Instance>) -> Instance {
    let pid = status.pid.filter(|p| process_started(*p) == Some(status.pid_started));
    // Started by hand under a name umld knows.
    let foreign = running.filter(|_| !status.state.is_up());
    let pid = pid.or(foreign.and_then(|i| i.pid));
    let state = if foreign.is_some() { State::Running } else { status.state };
    Instance {
        name: dir.name.clone(),
        state,
        managed: foreign.is_none(),
        pid,
        uptime: pid.and(status.started).map(|t| (now() - t).max(0.0)),
        memory: None,
        socket: running.and_then(|i| i.socket.clone()),
        status,
        dir,
    }
}

fn stranger(store: &Store, i: uml_formats::umid::Instance) -> Instance {
    let dir = store.dir(&i.umid);
    let paused = i.pid.is_some_and(|p| {
        let mark = std::fs::read_to_string(store.base.join(format!(".paused.{}", i.umid)));
        mark.ok() == process_started(p).map(|t| format!("{p} {t}"))
    });
    Instance {
        name: i.umid,
        state: if paused { State::Paused } else { State::Running },
        managed: false,
        uptime: i.pid.and_then(age),
        pid: i.pid,
        memory: None,
        socket: i.socket,
        status: Status::default(),
        dir,
    }
}

/// Seconds since a process was started.
fn age(pid: i32) -> Option<f64> {
    let ticks = process_started(pid)? as f64;
    let up: f64 = std::fs::read_to_string("/proc/uptime").ok()?.split(' ').next()?.parse().ok()?;
    // USER_HZ is 100 on every Linux architecture in use.
    Some((up - ticks / 100.0).max(0.0))
}

/// Whether the kernel process of a directory runs. A zombie does not: whoever is its parent may take its time.
pub fn is_alive(i: &uml_formats::umid::Instance) -> bool {
    i.alive && i.pid.is_some_and(|p| process_started(p).is_some())
}

/// One instance; status 4 with the nearest name when there is none.
pub fn find(store: &Store, name: &str) -> Result<Instance> {
    if let Some(i) = look_up(store, name) {
        return Ok(crate::daemon::demand::heal(store, i));
    }
    let list = all(store)?;
    let names: Vec<&str> = list.iter().map(|i| i.name.as_str()).collect();
    let mut text = format!("there is no instance \"{name}\"");
    match crate::spec::diagnose::nearest(name, &names) {
        Some(near) => text += &format!("; did you mean \"{near}\"?"),
        None => text += "; umld list shows them all",
    }
    Err(Failure::new(code::NO_INSTANCE, text))
}

/// One instance, without a look at the others; none when there is none.
pub fn look_up(store: &Store, name: &str) -> Option<Instance> {
    // Not a path somewhere else.
    crate::spec::check::name(name).ok()?;
    let running = store.uml.find(name).filter(is_alive);
    let dir = store.dir(name);
    if dir.exists() {
        let status = dir.status();
        return Some(known(dir, status, running.as_ref()));
    }
    running.map(|i| stranger(store, i))
}

/// The host's processes at one moment: who is whose child.
pub struct Processes(HashMap<i32, Vec<i32>>);

impl Processes {
    /// Those of now.
    pub fn now() -> Processes {
        let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
        for e in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = e.file_name();
            let Some(p) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
            let Ok(stat) = std::fs::read_to_string(e.path().join("stat")) else { continue };
            let parent =
                stat.rfind(')').and_then(|n| stat[n + 2..].split(' ').nth(1)?.parse().ok());
            if let Some(parent) = parent {
                children.entry(parent).or_default().push(p);
            }
        }
        Processes(children)
    }

    /// Those of an instance: the kernel process and everything below it.
    pub fn of(&self, pid: i32) -> Vec<i32> {
        let mut out = vec![pid];
        let mut at = 0;
        while at < out.len() {
            if let Some(c) = self.0.get(&out[at]) {
                out.extend(c);
            }
            at += 1;
        }
        out
    }
}

/// Resident bytes (proportional where the host tells) and CPU seconds of processes.
pub fn usage(pids: &[i32]) -> (u64, f64) {
    let (mut memory, mut cpu) = (0, 0.0);
    for p in pids {
        let statm = std::fs::read_to_string(format!("/proc/{p}/statm")).unwrap_or_default();
        let mut pages = statm.split(' ').skip(1).map(|v| v.parse::<u64>().unwrap_or(0));
        let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
        // Guest memory in files is counted once, with the kernel process.
        memory += if p == &pids[0] { resident } else { resident.saturating_sub(shared) } * 4096;
        let stat = std::fs::read_to_string(format!("/proc/{p}/stat")).unwrap_or_default();
        if let Some(n) = stat.rfind(')') {
            let f: Vec<&str> = stat[n + 2..].split(' ').collect();
            let ticks = |i: usize| f.get(i).and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0);
            cpu += (ticks(11) + ticks(12)) / 100.0;
        }
    }
    (memory, cpu)
}
