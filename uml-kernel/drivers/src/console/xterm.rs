//! The xterm channel: a terminal emulator of the host, whose terminal a helper inside it hands over: this program itself, see
//! [`port_helper`].

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::pr_err;
use uml_formats::strerror;
use uml_host::fdpass;
use uml_host::stream::Stream;
use uml_tty::termios::WinSize;

use crate::console::channel::Transport;
use crate::console::port_helper;

/// How long the helper may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the emulator is looked at meanwhile: it may have ended.
const LOOK: Duration = Duration::from_millis(200);

/// The `xterm=` option, and what else is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XtermConfig {
    pub program: String,
    pub title_switch: String,
    pub exec_switch: String,
    /// Shown in titles.
    pub umid: String,
    pub helper: PathBuf,
    /// A display is named by the environment.
    pub display: bool,
}

impl XtermConfig {
    /// Parses `<program>[,<title switch>[,<exec switch>]]`; empty fields keep their defaults.
    pub fn new(option: &str, umid: &str) -> XtermConfig {
        let mut fields = option.splitn(3, ',');
        let mut field = |default: &str| match fields.next() {
            Some(f) if !f.is_empty() => f.to_owned(),
            _ => default.to_owned(),
        };
        let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        XtermConfig {
            program: field("xterm"),
            title_switch: field("-T"),
            exec_switch: field("-e"),
            umid: umid.to_owned(),
            helper: own_program(),
            display: set("DISPLAY") || set("WAYLAND_DISPLAY"),
        }
    }

    fn title(&self, name: &str) -> String {
        if self.umid.is_empty() { name.to_owned() } else { format!("{name} ({})", self.umid) }
    }

    /// Starts the emulator and waits for its terminal. `name` is the window's title without the umid.
    pub fn open(&self, name: &str) -> Result<XtermTransport> {
        if !self.display {
            pr_err!("xterm_open : neither $DISPLAY nor $WAYLAND_DISPLAY is set.");
            return Err(ENODEV);
        }
        self.start(name).map_err(|e| {
            pr_err!("xterm_open : {name}: {e}");
            e.errno
        })
    }

    fn start(&self, name: &str) -> std::result::Result<XtermTransport, Failure> {
        let helper = &self.helper;
        let dir = PrivateDir::new().map_err(|e| Failure::new("no directory for a socket", &e))?;
        let path = dir.0.join("socket");
        let socket = UnixDatagram::bind(&path).map_err(|e| Failure::new("no socket", &e))?;
        socket.set_read_timeout(Some(LOOK)).map_err(|e| Failure::new("no socket", &e))?;
        let child = Command::new(&self.program)
            .arg(&self.title_switch)
            .arg(self.title(name))
            .arg(&self.exec_switch)
            .arg(helper)
            .arg(port_helper::WORD)
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| Failure::new(&format!("cannot start '{}'", self.program), &e))?;
        // From here on the emulator is ended when this function gives up.
        let mut emulator = Emulator { child, helper: 0, sizes: None };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut pid = [0; 4];
            match fdpass::receive(&socket, &mut pid) {
                Ok((4, fds)) => {
                    emulator.helper = i32::from_ne_bytes(pid);
                    let fd = fds.into_iter().next().ok_or(Failure::protocol())?;
                    let stream =
                        Stream::from_fd(fd).map_err(|e| Failure::new("its terminal", &e))?;
                    match uml_host::winch::watch(Transport::fd(&stream)) {
                        Ok(c) => emulator.sizes = Some(c),
                        Err(e) => pr_err!(
                            "xterm_open : {name}: window sizes are not followed: {}",
                            strerror(&e)
                        ),
                    }
                    return Ok(XtermTransport { stream, _emulator: emulator });
                }
                Ok(_) => return Err(Failure::protocol()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Failure::new("no answer", &e)),
            }
            if let Ok(Some(status)) = emulator.child.try_wait() {
                let text = format!("'{}' ended at once ({status})", self.program);
                return Err(Failure { errno: ENODEV, text });
            }
            if Instant::now() >= deadline {
                let text = format!("no answer from {} within {PATIENCE:?}", helper.display());
                return Err(Failure { errno: ETIMEDOUT, text });
            }
        }
    }
}

/// This program, by a name that other processes can start it by.
fn own_program() -> PathBuf {
    let found = std::env::current_exe().ok().filter(|p| p.exists());
    // One that was replaced meanwhile is still there under this name.
    found.unwrap_or_else(|| format!("/proc/{}/exe", std::process::id()).into())
}

struct Failure {
    errno: Errno,
    text: String,
}

impl Failure {
    fn new(what: &str, e: &io::Error) -> Failure {
        let errno = Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
        Failure { errno, text: format!("{what}: {}", strerror(e)) }
    }

    fn protocol() -> Failure {
        Failure { errno: EMSGSIZE, text: "the helper sent something else than its terminal".into() }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// A directory that nobody else can enter: who sends to the socket in it is our own user.
struct PrivateDir(PathBuf);

impl PrivateDir {
    fn new() -> io::Result<PrivateDir> {
        let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
        for _ in 0..100 {
            let name = format!("xterm-pipe{:012x}", uml_host::random::u64() & 0xffff_ffff_ffff);
            let path = std::env::temp_dir().join(name);
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(PrivateDir(path)),
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        // Left-overs harm nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The emulator and the helper inside it; both end with the channel.
struct Emulator {
    child: Child,
    helper: i32,
    /// Passes changes of the window's size on.
    sizes: Option<Child>,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        fdpass::kill(self.helper);
        for c in std::iter::once(&mut self.child).chain(&mut self.sizes) {
            let _ = c.kill();
            let _ = c.wait();
        }
    }
}

/// The emulator's terminal.
pub struct XtermTransport {
    stream: Stream,
    _emulator: Emulator,
}

impl XtermTransport {
    /// The terminal itself, for raw mode.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }
}

impl Transport for XtermTransport {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf)
    }

    fn write(&self, data: &[u8]) -> io::Result<usize> {
        self.stream.write(data)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        Transport::fd(&self.stream)
    }

    fn size(&self) -> Option<WinSize> {
        Transport::size(&self.stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    fn script(dir: &Path, name: &str, body: &str) -> PathBuf {
        let p = dir.join(name);
        fs::write(&p, format!("#!/bin/sh\n{body}\n")).expect("script");
        fs::set_permissions(&p, fs::Permissions::from_mode(0o755)).expect("mode");
        p
    }

    fn config(dir: &Path, body: &str) -> XtermConfig {
        XtermConfig {
            program: script(dir, "term", body).display().to_string(),
            helper: script(dir, "helper", "exit 1"),
            display: true,
            ..XtermConfig::new(",,--", "vm")
        }
    }

    #[test]
    fn options() {
        let c = XtermConfig::new("", "");
        assert_eq!((c.program.as_str(), c.title_switch.as_str()), ("xterm", "-T"));
        let c = XtermConfig::new("kitty,,--", "vm");
        assert_eq!(
            (c.program.as_str(), c.title_switch.as_str(), c.exec_switch.as_str()),
            ("kitty", "-T", "--")
        );
        assert_eq!(c.title("Virtual Console #1"), "Virtual Console #1 (vm)");
    }

    #[test]
    fn the_helpers_terminal_becomes_the_channel() {
        let dir = tempfile::tempdir().expect("dir");
        // The "emulator" tells its arguments; the test plays the helper inside it.
        let args = dir.path().join("args");
        let body = format!(
            "printf '%s\\n' \"$@\" >{0}.new; mv {0}.new {0}; exec sleep 1000",
            args.display()
        );
        let c = config(dir.path(), &body);
        let opener = std::thread::spawn(move || c.open("Serial Line #2"));
        let told = loop {
            match fs::read_to_string(&args) {
                Ok(t) => break t,
                Err(_) => std::thread::yield_now(),
            }
        };
        let words: Vec<&str> = told.lines().collect();
        assert_eq!(words[..3], ["-T", "Serial Line #2 (vm)", "--"]);
        assert!(words[3].ends_with("/helper") && words[4] == "-uml-socket");
        let pair = uml_host::pty::open_pts().expect("host pty");
        let slave = pair.open_slave().expect("slave");
        let helper = UnixDatagram::unbound().expect("socket");
        helper.connect(words[5]).expect("connect");
        let nobody = 0i32.to_ne_bytes();
        fdpass::send(&helper, &nobody, std::os::fd::AsFd::as_fd(&slave)).expect("send");
        let t = opener.join().expect("thread").expect("opens");
        assert!(t.stream().is_tty());
        assert_eq!(Transport::write(&t, b"hi").ok(), Some(2));
        assert!(!Path::new(words[5]).exists());
    }

    #[test]
    fn failures_are_told_at_once() {
        let dir = tempfile::tempdir().expect("dir");
        let c = config(dir.path(), "exit 3");
        assert_eq!(c.open("x").err(), Some(ENODEV));
        let missing = XtermConfig { program: "/nonexistent/xterm".into(), ..c.clone() };
        assert_eq!(missing.open("x").err(), Some(ENOENT));
        assert_eq!(XtermConfig { display: false, ..c }.open("x").err(), Some(ENODEV));
    }
}
