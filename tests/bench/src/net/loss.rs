//! TCP across a wire that loses data packets and is half a millisecond long.
//!
//! The wire is a process of its own (this program with [`RELAY`]) between two ends: taps of the host, or a sequenced-packet socket that a
//! guest's `bess` transport connects to. Neither end has offloads there, so that a lost packet is one segment.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};

use crate::measure::What;
use crate::place::{CLIENT, Kind, Place, SERVER};
use crate::wires::{self, Namespace, Owned, ip};

/// Makes this program the wire: `--relay END END N`, where one of N data packets from the first to the second end is lost.
pub const RELAY: &str = "--relay";

/// How long a packet is under way; the round trip is twice that.
const DELAY: Duration = Duration::from_micros(500);
/// Frames beyond this have data in them.
const DATA: usize = 200;

/// Gbit/s from the asking end to a server of the host.
pub fn measure(place: &Place, what: What, one_of: u32, seconds: u32) -> Result<f64, String> {
    let bess = place.scratch.join("lossy");
    let end = match place.kind {
        Kind::Native => "tap:far7".to_string(),
        _ => format!("bess:{}", bess.display()),
    };
    let _wire = start(&end, "tap:near7", one_of)?;
    ip("addr add 10.7.0.1/24 dev near7")?;
    ip("link set near7 up")?;
    let command = what.command(SERVER, seconds);
    let _server = wires::serve_with(Command::new("iperf3"), SERVER)?;
    if place.kind == Kind::Native {
        let far = Namespace::new()?;
        ip(&format!("link set far7 netns {}", far.pid()))?;
        far.run("ip addr add 10.7.0.2/24 dev far7")?;
        far.run("ip link set far7 up")?;
        let out = far.command(&command).output().map_err(|e| format!("nsenter: {e}"))?;
        return what.read(&String::from_utf8_lossy(&out.stdout));
    }
    let transport = format!("bess,dst={},depth=64", bess.display());
    let child = place.start(&[transport], CLIENT, &command)?;
    let mut said = String::new();
    let mut child = Owned(child);
    child
        .0
        .stdout
        .take()
        .ok_or("no output")?
        .read_to_string(&mut said)
        .map_err(|e| e.to_string())?;
    what.read(&said)
}

/// The process that is the wire.
fn start(from: &str, to: &str, one_of: u32) -> Result<Owned, String> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let child: Child = Command::new(me)
        .args([RELAY, from, to, &one_of.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("the relay: {e}"))?;
    let mut child = Owned(child);
    let mut line = String::new();
    let out = child.0.stdout.take().ok_or("no output of the relay")?;
    BufReader::new(out).read_line(&mut line).map_err(|e| format!("the relay: {e}"))?;
    if line.trim() == "ready" { Ok(child) } else { Err(format!("the relay said '{line}'")) }
}

/// What keeps the borders of frames.
enum End {
    Tap(File),
    Socket(OwnedFd),
}

impl End {
    fn receive(&self, frame: &mut [u8]) -> Option<usize> {
        match self {
            End::Tap(f) => (&*f).read(frame).ok(),
            End::Socket(s) => net::recv(s, frame, RecvFlags::empty()).ok().map(|(n, _)| n),
        }
        .filter(|n| *n > 0)
    }

    /// A frame that the other side does not take now is lost, as on a full queue.
    fn send(&self, frame: &[u8]) {
        let _ = match self {
            End::Tap(f) => (&*f).write(frame).map(drop),
            End::Socket(s) => {
                net::send(s, frame, SendFlags::NOSIGNAL).map(drop).map_err(Into::into)
            }
        };
    }
}

/// An end that is there at once, or comes when somebody connects.
enum Opened {
    There(End),
    Listens(OwnedFd),
}

fn open(words: &str) -> Result<Opened, String> {
    let (kind, name) = words.split_once(':').ok_or("an end is tap:NAME or bess:PATH")?;
    if kind == "tap" {
        let tap = uml_host::tap::open(name, 0).map_err(|e| format!("{name}: {e:?}"))?;
        rustix::io::ioctl_fionbio(&tap, false).map_err(|e| format!("{name}: {e}"))?;
        return Ok(Opened::There(End::Tap(tap)));
    }
    let path = PathBuf::from(name);
    let _ = std::fs::remove_file(&path);
    let text = |e: rustix::io::Errno| format!("{name}: {e}");
    let l = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).map_err(text)?;
    let at = SocketAddrUnix::new(&path).map_err(text)?;
    net::bind(&l, &at).and_then(|()| net::listen(&l, 1)).map_err(text)?;
    Ok(Opened::Listens(l))
}

impl Opened {
    fn end(self) -> Result<End, String> {
        match self {
            Opened::There(e) => Ok(e),
            Opened::Listens(l) => net::accept(&l).map(End::Socket).map_err(|e| e.to_string()),
        }
    }
}

/// The wire itself, until it is killed.
pub fn relay(words: &[String]) -> Result<(), String> {
    let [from, to, one_of] = words else { return Err("--relay END END N".into()) };
    let one_of: u64 = one_of.parse().map_err(|_| format!("'{one_of}' is not a number"))?;
    let (from, to) = (open(from)?, open(to)?);
    println!("ready");
    let (from, to) = (Arc::new(from.end()?), Arc::new(to.end()?));
    let (there, arrives) = channel();
    let (back, returns) = channel();
    let (f, t) = (from.clone(), to.clone());
    let threads = [
        std::thread::spawn(move || take(&f, one_of, &there)),
        std::thread::spawn(move || give(&arrives, &t)),
        std::thread::spawn(move || give(&returns, &from)),
    ];
    take(&to, 0, &back);
    drop(back);
    for t in threads {
        let _ = t.join();
    }
    Ok(())
}

/// Takes frames in; one of `one_of` with data is lost, none with zero.
fn take(from: &End, one_of: u64, out: &Sender<(Instant, Vec<u8>)>) {
    let mut frame = vec![0; 1 << 16];
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    while let Some(n) = from.receive(&mut frame) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        if one_of > 0 && n > DATA && random.is_multiple_of(one_of) {
            continue;
        }
        if out.send((Instant::now() + DELAY, frame[..n].to_vec())).is_err() {
            return;
        }
    }
}

fn give(from: &Receiver<(Instant, Vec<u8>)>, to: &End) {
    while let Ok((due, frame)) = from.recv() {
        if let Some(left) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(left);
        }
        to.send(&frame);
    }
}
