//! Every transport on a wire that loses, repeats, reorders and damages frames: transfers arrive as they were sent.

mod common;

use std::process::Command;

use common::World;

#[test]
fn transfers_survive_bad_wires_on_every_transport() {
    let probe = Command::new("unshare").args(["-rn", "python3", "-c", "import subprocess; subprocess.run(['ip', 'link', 'add', 'dev', 'x', 'type', 'veth', 'peer', 'name', 'y'], check=True)"]).output();
    if !probe.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: no user namespace with veth interfaces, python3 and ip here");
        return;
    }
    let w = World::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lossy.py");
    let umld = w.umld();
    let out = Command::new("unshare")
        .args(["-rn", "python3", script])
        .arg(umld.get_program())
        .arg(w.path(""))
        .env("HOME", w.path(""))
        .output()
        .unwrap();
    let (text, err) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{text}\n{err}");
    let names: Vec<&str> = text.lines().filter_map(|l| l.split_once(':')).map(|l| l.0).collect();
    for want in ["raw", "gre", "l2tpv3", "l2tpv3 udp", "fd", "bess", "daemon", "ucast", "mcast"] {
        assert!(names.contains(&want), "{want} in\n{text}\n{err}");
    }
    for l in text.lines() {
        assert!(l.ends_with(": same, served, bad wire"), "{l}\n{text}\n{err}");
    }
}
