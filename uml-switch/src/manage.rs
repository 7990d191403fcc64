//! Questions to a running switch: a second socket beside the control socket, `CTL.mgmt`, that takes one JSON object on
//! a line and answers with one. Served by a thread of its own, which asks the switch through a channel: a client that
//! stalls holds up nobody but the next question, and that for seconds only.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender, sync_channel};
use std::time::Duration;

use nix::sys::eventfd::EventFd;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};

use crate::args::Ask;
use crate::port::Counters;

/// Longest question.
const MAX_QUESTION: u64 = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);

/// A question on the wire.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase", deny_unknown_fields)]
pub enum Question {
    Status,
    Capture { port: Option<i32>, file: Option<PathBuf> },
    Vlan { port: i32, membership: String },
}

/// A port in the answer to [`Question::Status`].
#[derive(Debug, Serialize, Deserialize)]
pub struct PortStatus {
    pub port: i32,
    /// `client` or `tap`.
    pub kind: String,
    /// Socket address of the client, or the interface.
    pub peer: String,
    pub pid: Option<i32>,
    /// Version of the control protocol; `null` for interfaces.
    pub version: Option<u32>,
    pub vlan: String,
    pub queued: usize,
    #[serde(flatten)]
    pub counters: Counters,
    pub capture: Option<PathBuf>,
}

/// A station in the answer to [`Question::Status`].
#[derive(Debug, Serialize, Deserialize)]
pub struct StationStatus {
    pub mac: String,
    pub vlan: u16,
    pub port: i32,
    /// Seconds since it was last seen.
    pub age: u64,
}

/// The answer to [`Question::Status`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    pub program: String,
    pub version: String,
    pub pid: u32,
    /// `switch` or `hub`.
    pub mode: String,
    pub control: Vec<PathBuf>,
    pub uptime_seconds: u64,
    pub ports: Vec<PortStatus>,
    pub stations: Vec<StationStatus>,
}

/// An answer on the wire.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Ok,
    Error(String),
    Status(Status),
}

/// A question on its way to the switch.
pub struct Command {
    pub question: Question,
    pub answer: SyncSender<Answer>,
}

/// Where the questions for a switch go.
pub fn socket_path(control: &Path) -> PathBuf {
    let mut name = control.as_os_str().to_owned();
    name.push(".mgmt");
    name.into()
}

/// Serves questions for ever; the switch is woken through `wake`.
pub fn serve(listener: UnixListener, commands: Sender<Command>, wake: Arc<EventFd>) {
    for stream in listener.incoming() {
        match stream {
            // A client that leaves or stalls is its own loss.
            Ok(stream) => drop(answer_one(&stream, &commands, &wake)),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn answer_one(stream: &UnixStream, commands: &Sender<Command>, wake: &EventFd) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let peer = getsockopt(stream, PeerCredentials)?;
    let us = nix::unistd::geteuid().as_raw();
    let answer = if peer.uid() != us && peer.uid() != 0 {
        Answer::Error(format!("user {} may not ask a switch of user {us}", peer.uid()))
    } else {
        let mut line = String::new();
        BufReader::new(stream.take(MAX_QUESTION)).read_line(&mut line)?;
        match serde_json::from_str(&line) {
            Err(e) => Answer::Error(format!("the question is not understood: {e}")),
            Ok(question) => {
                let (answer, answered) = sync_channel(1);
                let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
                commands.send(Command { question, answer }).map_err(|_| gone(()))?;
                wake.write(1)?;
                answered.recv().map_err(|_| gone(()))?
            }
        }
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    (&*stream).write_all(&text)
}

/// Asks the switch at `control`; returns what to print.
pub fn ask(control: &Path, ask: &Ask) -> Result<String, String> {
    let question = match ask {
        Ask::Status { .. } => Question::Status,
        Ask::Capture { port, file } => Question::Capture {
            port: *port,
            // The switch may run in another directory.
            file: match file {
                Some(f) => {
                    Some(std::path::absolute(f).map_err(|e| format!("{}: {e}", f.display()))?)
                }
                None => None,
            },
        },
        Ask::Vlan { port, membership } => {
            Question::Vlan { port: *port, membership: membership.to_string() }
        }
    };
    match exchange(control, &question)? {
        Answer::Ok => Ok(String::new()),
        Answer::Error(text) => Err(text),
        Answer::Status(status) if matches!(ask, Ask::Status { json: true }) => {
            serde_json::to_string_pretty(&status).map(|s| s + "\n").map_err(|e| e.to_string())
        }
        Answer::Status(status) => Ok(table(&status)),
    }
}

/// What the switch at `control` says of itself. The error is text for people.
pub fn status(control: &Path) -> Result<Status, String> {
    match exchange(control, &Question::Status)? {
        Answer::Status(status) => Ok(status),
        Answer::Error(text) => Err(text),
        Answer::Ok => Err("the switch answers without its status".to_owned()),
    }
}

fn exchange(control: &Path, question: &Question) -> Result<Answer, String> {
    let path = socket_path(control);
    let said = |what: &str, e: io::Error| {
        format!("{what} '{}': {}", path.display(), uml_formats::strerror(&e))
    };
    let address = uml_formats::unix_path::SocketPath::new(&path).map_err(|e| said("socket", e))?;
    let stream =
        UnixStream::connect(address.as_path()).map_err(|e| said("no switch answers at", e))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| said("asking", e))?;
    let mut text = serde_json::to_vec(question).map_err(|e| e.to_string())?;
    text.push(b'\n');
    (&stream).write_all(&text).map_err(|e| said("asking", e))?;
    let mut reply = String::new();
    (&stream).read_to_string(&mut reply).map_err(|e| said("answer from", e))?;
    serde_json::from_str(&reply).map_err(|e| format!("the switch's answer is not understood: {e}"))
}

/// The status for people.
fn table(s: &Status) -> String {
    let mut out = format!(
        "{} {} (pid {}), {} at {}, up {} s\n\n{:>5} {:7} {:20} {:>12} {:>12} {:>9} {:>6}  {}\n",
        s.program,
        s.version,
        s.pid,
        s.mode,
        s.control.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "),
        s.uptime_seconds,
        "PORT",
        "KIND",
        "VLAN",
        "RX",
        "TX",
        "DROPPED",
        "QUEUED",
        "PEER"
    );
    for p in &s.ports {
        out += &format!(
            "{:>5} {:7} {:20} {:>12} {:>12} {:>9} {:>6}  {}\n",
            p.port,
            p.kind,
            p.vlan,
            p.counters.rx_frames,
            p.counters.tx_frames,
            p.counters.tx_dropped,
            p.queued,
            p.peer
        );
    }
    if !s.stations.is_empty() {
        out += &format!("\n{:17} {:>4} {:>5} {:>4}\n", "STATION", "VLAN", "PORT", "AGE");
    }
    for m in &s.stations {
        out += &format!("{:17} {:>4} {:>5} {:>4}\n", m.mac, m.vlan, m.port, m.age);
    }
    out
}
