//! Sockets of a guest beside those of the host's Linux: ss(8) prints the same of the same sockets.

mod common;

use common::both;

#[test]
fn ss_prints_what_it_prints_on_linux() {
    let Some(host) = both("sockets.py") else { return };
    assert!(host.contains("pairs True"), "{host}");
}

#[test]
fn sockets_that_others_end_tell_what_they_tell_on_linux() {
    let Some(host) = both("destroyed.py") else { return };
    assert!(host.contains("listener 1 ['EINVAL']"), "{host}");
}

#[test]
fn rings_of_packet_sockets_are_as_on_linux() {
    let Some(host) = both("blocks.py") else { return };
    assert!(host.contains("down ENETDOWN"), "{host}");
}

#[test]
fn groups_of_packet_sockets_share_as_on_linux() {
    let Some(host) = both("fanout.py") else { return };
    assert!(host.contains("[[6042, 6042], [6042, 6042]]"), "{host}");
}

#[test]
fn hops_and_pieces_are_told_as_on_linux() {
    let Some(host) = both("pieces.py") else { return };
    assert!(host.contains("made (70, [(41, 77, 96)])"), "{host}");
}

#[test]
fn ends_of_sockets_are_told_as_on_linux() {
    let Some(host) = both("ended.py") else { return };
    assert!(host.contains("SOCK_DESTROY answers: Operation not permitted"), "{host}");
}

#[test]
fn interfaces_count_what_they_count_on_linux() {
    let Some(host) = both("snmp6.py") else { return };
    assert!(host.contains("of IPv4 lo {}"), "{host}");
}
