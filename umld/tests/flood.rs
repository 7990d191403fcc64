//! Floods and malformed packets from outside: the guest serves its connections meanwhile.

mod common;

use std::process::Command;

use common::World;

#[test]
fn floods_from_outside_leave_the_guest_usable() {
    let probe = Command::new("unshare").args(["-rn", "python3", "-c", "import subprocess; subprocess.run(['ip', 'link', 'add', 'dev', 'x', 'type', 'veth', 'peer', 'name', 'y'], check=True)"]).output();
    if !probe.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: no user namespace with veth interfaces, python3 and ip here");
        return;
    }
    let w = World::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/flood.py");
    let umld = w.umld();
    let out = Command::new("unshare")
        .args(["-rn", "python3", script])
        .arg(umld.get_program())
        .env("HOME", w.path(""))
        .output()
        .unwrap();
    let (text, err) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{text}\n{err}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.last(), Some(&"still there"), "{text}\n{err}");
    assert_eq!(lines.len(), 8, "{text}\n{err}");
    for l in &lines[..7] {
        assert!(l.ends_with(": served"), "{text}\n{err}");
    }
}
