//! Scripts of packets, as packetdrill has them: the host's Linux and a guest answer each with the same segments.

mod common;

use common::{World, in_own_network};

#[test]
fn segments_are_answered_as_linux_answers_them() {
    let w = World::new();
    let Some((text, err)) = in_own_network(&w, "packets.py", false) else { return };
    if text.starts_with("no /dev/net/tun") {
        eprintln!("skipped: {text}");
        return;
    }
    let done: Vec<&str> = text.lines().filter(|l| !l.starts_with(' ')).collect();
    assert!(done.len() > 40 && done.iter().all(|l| l.ends_with(": same")), "{text}\n{err}");
}
