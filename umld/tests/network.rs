//! A guest behind `transport=user`, against servers of the host: a script in the guest does one thing after the other
//! and prints how each went. Where the tests run as root, the machine runs as nobody.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use common::{PATIENCE, World};

const NOBODY: u32 = 65_534;
/// Bytes of the large transfers.
const BULK: usize = 24 << 20;

fn python() -> bool {
    let there = Command::new("python3").arg("-V").output().is_ok();
    if !there {
        eprintln!("skipped: no python3");
    }
    there
}

fn pattern() -> Vec<u8> {
    (0..BULK as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 23) as u8).collect()
}

/// One connection: `G` asks for the bulk data, `P` brings some until its end and gets the checksum, `E` echoes.
fn serve(mut s: TcpStream, bulk: &[u8]) -> std::io::Result<()> {
    s.set_read_timeout(Some(PATIENCE))?;
    let mut kind = [0];
    s.read_exact(&mut kind)?;
    match kind[0] {
        b'G' => s.write_all(bulk)?,
        b'P' => {
            let mut all = Vec::new();
            s.read_to_end(&mut all)?;
            s.write_all(format!("{} {}", all.len(), crc32fast::hash(&all)).as_bytes())?;
        }
        _ => {
            let mut b = [0; 4096];
            loop {
                match s.read(&mut b)? {
                    0 => break,
                    n => s.write_all(&b[..n])?,
                }
            }
        }
    }
    s.shutdown(Shutdown::Write)
}

/// A server for TCP on the host's loopback; its port.
fn tcp_server() -> u16 {
    let l = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = l.local_addr().unwrap().port();
    let bulk = std::sync::Arc::new(pattern());
    std::thread::spawn(move || {
        for s in l.incoming().map_while(Result::ok) {
            let bulk = bulk.clone();
            std::thread::spawn(move || serve(s, &bulk));
        }
    });
    port
}

/// Echoes datagrams.
fn udp_server() -> u16 {
    let s = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = s.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut b = [0; 65_536];
        while let Ok((n, from)) = s.recv_from(&mut b) {
            let _ = s.send_to(&b[..n], from);
        }
    });
    port
}

/// A name server that knows one address for every name, and none of IPv6.
fn name_server() -> u16 {
    let s = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = s.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut b = [0; 2048];
        while let Ok((n, from)) = s.recv_from(&mut b) {
            let Some(end) = b[12..n].iter().position(|c| *c == 0).map(|e| e + 12 + 5) else {
                continue;
            };
            let a = b[end - 3] == 1;
            let mut r = b[..end].to_vec();
            (r[2], r[3]) = (0x81, 0x80);
            r[6..12].copy_from_slice(&[0, u8::from(a), 0, 0, 0, 0]);
            if a {
                r.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 77]);
            }
            let _ = s.send_to(&r, from);
        }
    });
    port
}

/// A port that nobody has just now.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

const COMMON: &str = r#"
import os, socket, struct, sys, threading, time, zlib
G = "10.0.2.2"
def tcp(port, host=G, family=socket.AF_INET):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(60)
    s.connect((host, port))
    return s
def everything(s):
    parts = []
    while True:
        b = s.recv(1 << 20)
        if not b:
            return b"".join(parts)
        parts.append(b)
def say(*words):
    print(*words, flush=True)
def failure(f):
    t = time.monotonic()
    try:
        f()
        return "no failure"
    except OSError as e:
        slow = time.monotonic() - t > 5
        return os.strerror(e.errno) + (" after a long time" if slow else "")
"#;

/// Runs a script in a guest; each line that it prints is handed to `line`.
fn guest(w: &World, net: &[&str], script: &str, mut line: impl FnMut(&str)) {
    let script = format!("{COMMON}{script}");
    let mut c = w.umld();
    c.args(["run", "--mem", "256M"]).args(net).args(["--", "python3", "-c", &script]);
    c.stdout(Stdio::piped()).stderr(Stdio::piped());
    if nix::unistd::geteuid().is_root() {
        use std::os::unix::process::CommandExt;
        nix::unistd::chown(&w.path(""), Some(NOBODY.into()), Some(NOBODY.into())).unwrap();
        c.uid(NOBODY).gid(NOBODY);
    }
    let mut child: Child = c.spawn().unwrap();
    for l in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        line(&l);
    }
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn said(w: &World, net: &[&str], script: &str) -> Vec<String> {
    let mut all = Vec::new();
    guest(w, net, script, |l| all.push(l.to_owned()));
    all
}

#[test]
fn connections_carry_data_both_ways_and_end_as_they_should() {
    if !python() {
        return;
    }
    let (w, port) = (World::new(), tcp_server());
    let script = format!(
        r#"
P = {port}
s = tcp(P); s.sendall(b"G"); d = everything(s)
say("down", len(d), zlib.crc32(d))
s = tcp(P); s.sendall(b"P" + d); s.shutdown(socket.SHUT_WR)
say("up", everything(s).decode())
s = tcp(P); s.sendall(b"Ehalf"); s.shutdown(socket.SHUT_WR)
say("half", everything(s).decode())
alive = [tcp(P) for _ in range(200)]
for i, s in enumerate(alive): s.sendall(b"E%d" % i)
for s in alive: s.shutdown(socket.SHUT_WR)
say("parallel", sum(int(everything(s)) for s in alive))
closed = socket.socket(); closed.bind(("127.0.0.1", 0))
say("refused", failure(lambda: tcp({free})))
say("name server only", failure(lambda: tcp(80, "10.0.2.3")))
say("no such neighbour", failure(lambda: tcp(80, "10.0.2.99")))
"#,
        free = free_port()
    );
    let bulk = pattern();
    let sum = crc32fast::hash(&bulk);
    let all = said(&w, &["--net", "user"], &script);
    assert_eq!(all[0], format!("down {BULK} {sum}"));
    assert_eq!(all[1], format!("up {BULK} {sum}"));
    assert_eq!(all[2], "half half");
    assert_eq!(all[3], format!("parallel {}", (0..200).sum::<i32>()));
    assert_eq!(all[4..6], ["refused Connection refused", "name server only Connection refused"]);
    assert!(all[6].starts_with("no such neighbour No route to host"), "{all:?}");
}

#[test]
fn datagrams_names_and_echoes_pass() {
    if !python() {
        return;
    }
    let w = World::new();
    let net = format!("user,nameserver=127.0.0.1#{}", name_server());
    let script = format!(
        r#"
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(20)
for n in (1, 1400, 9000):
    u.sendto(b"x" * n, (G, {udp})); d, a = u.recvfrom(65536)
    say("udp", len(d), a[0], a[1] == {udp})
u.connect((G, {free})); u.send(b"x")
say("closed", failure(lambda: u.recv(1)))
say("resolv.conf", open("/etc/resolv.conf").read().split()[:2])
say("name", socket.gethostbyname("www.example.test"))
def ping(family, proto, kind, to):
    s = socket.socket(family, socket.SOCK_RAW, proto); s.settimeout(20)
    h = struct.pack("!BBHHH", kind, 0, 0, 77, 1)
    c = 0xffff - sum(struct.unpack("!4H", h)) % 0xffff if family == socket.AF_INET else 0
    s.sendto(struct.pack("!BBHHH", kind, 0, c, 77, 1), (to, 0))
    while True:
        d = s.recv(100)
        d = d[20:] if family == socket.AF_INET else d
        if d[0] in (0, 129):
            return d[4:8] == struct.pack("!HH", 77, 1)
say("ping", ping(socket.AF_INET, 1, 8, G))
end = time.monotonic() + 20
def global6():
    return [l.split() for l in open("/proc/net/if_inet6") if l.startswith("fd00")]
while not any(int(l[4], 16) & 0x40 == 0 for l in global6()) and time.monotonic() < end:
    time.sleep(0.1)
say("ping6", ping(socket.AF_INET6, 58, 128, "fd00::2"))
"#,
        udp = udp_server(),
        free = free_port()
    );
    let all = said(&w, &["--net", &net], &script);
    let want = [
        "udp 1 10.0.2.2 True",
        "udp 1400 10.0.2.2 True",
        "udp 9000 10.0.2.2 True",
        "closed Connection refused",
        "resolv.conf ['nameserver', '10.0.2.3']",
        "name 192.0.2.77",
        "ping True",
        "ping6 True",
    ];
    assert_eq!(all, want);
}

#[test]
fn forwarded_ports_reach_the_guest() {
    if !python() {
        return;
    }
    let w = World::new();
    let (t, u) = (free_port(), free_port());
    let script = r#"
l = socket.create_server(("0.0.0.0", 80))
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("0.0.0.0", 53))
say("ready")
c, a = l.accept()
d = everything(c); c.sendall(b"%d %d" % (len(d), zlib.crc32(d))); c.close()
say("from", a[0])
d, a = u.recvfrom(100); u.sendto(d[::-1], a)
say("end")
"#;
    let bulk = pattern();
    let mut all = Vec::new();
    let ports = [format!("{t}:80"), format!("{u}:53/udp")];
    // Without the way to the host's loopback: what was let in is answered all the same.
    guest(&w, &["-p", &ports[0], "-p", &ports[1]], script, |l| {
        all.push(l.to_owned());
        match l {
            "ready" => {
                let mut s = TcpStream::connect((Ipv4Addr::LOCALHOST, t)).unwrap();
                s.write_all(&bulk).unwrap();
                s.shutdown(Shutdown::Write).unwrap();
                let mut r = String::new();
                s.read_to_string(&mut r).unwrap();
                assert_eq!(r, format!("{BULK} {}", crc32fast::hash(&bulk)));
            }
            l if l.starts_with("from") => {
                let s = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                s.send_to(b"abc", (Ipv4Addr::LOCALHOST, u)).unwrap();
                let mut b = [0; 10];
                let n = s.recv(&mut b).unwrap();
                assert_eq!(&b[..n], b"cba");
            }
            _ => {}
        }
    });
    assert_eq!(all, ["ready", "from 10.0.2.2", "end"]);
}

#[test]
fn what_is_closed_stays_closed() {
    if !python() {
        return;
    }
    let (w, port) = (World::new(), tcp_server());
    let script = format!(r#"say(failure(lambda: tcp({port})))"#);
    // By default the host's loopback is its own.
    assert_eq!(said(&w, &[], &script), ["No route to host"]);
    assert_eq!(said(&w, &["--net", "user,restrict=1"], &script), ["No route to host"]);
    assert_eq!(said(&w, &["--net", "none"], &script), ["Network is unreachable"]);
    let names = said(&w, &["--net", "none"], "say(os.listdir('/sys/class/net'))");
    assert!(!names[0].contains("vec"), "{names:?}");
}

#[test]
fn a_client_in_the_guest_gets_its_lease() {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"];
    let Some(busybox) = busybox.iter().find(|b| {
        Command::new(b).args(["udhcpc", "--help"]).output().is_ok_and(|o| {
            String::from_utf8_lossy(&o.stderr).contains("udhcpc") && o.status.success()
        })
    }) else {
        eprintln!("skipped: no busybox with udhcpc");
        return;
    };
    let w = World::new();
    w.write(
        "lease.sh",
        "#!/bin/sh\n[ $1 = bound ] && echo $ip $subnet $router $dns $hostname\nexit 0\n",
    );
    let out = w
        .run(&[
            "run",
            "--net",
            "user,net=10.9.8.0/24,hostname=leased",
            "--",
            "sh",
            "-c",
            &format!(
                "chmod +x {0}; {busybox} udhcpc -i vec0 -n -q -f -s {0} 2>&1",
                w.path("lease.sh").display()
            ),
        ])
        .ok();
    assert!(out.contains("10.9.8.15 255.255.255.0 10.9.8.2 10.9.8.3 leased"), "{out}");
}

/// Reads all of a connection: slowly until `sent` tells that the guest has handed everything to its kernel, then
/// only once the machine is over (`ended`) or has waited a while.
fn read_late(
    mut s: TcpStream,
    sent: &mpsc::Receiver<()>,
    ended: &mpsc::Receiver<()>,
) -> std::io::Result<usize> {
    s.set_read_timeout(Some(PATIENCE))?;
    let mut b = vec![0; 64 << 10];
    let mut all = 0;
    while sent.recv_timeout(Duration::from_millis(2)).is_err() {
        all += s.read(&mut b)?;
    }
    let _ = ended.recv_timeout(Duration::from_millis(500));
    loop {
        match s.read(&mut b)? {
            0 => return Ok(all),
            n => all += n,
        }
    }
}

#[test]
fn what_a_program_sent_arrives_although_the_machine_ends_with_it() {
    if !python() {
        return;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sent, was_sent) = mpsc::channel();
    let (ended, has_ended) = mpsc::channel();
    let server = std::thread::spawn(move || {
        let (s, _) = listener.accept()?;
        read_late(s, &was_sent, &has_ended)
    });
    let w = World::new();
    let script = format!(
        r#"
s = tcp({port})
s.sendall(bytes({BULK}))
say("sent")
"#
    );
    guest(&w, &["--net", "user"], &script, |_| sent.send(()).unwrap());
    drop(ended);
    assert_eq!(server.join().unwrap().unwrap(), BULK);
}

/// Two machines with one port of the host: the second would be without its network, and say so in its log alone.
#[test]
fn a_port_of_the_host_leads_to_one_machine() {
    let w = World::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let net = format!("[[net]]\nports = [\"{port}:80\"]\n");
    for name in ["a", "b"] {
        w.machine(name, "exec sleep 1000", &net);
    }
    let publish = format!("{port}:80");
    let run = ["run", "-p", &publish, "--", "true"];
    let text =
        format!("the host's port 127.0.0.1:{port} (tcp) cannot be had: Address already in use");
    for command in [&["start", "a.toml"][..], &run, &["run", "a.toml"]] {
        let said = w.run(command).fails(5);
        assert!(said.contains(&text) && !said.contains("leads to"), "{said}");
    }
    drop(taken);
    w.run(&["start", "a.toml"]).ok();
    let had = || std::net::TcpListener::bind(("127.0.0.1", port)).is_err();
    w.eventually("the port", had);
    for command in [&["start", "b.toml"][..], &run] {
        let said = w.run(command).fails(5);
        assert!(said.contains(&text) && said.contains("leads to instance \"a\""), "{said}");
    }
    // Its own, again.
    w.run(&["restart", "a"]).ok();
    w.eventually("the port", had);
    // A clone, and members of a fleet, do without.
    let done = w.run(&["clone", "a", "c", "--start"]);
    assert!(done.err.contains(&format!("without the ports {port}:80")), "{done:?}");
    done.ok();
    w.write("fleet.toml", "[fleet]\ntemplate = \"a.toml\"\nname = \"n{n}\"\ncount = 2\n");
    w.run(&["up"]).ok();
    for name in ["c", "n1", "n2"] {
        assert_eq!(w.state(name), "running");
        assert!(!w.run(&["show", name]).ok().contains("ports"));
    }
    w.run(&["down"]).ok();
    // A fleet of one has what its template has.
    w.write("fleet.toml", "[fleet]\ntemplate = \"a.toml\"\nname = \"o{n}\"\ncount = 1\n");
    assert!(w.run(&["up"]).err.contains("leads to instance \"a\""));
}
