//! What goes beyond the classic switch: clients that stall, VLANs, captures, status.

use std::path::Path;
use std::process::{Command, Output};

use crate::common::{Client, Switch, frame, ours};

fn ask(control: &Path, words: &[&str]) -> Output {
    Command::new(ours()).args(words).arg("-unix").arg(control).output().expect("run")
}

fn status(control: &Path) -> serde_json::Value {
    let run = ask(control, &["--status", "--json"]);
    assert!(run.status.success(), "{run:?}");
    serde_json::from_slice(&run.stdout).expect("JSON")
}

/// The port that a client's process number and order give: ports are listed in the order of their descriptors.
fn ports(control: &Path) -> Vec<i64> {
    let s = status(control);
    s["ports"]
        .as_array()
        .expect("ports")
        .iter()
        .map(|p| p["port"].as_i64().expect("number"))
        .collect()
}

#[test]
fn a_client_that_stops_reading_hurts_only_itself() {
    let dir = tempfile::tempdir().expect("directory");
    let s = Switch::start(ours(), dir.path(), &[]);
    let (a, b) = (Client::open(&s.control, 3), Client::open(&s.control, 3));
    let stalled = Client::open(&s.control, 3);
    b.send(&frame(0xff, 2, 0, 60));
    a.receive();
    stalled.receive();
    // Broadcasts fill the queue of the stalled client; every one must reach the other.
    const FRAMES: u32 = 3000;
    let reader = std::thread::spawn(move || {
        for n in 0..FRAMES {
            assert_eq!(b.receive(), frame(0xff, 1, n, 200));
            // Acknowledged now and then, so that no queue but that of the stalled client overflows.
            if n % 50 == 49 {
                b.send(&frame(1, 2, n, 60));
            }
        }
        b
    });
    for n in 0..FRAMES {
        a.send(&frame(0xff, 1, n, 200));
        if n % 50 == 49 {
            a.receive();
        }
    }
    reader.join().expect("all arrived");
    let s1 = status(&s.control);
    let dropped: Vec<u64> = s1["ports"]
        .as_array()
        .expect("ports")
        .iter()
        .map(|p| p["tx_dropped"].as_u64().expect("number"))
        .collect();
    assert_eq!(dropped.iter().filter(|d| **d > 0).count(), 1, "{dropped:?}");
    // What was kept for it arrives in order once it reads again, the oldest frames first.
    for n in 0..100 {
        assert_eq!(stalled.receive(), frame(0xff, 1, n, 200));
    }
}

#[test]
fn vlans_keep_ports_apart() {
    let dir = tempfile::tempdir().expect("directory");
    let (ten, trunk) = (dir.path().join("ten"), dir.path().join("trunk"));
    let listen_ten = format!("{},access:10", ten.display());
    let listen_trunk = format!("{},trunk:10+20", trunk.display());
    let s =
        Switch::start(ours(), dir.path(), &["--listen", &listen_ten, "--listen", &listen_trunk]);
    let (a, b, plain) = (Client::open(&ten, 3), Client::open(&ten, 3), Client::open(&s.control, 3));
    let uplink = Client::open(&trunk, 3);
    a.send(&frame(0xff, 1, 1, 60));
    assert_eq!(b.receive(), frame(0xff, 1, 1, 60));
    let mut tagged = frame(0xff, 1, 1, 60);
    tagged.splice(12..12, [0x81, 0, 0, 10]);
    assert_eq!(uplink.receive(), tagged);
    // A port of the first socket knows no VLANs and passes every tag.
    assert_eq!(plain.receive(), tagged);
    tagged[6 + 5] = 4;
    uplink.send(&tagged);
    for c in [&a, &b] {
        assert_eq!(c.receive(), frame(0xff, 4, 1, 60));
    }
    let text = String::from_utf8(ask(&s.control, &["--status"]).stdout).expect("text");
    assert!(text.contains("access:10") && text.contains("trunk:10+20"), "{text}");
    let b_port = ports(&s.control)[1];
    assert!(ask(&s.control, &["--vlan", &format!("{b_port}=access:20")]).status.success());
    a.send(&frame(0xff, 1, 2, 60));
    plain.receive();
    plain.receive();
    b.receives_nothing();
    let refused = ask(&s.control, &["--vlan", "999=access:20"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("there is no port 999"));
}

#[test]
fn captures_are_pcap_files() {
    let dir = tempfile::tempdir().expect("directory");
    let s = Switch::start(ours(), dir.path(), &[]);
    let (a, b) = (Client::open(&s.control, 3), Client::open(&s.control, 3));
    let port = ports(&s.control)[0];
    let file = dir.path().join("a.pcap");
    let value = format!("{port}={}", file.display());
    let run = ask(&s.control, &["--capture", &value]);
    assert!(run.status.success(), "{run:?}");
    a.send(&frame(0xff, 1, 1, 60));
    b.receive();
    b.send(&frame(1, 2, 2, 100));
    a.receive();
    assert!(ask(&s.control, &["--capture", &format!("{port}=off")]).status.success());
    let bytes = std::fs::read(&file).expect("capture");
    assert_eq!(bytes.len(), 24 + 16 + 60 + 16 + 100);
    assert_eq!(bytes[..4], 0xa1b2_3c4du32.to_ne_bytes());
    assert_eq!(bytes[24 + 16..24 + 16 + 60], frame(0xff, 1, 1, 60));
    let bad = ask(&s.control, &["--capture", &format!("{port}=/nonexistent/file")]);
    assert!(String::from_utf8_lossy(&bad.stderr).contains("No such file or directory"), "{bad:?}");
}

#[test]
fn status_counts_and_finds_stations() {
    let dir = tempfile::tempdir().expect("directory");
    let s = Switch::start(ours(), dir.path(), &[]);
    let (a, b) = (Client::open(&s.control, 3), Client::open(&s.control, 1));
    a.send(&frame(0xff, 1, 1, 60));
    b.receive();
    let st = status(&s.control);
    assert_eq!(st["mode"], "switch");
    assert_eq!(st["ports"][0]["rx_frames"], 1);
    assert_eq!(st["ports"][0]["rx_bytes"], 60);
    assert_eq!(st["ports"][1]["tx_frames"], 1);
    assert_eq!(st["ports"][1]["version"], 1);
    assert_eq!(st["ports"][0]["pid"], std::process::id());
    assert_eq!(st["stations"][0]["mac"], "02:00:00:00:00:01");
    let none = ask(&dir.path().join("absent"), &["--status"]);
    assert!(!none.status.success());
    assert!(String::from_utf8_lossy(&none.stderr).contains("no switch answers at"));
}

/// Frames and control requests of any shape leave the switch working.
#[test]
fn hostile_clients_are_survived() {
    use std::io::Write;
    let dir = tempfile::tempdir().expect("directory");
    let s = Switch::start(ours(), dir.path(), &[]);
    let (a, b) = (Client::open(&s.control, 3), Client::open(&s.control, 3));
    let mut seed = 1u32;
    let mut random = move || {
        // xorshift32: any sequence will do, and the same one each time.
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed
    };
    for _ in 0..300 {
        let len = random() as usize % 200;
        let bytes: Vec<u8> = (0..len).map(|_| random() as u8).collect();
        a.send(&bytes);
        if let Ok(mut stream) = std::os::unix::net::UnixStream::connect(&s.control) {
            // The switch may have closed it already.
            let _ = stream.write_all(&bytes);
        }
    }
    let last = frame(0xff, 1, 77, 60);
    a.send(&last);
    while b.receive() != last {}
    assert_eq!(status(&s.control)["ports"].as_array().expect("ports").len(), 2);
}
