//! Connections between two ends: what the host sets up for each, and which transport a guest uses on it.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock};

use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};
use rustix::process::{Pid, Signal, kill_process};

use crate::behind::Behind;
use crate::count::{self, Here, Line};
use crate::measure::{self, Idle, What};
use crate::place::{CLIENT, Kind, Place, SERVER};
use crate::{connect, forward, loss};

/// One kind of connection.
pub struct Wire {
    pub name: &'static str,
    pub measured: &'static [What],
    /// Between two guests; otherwise between a guest and the host.
    two: bool,
    /// Our kernel alone has it.
    ours: bool,
}

const BOTH: &[What] = &[What::Send, What::Receive, What::SmallSend, What::SmallReceive, What::Ping];
const USER: &[What] =
    &[What::Send, What::Receive, What::SmallSend, What::SmallReceive, What::Ping, What::Connect];
const ONE: &[What] = &[What::Send, What::SmallSend, What::Ping];
const ROUTED: &[What] = &[What::Forward(0), What::Forward(10), What::Forward(1000)];
const LOSSY: &[What] = &[What::Loss(10_000), What::Loss(1000), What::Loss(100)];
const FORWARD: &str = "forward";
const LOSS: &str = "loss";
const SOCKETS: &str = "sockets";
const IDLE: &[What] = &[What::Beside(Idle::Connected), What::Beside(Idle::Waiting)];

pub const WIRES: &[Wire] = &[
    Wire { name: "tap", measured: BOTH, two: false, ours: false },
    Wire { name: "raw", measured: BOTH, two: false, ours: false },
    Wire { name: "hybrid", measured: BOTH, two: false, ours: false },
    Wire { name: "gre", measured: ONE, two: true, ours: false },
    Wire { name: "l2tpv3", measured: ONE, two: true, ours: false },
    Wire { name: "bess", measured: ONE, two: true, ours: false },
    Wire { name: "user", measured: USER, two: false, ours: true },
    Wire { name: FORWARD, measured: ROUTED, two: false, ours: false },
    Wire { name: LOSS, measured: LOSSY, two: false, ours: false },
    Wire { name: SOCKETS, measured: IDLE, two: false, ours: false },
];

/// Runs `ip` with these words.
pub fn ip(words: &str) -> Result<(), String> {
    let s = Command::new("ip").args(words.split_whitespace()).status();
    match s {
        Ok(s) if s.success() => Ok(()),
        Ok(s) => Err(format!("ip {words}: {s}")),
        Err(e) => Err(format!("ip: {e} (package iproute2)")),
    }
}

/// Takes an interface of the host away at the end.
pub struct Link(pub &'static str);

impl Drop for Link {
    fn drop(&mut self) {
        // It may have gone with a namespace.
        let quiet = || Stdio::null();
        let _ = Command::new("ip").args(["link", "del", self.0]).stderr(quiet()).status();
    }
}

/// A child that ends with its owner.
pub struct Owned(pub Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // Asked, so that `timeout` ends what it runs.
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

impl Wire {
    /// Whether the wire means something in this place.
    pub fn serves(&self, place: &Place) -> bool {
        match place.kind {
            // The host's own stack across a veth pair is the measure of the first wire, and so of all.
            Kind::Native => ["tap", FORWARD, LOSS, SOCKETS].contains(&self.name),
            Kind::Ours => true,
            Kind::Stock { .. } => !self.ours,
            Kind::Behind(_) => self.name == "user",
        }
    }

    /// One figure.
    pub fn measure(&self, place: &Place, what: What, seconds: u32) -> Result<f64, String> {
        match what {
            // In turns, so that both see the same load.
            What::Beside(_) => {
                let none = self.measure_alone(place, What::Send, seconds)?;
                Ok(self.measure_alone(place, what, seconds)? / none)
            }
            _ => self.measure_alone(place, what, seconds),
        }
    }

    fn measure_alone(&self, place: &Place, what: What, seconds: u32) -> Result<f64, String> {
        if let What::Forward(rules) = what {
            return forward::measure(place, what, rules, seconds);
        }
        if let What::Loss(one_of) = what {
            return loss::measure(place, what, one_of, seconds);
        }
        if place.kind == Kind::Native {
            return native(what, seconds);
        }
        if let Kind::Behind(router) = place.kind {
            let b = Behind::new(router)?;
            let _server = serve_for(what)?;
            return figure(what, b.host, seconds, |command| b.inside.start(command));
        }
        if self.two {
            return self.between_guests(place, what, seconds);
        }
        let (_link, transport) = self.host_end()?;
        if self.name == "user" {
            let _server = serve_for(what)?;
            return ask(place, &transport, "", what, "10.0.2.2", seconds);
        }
        let _server = serve(SERVER)?;
        ask(place, &transport, CLIENT, what, SERVER, seconds)
    }

    /// The host's interface and the guest's transport for it.
    fn host_end(&self) -> Result<(Option<Link>, String), String> {
        Ok(match self.name {
            "tap" | "hybrid" | SOCKETS => {
                let transport = if self.name == SOCKETS { "tap" } else { self.name };
                let l = tap("tap7")?;
                ip("addr add 10.7.0.1/24 dev tap7")?;
                ip("link set tap7 up")?;
                (Some(l), format!("{transport},ifname=tap7,depth=128,gro=1"))
            }
            "raw" => {
                let l = veth()?;
                ip("link set right up")?;
                (Some(l), "raw,ifname=right,depth=128,gro=1".into())
            }
            _ => (None, "user,loopback=1".into()),
        })
    }

    /// The transports of two guests on one wire.
    fn between_guests(&self, place: &Place, what: What, seconds: u32) -> Result<f64, String> {
        let ends = ["src=127.0.0.1,dst=127.0.0.2", "src=127.0.0.2,dst=127.0.0.1"];
        let mut switch = None;
        let transports = match self.name {
            "gre" => [
                format!("gre,{},rx_key=1,tx_key=2,depth=128", ends[0]),
                format!("gre,{},rx_key=2,tx_key=1,depth=128", ends[1]),
            ],
            "l2tpv3" => [
                format!(
                    "l2tpv3,udp=1,{},srcport=5000,dstport=5001,rx_session=1,tx_session=2,depth=128",
                    ends[0]
                ),
                format!(
                    "l2tpv3,udp=1,{},srcport=5001,dstport=5000,rx_session=2,tx_session=1,depth=128",
                    ends[1]
                ),
            ],
            _ => {
                let s = switch.insert(Switch::new(place)?);
                let t = format!("bess,dst={},depth=128", s.path.display());
                [t.clone(), t]
            }
        };
        let serving = match what {
            What::Ping => words("sleep 60"),
            // What arrives is counted there.
            _ if what.is_counted() => shell(&count::server("iperf3 -s --forceflush")),
            _ => words("iperf3 -s --forceflush"),
        };
        let mut server = Owned(place.start(&transports[..1], SERVER, &serving)?);
        if what == What::Ping {
            return ask(place, &transports[1], CLIENT, what, SERVER, seconds);
        }
        let far = listening(&mut server.0)?;
        if !what.is_counted() {
            return ask(place, &transports[1], CLIENT, what, SERVER, seconds);
        }
        let client = place.start(&transports[1..], CLIENT, &what.command(SERVER, seconds))?;
        measure::report(&heard(client)?.1)?;
        let said: Vec<Line> = far.try_iter().collect();
        count::rate(&count::samples(&said)).map(|r| r / 1e3)
    }
}

/// A tap device.
pub fn tap(name: &'static str) -> Result<Link, String> {
    ip(&format!("tuntap add {name} mode tap"))?;
    Ok(Link(name))
}

/// A veth pair; the host's address is on the left end.
fn veth() -> Result<Link, String> {
    ip("link add dev left type veth peer name right")?;
    let l = Link("left");
    ip("addr add 10.7.0.1/24 dev left")?;
    ip("link set left up")?;
    Ok(l)
}

/// What answers on 127.0.0.1 of the host when `what` is measured.
fn serve_for(what: What) -> Result<Option<Owned>, String> {
    static CONNECTED: OnceLock<Result<(), String>> = OnceLock::new();
    match what {
        What::Ping => Ok(None),
        What::Connect => {
            CONNECTED.get_or_init(|| connect::serve("127.0.0.1")).clone().map(|()| None)
        }
        _ => serve("127.0.0.1").map(Some),
    }
}

/// `iperf3 -s` on the host.
fn serve(at: &str) -> Result<Owned, String> {
    serve_with(Command::new("iperf3"), at)
}

/// As [`serve`], by this command.
pub fn serve_with(mut iperf3: Command, at: &str) -> Result<Owned, String> {
    let c = iperf3
        .args(["-s", "-B", at, "--forceflush"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("iperf3: {e}"))?;
    let mut c = Owned(c);
    listening(&mut c.0)?;
    Ok(c)
}

/// Waits until a server says that it listens; what it says later comes through the channel.
fn listening(c: &mut Child) -> Result<Receiver<Line>, String> {
    let said = count::lines(c.stdout.take().ok_or("no output of iperf3")?);
    match said.iter().find(|(_, l)| l.contains("Server listening")) {
        Some(_) => Ok(said),
        None => Err("iperf3 -s ended before it listened".into()),
    }
}

/// All that a child says, as lines and as one text.
fn heard(c: Child) -> Result<(Vec<Line>, String), String> {
    let mut c = Owned(c);
    let lines: Vec<Line> = count::lines(c.0.stdout.take().ok_or("no output")?).iter().collect();
    let text = lines.iter().map(|(_, l)| l.as_str()).collect();
    Ok((lines, text))
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(String::from).collect()
}

fn shell(script: &str) -> Vec<String> {
    vec!["sh".into(), "-c".into(), script.into()]
}

/// Has a client started against a server on the host, and reads the figure.
fn figure(
    what: What,
    server: &str,
    seconds: u32,
    start: impl FnOnce(&[String]) -> Result<Child, String>,
) -> Result<f64, String> {
    let mut command = what.command(server, seconds);
    if what == What::SmallReceive {
        command = shell(&count::client(&command.join(" ")));
    }
    let here = (what == What::SmallSend).then(Here::start);
    let said = start(&command).and_then(heard);
    let counted = here.map(Here::finish);
    let (lines, text) = said?;
    if !what.is_counted() {
        return what.read(&text);
    }
    // A flood that made the tool fail is none.
    measure::report(&text)?;
    count::rate(&counted.unwrap_or_else(|| count::samples(&lines))).map(|r| r / 1e3)
}

fn ask(
    place: &Place,
    transport: &str,
    own: &str,
    what: What,
    server: &str,
    seconds: u32,
) -> Result<f64, String> {
    figure(what, server, seconds, |command| place.start(&[transport.to_string()], own, command))
}

/// A network namespace of the host beside this one, with what is in it.
pub struct Namespace(Owned);

impl Namespace {
    pub fn new() -> Result<Namespace, String> {
        Namespace::of("-n")
    }

    /// One with a user namespace of its own around it.
    pub fn of_user() -> Result<Namespace, String> {
        Namespace::of("-rn")
    }

    fn of(kind: &str) -> Result<Namespace, String> {
        let child = Command::new("unshare")
            .args([kind, "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("unshare: {e}"))?;
        let mut n = Namespace(Owned(child));
        // Its echo shows that the namespace is there.
        use std::io::Write;
        let (Some(i), Some(o)) = (&mut n.0.0.stdin, &mut n.0.0.stdout) else {
            return Err("no pipes to cat".into());
        };
        i.write_all(b"x").and_then(|()| o.read_exact(&mut [0])).map_err(|e| format!("cat: {e}"))?;
        n.run("ip link set lo up")?;
        Ok(n)
    }

    /// The process that holds it.
    pub fn pid(&self) -> u32 {
        self.0.0.id()
    }

    /// A command in it.
    pub fn command(&self, words: &[impl AsRef<std::ffi::OsStr>]) -> Command {
        let mut c = Command::new("nsenter");
        c.arg("-t").arg(self.pid().to_string()).arg("-n").args(words);
        c
    }

    /// Starts a command in it; its output is piped.
    pub fn start(&self, words: &[String]) -> Result<Child, String> {
        let mut c = self.command(words);
        c.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        c.spawn().map_err(|e| format!("nsenter: {e}"))
    }

    /// Runs these words in it.
    pub fn run(&self, text: &str) -> Result<(), String> {
        let s = self.command(&words(text)).status().map_err(|e| format!("nsenter: {e}"))?;
        if s.success() { Ok(()) } else { Err(format!("{text}: {s}")) }
    }
}

/// Two namespaces of the host across a veth pair.
fn native(what: What, seconds: u32) -> Result<f64, String> {
    let far = Namespace::new()?;
    let _link = veth()?;
    ip(&format!("link set right netns {}", far.pid()))?;
    far.run("ip addr add 10.7.0.2/24 dev right")?;
    far.run("ip link set right up")?;
    let _server = serve(SERVER)?;
    figure(what, SERVER, seconds, |command| far.start(command))
}

/// A peer like BESS: the two clients of a sequenced-packet socket hear each other.
struct Switch {
    path: PathBuf,
}

impl Switch {
    fn new(place: &Place) -> Result<Switch, String> {
        let path = place.scratch.join("bess");
        let _ = std::fs::remove_file(&path);
        let text = |e: rustix::io::Errno| format!("{}: {e}", path.display());
        let l = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).map_err(text)?;
        let at = SocketAddrUnix::new(&path).map_err(text)?;
        net::bind(&l, &at).and_then(|()| net::listen(&l, 2)).map_err(text)?;
        std::thread::spawn(move || -> rustix::io::Result<()> {
            let ends = [Arc::new(net::accept(&l)?), Arc::new(net::accept(&l)?)];
            for (from, to) in [(0, 1), (1, 0)] {
                let (from, to) = (ends[from].clone(), ends[to].clone());
                std::thread::spawn(move || forward(&from, &to));
            }
            Ok(())
        });
        Ok(Switch { path })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Passes frames on until one side is gone.
fn forward(from: &OwnedFd, to: &OwnedFd) -> rustix::io::Result<()> {
    let mut frame = vec![0; 1 << 17];
    loop {
        let (n, _) = net::recv(from, &mut frame[..], RecvFlags::empty())?;
        if n == 0 {
            return Ok(());
        }
        net::send(to, &frame[..n], SendFlags::NOSIGNAL)?;
    }
}
