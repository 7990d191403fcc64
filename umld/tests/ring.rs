//! What programs that capture by a mapped ring see, on the host and in a guest; tcpdump is one of them.

mod common;

use common::{World, in_own_network};

#[test]
fn rings_of_packet_sockets_are_as_on_the_host() {
    let w = World::new();
    let Some((text, err)) = in_own_network(&w, "ring.py", true) else { return };
    let mut lines: Vec<&str> = text.lines().collect();
    if lines.pop_if(|l| *l == "tcpdump: not on this host").is_some() {
        eprintln!("without tcpdump: not possible here");
        lines.push("tcpdump: same");
    }
    assert_eq!(lines, ["ring: same", "tcpdump: same"], "{err}");
}
