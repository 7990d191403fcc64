//! The daemon that commands start: the first that starts an instance, or finds one without its holder. It does what every
//! daemon does but autostart, and ends when nothing has been up for a while. systemd's comes first where there is one.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::{Context, Failure, Result};
use crate::instance::{self, Instance};
use crate::state::Store;

/// How long a daemon that runs already may take to adopt an instance.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks for that: a lock tells nobody when it is taken.
const LOOK: Duration = Duration::from_millis(10);

/// Whether commands may start a daemon.
fn wanted() -> bool {
    std::env::var_os("UMLD_DAEMON").is_none_or(|v| v != "no")
}

/// Sees to it that a daemon runs. Instances do not need it, so a failure is a warning.
pub fn ensure(store: &Store) {
    // Root looks at another user's machines without a daemon: it would be root's.
    if !wanted() || super::is_running(store) || store.owned().is_err() || activated() {
        return;
    }
    if let Err(e) = spawn(store) {
        eprintln!("umld: no daemon: {e}");
    }
}

/// Whether systemd's socket is there; the connection starts the service.
fn activated() -> bool {
    let user = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let system = nix::unistd::geteuid().is_root().then(|| PathBuf::from("/run"));
    user.into_iter().chain(system).any(|d| UnixStream::connect(d.join("umld.sock")).is_ok())
}

/// Starts it; returns when it has taken over what needs it.
fn spawn(store: &Store) -> Result {
    let exe = std::env::current_exe()
        .map_err(|e| Failure::other(format!("cannot find this program's own file: {e}")))?;
    store.create()?;
    let path = store.base.join(".daemon.log");
    let log =
        std::fs::File::options().append(true).create(true).open(&path).at("cannot open", &path)?;
    let mut command = Command::new(exe);
    // A service's own daemon must not take that service's manager for its own.
    for v in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"] {
        command.env_remove(v);
    }
    let mut child = command
        .args(["daemon", "--on-demand"])
        .current_dir(&store.base)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|e| Failure::other(format!("cannot start it: {e}")))?;
    let mut said = String::new();
    if let Some(out) = child.stdout.take() {
        let _ = BufReader::new(out).read_line(&mut said);
    }
    if said.is_empty() && !super::is_running(store) {
        let last = crate::cmd::logs::tail(&path, 1).join("\n");
        let _ = child.wait();
        return Err(Failure::other(format!("it ended at once: {last}")));
    }
    // It lives on; when it ends while we are here, its zombie must not stay.
    crate::process::reap_later(child);
    Ok(())
}

/// Whether the kernel runs and its holder was killed.
fn is_orphan(i: &Instance) -> bool {
    i.managed && i.pid.is_some() && i.status.state.is_up() && i.status.holder.is_none()
}

/// Has an instance adopted whose holder was killed; what it is then.
pub fn heal(store: &Store, i: Instance) -> Instance {
    if !is_orphan(&i) || !wanted() || (store.owned().is_err() && !super::is_running(store)) {
        return i;
    }
    ensure(store);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match instance::look_up(store, &i.name) {
            Some(now) if is_orphan(&now) && Instant::now() < deadline => {
                std::thread::sleep(LOOK);
            }
            Some(now) => return now,
            None => return i,
        }
    }
}

/// The same for many.
pub fn heal_all(store: &Store, list: Vec<Instance>) -> Vec<Instance> {
    list.into_iter().map(|i| heal(store, i)).collect()
}
