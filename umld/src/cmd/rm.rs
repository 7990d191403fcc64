//! `umld rm`.

use std::time::Duration;

use rustix::process::Signal;

use crate::cli::Rm;
use crate::cmd::{stop, take_down};
use crate::failure::{Context, Failure, Result, code};
use crate::instance;
use crate::process::Process;
use crate::spec::vm::StopTimes;
use crate::state::{Event, Store, now, process_started};

/// Directories that are being removed begin with this; the pid of who does it is their end.
const GRAVE: &str = ".removed.";

/// Removes what others left that were killed at it.
fn sweep(store: &Store) {
    for e in std::fs::read_dir(&store.base).into_iter().flatten().flatten() {
        let name = e.file_name();
        let pid = name
            .to_str()
            .and_then(|n| n.strip_prefix(GRAVE)?.rsplit_once('.')?.1.parse::<i32>().ok());
        if pid.is_some_and(|p| process_started(p).is_none()) {
            let _ = std::fs::remove_dir_all(e.path());
        }
    }
}

/// Forgets each.
pub fn run(a: &Rm) -> Result<u8> {
    sweep(&Store::open()?);
    super::each(&a.names, |store, name| {
        let i = instance::find(store, name)?;
        super::nobody_needs(store, &i.dir)?;
        if (i.pid.is_some() || i.has_holder()) && a.force {
            let zero = Duration::ZERO;
            let at_once =
                StopTimes { cad: zero, halt: zero, term: zero, kill: Duration::from_secs(5) };
            stop::stop_one(store, &i, &at_once, &mut |_, _| {})?;
            if let Some(pid) = i.status.holder
                && let Ok(p) = Process::open(pid)
                && !p.wait(Duration::from_secs(5))
            {
                let _ = p.signal(Signal::KILL);
            }
        }
        if !i.dir.exists() {
            // Its kernel may be one that took its time to end.
            if let Some(now) = instance::look_up(store, name).and_then(|i| i.pid) {
                let text = format!(
                    "instance \"{name}\" is running (pid {now}); stop it before it is removed, or use --force"
                );
                return Err(Failure::new(code::BUSY, text));
            }
            // Started by hand, and ended now: its directory goes with the next start, but nobody may want one.
            let left = store.uml.path().join(name);
            return std::fs::remove_dir_all(&left).at("cannot remove", &left);
        }
        let down = take_down(store, name, "removed").map_err(|mut e| {
            if e.code == code::BUSY && e.text.contains("stop it") {
                e.text += ", or use --force";
            }
            e
        })?;
        let dir = &down.instance.dir;
        crate::resources::clean_up(&down.instance.status.resources);
        // Out of sight in one step: a crash half-way leaves rubbish, not half an instance.
        let grave = store.base.join(format!("{GRAVE}{name}.{}", std::process::id()));
        std::fs::rename(&dir.path, &grave).at("cannot remove", &dir.path)?;
        store.event(&Event {
            time: now(),
            name: name.into(),
            event: "remove".into(),
            detail: String::new(),
        });
        std::fs::remove_dir_all(&grave).at("cannot remove", &grave)?;
        let left = store.uml.path().join(name);
        if left.is_dir() {
            let _ = std::fs::remove_dir_all(left);
        }
        Ok::<(), Failure>(())
    })
}
