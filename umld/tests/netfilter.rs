//! Packet filters: what nft and iptables say about rules, and what rules do to packets, is the same in a guest as on Linux.
//! The host's side runs in a network namespace of its own.

mod common;

use std::process::{Command, Output};

use common::{World, both};

/// Runs `words` as root of a new network namespace of the host; `None` where that, or a program, is missing.
fn on_host(words: &[&str]) -> Option<Output> {
    let probe = Command::new("unshare")
        .args(["-rn", "sh", "-c", "nft list ruleset && iptables-nft -S && python3 -V"])
        .output();
    if !probe.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: no network namespaces with nft, iptables-nft and python3 here");
        return None;
    }
    Some(Command::new("unshare").arg("-rn").args(words).output().unwrap())
}

fn text(o: &Output) -> String {
    let all = [&o.stdout[..], &o.stderr[..]].concat();
    String::from_utf8_lossy(&all).into_owned()
}

/// The first lines that differ, with those before them.
fn difference(a: &str, b: &str) -> Option<String> {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    let at = (0..a.len().max(b.len())).find(|i| a.get(*i) != b.get(*i))?;
    let show = |v: &[&str]| v[at.saturating_sub(8).min(v.len())..(at + 5).min(v.len())].join("\n");
    Some(format!("line {}\nhost:\n{}\nguest:\n{}", at + 1, show(&a), show(&b)))
}

fn same(words: &[&str]) {
    let Some(host) = on_host(words) else { return };
    let w = World::new();
    // Without a network: nothing else counts.
    let guest = w.umld().args(["run", "--net", "none", "--"]).args(words).output().unwrap();
    let (h, g) = (text(&host), text(&guest));
    assert!(h.lines().count() > 100, "{h}");
    if let Some(d) = difference(&h, &g) {
        panic!("{d}");
    }
}

#[test]
fn rules_are_made_and_shown_as_on_linux() {
    // Errors stand between what they are about.
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/netfilter.sh");
    same(&["sh", "-c", "exec sh \"$0\" 2>&1", script]);
}

#[test]
fn rules_do_to_packets_what_they_do_on_linux() {
    same(&["python3", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/netfilter.py")]);
}

#[test]
fn a_guest_routes_and_translates_for_others() {
    let there =
        |p: &str, a: &str| Command::new(p).arg(a).output().is_ok_and(|o| o.status.success());
    if !there("nft", "-v") || !there("python3", "-V") || !there("ip", "-V") {
        eprintln!("skipped: no nft, ip and python3");
        return;
    }
    let w = World::new();
    let out = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/netfilter_routing.py"))
        .arg(w.umld().get_program())
        .env("HOME", w.path(""))
        .output()
        .unwrap();
    let t = text(&out);
    for want in [
        "inner: bulk same",
        "inner: 81 ECONNREFUSED",
        "inner: 82 EHOSTUNREACH",
        "inner: closed port ECONNREFUSED",
        "inner: one hop EHOSTUNREACH",
        "inner: datagram answer from 10.2.0.2",
        "inner: connection from 10.2.0.2",
        "outer: connection from 10.2.0.1",
        "outer: datagram question from 10.2.0.1",
        "outer: the port says through the port",
        "router: \t\tiifname \"vec1\" ct status dnat counter packets 1 bytes 60 accept",
        "router: \t\tcounter packets 0 bytes 0",
    ] {
        assert!(t.lines().any(|l| l == want), "{want} in\n{t}");
    }
}

#[test]
fn frames_are_judged_as_on_linux() {
    let here =
        ["-rnm", "sh", "-c", "for f in arp bridge netdev; do nft add table $f t || exit; done"];
    if !Command::new("unshare").args(here).output().is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: no network namespaces with nft and its families of frames here");
        return;
    }
    let Some(host) = both("frames.py") else { return };
    assert!(host.contains("answered [("), "{host}");
}
