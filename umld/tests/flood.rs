//! Floods and malformed packets from outside: the guest serves its connections meanwhile.

mod common;

use common::{World, in_own_network};

#[test]
fn floods_from_outside_leave_the_guest_usable() {
    let w = World::new();
    let Some((text, err)) = in_own_network(&w, "flood.py", false) else { return };
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.last(), Some(&"still there"), "{text}\n{err}");
    assert_eq!(lines.len(), 8, "{text}\n{err}");
    for l in &lines[..7] {
        assert!(l.ends_with(": served"), "{text}\n{err}");
    }
}
