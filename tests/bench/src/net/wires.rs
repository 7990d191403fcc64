//! Connections between two ends: what the host sets up for each, and which transport a guest uses on it.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};
use rustix::process::{Pid, Signal, kill_process};

use crate::measure::What;
use crate::place::{CLIENT, Kind, Place, SERVER};

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
const ONE: &[What] = &[What::Send, What::SmallSend, What::Ping];

pub const WIRES: &[Wire] = &[
    Wire { name: "tap", measured: BOTH, two: false, ours: false },
    Wire { name: "raw", measured: BOTH, two: false, ours: false },
    Wire { name: "hybrid", measured: BOTH, two: false, ours: false },
    Wire { name: "gre", measured: ONE, two: true, ours: false },
    Wire { name: "l2tpv3", measured: ONE, two: true, ours: false },
    Wire { name: "bess", measured: ONE, two: true, ours: false },
    Wire { name: "user", measured: BOTH, two: false, ours: true },
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
struct Link(&'static str);

impl Drop for Link {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", self.0]).status();
    }
}

/// A child that ends with its owner.
struct Owned(Child);

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
            Kind::Native => self.name == "tap",
            Kind::Ours => true,
            Kind::Stock { .. } => !self.ours,
        }
    }

    /// One figure.
    pub fn measure(&self, place: &Place, what: What, seconds: u32) -> Result<f64, String> {
        if place.kind == Kind::Native {
            return native(what, seconds);
        }
        if self.two {
            return self.between_guests(place, what, seconds);
        }
        let (_link, transport) = self.host_end()?;
        if self.name == "user" {
            if what == What::Ping {
                return ask(place, &transport, "", what, "10.0.2.2", seconds);
            }
            let _server = serve("127.0.0.1")?;
            return ask(place, &transport, "", what, "10.0.2.2", seconds);
        }
        let _server = serve(SERVER)?;
        ask(place, &transport, CLIENT, what, SERVER, seconds)
    }

    /// The host's interface and the guest's transport for it.
    fn host_end(&self) -> Result<(Option<Link>, String), String> {
        Ok(match self.name {
            "tap" | "hybrid" => {
                ip("tuntap add tap7 mode tap")?;
                let l = Link("tap7");
                ip("addr add 10.7.0.1/24 dev tap7")?;
                ip("link set tap7 up")?;
                (Some(l), format!("{},ifname=tap7,depth=128,gro=1", self.name))
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
        let serving: Vec<String> = if what == What::Ping {
            vec!["sleep", "60"]
        } else {
            vec!["iperf3", "-s", "--forceflush"]
        }
        .into_iter()
        .map(String::from)
        .collect();
        let mut server = Owned(place.start(&transports[0], SERVER, &serving)?);
        if what != What::Ping {
            listening(&mut server.0)?;
        }
        ask(place, &transports[1], CLIENT, what, SERVER, seconds)
    }
}

/// A veth pair; the host's address is on the left end.
fn veth() -> Result<Link, String> {
    ip("link add dev left type veth peer name right")?;
    let l = Link("left");
    ip("addr add 10.7.0.1/24 dev left")?;
    ip("link set left up")?;
    Ok(l)
}

/// `iperf3 -s` on the host.
fn serve(at: &str) -> Result<Owned, String> {
    let c = Command::new("iperf3")
        .args(["-s", "-B", at, "--forceflush"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("iperf3: {e}"))?;
    let mut c = Owned(c);
    listening(&mut c.0)?;
    Ok(c)
}

/// Waits until a server says that it listens; what it says later is thrown away.
fn listening(c: &mut Child) -> Result<(), String> {
    let mut out = BufReader::new(c.stdout.take().ok_or("no output of iperf3")?);
    let mut line = String::new();
    loop {
        line.clear();
        match out.read_line(&mut line) {
            Ok(0) | Err(_) => return Err("iperf3 -s ended before it listened".into()),
            Ok(_) if line.contains("Server listening") => break,
            Ok(_) => {}
        }
    }
    std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    Ok(())
}

fn ask(
    place: &Place,
    transport: &str,
    own: &str,
    what: What,
    server: &str,
    seconds: u32,
) -> Result<f64, String> {
    let mut c = Owned(place.start(transport, own, &what.command(server, seconds))?);
    let mut said = Vec::new();
    if let Some(mut out) = c.0.stdout.take() {
        out.read_to_end(&mut said).map_err(|e| e.to_string())?;
    }
    what.read(&String::from_utf8_lossy(&said))
}

/// Two namespaces of the host across a veth pair.
fn native(what: What, seconds: u32) -> Result<f64, String> {
    let far = Command::new("unshare")
        .args(["-n", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("unshare: {e}"))?;
    let mut far = Owned(far);
    // Its echo shows that the namespace is there.
    use std::io::Write;
    let (Some(i), Some(o)) = (&mut far.0.stdin, &mut far.0.stdout) else {
        return Err("no pipes to cat".into());
    };
    i.write_all(b"x").and_then(|()| o.read_exact(&mut [0])).map_err(|e| format!("cat: {e}"))?;
    let pid = far.0.id().to_string();
    let _link = veth()?;
    ip(&format!("link set right netns {pid}"))?;
    let inside = |words: &str| {
        let mut c = Command::new("nsenter");
        c.args(["-t", &pid, "-n"]).args(words.split_whitespace());
        c
    };
    for words in ["ip link set lo up", "ip addr add 10.7.0.2/24 dev right", "ip link set right up"]
    {
        let s = inside(words).status().map_err(|e| format!("nsenter: {e}"))?;
        if !s.success() {
            return Err(format!("{words}: {s}"));
        }
    }
    let _server = serve(SERVER)?;
    let out = inside(&what.command(SERVER, seconds).join(" "))
        .stderr(Stdio::null())
        .output()
        .map_err(|e| format!("nsenter: {e}"))?;
    what.read(&String::from_utf8_lossy(&out.stdout))
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
