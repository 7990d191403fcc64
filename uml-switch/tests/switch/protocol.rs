//! The control protocol and the switching rules, against the classic uml_switch where it is installed.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use crate::common::{Client, Switch, frame, ours};
use nix::sys::signal::Signal;

const CLASSIC: &str = "/usr/bin/uml_switch";

/// Replaces what differs between runs: descriptor numbers by letters in the order of their appearance.
fn normalise(text: &str, dir: &Path, program: &Path) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        let line = line.replace(&dir.display().to_string(), "DIR");
        let line = line.replace(&program.display().to_string(), "PROGRAM");
        let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        for n in 1..words.len() {
            if matches!(words[n - 1].as_str(), "port" | "fd") && words[n].parse::<u32>().is_ok() {
                let at = seen.iter().position(|s| *s == words[n]).unwrap_or_else(|| {
                    seen.push(words[n].clone());
                    seen.len() - 1
                });
                words[n] = format!("#{at}");
            }
            // Which connections share a number depends on when the switch looks at them.
            if words[n - 1] == "descriptor" {
                words[n] = "#".to_owned();
            }
        }
        lines.push(words.join(" "));
    }
    lines
}

/// One story told to a switch; returns what it printed and what the clients saw.
fn story(program: &Path, hub: bool) -> (Vec<String>, Vec<String>, Vec<String>) {
    let dir = tempfile::tempdir().expect("directory");
    let mut s = Switch::start(program, dir.path(), if hub { &["-hub"] } else { &[] });
    let mut seen = Vec::new();
    let a = Client::open(&s.control, 3);
    let b = Client::open(&s.control, 1);
    let c = Client::open(&s.control, 3);
    let mut get =
        |who: &str, client: &Client| seen.push(format!("{who} {:02x?}", client.receive()));
    // Broadcast, unknown unicast, learned unicast, own address, oversize.
    a.send(&frame(0xff, 1, 1, 60));
    get("b", &b);
    get("c", &c);
    b.send(&frame(9, 2, 2, 60));
    get("a", &a);
    get("c", &c);
    a.send(&frame(2, 1, 3, 1514));
    get("b", &b);
    if !hub {
        a.send(&frame(1, 1, 4, 60));
        get("a", &a);
    } else {
        get("c", &c);
    }
    c.send(&frame(1, 3, 5, 1614));
    get("a", &a);
    // A station moves.
    c.send(&frame(0xff, 2, 6, 60));
    if hub {
        get("b", &b);
    }
    get("a", &a);
    get("b", &b);
    b.receives_nothing();
    // Control connections that go wrong.
    let words = |w: &[u32]| w.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<u8>>();
    let ask = |request: &[u8]| {
        let mut stream = UnixStream::connect(&s.control).expect("connect");
        stream.write_all(request).expect("send");
        stream
    };
    let later = ask(&words(&[0xfeed_face, 4, 0]));
    let typed = ask(&words(&[0xfeed_face, 3, 9, 0]));
    s.wait_for("Bad request type");
    drop(typed);
    drop(later);
    s.wait_for("EOF from new port");
    drop(UnixStream::connect(&s.control).expect("connect"));
    s.wait_for("EOF from new port");
    let mut again = Client::open(&s.control, 3);
    again.control.write_all(b"garbage").expect("send");
    assert!(closed(&mut again.control));
    drop(b);
    s.wait_for("Disconnect");
    a.send(&frame(0xff, 1, 7, 60));
    let mut get =
        |who: &str, client: &Client| seen.push(format!("{who} {:02x?}", client.receive()));
    get("c", &c);
    let control = s.control.clone();
    let (out, err) = s.end(Signal::SIGINT);
    assert!(!control.exists(), "the control socket is removed");
    let out = out.join("\n");
    (normalise(&out, dir.path(), program), normalise(&err, dir.path(), program), seen)
}

/// Waits for the other side to close; what it left unread shows as a reset.
fn closed(stream: &mut UnixStream) -> bool {
    stream.set_read_timeout(Some(crate::common::PATIENCE)).expect("timeout");
    match stream.read(&mut [0; 1]) {
        Ok(n) => n == 0,
        Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[test]
fn the_story_is_that_of_the_classic_switch() {
    if !Path::new(CLASSIC).exists() {
        println!("SKIPPED: {CLASSIC} (package uml-utilities) is not installed");
        return;
    }
    for hub in [false, true] {
        let (our_out, our_err, our_frames) = story(ours(), hub);
        let (out, err, frames) = story(Path::new(CLASSIC), hub);
        assert_eq!(our_frames, frames);
        // Messages of closing connections come in the order in which the host reports them.
        assert_eq!(sorted(our_out), sorted(out));
        assert_eq!(sorted(our_err), sorted(err));
    }
}

#[test]
fn the_story_by_itself() {
    let (out, err, frames) = story(ours(), false);
    assert_eq!(frames.len(), 10);
    for line in
        ["New connection", "Disconnect", "Bad request", "Bad request type : 9", "EOF from new port"]
    {
        assert!(out.iter().any(|l| l == line), "{line} in {out:?}");
    }
    assert_eq!(out.last().map(String::as_str), Some("Caught signal 2, cleaning up and exiting"));
    assert!(err.iter().any(|l| l.starts_with("Request for a version 4 port")), "{err:?}");
}

#[test]
fn version_0_uses_the_socket_it_knows() {
    let dir = tempfile::tempdir().expect("directory");
    let (ctl, data) = (dir.path().join("ctl"), dir.path().join("data"));
    let (c, d) = (ctl.display().to_string(), data.display().to_string());
    let mut s = Switch::start(ours(), dir.path(), &["-compat-v0", "-unix", &c, &d]);
    let mut old = Client::open(&ctl, 0);
    old.to = uml_formats::switch::Address::from_path(&data);
    let new = Client::open(&ctl, 3);
    assert_eq!(new.to, old.to);
    old.send(&frame(0xff, 1, 1, 60));
    assert_eq!(new.receive(), frame(0xff, 1, 1, 60));
    new.send(&frame(1, 2, 2, 60));
    assert_eq!(old.receive(), frame(1, 2, 2, 60));
    new.receives_nothing();
    s.end(Signal::SIGTERM);
    assert!(!ctl.exists() && !data.exists());
}

#[test]
fn stale_sockets_are_taken_over_and_live_ones_are_not() {
    let dir = tempfile::tempdir().expect("directory");
    let mut first = Switch::start(ours(), dir.path(), &[]);
    let second = Command::new(ours()).arg("-unix").arg(&first.control).output().expect("run");
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    let expected = format!(
        "The control socket '{0}' has another server attached to it\nYou can either\n\tremove '{0}'\n\tor rerun with a different, unused filename for a socket\n",
        first.control.display()
    );
    assert_eq!(text, expected);
    first.child.kill().expect("kill");
    first.child.wait().expect("wait");
    assert!(first.control.exists(), "killed, it could not clean up");
    let third = Switch::start(ours(), dir.path(), &[]);
    Client::open(&third.control, 3);
}

#[test]
fn in_the_background_it_still_finds_its_socket() {
    let dir = tempfile::tempdir().expect("directory");
    let run = Command::new(ours())
        .args(["-unix", "relative", "-daemon"])
        .current_dir(dir.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .expect("run");
    assert!(run.success());
    let control = dir.path().join("relative");
    let client = Client::open(&control, 3);
    let peer =
        nix::sys::socket::getsockopt(&client.control, nix::sys::socket::sockopt::PeerCredentials)
            .expect("credentials");
    // The listener was made before it went to the background, by the parent that is gone.
    let status = Command::new(ours())
        .args(["--status", "--json", "-unix"])
        .arg(&control)
        .output()
        .expect("run");
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    let pid = status["pid"].as_i64().expect("pid");
    assert_ne!(pid, i64::from(peer.pid()));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), Signal::SIGTERM).expect("kill");
    let mut stream = client.control;
    assert!(closed(&mut stream));
    assert!(!control.exists());
}

#[test]
fn wrong_use_is_told() {
    for words in [&["-bogus"][..], &["-unix"], &["--listen", "x,vlan"], &["--json"]] {
        let run = Command::new(ours()).args(words).output().expect("run");
        assert_eq!(run.status.code(), Some(1), "{words:?}");
        assert!(String::from_utf8_lossy(&run.stderr).starts_with("Usage : "), "{words:?}");
    }
}
