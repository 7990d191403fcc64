//! The control socket: NUL-terminated JSON as Varlink has it, so that varlinkctl(1) works. Only the user the daemon runs
//! as, and root, may call (SO_PEERCRED).

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use serde_json::{Map, Value, json};

use crate::cmd::{pause, start, status, stop};
use crate::failure::{Failure, Result, code};
use crate::instance;
use crate::state::Store;
use crate::wire::{Call, Connection, Reply, encode, object};

/// The interface of machines.
pub const INTERFACE: &str = "org.usermodelinux.Machines";

/// Its description in the Varlink language.
pub const DESCRIPTION: &str = "\
# Machines of the calling user.
interface org.usermodelinux.Machines

# A machine as `umld status --json` shows it.
type Machine (
  name: string,
  state: string,
  managed: bool,
  pid: ?int,
  uptime: ?float,
  socket: ?string
)

method List() -> (machines: []Machine)
method Status(name: string) -> (machine: object)
# `what` is the absolute path of a vm.toml, or a name.
method Start(what: string) -> (name: string)
method Stop(name: string, now: ?bool) -> (how: string)
method Restart(name: string, now: ?bool) -> (name: string)
method Pause(name: string) -> ()
method Resume(name: string) -> ()

# `code` is the exit status of the same command of umld(1).
error Failed (code: int, text: string)
";

const SERVICE_DESCRIPTION: &str = "\
interface org.varlink.service

method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)
method GetInterfaceDescription(interface: string) -> (description: string)

error InterfaceNotFound (interface: string)
error MethodNotFound (method: string)
error MethodNotImplemented (method: string)
error InvalidParameter (parameter: string)
error PermissionDenied ()
error ExpectedMore ()
";

/// How long a caller may take to read an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many may be told at a time that they may not call; further ones are not even told.
const STRANGERS_MAX: usize = 8;

static CALLERS: AtomicUsize = AtomicUsize::new(0);
static STRANGERS: AtomicUsize = AtomicUsize::new(0);

/// How many are connected.
pub fn callers() -> usize {
    CALLERS.load(Ordering::Relaxed)
}

/// Counts a caller as long as it lives.
struct Present(&'static AtomicUsize);

impl Present {
    fn new(of: &'static AtomicUsize) -> Present {
        of.fetch_add(1, Ordering::Relaxed);
        Present(of)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves a caller in a thread of its own. One that may not call has its first call refused, and that soon.
pub fn admit(store: &Store, stream: UnixStream) {
    let me = nix::unistd::geteuid().as_raw();
    let allowed = getsockopt(&stream, PeerCredentials).is_ok_and(|p| p.uid() == me || p.uid() == 0);
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_write_timeout(Some(PATIENCE));
    let present = Present::new(if allowed { &CALLERS } else { &STRANGERS });
    if !allowed {
        if STRANGERS.load(Ordering::Relaxed) > STRANGERS_MAX {
            return;
        }
        let _ = stream.set_read_timeout(Some(PATIENCE));
    }
    let store = store.clone();
    let served = std::thread::Builder::new().name("caller".into()).spawn(move || {
        let _present = present;
        let mut c = Connection::new(stream);
        while let Ok(call) = c.receive::<Call>() {
            let reply = if allowed {
                answer(&store, &call)
            } else {
                error("org.varlink.service.PermissionDenied", json!({}))
            };
            if !call.oneway && c.stream.write_all(&encode(&reply)).is_err() || !allowed {
                return;
            }
        }
    });
    if let Err(e) = served {
        eprintln!("umld: caller refused: {e}");
    }
}

fn error(name: &str, parameters: Value) -> Reply {
    Reply { error: Some(name.into()), parameters: object(parameters), continues: false }
}

fn answer(store: &Store, call: &Call) -> Reply {
    let (interface, method) = call.method.rsplit_once('.').unwrap_or(("", &call.method));
    let done = match interface {
        "org.varlink.service" => return service(method, &call.parameters),
        INTERFACE => machines(store, method, &call.parameters),
        _ => {
            return error("org.varlink.service.InterfaceNotFound", json!({"interface": interface}));
        }
    };
    match done {
        Some(Ok(v)) => Reply { parameters: object(v), ..Reply::default() },
        Some(Err(e)) if e.code == code::USAGE => {
            error("org.varlink.service.InvalidParameter", json!({"parameter": e.text}))
        }
        Some(Err(e)) => {
            error(&format!("{INTERFACE}.Failed"), json!({"code": e.code, "text": e.text}))
        }
        None => error("org.varlink.service.MethodNotFound", json!({"method": call.method})),
    }
}

fn service(method: &str, p: &Map<String, Value>) -> Reply {
    match method {
        "GetInfo" => Reply {
            parameters: object(json!({
                "vendor": "User Mode Linux", "product": "umld", "version": env!("CARGO_PKG_VERSION"), "url": "",
                "interfaces": ["org.varlink.service", INTERFACE],
            })),
            ..Reply::default()
        },
        "GetInterfaceDescription" => {
            let wanted = p.get("interface").and_then(Value::as_str).unwrap_or_default();
            let text = match wanted {
                INTERFACE => DESCRIPTION,
                "org.varlink.service" => SERVICE_DESCRIPTION,
                _ => {
                    return error(
                        "org.varlink.service.InterfaceNotFound",
                        json!({"interface": wanted}),
                    );
                }
            };
            Reply { parameters: object(json!({"description": text})), ..Reply::default() }
        }
        _ => error("org.varlink.service.MethodNotFound", json!({"method": method})),
    }
}

fn machines(store: &Store, method: &str, p: &Map<String, Value>) -> Option<Result<Value>> {
    let text = |key: &str| -> Result<String> {
        let v = p.get(key).and_then(Value::as_str).filter(|t| !t.is_empty());
        v.map(str::to_owned).ok_or_else(|| Failure::new(code::USAGE, key))
    };
    let stop = |name: &str, now: bool| -> Result<String> {
        let i = instance::find(store, name)?;
        let mut times = stop::times_of(&i);
        if now {
            times.cad = Duration::ZERO;
        }
        stop::stop_one(store, &i, &times, &mut |_, _| {})
    };
    let begin = |what: &str| -> Result<Value> {
        let name = start::define(store, Path::new(what))?;
        start::start(store, &name, None, None)?;
        Ok(json!({"name": name}))
    };
    let now = p.get("now").and_then(Value::as_bool).unwrap_or(false);
    Some(match method {
        "List" => instance::all(store).map(|l| json!({"machines": l})),
        "Status" => text("name")
            .and_then(|n| instance::find(store, &n))
            .map(|i| json!({"machine": status::json_of(&i, &instance::Processes::now())})),
        "Start" => text("what").and_then(|w| begin(&w)),
        "Stop" => text("name").and_then(|n| stop(&n, now)).map(|how| json!({"how": how})),
        "Restart" => text("name").and_then(|n| {
            match stop(&n, now) {
                Err(e) if e.code != code::STOPPED => return Err(e),
                _ => {}
            }
            begin(&n)
        }),
        "Pause" => text("name").and_then(|n| pause::one(store, &n, true)).map(|()| json!({})),
        "Resume" => text("name").and_then(|n| pause::one(store, &n, false)).map(|()| json!({})),
        _ => return None,
    })
}
