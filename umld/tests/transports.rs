//! Every vector transport that a host without extra programs has, with real peers, in a network namespace of its own.

mod common;

use std::process::Command;

use common::World;

#[test]
fn transports_carry_bulk_data_to_their_peers_and_back() {
    let probe = Command::new("unshare").args(["-rn", "python3", "-c", "import subprocess; subprocess.run(['ip', 'link', 'add', 'dev', 'x', 'type', 'veth', 'peer', 'name', 'y'], check=True)"]).output();
    if !probe.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: no user namespace with veth interfaces, python3 and ip here");
        return;
    }
    let w = World::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transports.py");
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
    for want in ["raw", "raw plain", "gre", "gre plain", "l2tpv3", "l2tpv3 udp", "fd", "bess"] {
        assert!(names.contains(&want), "{want} in\n{text}\n{err}");
    }
    for l in text.lines() {
        let alone =
            ["tap", "hybrid", "raw", "raw plain"].iter().any(|n| l.starts_with(&format!("{n}:")));
        let end = if alone { "same, one address" } else { "same, one address, served 10.7.0.2" };
        assert!(l.ends_with(end), "{l}\n{err}");
    }
}
