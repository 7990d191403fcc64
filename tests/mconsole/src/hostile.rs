//! Datagrams that no good client sends.

use std::fs;
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use storage_tests::ops::Random;
use storage_tests::suite::{Verdict, program};
use uml_formats::mconsole::MAGIC;

use crate::machine::{Kernel, Machine, Start};
use crate::request::{self, Client};
use crate::wrong;

fn datagram(r: &mut Random) -> Vec<u8> {
    let d = wrong::request(r);
    if ends(&d) { request::of(b"version") } else { d }
}

/// The text begins with a command that this test cannot use: one that ends, stops or strips the machine.
fn ends(datagram: &[u8]) -> bool {
    let text = datagram.get(12..).unwrap_or_default();
    let has = |p: &[u8]| text.starts_with(p);
    has(b"halt")
        || has(b"reboot")
        || has(b"cad")
        || has(b"stop")
        || has(b"go")
        || (has(b"sysrq") && !safe(&text[5..]))
}

fn safe(rest: &[u8]) -> bool {
    let key = rest.iter().find(|b| !b.is_ascii_whitespace() && **b != 0x0b);
    key.is_none_or(|k| b"mtpqw".contains(k))
}

fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

const DATAGRAMS: usize = 20_000;

fn try_it(dir: &Path) -> Result<(), String> {
    let script = "echo up; sleep 100000";
    let start =
        Start { kernel: Kernel::Ours, dir, umid: "hostile", memory: 64, script, options: &[] };
    let mut m = Machine::start(&start)?;
    m.ok("version")?;
    let before = descriptors(m.pid());

    // Without an address there is nobody to answer; the command is still carried out.
    let nameless = UnixDatagram::unbound().map_err(|e| e.to_string())?;
    nameless.connect(&m.socket).map_err(|e| e.to_string())?;
    nameless.send(&request::of(b"log from nowhere")).map_err(|e| e.to_string())?;
    m.line(|l| l.ends_with("from nowhere"))?;

    // Descriptors that come along are closed.
    let c = Client::new(&m.socket)?;
    let file = fs::File::open("/dev/null").map_err(|e| e.to_string())?;
    let (d, fds) = (request::of(b"version"), [file.as_raw_fd(); 20]);
    for _ in 0..50 {
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(nameless.as_raw_fd(), &[IoSlice::new(&d)], &rights, MsgFlags::empty(), None)
            .map_err(|e| format!("sendmsg: {e}"))?;
    }
    c.ask("version")?;

    // More than any request, up to what a socket takes.
    for len in [0, 1, 3, 11, 12, 525, 4096, 5000, 100_000] {
        let mut d = request::raw(MAGIC, 2, 7, b"version");
        d.resize(len, b'x');
        c.send(&d)?;
        c.receive().map_err(|e| format!("datagram of {len} bytes: {e}"))?;
        while c.patience(Duration::from_millis(1)).is_ok() && c.receive().is_ok() {}
        c.patience(crate::machine::PATIENCE)?;
    }

    // A client that reads nothing holds the console up for a moment, not for ever, and only once an answer.
    let deaf = Client::new(&m.socket)?;
    let began = Instant::now();
    deaf.send(&request::of(b"proc cpuinfo"))?;
    deaf.send(&request::of(b"sysrq t"))?;
    for _ in 0..4 {
        deaf.send(&request::of(b"proc kallsyms"))?;
    }
    request::ask(&m.socket, "version")?;
    if began.elapsed() > Duration::from_secs(15) {
        return Err(format!("a deaf client cost {:?}", began.elapsed()));
    }
    drop(deaf);

    // Everything that chance makes of requests.
    let mut last = Vec::new();
    let mut r = Random::new(1);
    for n in 0..DATAGRAMS {
        let d = datagram(&mut r);
        if let Err(e) = nameless.send(&d) {
            let shown = String::from_utf8_lossy(&last).into_owned();
            let end = m.line(|_| false).unwrap_err();
            return Err(format!("datagram {n}, after {shown:?}: {e}; {end}"));
        }
        last = d;
        if n % 500 == 0 {
            request::ask(&m.socket, "version").map_err(|e| format!("after {n} datagrams: {e}"))?;
        }
    }
    m.ok("version")?;
    m.ok("ps")?;
    let after = descriptors(m.pid());
    // What the requests configured holds some (lines that were opened); a leak would be one a datagram.
    if after > before + 64 {
        return Err(format!("{before} descriptors became {after}"));
    }
    stranger(&mut m)
}

/// Somebody else than the owner gets no answer, even where the socket's mode lets them in.
fn stranger(m: &mut Machine) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        println!("        without a stranger: needs root to become somebody else");
        return Ok(());
    }
    for p in [m.socket.clone()].iter().chain(
        m.socket.ancestors().skip(1).map(Path::to_path_buf).take(4).collect::<Vec<_>>().iter(),
    ) {
        fs::set_permissions(p, fs::Permissions::from_mode(0o777)).map_err(|e| e.to_string())?;
    }
    let client = program("uml_mconsole").ok_or("uml_mconsole is not built")?;
    // The program's own place may be closed to others.
    let copy = m.home.join("client");
    fs::copy(&client, &copy).map_err(|e| e.to_string())?;
    let out = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .arg("--timeout=1")
        .arg(&m.socket)
        .arg("version")
        .output()
        .map_err(|e| format!("setpriv: {e}"))?;
    if out.status.code() != Some(124) || !out.stdout.is_empty() {
        return Err(format!("a stranger was answered: {out:?}"));
    }
    m.line(|l| l.contains("(uid 65534) ignored (1 so far)"))?;
    m.ok("version").map(|_| ())
}

/// Hostile datagrams are refused and counted; the console and the machine go on.
pub fn datagrams(dir: &Path) -> Verdict {
    try_it(dir).into()
}
