//! Every vector transport that a host without extra programs has, with real peers, in a network namespace of its own.

mod common;

use common::{World, in_own_network};

#[test]
fn transports_carry_bulk_data_to_their_peers_and_back() {
    let w = World::new();
    let Some((text, err)) = in_own_network(&w, "transports.py", true) else { return };
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
