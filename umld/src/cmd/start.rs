//! `umld start`.

use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cli::Start;
use crate::cmd::{complain, console, create};
use crate::failure::{Failure, Result, code};
use crate::holder;
use crate::spec;
use crate::spec::values::Wait;
use crate::state::Store;
use crate::wire::Reply;

/// How often a port is tried.
const KNOCK: Duration = Duration::from_millis(100);

/// Starts each; the status of the first that fails.
pub fn run(a: &Start) -> Result<u8> {
    let store = Store::open()?;
    if (a.console || a.foreground) && a.what.len() > 1 {
        let text = "--console and --foreground are for one instance";
        return Err(Failure::new(code::USAGE, text));
    }
    if a.foreground {
        return foreground(&store, &a.what[0]);
    }
    let mut status = 0;
    for w in &a.what {
        let started = define(&store, w).and_then(|name| {
            start(&store, &name, a.wait, a.timeout.map(|t| t.0))?;
            Ok(name)
        });
        match started {
            Ok(name) if a.console => {
                return console::attach(&store, &name, None, false, Some(0x1d));
            }
            Ok(name) => {
                super::print(&format!("{name}\n"))?;
            }
            Err(e) => {
                complain(&e);
                if status == 0 {
                    status = e.code;
                }
            }
        }
    }
    Ok(status)
}

/// Whether a word names a file rather than an instance.
pub fn is_file(what: &Path) -> bool {
    let text = what.to_string_lossy();
    text.contains('/') || text.ends_with(".toml")
}

/// Defines the instance of a file, or reads the file of a known instance again; its name.
pub fn define(store: &Store, what: &Path) -> Result<String> {
    if is_file(what) {
        let loaded = spec::load(what)?;
        create::define(store, &loaded, Some(what))?;
        return Ok(loaded.name);
    }
    let name = what.to_string_lossy().into_owned();
    let i = crate::instance::find(store, &name)?;
    if let Some(pid) = i.pid {
        return Err(Failure::new(
            code::BUSY,
            format!("instance \"{name}\" is running already (pid {pid})"),
        ));
    }
    let source = std::fs::read_to_string(i.dir.source()).ok();
    if let Some(source) = source.filter(|s| Path::new(s).is_file()) {
        let mut loaded = spec::load(Path::new(&source))?;
        // It may have been renamed since.
        create::rename(&mut loaded, &name)?;
        create::define(store, &loaded, Some(Path::new(&source)))?;
    }
    Ok(name)
}

/// Starts a defined instance and waits for what it shall wait for.
pub fn start(store: &Store, name: &str, wait: Option<Wait>, timeout: Option<Duration>) -> Result {
    let loaded = spec::load(&store.dir(name).spec())?;
    let (own_wait, own_timeout) = loaded.vm.boot.wait();
    holder::spawn(store, name, None)?;
    crate::daemon::demand::ensure(store);
    wait_for(store, name, wait.unwrap_or(own_wait), timeout.unwrap_or(own_timeout))
}

/// Waits until an instance is that far. Status 75 when it takes too long; when it ends first, why.
pub fn wait_for(store: &Store, name: &str, wait: Wait, patience: Duration) -> Result {
    let what = match wait {
        Wait::None => return Ok(()),
        Wait::Boot | Wait::Port(_) => "boot",
        Wait::Login => "login",
        Wait::Ready => "ready",
    };
    let deadline = Instant::now() + patience;
    let late = || {
        let text = format!(
            "instance \"{name}\" is running, but \"{wait}\" did not happen within {} s; see: umld logs {name}",
            patience.as_secs_f64()
        );
        Failure::new(code::TIMEOUT, text)
    };
    let mut c = match holder::connect(store, name) {
        Ok(c) => c,
        // It ended before we could ask.
        Err(_) => return ended(store, name),
    };
    let lost = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => late(),
        _ => match ended(store, name) {
            Err(f) => f,
            Ok(()) => Failure::other(format!("the holder of \"{name}\" is gone: {e}")),
        },
    };
    let ms = patience.max(Duration::from_millis(1));
    c.stream.set_read_timeout(Some(ms)).map_err(lost)?;
    c.call(&method("Wait"), json!({"for": what})).map_err(lost)?;
    check(c.receive::<Reply>().map_err(lost)?)?;
    let Wait::Port(port) = wait else { return Ok(()) };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        let address = (Ipv4Addr::LOCALHOST, port).into();
        if TcpStream::connect_timeout(&address, left.min(Duration::from_secs(1))).is_ok() {
            return Ok(());
        }
        if !store.dir(name).status().state.is_up() {
            return ended(store, name);
        }
        // Nothing tells when a port opens.
        std::thread::sleep(KNOCK.min(left));
    }
}

/// The failure of an instance that is down; success when it ended in order.
fn ended(store: &Store, name: &str) -> Result {
    let s = store.dir(name).status();
    if s.state != crate::state::State::Failed {
        return Ok(());
    }
    let mut text = format!("instance \"{name}\" {}", s.reason);
    for l in &s.last_messages {
        text += &format!("\n  {l}");
    }
    let status = if s.reason.starts_with("kernel panic") { code::PANIC } else { code::FAILURE };
    Err(Failure::new(status, text))
}

/// A method of the holder.
pub fn method(name: &str) -> String {
    format!("{}.{name}", holder::INTERFACE)
}

/// An error reply as a failure.
pub fn check(r: Reply) -> Result<Reply> {
    if r.error.is_none() {
        return Ok(r);
    }
    let status = r.parameters.get("code").and_then(serde_json::Value::as_u64).unwrap_or(1);
    let text = r.parameters.get("text").and_then(serde_json::Value::as_str);
    let text = text.map_or_else(|| r.error.clone().unwrap_or_default(), str::to_owned);
    Err(Failure::new(u8::try_from(status).unwrap_or(1), text))
}

/// Becomes the holder itself.
fn foreground(store: &Store, what: &Path) -> Result<u8> {
    let name = define(store, what)?;
    let exe = std::env::current_exe()
        .map_err(|e| Failure::other(format!("cannot find this program's own file: {e}")))?;
    let e = std::process::Command::new(exe).args(["holder", "--foreground", &name]).exec();
    Err(Failure::other(format!("cannot become the holder: {e}")))
}
