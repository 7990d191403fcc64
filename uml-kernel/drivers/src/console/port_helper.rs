//! The program inside a terminal emulator or telnetd that hands its terminal to a kernel, this program called for it. What it does is
//! what `port-helper` of uml-utilities does, so that a stock kernel can use it under that name.

use std::io;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use uml_formats::strerror;
use uml_formats::unix_path::SocketPath;
use uml_host::{fdpass, stream, terminal};

/// The word before the path of the kernel's socket, which makes this program the helper.
pub const WORD: &str = "-uml-socket";
/// The descriptor that a telnetd of a stock kernel leaves open for it.
const INHERITED: i32 = 3;

/// Sends descriptor 0 to the socket at `path`, or to the inherited one, and waits for the end: the kernel ends this process, or the
/// terminal hangs up. Returns the reason when it cannot.
pub fn run(path: Option<&Path>) -> Result<(), String> {
    let failed = |step: &'static str| move |e: io::Error| format!("{step}: {}", strerror(&e));
    let socket = match path {
        Some(path) => connect(path)?,
        None => stream::duplicate(INHERITED).map_err(failed("descriptor 3"))?.into(),
    };
    // The terminal is given up by a session that ends with it.
    terminal::ignore_hangup();
    if let Err(e) = terminal::disown(io::stdin().as_fd()) {
        eprintln!(
            "TIOCNOTTY failed in port-helper, check UML's exec call for xterm or telnetd: {}",
            strerror(&e)
        );
    }
    let pid = std::process::id() as i32;
    if let Err(e) = fdpass::send(&socket, &pid.to_ne_bytes(), io::stdin().as_fd()) {
        return Err(failed("sendmsg")(e));
    }
    // The kernel ends it; but a kernel that was killed does not.
    terminal::wait_for_hangup(io::stdin().as_fd()).map_err(failed("poll"))
}

fn connect(path: &Path) -> Result<UnixDatagram, String> {
    let failed = |step: &'static str| move |e: io::Error| format!("{step}: {}", strerror(&e));
    let name = format!("{:5}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).map_err(failed("bind"))?;
    let socket = UnixDatagram::bind_addr(&address).map_err(failed("bind"))?;
    let path = SocketPath::new(path).map_err(failed("connect"))?;
    socket.connect(path.as_path()).map_err(failed("connect"))?;
    Ok(socket)
}
