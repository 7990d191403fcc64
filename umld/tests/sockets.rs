//! Sockets of a guest beside those of the host's Linux: ss(8) prints the same of the same sockets.

mod common;

use std::process::Command;

use common::{Done, World};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sockets.py");

#[test]
fn ss_prints_what_it_prints_on_linux() {
    let here = ["-rnm", "sh", "-c", "ip link set lo up && ss -V && python3 -V"];
    if !Command::new("unshare").args(here).output().is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: no namespaces, or no iproute2 or python3 here");
        return;
    }
    let w = World::new();
    let host = Command::new("unshare").args(["-rnm", "python3", SCRIPT]).output().unwrap();
    let host = Done::from(host).ok();
    let mut c = w.umld();
    c.args(["run", "--mem", "256M", "--net", "none", "--", "unshare", "-nm", "python3", SCRIPT]);
    let guest = Done::from(c.output().unwrap()).ok();
    if host != guest {
        let lines = host.lines().zip(guest.lines()).filter(|(h, g)| h != g);
        let shown: Vec<String> = lines.take(20).map(|(h, g)| format!("- {h}\n+ {g}")).collect();
        panic!("{}\n== guest\n{guest}", shown.join("\n"));
    }
    assert!(host.contains("pairs True"), "{host}");
}
