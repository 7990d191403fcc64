//! Opening the host side of a transport. Every failure is a message that says what was wrong.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use uml_base::{Mutex, Rank, pr_err, pr_info, pr_warn};
use uml_host::netdev::{self, HostAddr};
use uml_net::wire::ethernet::Mac;

use super::device::HostSide;
use super::frame::Encap;
use super::spec::{Transport, Tunnel, VectorSpec};

/// A program that has closed its socket ends in a moment; for one that does not there is nothing to do any more.
const ENDING: Duration = Duration::from_secs(1);

/// An open host side.
pub struct Endpoint {
    pub rx: OwnedFd,
    pub tx: OwnedFd,
    pub rx_socket: bool,
    pub tx_socket: bool,
    /// Nothing received is the end; else it is an empty datagram.
    pub ends: bool,
    /// Nothing can be sent.
    pub receive_only: bool,
    /// Header of both directions.
    pub encap: Encap,
    pub to: Option<HostAddr>,
    /// The host cuts and sums.
    pub offload: bool,
    /// A program that serves the other end; it goes with the interface.
    pub helper: Option<Helper>,
    /// Name of the host's interface, for `ifup`.
    pub ifname: Option<String>,
}

/// A program of the host at the other end of an interface, which ends with it.
pub struct Helper {
    /// What it is and what it was to reach, for messages.
    what: String,
    /// Until it was waited for. Its standard output, which it does not use, closes as it ends.
    child: Mutex<Option<Child>>,
}

impl Helper {
    fn new(what: String, child: Child) -> Helper {
        Helper { what, child: Mutex::new(Rank::LEAF, Some(child)) }
    }

    /// How it ended, in words, when its end of the socket is closed; it does not stay as a zombie.
    pub fn ended(&self) -> String {
        match self.end(ENDING) {
            Some(s) if s.code().is_some_and(|c| c != 0) => format!("{} failed ({s})", self.what),
            _ => format!("{} has ended", self.what),
        }
    }

    fn end(&self, patience: Duration) -> Option<ExitStatus> {
        // Not under the lock, as the program may take its time.
        let mut child = self.child.lock().take()?;
        if let Some(out) = &child.stdout {
            uml_host::wait::hung_up(out.as_fd(), patience);
        }
        let _ = child.kill();
        child.wait().ok()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

/// The error is logged; what is returned is for the interface's caller.
pub struct Failed;

pub(crate) fn failed<T>(text: String) -> Result<T, Failed> {
    pr_err!("{text}");
    Err(Failed)
}

/// Classic filter that drops frames of the interface's own address (spec A.3).
pub(crate) fn own_frames(mac: Mac) -> Vec<(u16, u8, u8, u32)> {
    let m = mac.0;
    let low = u32::from_be_bytes([m[2], m[3], m[4], m[5]]);
    let high = u32::from(u16::from_be_bytes([m[0], m[1]]));
    vec![
        (0x20, 0, 0, 8),
        (0x15, 0, 3, low),
        (0x28, 0, 0, 6),
        (0x15, 0, 1, high),
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 0x40000),
    ]
}

pub(crate) fn tap(ifname: &Option<String>) -> Result<(OwnedFd, String), Failed> {
    if let Some(n) = ifname {
        return netdev::open_tap(Some(n)).or_else(|e| {
            pr_err!("uml_tap: failed to create tun interface");
            failed(format!(
                "user_init_tap: init failed, error {} ({n}: {e}); a persistent tap needs an owner: ip tuntap add {n} mode tap user <name>",
                -e.raw_os_error().unwrap_or(0)
            ))
        });
    }
    // The host gives the next free number when the name is a pattern.
    netdev::open_tap(None).or_else(|e| {
        if !Path::new("/dev/net/tun").exists() {
            pr_err!("uml_tap: failed to open tun device");
        }
        failed(format!(
            "user_init_tap: init failed, error {} ({e})",
            -e.raw_os_error().unwrap_or(0)
        ))
    })
}

pub(crate) fn plain(fd: OwnedFd, encap: Encap) -> Result<Endpoint, Failed> {
    let tx = match netdev::duplicate(&fd) {
        Ok(t) => t,
        Err(e) => return failed(format!("vector: no descriptor: {e}")),
    };
    let socket = netdev::is_socket(&fd);
    Ok(Endpoint {
        ends: !netdev::is_datagram(&fd),
        rx: fd,
        tx,
        rx_socket: socket,
        tx_socket: socket,
        receive_only: false,
        encap,
        to: None,
        offload: false,
        helper: None,
        ifname: None,
    })
}

impl HostSide for VectorSpec {
    fn open(&self, mac: Mac) -> Result<Endpoint, Failed> {
        open(self, mac)
    }
}

/// Opens what `spec` says for an interface with the address `mac`.
fn open(spec: &VectorSpec, mac: Mac) -> Result<Endpoint, Failed> {
    let end = match &spec.transport {
        Transport::Tap { ifname } => {
            let (fd, name) = tap(ifname)?;
            pr_info!("tap: using vnet headers for tso and tx/rx checksum");
            let mut e = plain(fd, Encap::Vnet)?;
            (e.offload, e.ifname) = (true, Some(name));
            e
        }
        Transport::Hybrid { ifname } => {
            let Some(name) = ifname else {
                return failed("uml_tap: failed to parse interface spec".into());
            };
            let (tx, _) = tap(ifname)?;
            let rx = packet(name, true, "user_init_hybrid: init failed")?;
            if let Err(e) = netdev::attach_filter(&rx.fd, &own_frames(mac)) {
                return failed(format!("user_init_hybrid: init failed ({e})"));
            }
            if !rx.vnet {
                return failed(format!("could not enable vnet headers on {name}"));
            }
            pr_info!("tap/raw hybrid: using vnet headers for tso and tx/rx checksum");
            let mut e = plain(rx.fd, Encap::Vnet)?;
            (e.tx, e.tx_socket, e.offload) = (tx, false, true);
            e.ifname = Some(name.clone());
            e
        }
        Transport::Raw { ifname } => {
            let Some(name) = ifname else {
                return failed(
                    "uml_raw: failed to parse interface spec: ifname=<interface> is required"
                        .into(),
                );
            };
            let rx = packet(name, true, "user_init_raw: init failed")?;
            let tx = packet(name, false, "user_init_raw: init failed")?;
            // What the other socket sends would come back by this one.
            if let Err(e) = netdev::attach_filter(&rx.fd, &own_frames(mac)) {
                pr_warn!("raw: own frames are not filtered: {e}");
            }
            let vnet = rx.vnet && tx.vnet;
            if vnet {
                pr_info!("raw: using vnet headers for tso and tx/rx checksum");
            }
            let mut e = plain(rx.fd, if vnet { Encap::Vnet } else { Encap::None })?;
            (e.tx, e.tx_socket, e.offload) = (tx.fd, true, vnet);
            e.ifname = Some(name.clone());
            e
        }
        Transport::Gre(t) => {
            if t.rx_id.is_some() != t.tx_id.is_some() {
                return failed("gre: rx_key and tx_key must be given together".into());
            }
            tunnel(t, 47, Encap::Gre(t.clone(), AtomicU32::new(0)), "gre")?
        }
        Transport::L2tpv3(t) => {
            if t.rx_id.is_none() || t.tx_id.is_none() {
                return failed("l2tpv3: rx_session and tx_session are required".into());
            }
            if t.rx_cookie.is_some() != t.tx_cookie.is_some() {
                return failed("l2tpv3: rx_cookie and tx_cookie must be given together".into());
            }
            tunnel(t, 115, Encap::L2tpv3(t.clone(), AtomicU32::new(0)), "l2tpv3")?
        }
        Transport::Bess { src, dst } => bess(src.as_deref(), dst.as_deref())?,
        Transport::Fd { fd } => {
            let Some(n) = fd else { return failed("fd open: bad or missing fd argument".into()) };
            match netdev::inherited(*n) {
                Ok(f) => plain(f, Encap::None)?,
                Err(e) => return failed(format!("fd open: bad or missing fd argument: {n}: {e}")),
            }
        }
        Transport::Vde { .. } => vde(&spec.transport)?,
        Transport::User(_) => {
            return failed(format!("vec{}: user has no descriptor to open", spec.unit));
        }
        Transport::Unknown(t) => {
            return failed(format!(
                "vec{}: unknown transport '{t}'; known: user, tap, hybrid, raw, gre, l2tpv3, bess, fd, vde",
                spec.unit
            ));
        }
        Transport::Missing => return failed(format!("missing transport for unit {}", spec.unit)),
    };
    if let Some(path) = &spec.bpf_file {
        filter_file(path, &end)?;
    }
    if let (Some(program), Some(name)) = (&spec.ifup, &end.ifname) {
        run_ifup(program, name);
    }
    Ok(end)
}

fn packet(name: &str, receive: bool, what: &str) -> Result<netdev::PacketEnd, Failed> {
    netdev::open_packet(name, receive).or_else(|e| {
        failed(format!("{what}, error {} ({name}: {e})", -e.raw_os_error().unwrap_or(0)))
    })
}

fn filter_file(path: &str, end: &Endpoint) -> Result<(), Failed> {
    let b = match std::fs::read(path) {
        Ok(b) => b,
        Err(e) => return failed(format!("bpffile={path}: {e}")),
    };
    let Ok(program) = uml_net::bpf::Program::from_bytes(&b) else {
        return failed(format!(
            "bpffile={path}: not a classic BPF program (whole instructions of 8 bytes, ending in a return)"
        ));
    };
    let insns: Vec<_> = program.instructions().iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect();
    if end.rx_socket
        && let Err(e) = netdev::attach_filter(&end.rx, &insns)
    {
        return failed(format!("bpffile={path}: the host refuses it: {e}"));
    }
    Ok(())
}

fn run_ifup(program: &str, name: &str) {
    match Command::new(program).arg(name).status() {
        Ok(s) if s.success() => {}
        Ok(s) => pr_warn!("ifup={program}: {s}"),
        Err(e) => pr_warn!("ifup={program}: {e}"),
    }
}

fn tunnel(t: &Tunnel, protocol: i32, encap: Encap, what: &str) -> Result<Endpoint, Failed> {
    if let Some(b) = &t.bad {
        return failed(format!("{what}: not a 32-bit number (a cookie: 64-bit): {b}"));
    }
    let (Some(src), Some(dst)) = (&t.src, &t.dst) else {
        return failed(format!("{what}: src=<address> and dst=<address> are required"));
    };
    let port = |p: &Option<String>, name: &str| match p {
        Some(p) => match p.parse::<u16>() {
            Ok(n) => Ok(n),
            Err(_) => failed(format!("{what}: {name}={p}: not a port (1..65535)")),
        },
        None if t.udp => failed(format!("{what}: udp=1 needs {name}=<port>")),
        None => Ok(0),
    };
    let (sport, dport) = (port(&t.src_port, "srcport")?, port(&t.dst_port, "dstport")?);
    let find = |host: &str, p: u16, which: &str| {
        netdev::resolve(host, p, t.v6)
            .or_else(|e| failed(format!("socket_open : could not resolve {which}, error = {e}")))
    };
    let src: SocketAddr = find(src, sport, "src")?;
    let dst: SocketAddr = find(dst, dport, "dst")?;
    let opened = if t.udp {
        netdev::open_udp(src)
    } else {
        let ip: IpAddr = src.ip();
        netdev::open_raw_ip(ip, protocol)
    };
    let fd = match opened {
        Ok(fd) => fd,
        Err(e) => {
            let n = e.raw_os_error().unwrap_or(0);
            return failed(if n == libc::EADDRINUSE || n == libc::EADDRNOTAVAIL {
                format!("l2tpv3_open : could not bind socket err={n} ({src}: {e})")
            } else {
                format!("socket_open : could not open socket, error = {} ({e})", -n)
            });
        }
    };
    let to = SocketAddr::new(dst.ip(), if t.udp { dst.port() } else { 0 });
    let mut e = plain(fd, encap)?;
    e.to = Some(HostAddr::new(to));
    Ok(e)
}

fn bess(src: Option<&str>, dst: Option<&str>) -> Result<Endpoint, Failed> {
    let Some(dst) = dst else { return failed("bess: dst=<socket> is required".into()) };
    match netdev::open_seqpacket(src.map(Path::new), Path::new(dst)) {
        Ok(fd) => plain(fd, Encap::None),
        Err((true, e)) => failed(format!(
            "bess open:cannot connect to {dst} {} ({e})",
            -e.raw_os_error().unwrap_or(0)
        )),
        Err((false, e)) => failed(format!(
            "unix_open : could not bind socket err={} ({}: {e})",
            -e.raw_os_error().unwrap_or(0),
            src.unwrap_or("")
        )),
    }
}

pub(crate) fn vde(t: &Transport) -> Result<Endpoint, Failed> {
    let Transport::Vde { vnl, descr, port, mode, group } = t else { return Err(Failed) };
    let (ours, theirs) = match netdev::seqpacket_pair() {
        Ok(p) => p,
        Err(e) => return failed(format!("vde: no socket pair: {e}")),
    };
    let mut c = Command::new("vde_plug");
    c.args(["--descr", descr]);
    for (flag, v) in [("--port2", port), ("--mod2", mode), ("--group2", group)] {
        if let Some(v) = v {
            c.args([flag, v]);
        }
    }
    // The socket is its standard input, so that no other program that is started meanwhile has it. An empty name is the
    // default network; without any, the program would take frames from its standard output.
    let network = vnl.as_deref().unwrap_or("");
    c.args(["seqpacket://0", network]).stdin(Stdio::from(theirs)).stdout(Stdio::piped());
    let child = match c.spawn() {
        Ok(c) => c,
        Err(e) => {
            return failed(format!("vde: cannot run vde_plug (package vdeplug or vde2): {e}"));
        }
    };
    // It has the other end of the socket: its end is ours.
    drop(c);
    let what = match network {
        "" => "vde_plug on the default network".into(),
        n => format!("vde_plug on {n}"),
    };
    let mut e = plain(ours, Encap::None)?;
    e.helper = Some(Helper::new(what, child));
    Ok(e)
}
