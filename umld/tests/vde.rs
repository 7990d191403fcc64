//! Guests on a `vde_switch`, which is stopped, killed and started again under them.

mod common;

use std::process::Command;

use common::{Done, World};

/// What an interface says when its plug is gone.
const ENDED: &str = "has ended; set the interface down and up again";

#[test]
fn guests_share_a_vde_switch_and_outlive_it() {
    for (program, argument) in [("vde_switch", "-v"), ("vde_plug", "-h"), ("python3", "-V")] {
        if Command::new(program).arg(argument).output().is_err() {
            eprintln!("skipped: no {program} here");
            return;
        }
    }
    let w = World::new();
    let umld = w.umld();
    let mut c = Command::new("python3");
    c.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vde.py"));
    c.arg(umld.get_program()).arg(w.path("")).env("HOME", w.path(""));
    let done = Done::from(c.output().unwrap());
    let err = done.err.clone();
    let text = done.ok();
    let want = [
        "transfers: same, same",
        "port 0007: alpha",
        "port 0009: beta",
        "mode: 0o660",
        "stopped: no answer, no answer",
        "goes on: an answer, same",
        &format!(
            "killed: vec0: host side failed: vde_plug on SWITCH {ENDED}, eth0: host side failed: vde_plug on the default network {ENDED}"
        ),
        "without: no answer, no answer",
        "not yet: no answer, no answer",
        "again: up, up, an answer, same",
        &format!("in between: same, vec0: host side failed: vde_plug on SWITCH {ENDED}"),
        "third: same, same",
        "nowhere: vec0: host side failed: vde_plug on NOWHERE failed (exit status: 1); set the interface down and up again, no answer",
        "no program: vde: cannot run vde_plug (package vdeplug or vde2): No such file or directory (os error 2)",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), want, "{err}");
}
