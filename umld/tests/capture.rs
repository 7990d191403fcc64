//! `umld capture` and the console's `capture`, read by tcpdump.

mod common;

use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use common::{Done, World};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Sends echo requests to the gateway of the user mode, and datagrams over the loopback, until it is killed.
const TRAFFIC: &str = r#"
import socket, time
p = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
p.settimeout(0.05)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    u.sendto(b"hello", ("127.0.0.1", 9))
    try:
        p.sendto(bytes([8, 0, 0, 0, 0, 1, 0, 1]) + b"x" * 48, ("10.0.2.2", 0))
        p.recv(1000)
    except OSError:
        pass
"#;

fn there(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        eprintln!("skipped: no {program} here");
    }
    there
}

fn tcpdump(file: &str) -> String {
    let o = Command::new("tcpdump").args(["-tt", "-nr", file]).output().unwrap();
    Done::from(o).ok()
}

#[test]
fn tcpdump_reads_what_was_captured() {
    if !there("tcpdump") || !there("python3") {
        return;
    }
    let w = World::new();
    let m = w.machine("m", "ip link set lo up; exec sleep infinity", "[[net]]\nmode = \"user\"\n");
    w.run(&["start", m.to_str().unwrap()]).ok();
    let guest = ["exec", "m", "--", "python3", "-c", TRAFFIC];
    let mut traffic = w.umld().args(guest).stdout(Stdio::null()).spawn().unwrap();

    // The interface that is up, to a file, until enough.
    let captured = w.run(&["capture", "m", "-c", "8", "-w", "a.pcap"]);
    assert!(captured.err.contains(": 8 packets, "), "{captured:?}");
    captured.ok();
    let file = w.path("a.pcap");
    let text = tcpdump(file.to_str().unwrap());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 8, "{text}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let stamps: Vec<f64> =
        lines.iter().map(|l| l.split(' ').next().unwrap().parse().unwrap()).collect();
    assert!(stamps.iter().all(|s| (now - s).abs() < 3600.0), "{text}");
    assert!(stamps.is_sorted(), "{text}");

    // Both ways, through a pipe.
    let mut c = w.umld();
    c.args(["capture", "m", "-w", "-", "-s", "200"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut capture = c.spawn().unwrap();
    let mut reader = Command::new("tcpdump")
        .args(["-nlr", "-"])
        .stdin(capture.stdout.take().unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut seen = String::new();
    let mut out = reader.stdout.take().unwrap();
    while !(seen.contains("ICMP echo request") && seen.contains("ICMP echo reply")) {
        let mut b = [0; 4096];
        let n = out.read(&mut b).unwrap();
        assert_ne!(n, 0, "{seen}");
        seen += &String::from_utf8_lossy(&b[..n]);
    }
    kill(Pid::from_raw(capture.id() as i32), Signal::SIGINT).unwrap();
    std::io::copy(&mut out, &mut std::io::sink()).unwrap();
    assert!(reader.wait().unwrap().success());
    let done = Done::from(capture.wait_with_output().unwrap());
    assert!(done.err.contains(" packets, ") && done.err.contains(", 0 dropped"), "{done:?}");
    done.ok();

    // The loopback shows a packet once; cut packets stay readable.
    w.run(&["capture", "m", "lo", "-c", "3", "-s", "30", "-w", "lo.pcap"]).ok();
    let size = std::fs::metadata(w.path("lo.pcap")).unwrap().len();
    assert!(size <= 24 + 3 * (16 + 30), "{size}");
    // All interfaces, by the console itself.
    let any = w.path("any.pcap");
    let started = w
        .run(&["mconsole", "m", "capture", "start", "any", "count=20", any.to_str().unwrap()])
        .ok();
    let number = started.trim().trim_start_matches("OK ").to_owned();
    w.eventually("the end of the capture", || {
        w.run(&["mconsole", "m", "capture"]).ok().contains("20 packets")
    });
    let stopped = w.run(&["mconsole", "m", "capture", "stop", &number]).ok();
    assert!(stopped.contains("20 packets") && stopped.contains("complete"), "{stopped}");
    let text = tcpdump(any.to_str().unwrap());
    assert_eq!(text.lines().count(), 20, "{text}");
    assert!(text.contains("127.0.0.1.9: UDP, length 5"), "{text}");
    let lo = text.lines().filter(|l| l.contains("127.0.0.1.9: UDP"));
    assert!(lo.clone().count() > 0 && lo.clone().all(|l| l.contains(" In ")), "{text}");

    assert!(
        w.run(&["capture", "m", "nosuch", "-w", "x"])
            .fails(1)
            .contains("There is no interface nosuch")
    );
    assert!(
        w.run(&["mconsole", "m", "capture", "start", "lo", "/nonexistent/x"])
            .out
            .contains("No such file")
    );
    assert!(w.run(&["mconsole", "m", "capture"]).ok().trim_start_matches("OK").trim().is_empty());
    kill(Pid::from_raw(traffic.id() as i32), Signal::SIGTERM).unwrap();
    traffic.wait().unwrap();
    w.run(&["kill", "m"]).ok();
}

#[test]
fn kernels_without_captures_are_refused() {
    use uml_formats::mconsole::{Received, receive, split_reply};
    let w = World::new();
    let dir = w.path(".uml/old");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("pid"), format!("{}\n", std::process::id())).unwrap();
    let socket = UnixDatagram::bind(dir.join("mconsole")).unwrap();
    std::thread::spawn(move || {
        let mut b = [0; 1024];
        while let Ok((n, from)) = socket.recv_from(&mut b) {
            assert!(matches!(receive(&b[..n]), Received::Command { .. }));
            for d in split_reply(1, Received::UNKNOWN_COMMAND.as_bytes(), false) {
                let _ = socket.send_to_addr(&d, &from);
            }
        }
    });
    let err = w.run(&["capture", "old", "-w", "x.pcap"]).fails(69);
    assert!(err.contains("stock kernels cannot"), "{err}");
    assert!(!w.path("x.pcap").exists());
}
