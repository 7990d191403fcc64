//! `umld exec`: a program in a running guest, through the kernel's door.

use std::ffi::OsString;
use std::io::{IsTerminal, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use uml_formats::door::{self, Frame, Request};
use uml_formats::unix_path::SocketPath;

use crate::cli::{Exec, When};
use crate::cmd::console::{Raw, window};
use crate::failure::{Failure, Result, code};
use crate::instance::{self, Instance};
use crate::state::{State, Store};
use crate::wire;

/// Environment of programs when the caller gives nothing else.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs the command; its exit status, 128+n for signal n.
pub fn run(a: &Exec) -> Result<u8> {
    let store = Store::open().map_err(cannot)?;
    let i = instance::find(&store, &a.name)?;
    let (uid, gid) = user(&a.user)?;
    let terminals = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let tty = match a.tty {
        When::Auto => terminals,
        When::Always => true,
        When::Never => false,
    };
    let mut env = vec![PATH.into(), b"HOME=/root".to_vec()];
    let term = std::env::var("TERM").ok().filter(|t| tty && !t.is_empty());
    env.push(format!("TERM={}", term.as_deref().unwrap_or("linux")).into_bytes());
    for e in &a.env {
        if !e.contains('=') {
            return Err(Failure::new(code::USAGE, format!("--env {e}: expected NAME=VALUE")));
        }
        let name = e.split_inclusive('=').next().unwrap_or_default().as_bytes();
        env.retain(|old| !old.starts_with(name));
        env.push(e.clone().into_bytes());
    }
    let command: Vec<OsString> =
        if a.command.is_empty() { vec!["/bin/sh".into()] } else { a.command.clone() };
    let request = Request {
        args: command.iter().map(|w| w.as_bytes().to_vec()).collect(),
        env,
        cwd: a.cwd.clone().into_bytes(),
        uid,
        gid,
        terminal: tty.then(window),
    };
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    run_in(&i, &request, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])
}

fn cannot(f: Failure) -> Failure {
    match f.code {
        code::PERMISSION => f,
        _ => Failure { code: code::CANNOT_RUN, ..f },
    }
}

/// `UID[:GID]`.
fn user(text: &str) -> Result<(u32, u32)> {
    let (u, g) = text.split_once(':').unwrap_or((text, text));
    match (u.parse(), g.parse()) {
        (Ok(u), Ok(g)) => Ok((u, g)),
        _ => {
            let m = format!(
                "--user {text}: expected numbers UID[:GID], as the guest's /etc/passwd has them"
            );
            Err(Failure::new(code::USAGE, m))
        }
    }
}

/// Connects to the door of a running instance. A kernel without one is refused with status 125, and so is one that is paused:
/// it would answer when it is resumed, and not before.
pub fn connect(i: &Instance) -> Result<UnixStream> {
    i.running()?;
    if i.state == State::Paused {
        let text = format!("instance \"{0}\" is paused; resume it with: umld resume {0}", i.name);
        return Err(Failure::new(code::CANNOT_RUN, text));
    }
    let dir = i.socket.as_deref().and_then(std::path::Path::parent).map(std::path::Path::to_owned);
    let path = dir.unwrap_or_else(|| i.dir.path.clone()).join(door::NAME);
    let open = || UnixStream::connect(SocketPath::new(&path)?.as_path());
    open().map_err(|e| {
        let text = match e.kind() {
            std::io::ErrorKind::NotFound => format!(
                "the kernel of instance \"{}\" has no door for programs from outside: only the built-in kernel has one; \
                 use its console or ssh",
                i.name
            ),
            _ => format!("{}: {}", path.display(), uml_formats::strerror(&e)),
        };
        cannot(Failure::new(crate::failure::status_of(&e), text))
    })
}

/// Runs a program with these standard streams, or with a terminal that is relayed from and to them.
pub fn run_in(i: &Instance, request: &Request, streams: [BorrowedFd<'_>; 3]) -> Result<u8> {
    let lost = |e: std::io::Error| {
        Failure::new(
            code::CANNOT_RUN,
            format!("instance \"{}\" is gone: {}", i.name, uml_formats::strerror(&e)),
        )
    };
    let mut stream = connect(i)?;
    let bytes = request.encode();
    let (head, body) = bytes.split_at(Request::HEAD);
    let taken = if request.terminal.is_some() {
        wire::tell(&mut stream, head).map_err(lost)?
    } else {
        let fds = streams.map(|s| s.as_raw_fd());
        let rights = [ControlMessage::ScmRights(&fds)];
        let iov = [std::io::IoSlice::new(head)];
        match sendmsg::<()>(stream.as_raw_fd(), &iov, &rights, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EPIPE | Errno::ECONNRESET) => false,
            sent => sent.map(|_| true).map_err(|e| lost(e.into()))?,
        }
    };
    // Who does not take it has said why.
    if taken {
        wire::tell(&mut stream, body).map_err(lost)?;
    }
    let raw = if request.terminal.is_some() { Raw::new() } else { None };
    let end = relay(&mut stream, request.terminal.is_some(), streams).map_err(lost);
    drop(raw);
    match end? {
        Frame::Exit(status) if status & 0x7f == 0 => Ok((status >> 8 & 0xff) as u8),
        Frame::Exit(status) => Ok(128 + (status & 0x7f) as u8),
        Frame::Denied => Err(Failure::new(
            code::PERMISSION,
            format!("instance \"{}\" takes programs from its owner and root alone", i.name),
        )),
        Frame::Failed(errno, what) => {
            let status = match errno {
                libc::ENOENT => code::NOT_FOUND,
                libc::EACCES | libc::ENOEXEC | libc::EISDIR => code::NOT_EXECUTABLE,
                _ => code::CANNOT_RUN,
            };
            let why = Errno::from_raw(errno).desc();
            let what: String = what.chars().filter(|c| !c.is_control()).collect();
            Err(Failure::new(status, format!("in instance \"{}\": {what}: {why}", i.name)))
        }
        _ => {
            Err(Failure::new(code::CANNOT_RUN, "the guest's kernel does not keep to the protocol"))
        }
    }
}

/// Until the last frame.
fn relay(
    stream: &mut UnixStream,
    tty: bool,
    [input, output, _]: [BorrowedFd<'_>; 3],
) -> std::io::Result<Frame> {
    let mut set = SigSet::empty();
    // Handed on to the program. With a terminal, keys do that.
    let forward: &[Signal] = if tty {
        &[Signal::SIGWINCH]
    } else {
        &[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT]
    };
    forward.iter().for_each(|s| set.add(*s));
    set.thread_block()?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut incoming = Vec::new();
    let mut chunk = [0; 16384];
    let mut reading = tty;
    loop {
        let invalid = |e| std::io::Error::new(std::io::ErrorKind::InvalidData, e);
        while let Some(f) = Frame::decode(&mut incoming).map_err(invalid)? {
            match f {
                Frame::Data(d) => write_all(output, &d)?,
                Frame::Exit(_) | Frame::Failed(..) | Frame::Denied => return Ok(f),
                _ => {}
            }
        }
        let mut fds = vec![
            PollFd::new(stream.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        if reading {
            fds.push(PollFd::new(input, PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(e) => return Err(e.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|f| f.any().unwrap_or(false)).collect();
        drop(fds);
        if ready[1] {
            while let Ok(Some(s)) = signals.read_signal() {
                let frame = if s.ssi_signo == Signal::SIGWINCH as u32 {
                    let (rows, cols) = window();
                    Frame::Resize(rows, cols)
                } else {
                    Frame::Signal(s.ssi_signo as i32)
                };
                wire::tell(stream, &frame.encode())?;
            }
        }
        if ready.get(2) == Some(&true) {
            match nix::unistd::read(input, &mut chunk) {
                // The program's terminal gets the end-of-file character.
                Ok(0) => {
                    reading = false;
                    wire::tell(stream, &Frame::Data(vec![4]).encode())?;
                }
                Ok(n) => reading = wire::tell(stream, &Frame::Data(chunk[..n].to_vec()).encode())?,
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => reading = false,
            }
        }
        if ready[0] {
            match stream.read(&mut chunk)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => incoming.extend_from_slice(&chunk[..n]),
            }
        }
    }
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(fd, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
                let _ = poll(&mut fds, PollTimeout::NONE);
            }
            // Nobody reads any more: the program goes on, as with docker and ssh.
            Err(Errno::EPIPE) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_the_program_did_not_live_to_read_is_dropped() {
        let (mut ours, mut kernel) = UnixStream::pair().unwrap();
        kernel.write_all(&Frame::Data(b"last words".to_vec()).encode()).unwrap();
        kernel.write_all(&Frame::Exit(130 << 8).encode()).unwrap();
        drop(kernel);
        let (input, mut typed) = std::io::pipe().unwrap();
        typed.write_all(b"too late").unwrap();
        let (mut shown, output) = std::io::pipe().unwrap();
        let streams = [input.as_fd(), output.as_fd(), output.as_fd()];
        let end = relay(&mut ours, true, streams).unwrap();
        assert!(matches!(end, Frame::Exit(status) if status == 130 << 8));
        drop(output);
        let mut text = String::new();
        shown.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words");
    }
}
