//! Control groups in a guest: their limits on memory.

mod common;
use common::World;

#[test]
fn memory_limits_kill_in_their_group_alone() {
    let w = World::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cgroup.sh");
    let out = w.run(&["run", "--net", "none", "--mem", "512M", "--", "sh", script]).ok();
    let expected = "\
20971520
status 0
status 137
max 1
oom 1
oom_kill 1
peak
[0, 0, 0, 0]
status 0
status 137
max 2
oom 2
oom_kill 4
oom_group_kill 1
6
2
";
    assert_eq!(out, expected);
}
