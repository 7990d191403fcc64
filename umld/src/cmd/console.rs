//! `umld console`.

use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use serde_json::json;

use crate::cli::Console;
use crate::cmd::start::{check, method};
use crate::failure::{Context, Failure, Result, code};
use crate::state::Store;
use crate::wire::{Frame, Reply, decode_frame, encode_frame, tell};
use crate::{holder, instance};

/// Connects to a line.
pub fn run(a: &Console) -> Result<u8> {
    let store = Store::open()?;
    let key = detach_key(&a.detach_key)?;
    attach(&store, &a.name, a.line.as_deref(), a.watch, key)
}

/// `^]` as a byte.
fn detach_key(text: &str) -> Result<Option<u8>> {
    match text.as_bytes() {
        b"none" => Ok(None),
        [b'^', c] if (b'@'..=b'_').contains(&c.to_ascii_uppercase()) => {
            Ok(Some(c.to_ascii_uppercase() & 0x1f))
        }
        _ => {
            let text = format!(
                "detach key \"{text}\": expected ^ and a letter or one of @[\\]^_, or none"
            );
            Err(Failure::new(code::USAGE, text))
        }
    }
}

/// Sets a terminal raw for as long as this lives.
pub struct Raw(Termios);

impl Raw {
    /// None when standard input is no terminal.
    pub fn new() -> Option<Raw> {
        let stdin = std::io::stdin();
        let old = tcgetattr(&stdin).ok()?;
        let mut raw = old.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSADRAIN, &raw).ok()?;
        Some(Raw(old))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}

/// Rows and columns of our terminal; zeros when there is none.
pub fn window() -> (u16, u16) {
    [std::io::stdout().as_fd(), std::io::stdin().as_fd()]
        .into_iter()
        .find_map(|fd| rustix::termios::tcgetwinsize(fd).ok())
        .map_or((0, 0), |w| (w.ws_row, w.ws_col))
}

/// Changes of our terminal's size, as a descriptor.
pub fn resizes() -> Option<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGWINCH);
    set.thread_block().ok()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).ok()
}

/// Connects until the detach key, the end of input that is no terminal, or the end of the instance.
pub fn attach(
    store: &Store,
    name: &str,
    line: Option<&str>,
    watch: bool,
    key: Option<u8>,
) -> Result<u8> {
    let i = instance::find(store, name)?;
    i.running()?;
    if !i.has_holder() {
        return by_hand(&i, line, watch, key);
    }
    let mut c = holder::connect(store, name)?;
    let lost = |e: std::io::Error| Failure::other(format!("the holder of \"{name}\" is gone: {e}"));
    // Before the size is asked for: none is missed.
    let winch = resizes();
    let (rows, cols) = window();
    let call =
        json!({"line": line.unwrap_or_default(), "watch": watch, "rows": rows, "cols": cols});
    c.call(&method("Attach"), call).map_err(lost)?;
    let reply = check(c.receive::<Reply>().map_err(lost)?)?;
    let line = reply.parameters.get("line").and_then(|l| l.as_str()).unwrap_or_default().to_owned();
    if std::io::stdin().is_terminal() {
        let how = match key {
            Some(k) => format!("^{} leaves", char::from(k + 64)),
            None => "no key leaves".into(),
        };
        eprintln!("connected to {name}, {line}{}; {how}", if watch { ", watching" } else { "" });
    }
    let raw = Raw::new();
    let result = relay(&mut c, watch, key, winch.as_ref());
    drop(raw);
    match result {
        Ok(Some(reason)) => {
            eprintln!("\r\ninstance \"{name}\" {reason}");
            Ok(0)
        }
        Ok(None) => {
            if std::io::stdin().is_terminal() {
                eprintln!("\r\ndisconnected from {name}; it goes on");
            }
            Ok(0)
        }
        Err(e) => Err(lost(e)),
    }
}

/// The reason when the instance ended, none when the user left.
fn relay(
    c: &mut crate::wire::Connection,
    watch: bool,
    key: Option<u8>,
    winch: Option<&SignalFd>,
) -> std::io::Result<Option<String>> {
    let mut incoming = c.take_buffer();
    let mut stdin_open = true;
    let mut chunk = [0; 16384];
    loop {
        loop {
            match decode_frame(&mut incoming) {
                Ok(Some(Frame::Data(d))) => {
                    let mut out = std::io::stdout().lock();
                    if out.write_all(&d).and_then(|()| out.flush()).is_err() {
                        return Ok(None);
                    }
                }
                Ok(Some(Frame::End(reason))) => return Ok(Some(reason)),
                Ok(Some(Frame::Resize(..))) => {}
                Ok(None) => break,
                Err(e) => return Err(std::io::Error::other(e)),
            }
        }
        let stdin = std::io::stdin();
        let mut fds = vec![PollFd::new(c.stream.as_fd(), PollFlags::POLLIN)];
        let at_winch = winch.map(|w| {
            fds.push(PollFd::new(w.as_fd(), PollFlags::POLLIN));
            fds.len() - 1
        });
        let at_stdin = stdin_open.then(|| {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            fds.len() - 1
        });
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(e) => return Err(e.into()),
        }
        let ready = |i: Option<usize>| i.is_some_and(|i| fds[i].any().unwrap_or(false));
        let (from_holder, resized, typed) = (ready(Some(0)), ready(at_winch), ready(at_stdin));
        drop(fds);
        if resized && let Some(w) = winch {
            while let Ok(Some(_)) = w.read_signal() {}
            let (rows, cols) = window();
            tell(&mut c.stream, &encode_frame(&Frame::Resize(rows, cols)))?;
        }
        if typed {
            let n = nix::unistd::read(&stdin, &mut chunk).unwrap_or(0);
            if n == 0 {
                stdin_open = false;
                // A script that has said everything leaves; one that only watches stays.
                if !watch {
                    return drain(c, incoming).map(|()| None);
                }
            }
            let typed = &chunk[..n];
            let end = key.and_then(|k| typed.iter().position(|b| *b == k));
            let send = &typed[..end.unwrap_or(n)];
            if !send.is_empty() && !watch {
                stdin_open = tell(&mut c.stream, &encode_frame(&Frame::Data(send.to_vec())))?;
            }
            if end.is_some() {
                return Ok(None);
            }
        }
        if from_holder {
            let n = c.stream.read(&mut chunk)?;
            if n == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            incoming.extend_from_slice(&chunk[..n]);
        }
    }
}

/// Prints what has come already.
fn drain(c: &mut crate::wire::Connection, mut incoming: Vec<u8>) -> std::io::Result<()> {
    c.stream.set_nonblocking(true)?;
    let mut chunk = [0; 16384];
    while let Ok(n) = c.stream.read(&mut chunk) {
        if n == 0 {
            break;
        }
        incoming.extend_from_slice(&chunk[..n]);
    }
    let mut out = std::io::stdout().lock();
    while let Ok(Some(f)) = decode_frame(&mut incoming) {
        if let Frame::Data(d) = f {
            let _ = out.write_all(&d);
        }
    }
    out.flush()
}

/// A machine that was started by hand: its kernel says where the line is. A pseudo-terminal can be joined, shared with
/// whoever else reads it.
fn by_hand(i: &instance::Instance, line: Option<&str>, watch: bool, key: Option<u8>) -> Result<u8> {
    let line = line.unwrap_or("con0");
    let answer = crate::mconsole::request(&i.console()?, &format!("config {line}"))?;
    let answer = answer.trim_matches(['\0', '\n', ' ']);
    let device = ["pts:", "pty:"]
        .iter()
        .find_map(|p| answer.strip_prefix(p))
        .filter(|d| d.starts_with("/dev/"));
    let Some(device) = device.map(std::path::Path::new) else {
        let text = format!(
            "instance \"{}\" was not started by umld, and its {line} is \"{answer}\", which cannot be joined; start it with {line}=pts for \
             that",
            i.name
        );
        return Err(Failure::other(text));
    };
    let tty = std::fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(device)
        .at("cannot open", device)?;
    eprintln!("connected to {}, {line}, {}", i.name, device.display());
    let raw = Raw::new();
    let end = relay_tty(&tty, watch, key);
    drop(raw);
    end.at("console", device).map(|()| 0)
}

fn relay_tty(tty: &std::fs::File, watch: bool, key: Option<u8>) -> std::io::Result<()> {
    let stdin = std::io::stdin();
    let mut chunk = [0; 16384];
    loop {
        let mut fds = [
            PollFd::new(tty.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(e) => return Err(e.into()),
        }
        let ready = fds.map(|f| f.any().unwrap_or(false));
        if ready[0] {
            let n = (&mut &*tty).read(&mut chunk)?;
            let mut out = std::io::stdout().lock();
            if n == 0 || out.write_all(&chunk[..n]).and_then(|()| out.flush()).is_err() {
                return Ok(());
            }
        }
        if ready[1] {
            let n = nix::unistd::read(&stdin, &mut chunk).unwrap_or(0);
            let end = key.and_then(|k| chunk[..n].iter().position(|b| *b == k));
            if !watch {
                (&mut &*tty).write_all(&chunk[..end.unwrap_or(n)])?;
            }
            if n == 0 || end.is_some() {
                return Ok(());
            }
        }
    }
}
