//! Every transport on a wire that loses, repeats, reorders and damages frames: transfers arrive as they were sent.

mod common;

use common::{World, in_own_network};

#[test]
fn transfers_survive_bad_wires_on_every_transport() {
    let w = World::new();
    let Some((text, err)) = in_own_network(&w, "lossy.py", true) else { return };
    let names: Vec<&str> = text.lines().filter_map(|l| l.split_once(':')).map(|l| l.0).collect();
    for want in ["raw", "gre", "l2tpv3", "l2tpv3 udp", "fd", "bess", "daemon", "ucast", "mcast"] {
        assert!(names.contains(&want), "{want} in\n{text}\n{err}");
    }
    for l in text.lines() {
        assert!(l.ends_with(": same, served, bad wire"), "{l}\n{text}\n{err}");
    }
}
