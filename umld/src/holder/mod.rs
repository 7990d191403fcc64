//! The holder: one small process per instance that umld started. It is the parent of the kernel process, keeps its consoles
//! and logs, and starts it again as the policy says. It needs nobody: commands and the daemon may come and go, or be
//! killed.
//!
//! * [`launch`] – the kernel process. [`line`] – a held console with its scroll-back, log and viewers.
//! * [`serve`] – the event loop. [`client`] – one connection. [`policy`] – restarts.
//! * [`leftovers`] – what a killed kernel leaves behind.
//! * What outlives a holder that is killed: the daemon keeps duplicates of its descriptors ([`crate::daemon::keep`]), and
//!   the kernel process some ([`recover`]).
//!
//! One thread (poll(2)); a stop runs in a second one. No timers tick while nothing happens.

pub mod client;
pub mod launch;
mod leftovers;
pub mod line;
pub mod policy;
pub mod recover;
pub mod serve;

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::daemon::keep::{self, Kept};
use crate::failure::{Context, Failure, Result, code};
use crate::state::Store;
use crate::wire::Connection;

/// Interface of the holder's socket.
pub const INTERFACE: &str = "org.usermodelinux.Holder";

/// A kernel process whose holder was killed.
pub struct Adopt {
    /// Its pid.
    pub pid: i32,
    /// Its consoles and its log, as far as the daemon kept them.
    pub kept: Kept,
}

/// How long a new holder may take for the descriptors it is given, and wait for them.
const HAND_OVER: Duration = Duration::from_secs(5);

/// Starts the holder of an instance whose vm.toml is in its directory; returns when the kernel process runs.
pub fn spawn(store: &Store, name: &str, adopt: Option<Adopt>) -> Result {
    let dir = store.dir(name);
    let exe = std::env::current_exe()
        .map_err(|e| Failure::other(format!("cannot find this program's own file: {e}")))?;
    let path = dir.log("supervisor");
    let log =
        std::fs::File::options().append(true).create(true).open(&path).at("cannot open", &path)?;
    let mut command = Command::new(exe);
    command.arg("holder").arg(name);
    let cannot = |e: std::io::Error| Failure::other(format!("cannot start the holder: {e}"));
    let mut input = Stdio::null();
    let mut give = None;
    if let Some(a) = adopt {
        command.arg("--adopt").arg(a.pid.to_string());
        command.arg("--kept").arg(a.kept.len().to_string());
        let (ours, theirs) = UnixDatagram::pair().map_err(cannot)?;
        ours.set_write_timeout(Some(HAND_OVER)).map_err(cannot)?;
        input = OwnedFd::from(theirs).into();
        give = Some((ours, a.kept));
    }
    let mut child =
        command.stdin(input).stdout(Stdio::piped()).stderr(log).spawn().map_err(cannot)?;
    // Ours of the child's ends is closed with this, so that a holder that dies is noticed.
    drop(command);
    if let Some((socket, kept)) = give {
        for (what, fd) in &kept {
            if let Err(e) = keep::send(&socket, name, what, fd.as_fd()) {
                eprintln!("umld: {what} of \"{name}\" is lost: {e}");
            }
        }
    }
    let out = child.stdout.take().ok_or_else(|| Failure::other("the holder has no pipe"))?;
    let mut text = String::new();
    use std::io::BufRead;
    let _ = std::io::BufReader::new(out).read_line(&mut text);
    let v: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    if v.get("pid").is_some() {
        // It lives on; when it ends while we are here, its zombie must not stay.
        crate::process::reap_later(child);
        return Ok(());
    }
    let _ = child.wait();
    let status = v.get("code").and_then(Value::as_u64).and_then(|c| u8::try_from(c).ok());
    let text = v.get("text").and_then(Value::as_str).map(str::to_owned).unwrap_or_else(|| {
        let last = super::cmd::logs::tail(&path, 3).join("\n");
        format!("the holder of \"{name}\" ended without a word; its log says:\n{last}")
    });
    Err(Failure::new(status.unwrap_or(code::FAILURE), text))
}

/// `umld holder NAME`: runs as the holder. Says on standard output what came of the start.
pub fn main(name: &str, adopt: Option<i32>, kept: usize, foreground: bool) -> u8 {
    let say = |v: Value| {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{v}").and_then(|()| out.flush());
    };
    let adopt = adopt.map(|pid| Adopt { pid, kept: given(kept) });
    let started =
        Store::open().and_then(|store| serve::Holder::start(store, name, adopt, foreground));
    match started {
        Ok(mut holder) if foreground => holder.run(),
        Ok(mut holder) => {
            say(json!({"pid": holder.pid()}));
            // Whoever started us waits for the end of this pipe.
            if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
                let _ = nix::unistd::dup2_stdout(&null);
            }
            holder.run()
        }
        Err(e) => {
            eprintln!("umld: {e}");
            if foreground {
                return e.code;
            }
            say(json!({"code": e.code, "text": e.text}));
            e.code
        }
    }
}

/// The descriptors that come on standard input. What does not come is lost, the instance is not.
fn given(count: usize) -> Kept {
    let mut kept = Kept::new();
    let Ok(input) = std::io::stdin().as_fd().try_clone_to_owned().map(UnixDatagram::from) else {
        return kept;
    };
    let _ = input.set_read_timeout(Some(HAND_OVER));
    for _ in 0..count {
        match keep::receive(&input) {
            Ok((_, what, fd)) => drop(kept.insert(what, fd)),
            Err(e) => {
                eprintln!("umld: consoles are lost: {e}");
                break;
            }
        }
    }
    // Nothing else comes that way.
    if let Ok(null) = std::fs::File::open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
    }
    kept
}

/// Connects to a holder; status 3 when there is none.
pub fn connect(store: &Store, name: &str) -> Result<Connection> {
    Connection::open(&store.dir(name).control()).map_err(|e| {
        let status = match e.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => code::STOPPED,
            _ => crate::failure::status_of(&e),
        };
        Failure::new(
            status,
            format!("instance \"{name}\" has no holder: {}", uml_formats::strerror(&e)),
        )
    })
}
