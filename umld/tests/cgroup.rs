//! Control groups in a guest: their limits on memory and CPU time.

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

#[test]
fn a_limit_of_cpu_time_holds() {
    let w = World::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cgroup-cpu.py");
    let out = w.run(&["run", "--net", "none", "--", "python3", script]).ok();
    let expected = "\
False False
max 100000
'x' EINVAL max 100000
'0' EINVAL max 100000
'999' EINVAL max 100000
'-1' EINVAL max 100000
'1000 999' EINVAL max 100000
'1000 1000001' EINVAL max 100000
'max max' EINVAL max 100000
'1 2 3' EINVAL max 100000
'50000 200000' ok 50000 200000
'max' ok max 200000
'30000' ok 30000 200000
held
True True True
nothing of its own below False
9
held
True
True
False
max 100000
";
    assert_eq!(out, expected);
}
