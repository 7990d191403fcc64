//! A stock kernel beside our machines, on switches and end to end: pings, transfers, broadcasts.

mod common;

use common::{World, in_own_network_with, stock_root, switch};

#[test]
fn stock_kernels_and_ours_understand_each_other() {
    let root = stock_root();
    if !root.join("usr/bin/linux.uml").exists() {
        eprintln!("skipped: no stock UML in {} (UML_STOCK_ROOT)", root.display());
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: stock UML is started in its own root, which needs root");
        return;
    }
    let Some(switch) = switch() else {
        eprintln!("skipped: no uml_switch here");
        return;
    };
    let w = World::new();
    let root = root.canonicalize().unwrap();
    let Some((text, err)) = in_own_network_with(&w, "stock.py", &[w.path(""), switch, root]) else {
        return;
    };
    let mut lines: Vec<&str> = text.lines().collect();
    let everybody = "10.7.4.1 10.7.4.2 10.7.4.9";
    // These two where the host has what they need.
    for last in ["bridge: ", "vde_switch: "] {
        match lines.pop_if(|l| l.starts_with(last)) {
            Some(l) => assert_eq!(l, format!("{last}an answer, same, same"), "{err}"),
            None => eprintln!("without {last}not possible here"),
        }
    }
    let want = [
        "fd: an answer, same, same",
        "bess: an answer, same, same",
        "l2tpv3 udp: an answer, same, same",
        "gre: an answer, same, same",
        "uml_switch: an answer, same, same",
        &format!("broadcasts: {everybody}, {everybody}, {everybody}"),
        "neighbours: 02:00:00:00:00:94, 02:00:00:00:00:94, 02:00:00:00:00:14, 02:00:00:00:00:24",
        "at once: same, same, same",
    ];
    assert_eq!(lines, want, "{err}");
}
