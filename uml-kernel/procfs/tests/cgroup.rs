//! cgroup2 on a machine without a platform.

mod common;

use std::sync::Arc;

use common::*;
use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, PollRegistrar, WaitQueue, pressure};
use uml_core::kernel::Kernel;
use uml_core::task::{Cred, Task, TaskInit};
use uml_core::vfs::walk::DirFd;
use uml_core::vfs::{MountNs, NodeKind, modify};

fn machine() -> (Arc<Kernel>, Arc<MountNs>, Arc<Task>) {
    let k = kernel();
    let proc = uml_procfs::register(&k);
    let scratch = namespace(&k, proc.instance(&k, b"").unwrap());
    let boot = process(&k, &scratch, 2, 0, Cred::root());
    let fs = k.vfs.registry.fs(b"cgroup2").unwrap();
    assert_eq!(fs.mount(&boot, b"", 0, b"nonsense").err(), Some(EINVAL));
    let ns = namespace(&k, fs.mount(&boot, b"", 0, b"nsdelegate").unwrap());
    let init = process(&k, &ns, 1, 0, Cred::root());
    (k, ns, init)
}

fn mkdir(t: &Arc<Task>, path: &str) -> Result<()> {
    modify::create(t, &DirFd::Cwd, path.as_bytes(), NodeKind::Directory, 0o755).map(|_| ())
}

fn rmdir(t: &Arc<Task>, path: &str) -> Result<()> {
    modify::rmdir(t, &DirFd::Cwd, path.as_bytes())
}

#[test]
fn groups_are_made_filled_and_removed() {
    let (k, ns, init) = machine();
    let p = process(&k, &ns, 50, 1, user(1000));
    mkdir(&init, "/a").unwrap();
    assert_eq!(mkdir(&init, "/a"), Err(EEXIST));
    mkdir(&init, "/a/b").unwrap();
    assert_eq!(mkdir(&init, "/cgroup.x"), Err(EINVAL));
    assert_eq!(list(&init, "/a").unwrap().iter().filter(|n| !n.contains('.')).count(), 1);
    assert_eq!(read(&init, "/a/b/cgroup.events").unwrap(), "populated 0\nfrozen 0\n");
    assert_eq!(write(&init, "/a/b/cgroup.procs", "50\n"), Ok(3));
    assert_eq!(read(&init, "/a/b/cgroup.procs").unwrap(), "50\n");
    assert_eq!(read(&init, "/a/b/cgroup.threads").unwrap(), "50\n");
    assert_eq!(read(&init, "/a/cgroup.procs").unwrap(), "");
    assert_eq!(read(&init, "/a/cgroup.events").unwrap(), "populated 1\nfrozen 0\n");
    assert_eq!(
        read(&init, "/a/cgroup.stat").unwrap(),
        "nr_descendants 1\nnr_dying_descendants 0\n"
    );
    assert_eq!(k.cgroups.of(&p.process).path(), b"/a/b");
    assert_eq!(rmdir(&init, "/a/b"), Err(EBUSY));
    assert_eq!(rmdir(&init, "/a"), Err(EBUSY));
    assert_eq!(write(&p, "/cgroup.procs", "0"), Err(EACCES));
    assert_eq!(write(&init, "/cgroup.procs", "50"), Ok(2));
    let held = open_file(&init, "/a/b/cgroup.procs", libc::O_WRONLY).unwrap();
    rmdir(&init, "/a/b").unwrap();
    rmdir(&init, "/a").unwrap();
    let one = &mut uml_core::io::BufSource::new(b"1");
    assert_eq!(held.write(&init, one), Err(ENODEV));
    assert_eq!(read(&init, "/a/cgroup.procs"), Err(ENOENT));
    for bad in ["x", "1 2", "-5", "99"] {
        let e = write(&init, "/cgroup.procs", bad);
        assert_eq!(e, Err(if bad == "99" { ESRCH } else { EINVAL }), "{bad}");
    }
}

#[test]
fn controllers_are_handed_down() {
    let (k, ns, init) = machine();
    process(&k, &ns, 51, 1, Cred::root());
    assert_eq!(read(&init, "/cgroup.controllers").unwrap(), "cpu io memory pids\n");
    mkdir(&init, "/a").unwrap();
    assert_eq!(read(&init, "/a/cgroup.controllers").unwrap(), "\n");
    assert_eq!(read(&init, "/a/pids.max"), Err(ENOENT));
    assert_eq!(write(&init, "/a/cgroup.subtree_control", "+pids"), Err(ENOENT));
    assert_eq!(write(&init, "/cgroup.subtree_control", "+pids +memory"), Ok(13));
    assert_eq!(read(&init, "/cgroup.subtree_control").unwrap(), "memory pids\n");
    assert_eq!(read(&init, "/a/pids.max").unwrap(), "max\n");
    assert_eq!(read(&init, "/a/memory.current").unwrap(), "0\n");
    assert_eq!(read(&init, "/a/io.stat"), Err(ENOENT));
    assert_eq!(write(&init, "/cgroup.subtree_control", "+cpuset"), Err(EINVAL));
    assert_eq!(write(&init, "/cgroup.subtree_control", "pids"), Err(EINVAL));
    // A group has processes or hands out controllers, not both, but for those that threads can be under.
    mkdir(&init, "/a/b").unwrap();
    assert_eq!(write(&init, "/a/cgroup.procs", "51"), Ok(2));
    assert_eq!(write(&init, "/a/cgroup.subtree_control", "+memory"), Err(EBUSY));
    assert_eq!(write(&init, "/a/cgroup.subtree_control", "+pids +memory"), Err(EBUSY));
    assert_eq!(write(&init, "/a/cgroup.subtree_control", "+pids"), Ok(5));
    assert_eq!(read(&init, "/a/cgroup.type").unwrap(), "domain threaded\n");
    assert_eq!(read(&init, "/a/b/cgroup.type").unwrap(), "domain invalid\n");
    assert_eq!(write(&init, "/a/b/cgroup.procs", "51"), Err(EOPNOTSUPP));
    assert_eq!(write(&init, "/a/cgroup.subtree_control", "-pids"), Ok(5));
    assert_eq!(write(&init, "/a/b/cgroup.procs", "51"), Ok(2));
    assert_eq!(write(&init, "/a/cgroup.subtree_control", "+pids"), Ok(5));
    assert_eq!(write(&init, "/a/cgroup.procs", "51"), Err(EBUSY));
    assert_eq!(write(&init, "/cgroup.subtree_control", "-pids"), Err(EBUSY));
    assert_eq!(read(&init, "/a/pids.current").unwrap(), "1\n");
    assert_eq!(read(&init, "/a/b/pids.peak").unwrap(), "1\n");
    assert_eq!(write(&init, "/a/b/pids.max", "7"), Ok(1));
    assert_eq!(read(&init, "/a/b/pids.max").unwrap(), "7\n");
    assert_eq!(write(&init, "/a/b/pids.max", "-1"), Err(ERANGE));
    assert_eq!(write(&init, "/a/b/pids.max", "few"), Err(EINVAL));
}

#[test]
fn delegates_stay_in_their_part() {
    let (k, ns, init) = machine();
    let u = process(&k, &ns, 52, 1, user(1000));
    let own = process(&k, &ns, 53, 1, user(1000));
    mkdir(&init, "/d").unwrap();
    mkdir(&init, "/d/x").unwrap();
    for f in ["/d", "/d/cgroup.procs", "/d/cgroup.subtree_control"] {
        let p = uml_core::vfs::lookup(&init, &DirFd::Cwd, f.as_bytes(), 0).unwrap();
        let attr = uml_core::vfs::SetAttr { uid: Some(1000), ..Default::default() };
        p.inode().set_attr(&attr).unwrap();
    }
    assert_eq!(stat(&init, "/d/cgroup.procs").unwrap().uid, 1000);
    assert_eq!(mkdir(&u, "/d/mine"), Ok(()));
    assert_eq!(stat(&init, "/d/mine/cgroup.procs").unwrap().uid, 1000);
    assert_eq!(mkdir(&u, "/d/x/y"), Err(EACCES));
    // From outside the part nothing can be pulled in, even one's own process.
    assert_eq!(write(&u, "/d/mine/cgroup.procs", "53"), Err(EACCES));
    assert_eq!(write(&init, "/d/cgroup.procs", "53"), Ok(2));
    assert_eq!(write(&u, "/d/mine/cgroup.procs", "53"), Ok(2));
    assert_eq!(k.cgroups.of(&own.process).path(), b"/d/mine");
    assert_eq!(rmdir(&u, "/d/x"), Ok(()));
}

struct Queues(Vec<Arc<WaitQueue>>);

impl PollRegistrar for Queues {
    fn register(&mut self, q: &Arc<WaitQueue>) {
        self.0.push(q.clone());
    }
}

#[test]
fn events_are_polled_and_freezing_shows() {
    let (k, ns, init) = machine();
    let p = process(&k, &ns, 54, 1, Cred::root());
    mkdir(&init, "/a").unwrap();
    let f = open_file(&init, "/a/cgroup.events", libc::O_RDONLY).unwrap();
    let read_it = || f.read_at(&init, 0, &mut uml_core::io::VecSink::new(100)).unwrap();
    read_it();
    let mut q = Queues(Vec::new());
    assert!(!f.ops.poll(Some(&mut q)).intersects(Events::PRI));
    assert_eq!(q.0.len(), 1);
    assert_eq!(write(&init, "/a/cgroup.procs", "54"), Ok(2));
    assert!(f.ops.poll(None).intersects(Events::PRI));
    assert!(f.ops.poll(None).intersects(Events::PRI), "stays until it is read");
    read_it();
    assert!(!f.ops.poll(None).intersects(Events::PRI));
    assert_eq!(write(&init, "/a/cgroup.freeze", "1"), Ok(1));
    assert!(p.signal_pending(), "the task is to look up");
    // It has not come to rest yet.
    assert_eq!(read(&init, "/a/cgroup.events").unwrap(), "populated 1\nfrozen 0\n");
    assert_eq!(write(&init, "/a/cgroup.freeze", "0"), Ok(1));
    assert!(!p.signal_pending());
    for (file, bad, e) in [
        ("freeze", "2", ERANGE),
        ("freeze", "x", EINVAL),
        ("kill", "0", ERANGE),
        ("type", "threaded", EOPNOTSUPP),
        ("type", "domain", EINVAL),
        ("threads", "1", EOPNOTSUPP),
        ("threads", "x", EINVAL),
        ("threads", "99", ESRCH),
    ] {
        assert_eq!(write(&init, &format!("/a/cgroup.{file}"), bad), Err(e), "{file} {bad}");
    }
    assert_eq!(write(&init, "/a/cgroup.kill", "1"), Ok(1));
    assert!(p.fatal_signal_pending() || p.pending_set() & 1 << (libc::SIGKILL - 1) != 0);
}

#[test]
fn depth_and_number_are_limited() {
    let (_k, _ns, init) = machine();
    mkdir(&init, "/a").unwrap();
    assert_eq!(write(&init, "/a/cgroup.max.depth", "1"), Ok(1));
    assert_eq!(write(&init, "/a/cgroup.max.descendants", "2"), Ok(1));
    mkdir(&init, "/a/b").unwrap();
    assert_eq!(mkdir(&init, "/a/b/c"), Err(EAGAIN));
    mkdir(&init, "/a/c").unwrap();
    assert_eq!(mkdir(&init, "/a/d"), Err(EAGAIN));
    assert_eq!(read(&init, "/a/cgroup.max.depth").unwrap(), "1\n");
    assert_eq!(read(&init, "/cgroup.max.depth").unwrap(), "max\n");
}

#[test]
fn files_have_the_names_of_the_host() {
    let (_k, _ns, init) = machine();
    mkdir(&init, "/a").unwrap();
    write(&init, "/cgroup.subtree_control", "+pids +memory +io").unwrap();
    // The interface of cgroup-v2.rst; the host may not have one mounted.
    let known = [
        "cgroup.controllers",
        "cgroup.events",
        "cgroup.freeze",
        "cgroup.kill",
        "cgroup.max.depth",
        "cgroup.max.descendants",
        "cgroup.pressure",
        "cgroup.procs",
        "cgroup.stat",
        "cgroup.subtree_control",
        "cgroup.threads",
        "cgroup.type",
        "cpu.stat",
        "io.max",
        "io.pressure",
        "io.stat",
        "memory.current",
        "memory.events",
        "memory.events.local",
        "memory.high",
        "memory.low",
        "memory.max",
        "memory.min",
        "memory.oom.group",
        "memory.peak",
        "memory.pressure",
        "memory.reclaim",
        "memory.stat",
        "memory.swap.current",
        "memory.swap.events",
        "memory.swap.high",
        "memory.swap.max",
        "pids.current",
        "pids.events",
        "pids.max",
        "pids.peak",
    ];
    assert_eq!(list(&init, "/a").unwrap(), known);
    let cpu = read(&init, "/a/cpu.stat").unwrap();
    assert_eq!(cpu, "usage_usec 0\nuser_usec 0\nsystem_usec 0\n");
}

#[test]
fn memory_limits_are_sizes_or_max() {
    let (_k, _ns, init) = machine();
    mkdir(&init, "/a").unwrap();
    write(&init, "/cgroup.subtree_control", "+memory").unwrap();
    for (text, shown) in [
        ("max", "max"),
        ("8192", "8192"),
        ("8191\n", "4096"),
        ("3k", "0"),
        ("5M", "5242880"),
        ("0x2000", "8192"),
        ("1G", "1073741824"),
        ("16E", "max"),
        ("99999999999999999999", "max"),
    ] {
        assert!(write(&init, "/a/memory.max", text).is_ok(), "{text}");
        assert_eq!(read(&init, "/a/memory.max").unwrap(), format!("{shown}\n"), "{text}");
    }
    for bad in ["much", "-1", "1 2", "1Q", "K"] {
        assert_eq!(write(&init, "/a/memory.max", bad), Err(EINVAL), "{bad}");
    }
    assert_eq!(write(&init, "/a/memory.oom.group", "1"), Ok(1));
    assert_eq!(read(&init, "/a/memory.oom.group").unwrap(), "1\n");
    assert_eq!(write(&init, "/a/memory.oom.group", "2"), Err(EINVAL));
    let none = "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n";
    assert_eq!(read(&init, "/a/memory.events").unwrap(), none);
    assert_eq!(read(&init, "/a/memory.events.local").unwrap(), none);
}

#[test]
fn promises_and_limits_of_memory_are_kept_apart() {
    let (_k, _ns, init) = machine();
    mkdir(&init, "/a").unwrap();
    write(&init, "/cgroup.subtree_control", "+memory").unwrap();
    let initial = [
        ("high", "max"),
        ("low", "0"),
        ("max", "max"),
        ("min", "0"),
        ("swap.high", "max"),
        ("swap.max", "max"),
    ];
    for (n, (file, value)) in initial.iter().enumerate() {
        let path = format!("/a/memory.{file}");
        assert_eq!(read(&init, &path).unwrap(), format!("{value}\n"), "{file}");
        assert!(write(&init, &path, &format!("{}M", n + 1)).is_ok(), "{file}");
    }
    for (n, (file, _)) in initial.iter().enumerate() {
        let bytes = (n + 1) << 20;
        assert_eq!(read(&init, &format!("/a/memory.{file}")).unwrap(), format!("{bytes}\n"));
    }
    assert_eq!(read(&init, "/a/memory.swap.events").unwrap(), "high 0\nmax 0\nfail 0\n");
    // Nothing can be taken back.
    assert_eq!(write(&init, "/a/memory.reclaim", "4096"), Err(EAGAIN));
    assert_eq!(write(&init, "/a/memory.reclaim", "much"), Err(EINVAL));
    // With the controller its settings go.
    write(&init, "/cgroup.subtree_control", "-memory").unwrap();
    assert_eq!(read(&init, "/a/memory.high"), Err(ENOENT));
    write(&init, "/cgroup.subtree_control", "+memory").unwrap();
    for (file, value) in initial {
        assert_eq!(read(&init, &format!("/a/memory.{file}")).unwrap(), format!("{value}\n"));
    }
}

/// Who opens a file in a namespace does with it what that namespace may, wherever it is written to (CVE-2021-4197).
#[test]
fn namespaces_are_borders_of_delegation() {
    let (k, ns, init) = machine();
    let inside = process(&k, &ns, 60, 1, Cred::root());
    for dir in ["/in", "/in/below", "/out"] {
        mkdir(&init, dir).unwrap();
    }
    assert_eq!(write(&init, "/in/cgroup.procs", "60"), Ok(2));
    let unshare = libc::CLONE_NEWCGROUP as u64;
    uml_core::ns::change::unshare(&inside, unshare).unwrap();
    // Its root is the namespace's, whose limits are for those outside to set.
    assert_eq!(write(&inside, "/in/cgroup.max.depth", "3"), Err(EPERM));
    assert_eq!(write(&inside, "/in/below/cgroup.max.depth", "3"), Ok(1));
    assert_eq!(write(&init, "/in/cgroup.max.depth", "4"), Ok(1));
    let trigger = "some 1000 500000";
    assert_eq!(write(&inside, "/in/memory.pressure", trigger), Err(EPERM));
    assert_eq!(write(&inside, "/in/below/memory.pressure", trigger), Ok(16));
    assert_eq!(write(&inside, "/in/below/cgroup.procs", "60"), Ok(2));
    assert_eq!(write(&inside, "/in/cgroup.procs", "60"), Ok(2));
    // Neither the way out is open nor the way in.
    assert_eq!(write(&inside, "/out/cgroup.procs", "60"), Err(ENOENT));
    let own = open_file(&inside, "/out/cgroup.procs", libc::O_WRONLY).unwrap();
    let text = &mut uml_core::io::BufSource::new(b"60");
    assert_eq!(own.write(&init, text), Err(ENOENT));
    assert_eq!(write(&init, "/out/cgroup.procs", "60"), Ok(2));
}

#[test]
fn pressure_is_that_of_the_group_and_those_below() {
    let (k, ns, init) = machine();
    let t = process(&k, &ns, 70, 1, Cred::root());
    for dir in ["/a", "/a/b", "/c"] {
        mkdir(&init, dir).unwrap();
    }
    assert_eq!(write(&init, "/a/b/cgroup.procs", "70"), Ok(2));
    let group = k.cgroups.of(&t.process).pressure.clone();
    let member = Arc::new(pressure::Member::default());
    member.move_to(&group);
    member.runs();
    pressure::works_for(&member);
    {
        let _stall = pressure::memory();
        std::thread::sleep(std::time::Duration::from_millis(10));
        // Off, and what goes on is not counted.
        assert_eq!(write(&init, "/a/cgroup.pressure", "0"), Ok(1));
        assert!(!list(&init, "/a").unwrap().contains(&"memory.pressure".into()));
        assert_eq!(read(&init, "/a/memory.pressure"), Err(ENOENT));
        assert!(list(&init, "/a/b").unwrap().contains(&"memory.pressure".into()));
    }
    pressure::worked();
    assert_eq!(write(&init, "/a/cgroup.pressure", "2"), Err(ERANGE));
    assert_eq!(write(&init, "/a/cgroup.pressure", "1"), Ok(1));
    let total = |path: &str| {
        let text = read(&init, path).unwrap();
        let totals = text.lines().map(|l| l.rsplit_once('=').unwrap().1.parse::<u64>().unwrap());
        let totals: Vec<u64> = totals.collect();
        assert_eq!(totals[0], totals[1], "{text}");
        totals[0]
    };
    assert!(total("/a/b/memory.pressure") >= 10_000);
    assert!(total("/a/memory.pressure") >= 10_000);
    assert_eq!(total("/c/memory.pressure"), 0);
    assert_eq!(total("/a/io.pressure"), 0);
    assert!(list(&init, "/").unwrap().contains(&"cpu.pressure".into()));
}

/// Another thread of the process of `leader`.
fn thread(k: &Arc<Kernel>, leader: &Arc<Task>, tid: i32) -> Arc<Task> {
    let init = TaskInit {
        tid,
        process: leader.process.clone(),
        comm: leader.comm_raw(),
        cred: leader.cred(),
        mm: None,
        files: leader.files(),
        fs: leader.fs(),
        blocked: 0,
    };
    let t = Task::new(k, init);
    k.tree.write().add_thread(&t).unwrap();
    t
}

#[test]
fn threads_of_threaded_groups() {
    let (k, ns, init) = machine();
    let p = process(&k, &ns, 60, 1, Cred::root());
    let t = thread(&k, &p, 61);
    for g in ["/a", "/a/x", "/a/x/y", "/a/z"] {
        mkdir(&init, g).unwrap();
    }
    write(&init, "/cgroup.subtree_control", "+pids +cpu +memory").unwrap();
    write(&init, "/a/cgroup.procs", "61").unwrap();
    write(&init, "/a/cgroup.subtree_control", "+pids +cpu").unwrap();
    for g in ["x", "x/y", "z"] {
        assert_eq!(write(&init, &format!("/a/{g}/cgroup.type"), "threaded"), Ok(8), "{g}");
    }
    // Controllers that need a domain are not there.
    assert_eq!(read(&init, "/a/x/cgroup.controllers").unwrap(), "cpu pids\n");
    assert_eq!(write(&init, "/a/x/cgroup.subtree_control", "+memory"), Err(ENOENT));
    assert_eq!(write(&init, "/a/x/cgroup.subtree_control", "+pids +cpu"), Ok(10));
    assert_eq!(write(&init, "/a/cgroup.subtree_control", "+memory"), Err(EOPNOTSUPP));
    let pids = |g: &str| read(&init, &format!("/a/{g}/pids.current")).unwrap();
    assert_eq!([pids(""), pids("x"), pids("x/y")], ["2\n", "0\n", "0\n"]);
    assert_eq!(write(&init, "/a/x/y/cgroup.threads", "61"), Ok(2));
    assert_eq!([pids(""), pids("x"), pids("x/y")], ["2\n", "1\n", "1\n"]);
    assert_eq!(read(&init, "/a/x/y/cgroup.threads").unwrap(), "61\n");
    assert_eq!(read(&init, "/a/cgroup.threads").unwrap(), "60\n");
    assert_eq!(read(&init, "/a/cgroup.procs").unwrap(), "60\n");
    assert_eq!(read(&init, "/a/x/cgroup.procs"), Err(EOPNOTSUPP));
    assert_eq!(k.cgroups.of_task(&t).path(), b"/a/x/y");
    assert_eq!(k.cgroups.of(&t.process).path(), b"/a");
    // A limit acts on those in the group alone.
    assert_eq!(write(&init, "/a/x/cgroup.freeze", "1"), Ok(1));
    assert!(t.is_freezing() && !p.is_freezing());
    assert_eq!(write(&init, "/a/x/cgroup.freeze", "0"), Ok(1));
    assert_eq!(write(&init, "/a/x/cgroup.kill", "1"), Err(EOPNOTSUPP));
    // The process as a whole.
    assert_eq!(write(&init, "/a/z/cgroup.procs", "61"), Ok(2));
    assert_eq!(read(&init, "/a/z/cgroup.threads").unwrap(), "60\n61\n");
    assert_eq!(read(&init, "/a/x/cgroup.events").unwrap(), "populated 0\nfrozen 0\n");
    assert_eq!(rmdir(&init, "/a/z"), Err(EBUSY));
    assert_eq!(write(&init, "/cgroup.procs", "60"), Ok(2));
    assert_eq!([pids(""), pids("z")], ["0\n", "0\n"]);
    assert_eq!(rmdir(&init, "/a/z"), Ok(()));
}
