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
