//! The holder: one small process per instance that umld started. It is the parent of the kernel process, keeps its consoles
//! and logs, and starts it again as the policy says. It needs nobody: commands and the daemon may come and go, or be
//! killed.
//!
//! * [`launch`] – the kernel process. [`line`] – a held console with its scroll-back, log and viewers.
//! * [`serve`] – the event loop. [`client`] – one connection. [`policy`] – restarts.
//!
//! One thread (poll(2)); a stop runs in a second one. No timers tick while nothing happens.

pub mod client;
pub mod launch;
pub mod line;
pub mod policy;
pub mod serve;

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::failure::{Context, Failure, Result, code};
use crate::state::Store;
use crate::wire::Connection;

/// Interface of the holder's socket.
pub const INTERFACE: &str = "org.usermodelinux.Holder";

/// Starts the holder of an instance whose vm.toml is in its directory; returns when the kernel process runs.
pub fn spawn(store: &Store, name: &str, adopt: Option<i32>) -> Result {
    let dir = store.dir(name);
    let exe = std::env::current_exe()
        .map_err(|e| Failure::other(format!("cannot find this program's own file: {e}")))?;
    let path = dir.log("supervisor");
    let log =
        std::fs::File::options().append(true).create(true).open(&path).at("cannot open", &path)?;
    let mut command = Command::new(exe);
    command.arg("holder").arg(name);
    if let Some(pid) = adopt {
        command.arg("--adopt").arg(pid.to_string());
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|e| Failure::other(format!("cannot start the holder: {e}")))?;
    let out = child.stdout.take().ok_or_else(|| Failure::other("the holder has no pipe"))?;
    let mut text = String::new();
    use std::io::BufRead;
    let _ = std::io::BufReader::new(out).read_line(&mut text);
    let v: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    if v.get("pid").is_some() {
        // It lives on; when it ends while we are here, its zombie must not stay.
        std::thread::spawn(move || child.wait());
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
pub fn main(name: &str, adopt: Option<i32>) -> u8 {
    let say = |v: Value| {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{v}").and_then(|()| out.flush());
    };
    let started = Store::open().and_then(|store| serve::Holder::start(store, name, adopt));
    match started {
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
            say(json!({"code": e.code, "text": e.text}));
            e.code
        }
    }
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
