//! A machine in a machine: the kernel is a host for itself.

mod common;
use common::World;

#[test]
fn a_machine_runs_in_a_machine() {
    let w = World::new();
    let umld = env!("CARGO_BIN_EXE_umld");
    for platform in ["notify", "trap"] {
        let inner = format!(
            "{umld} run --net none --mem 64M --platform {platform} -- sh -c 'echo in $((6 * 7)); exit 5'"
        );
        let done = w.run(&["run", "--net", "none", "--mem", "512M", "--", "sh", "-c", &inner]);
        assert_eq!((done.status, done.out.as_str()), (5, "in 42\n"), "{platform}: {}", done.err);
    }
}

/// The processes of a machine in a machine are such: they would stay as zombies, and no shutdown come to its end.
#[test]
fn what_has_lost_its_parent_is_its_heirs_to_wait_for() {
    const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/orphans.py");
    let Ok(host) = std::process::Command::new("python3").arg(SCRIPT).output() else {
        return eprintln!("skipped: python3 is not installed");
    };
    let w = World::new();
    let guest = w.run(&["run", "--net", "none", "--mem", "128M", "--", "python3", SCRIPT]).ok();
    assert_eq!(guest, common::Done::from(host).ok());
}
