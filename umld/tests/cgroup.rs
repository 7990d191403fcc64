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
20971520
high
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

/// What a group reads from a disk is in its account, its parent's and the whole machine's, and in the disk's counters.
#[test]
fn requests_of_disks_are_accounted() {
    let w = World::new();
    std::fs::write(w.path("disk.img"), vec![7_u8; 4 << 20]).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cgroup-io.sh");
    let disk = format!("ubdb={}", w.path("disk.img").display());
    let out = w.run(&["run", "--net", "none", "--append", &disk, "--", "sh", script]).ok();
    let expected = "\
a/b 98:16 rbytes=1048576 wbytes=65536 rios=16 wios=1 dbytes=0 dios=0
a 98:16 rbytes=1048576 wbytes=65536 rios=16 wios=1 dbytes=0 dios=0
other
removed 98:16 rbytes=1048576 wbytes=65536 rios=16 wios=1 dbytes=0 dios=0
more at the root
diskstats 16 2048 1 128
read_bytes: 1048576
";
    assert_eq!(out, expected);
}

/// Hogs of three groups get CPU time in proportion to the groups' weights.
#[test]
fn weights_share_cpu_time() {
    let w = World::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cgroup-weight.py");
    let out = w.run(&["run", "--net", "none", "--", "python3", script]).ok();
    let expected = "\
100 0
'0' ERANGE 100 0
'10001' ERANGE 100 0
'much' EINVAL 100 0
'1 2' EINVAL 100 0
'50' ok 50 3
nice '-21' ERANGE 50 3
nice '-1' ok 125 -1
nice 'x' EINVAL 125 -1
shares True True True
equal again True
alone True
100 0
";
    assert_eq!(out, expected);
}
