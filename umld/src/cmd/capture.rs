//! `umld capture`: packets of an interface of the guest in the pcap format.
//!
//! The kernel writes into a pipe that this command reads: when the command ends, however it does, so does the capture.

use std::fs::{File, Permissions};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use uml_formats::mconsole::Received;
use uml_mconsole::connection::exchange;

use crate::cli::Capture;
use crate::failure::{Context, Failure, Result, code};
use crate::mconsole::{PATIENCE, request};
use crate::state::Store;
use crate::{instance, mconsole};

/// Captures until the limit, a signal or the machine's end.
pub fn run(a: &Capture) -> Result<u8> {
    let store = Store::open()?;
    let socket = instance::find(&store, &a.name)?.console()?;
    require(&socket, &a.name)?;
    let interface = match &a.interface {
        Some(i) => i.clone(),
        None => first_up(&request(&socket, "net")?).ok_or_else(|| {
            Failure::other("no interface but the loopback is up; name one, or \"any\"")
        })?,
    };
    let output = output(a)?;
    let pipe = Pipe::new(&socket)?;
    let mut command = format!("capture start {interface}");
    for (name, value) in
        [("snaplen", a.snaplen.map(u64::from)), ("count", a.count), ("size", a.size.map(|s| s.0))]
    {
        if let Some(v) = value {
            command += &format!(" {name}={v}");
        }
    }
    command += &format!(" {}", pipe.path.display());
    let number = request(&socket, &command)?.trim().to_owned();
    let input = pipe.opened()?;
    let summary: Arc<Mutex<Option<String>>> = Arc::default();
    watch_signals(socket.clone(), number.clone(), summary.clone())?;
    let copied = copy(input, output);
    let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
    if summary.is_none() {
        // The machine may have ended meanwhile.
        *summary = stop(&socket, &number);
    }
    if let Some(text) = &*summary {
        // Nothing can be done when stderr is closed.
        let _ =
            io::Write::write_fmt(&mut io::stderr(), format_args!("umld: {interface}: {text}\n"));
    }
    match copied {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::io("cannot write", &a.write, &e))
        }
        _ => Ok(0),
    }
}

/// Status 69 for a kernel that cannot.
fn require(socket: &Path, name: &str) -> Result {
    match exchange(socket, b"capture", None, Some(PATIENCE)) {
        Ok(r) if r.err != 0 && r.text == Received::UNKNOWN_COMMAND.as_bytes() => {
            let text = format!(
                "the kernel of \"{name}\" cannot capture (stock kernels cannot); use tcpdump in the guest, or on the host's side of the \
                 interface"
            );
            Err(Failure::new(code::UNAVAILABLE, text))
        }
        // Anything else is told by the request itself.
        _ => mconsole::request(socket, "capture").map(drop),
    }
}

/// The first interface of `net` that is up, the loopback apart.
fn first_up(list: &str) -> Option<String> {
    let up = list.lines().filter_map(|l| l.split_once(": up ")).map(|(name, _)| name);
    up.filter(|n| *n != "lo" && !n.starts_with(' ')).map(str::to_owned).next()
}

fn output(a: &Capture) -> Result<File> {
    match a.write.as_path() {
        path if path == Path::new("-") => {
            let out = io::stdout();
            if out.is_terminal() {
                let text =
                    "a capture is not for terminals; use -w FILE, or a pipe: | tcpdump -nr -";
                return Err(Failure::new(code::USAGE, text));
            }
            let own = out.as_fd().try_clone_to_owned();
            own.map(File::from).at("cannot write", path)
        }
        path => {
            let mut o = File::options();
            o.write(true).create(true).truncate(true).mode(0o600);
            o.open(path).at("cannot write", path)
        }
    }
}

/// A pipe with a name that the kernel can open, while it has to.
struct Pipe {
    path: PathBuf,
    end: File,
}

impl Pipe {
    /// Beside the kernel's socket, and its owner's.
    fn new(socket: &Path) -> Result<Pipe> {
        let dir = socket.parent().unwrap_or(Path::new("/"));
        let path = dir.join(format!("capture.{}", std::process::id()));
        let failed = |e: io::Error| Failure::io("cannot make", &path, &e);
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| failed(e.into()))?;
        let made = || {
            std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            let owner = std::fs::metadata(socket)?;
            if owner.uid() != nix::unistd::geteuid().as_raw() {
                chown(&path, Some(owner.uid()), Some(owner.gid()))?;
            }
            File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path)
        };
        match made() {
            Ok(end) => Ok(Pipe { path, end }),
            Err(e) => {
                let _ = std::fs::remove_file(&path);
                Err(failed(e))
            }
        }
    }

    /// The reader's end, now that there is a writer: it waits, and ends when the writer goes.
    fn opened(self) -> Result<File> {
        let end = self.end.try_clone().at("cannot read", &self.path)?;
        fcntl(&end, FcntlArg::F_SETFL(OFlag::empty()))
            .map_err(|e| Failure::io("cannot read", &self.path, &e.into()))?;
        Ok(end)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// SIGINT and SIGTERM end the capture in order, a second one at once.
fn watch_signals(socket: PathBuf, number: String, summary: Arc<Mutex<Option<String>>>) -> Result {
    let mut set = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].iter().for_each(|s| set.add(*s));
    let failed = |e: io::Error| Failure::other(format!("signals: {}", uml_formats::strerror(&e)));
    set.thread_block().map_err(|e| failed(e.into()))?;
    let watch = move || {
        if set.wait().is_err() {
            return;
        }
        let _ = set.thread_unblock();
        let mut s = summary.lock().unwrap_or_else(PoisonError::into_inner);
        *s = stop(&socket, &number);
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).map(drop).map_err(failed)
}

/// Ends the capture; what it got, without its number, interface and pipe.
fn stop(socket: &Path, number: &str) -> Option<String> {
    let text = request(socket, &format!("capture stop {number}")).ok()?;
    let (_, figures) = text.rsplit_once(": ")?;
    Some(figures.rsplit_once(", ").map_or(figures, |(f, _)| f).trim().to_owned())
}

fn copy(mut input: File, mut output: File) -> io::Result<()> {
    let mut chunk = vec![0; 1 << 16];
    loop {
        match io::Read::read(&mut input, &mut chunk) {
            Ok(0) => return Ok(()),
            Ok(n) => io::Write::write_all(&mut output, &chunk[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_interface_that_is_up() {
        let list = "lo: up mtu 65536 address 00\n    127.0.0.1/8\nvec0: down mtu 1500 address 02\nvec1: up mtu 1500 address 02\n";
        assert_eq!(first_up(list).as_deref(), Some("vec1"));
        assert_eq!(first_up("lo: up mtu 1\n"), None);
    }
}
