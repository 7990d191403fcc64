//! A kernel's management console, served in-process by the library that the
//! real kernel uses.
#![allow(dead_code)] // each test program uses a part of it

use std::ffi::OsStr;
use std::fs;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use uml_formats::mconsole::{self, HELP, Received, Request, VERSION_0_REPLY, receive, split_reply};

pub const CLIENT: &str = env!("CARGO_BIN_EXE_uml_mconsole");
pub const VERSION: &str = "Linux box 7.2.7 #1 Fri Sep 25 16:07:24 UTC 2026 x86_64";

/// A home directory with running instances.
pub struct Home {
    dir: tempfile::TempDir,
}

/// A served instance; ends when dropped.
pub struct Instance {
    pub socket: PathBuf,
    /// Texts of the requests received.
    pub requests: Receiver<String>,
    thread: Option<JoinHandle<()>>,
}

const END: &str = "end of test";

impl Drop for Instance {
    fn drop(&mut self) {
        let end = Request::new(END).expect("short").encode();
        let client = UnixDatagram::unbound().expect("socket");
        client.send_to(&end, &self.socket).expect("server is there");
        self.thread.take().map(JoinHandle::join).expect("thread").expect("server did not panic");
    }
}

impl Home {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("tempdir") }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Starts an instance with the pid of this process.
    pub fn start(&self, umid: &str) -> Instance {
        let directory = self.path().join(".uml").join(umid);
        fs::create_dir_all(&directory).expect("mkdir");
        fs::write(directory.join("pid"), format!("{}\n", std::process::id())).expect("pid");
        let socket = directory.join("mconsole");
        let server = UnixDatagram::bind(&socket).expect("bind");
        let (sender, requests) = channel();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            loop {
                let (len, from) = server.recv_from(&mut buffer).expect("recv");
                match receive(&buffer[..len]) {
                    Received::BadMagic => send(&server, &from, VERSION_0_REPLY),
                    Received::TooLarge { .. } => {
                        reply(&server, &from, 1, Received::TOO_LARGE.as_bytes(), false);
                    }
                    Received::Command { text, .. } if text == END.as_bytes() => break,
                    Received::Command { text, .. } => {
                        // Recorded before the answer: the client may be gone and the test looking at once.
                        let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
                        answer(&server, &from, &text);
                    }
                }
            }
        });
        Instance { socket, requests, thread: Some(thread) }
    }

    /// Runs a client with this home directory and `input` on stdin.
    pub fn run(&self, client: impl AsRef<OsStr>, arguments: &[&str], input: &str) -> Run {
        use std::io::Write;
        let mut child = Command::new(client)
            .args(arguments)
            .current_dir(self.path())
            .env("HOME", self.path())
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("client starts");
        child.stdin.take().expect("pipe").write_all(input.as_bytes()).expect("input");
        let output = child.wait_with_output().expect("client ends");
        Run {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub fn ours(&self, arguments: &[&str]) -> Run {
        self.run(CLIENT, arguments, "")
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

fn send(server: &UnixDatagram, to: &SocketAddr, datagram: &[u8]) {
    // A client that timed out is gone; that is part of the tests.
    let _ = server.send_to_addr(datagram, to);
}

fn reply(server: &UnixDatagram, to: &SocketAddr, err: i32, text: &[u8], more: bool) {
    split_reply(err, text, more).for_each(|datagram| send(server, to, &datagram));
}

/// Contents of the fake `/proc/long`, several datagrams long.
pub fn long_file() -> String {
    (0..400).map(|line| format!("line {line} of a long file\n")).collect()
}

fn answer(server: &UnixDatagram, from: &SocketAddr, text: &[u8]) {
    let say = |err: i32, text: &str| reply(server, from, err, text.as_bytes(), false);
    let Some((command, rest)) = mconsole::lookup(text) else {
        match text {
            b"silence" => return,
            b"garbage" => return send(server, from, b"\x01\x02"),
            b"unfinished" => return reply(server, from, 0, b"part", true),
            _ => return say(1, Received::UNKNOWN_COMMAND),
        }
    };
    let argument = String::from_utf8_lossy(mconsole::argument(rest)).into_owned();
    match (command.name(), argument.as_str()) {
        ("version", _) => say(0, VERSION),
        ("help", _) => say(0, HELP),
        ("config", "ubd0") => say(0, "/img/root"),
        ("config", config) if config.contains('=') => say(-22, "Device is already configured"),
        ("remove", "ubd9") => say(-19, "Device doesn't exist"),
        ("remove", "ubd0") => say(-16, "Device is currently open"),
        ("proc", "long") => {
            say_chunked(server, from);
        }
        ("proc", "evil") => say(0, "\x1b]0;title\x07"),
        ("proc", _) => say(1, "Failed to open file"),
        ("sysrq", _) => {
            reply(server, from, 0, b"sysrq: HELP\n", true);
            reply(server, from, 0, b"", false);
        }
        ("stop", _) => say(0, "stopped"),
        ("log" | "go" | "cad" | "halt", _) => say(0, ""),
        _ => say(1, Received::UNKNOWN_COMMAND),
    }
}

fn say_chunked(server: &UnixDatagram, from: &SocketAddr) {
    reply(server, from, 0, b"\n", true);
    for chunk in long_file().as_bytes().chunks(4095) {
        reply(server, from, 0, chunk, true);
    }
    reply(server, from, 0, b"", false);
}

/// Path of the classic client, or `None` with a line that says so.
pub fn stock() -> Option<PathBuf> {
    let path = PathBuf::from("/usr/bin/uml_mconsole");
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is missing (Debian package uml-utilities)", path.display());
    None
}
