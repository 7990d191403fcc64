//! /proc on a machine without a platform, compared with what the host's own /proc looks like.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::*;
use uml_abi::errno::*;
use uml_core::kernel::Kernel;
use uml_core::task::tree::ChildState;
use uml_core::task::{Cred, Task};
use uml_core::vfs::MountNs;
use uml_mm::Layout;
use uml_mm::vma::{PROT_ALL, PROT_EXEC, PROT_READ, PROT_WRITE, Purpose, Vma, VmaFlags};

fn machine(options: &[u8]) -> (Arc<Kernel>, Arc<MountNs>, Arc<Task>) {
    let k = kernel();
    let proc = uml_procfs::register(&k);
    let sb = proc.instance(&k, options).unwrap();
    let ns = namespace(&k, sb);
    let init = process(&k, &ns, 1, 0, Cred::root());
    (k, ns, init)
}

fn host(path: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{path}")).unwrap()).into_owned()
}

fn keys(text: &str) -> Vec<&str> {
    text.lines().filter_map(|l| l.split_once(':')).map(|(k, _)| k.trim()).collect()
}

/// `ours` has its names in the order of `theirs`.
fn in_order(ours: &[&str], theirs: &[&str]) {
    let mut at = 0;
    for k in ours {
        match theirs[at..].iter().position(|t| t == k) {
            Some(n) => at += n + 1,
            None => panic!("{k} is not in the host's file at this place: {theirs:?}"),
        }
    }
}

fn area(start: u64, end: u64, prot: u32, purpose: Purpose) -> Vma {
    let flags = VmaFlags {
        prot,
        may: PROT_ALL,
        shared: false,
        locked: false,
        noreserve: false,
        growsdown: false,
        dontfork: false,
        wipeonfork: false,
        dontdump: false,
        purpose,
        hosted: true,
    };
    Vma { start, end, flags, backing: None, name: None }
}

/// A program at 0x40_0000 with arguments on its stack.
fn program(task: &Arc<Task>) {
    let strings = b"prog\0-v\0two words\0HOME=/root\0TERM=vt100\0".to_vec();
    let mm = give_memory(task, 0x7ff0_0000_0000, strings);
    let mut map = mm.map();
    map.vmas.insert(area(0x40_0000, 0x40_2000, PROT_READ | PROT_EXEC, Purpose::Normal));
    map.vmas.insert(area(0x60_0000, 0x60_4000, PROT_READ | PROT_WRITE, Purpose::Heap));
    let stack = (0x7ff0_0000_0000, 0x7ff0_0002_1000);
    map.vmas.insert(area(stack.0, stack.1, PROT_READ | PROT_WRITE, Purpose::Stack));
    map.auxv = vec![7; 32];
    map.layout = Layout {
        start_code: 0x40_0000,
        end_code: 0x40_1800,
        arg_start: 0x7ff0_0000_0000,
        arg_end: 0x7ff0_0000_0012,
        env_start: 0x7ff0_0000_0012,
        env_end: 0x7ff0_0000_0028,
        ..Layout::default()
    };
}

#[test]
fn processes_are_listed_and_self_leads_to_the_reader() {
    let (k, ns, init) = machine(b"");
    let p = process(&k, &ns, 77, 1, user(1000));
    let names = list(&init, "/").unwrap();
    for want in ["1", "77", "self", "stat", "meminfo", "mounts", "sys"] {
        assert!(names.iter().any(|n| n == want), "{want} in {names:?}");
    }
    assert_eq!(readlink(&p, "/self").unwrap(), "77");
    assert_eq!(readlink(&p, "/thread-self").unwrap(), "77/task/77");
    assert!(read(&p, "/self/stat").unwrap().starts_with("77 (test prog) R 1 77 77 0 -1 "));
    assert_eq!(read(&p, "/078/stat"), Err(ENOENT));
    assert_eq!(read(&p, "/78/stat"), Err(ENOENT));
    assert_eq!(list(&init, "/77/task").unwrap(), ["77"]);
    assert_eq!(read(&init, "/1/task/1/children").unwrap(), "77 ");
}

#[test]
fn listings_agree_with_stat_and_do_not_depend_on_the_buffer() {
    let (k, ns, init) = machine(b"");
    process(&k, &ns, 5, 1, Cred::root());
    for dir in ["/", "/5", "/5/task", "/5/ns", "/tty", "/sys", "/sys/kernel", "/5/net"] {
        let whole = list_in(&init, dir, 1000).unwrap();
        assert_eq!(list_in(&init, dir, 1).unwrap(), whole, "{dir}");
        for (name, ino, kind) in whole.iter().filter(|e| e.0 != "..") {
            let path = format!("{dir}/{name}");
            let p = uml_core::vfs::lookup(&init, &uml_core::vfs::DirFd::Cwd, path.as_bytes(), 0);
            let m = p.unwrap().metadata().unwrap();
            assert_eq!(m.ino, *ino, "{path}");
            assert_eq!(uml_core::vfs::dirent_kind(m.mode), *kind, "{path}");
        }
    }
}

#[test]
fn every_file_reads_the_same_in_small_pieces() {
    let (k, ns, _init) = machine(b"");
    let t = process(&k, &ns, 9, 1, Cred::root());
    program(&t);
    let mut todo = vec![String::new()];
    let mut files = 0;
    while let Some(dir) = todo.pop() {
        for (name, _, kind) in list_in(&t, &format!("{dir}/"), 1000).unwrap() {
            let path = format!("{dir}/{name}");
            // Blocking, refused or writable only, as on Linux; and numbers that run on.
            let skip = ["kmsg", "mem", "pagemap", "clear_refs", "sysrq-trigger", "drop_caches"];
            if name == "."
                || name == ".."
                || skip.contains(&name.as_str())
                || name == "compact_memory"
            {
                continue;
            }
            match kind {
                4 if dir.starts_with("/1") => {}
                4 => todo.push(path),
                8 => {
                    let whole =
                        read_in(&t, &path, 1 << 20).unwrap_or_else(|e| panic!("{path}: {e}"));
                    let f = open_file(&t, &path, libc::O_RDONLY).unwrap();
                    let mut first = uml_core::io::VecSink::new(1 << 20);
                    f.read(&t, &mut first).unwrap();
                    // What was generated once is read again at any offset without change.
                    let mut again = Vec::new();
                    for at in (0..first.data.len()).step_by(7).skip(1) {
                        let mut s = uml_core::io::VecSink::new(7);
                        f.read_at(&t, at as u64, &mut s).unwrap();
                        again.extend(s.data);
                    }
                    if first.data.len() > 7 {
                        assert_eq!(again, first.data[7..], "{path}");
                    }
                    assert_eq!(whole.is_empty(), first.data.is_empty(), "{path}");
                    files += 1;
                }
                _ => {}
            }
        }
    }
    assert!(files > 100, "{files} files");
}

#[test]
fn stat_has_the_fields_of_the_host() {
    let (k, ns, _init) = machine(b"");
    let t = process(&k, &ns, 10, 1, Cred::root());
    program(&t);
    t.set_comm(b"a) (b\nc");
    let ours = read(&t, "/self/stat").unwrap();
    let theirs = host("self/stat");
    let fields = |s: &str| s[s.rfind(')').unwrap()..].split_whitespace().count();
    assert_eq!(fields(&ours), fields(&theirs));
    assert!(ours.starts_with("10 (a) (b\\nc) R "), "{ours}");
    let f: Vec<i64> = ours[ours.rfind(')').unwrap() + 4..]
        .split_whitespace()
        .map(|w| w.parse::<u64>().map(|v| v as i64).or(w.parse()).unwrap())
        .collect();
    // Field n of proc_pid_stat(5) is f[n - 4].
    assert_eq!(f[18 - 4], 20, "priority");
    assert_eq!(f[20 - 4], 1, "threads");
    assert_eq!(f[23 - 4], 0x2000 + 0x4000 + 0x2_1000, "vsize");
    assert!(f[24 - 4] > 0, "rss");
    assert_eq!(f[26 - 4], 0x40_0000, "startcode");
    assert_eq!(f[38 - 4], i64::from(libc::SIGCHLD), "exit_signal");
    assert_eq!(f[48 - 4], 0x7ff0_0000_0000, "arg_start");
}

#[test]
fn status_has_the_lines_of_the_host() {
    let (k, ns, _init) = machine(b"");
    let t = process(&k, &ns, 11, 1, Cred::root());
    program(&t);
    let ours = read(&t, "/self/status").unwrap();
    let theirs = host("self/status");
    in_order(&keys(&ours), &keys(&theirs));
    let field = |name: &str| {
        let l = ours.lines().find(|l| l.split(':').next() == Some(name)).unwrap();
        l.split_once(':').unwrap().1.trim().to_string()
    };
    assert_eq!(field("Name"), "test prog");
    assert_eq!(field("VmSize"), "156 kB");
    assert_eq!(field("VmStk"), "132 kB");
    assert_eq!(field("VmData"), "16 kB");
    assert_eq!(field("Uid"), "0\t0\t0\t0");
    assert_eq!(field("Cpus_allowed_list"), "0-1");
    assert_eq!(field("CapEff"), "000001ffffffffff");
    // Every line splits as the host's of the same name does: by tabs, with the same number of words.
    let words = |text: &str| -> BTreeMap<String, usize> {
        text.lines()
            .filter_map(|l| l.split_once(':'))
            .map(|(k, v)| (k.to_string(), v.split_whitespace().count()))
            .collect()
    };
    let theirs = words(&theirs);
    for (k, n) in words(&ours) {
        if !["Name", "Groups", "State"].contains(&k.as_str()) {
            assert_eq!(Some(&n), theirs.get(&k), "{k}");
        }
    }
}

#[test]
fn machine_files_have_the_shape_of_the_host() {
    let (_k, _ns, init) = machine(b"");
    in_order(&keys(&read(&init, "/meminfo").unwrap()), &keys(&host("meminfo")));
    let total = read(&init, "/meminfo").unwrap();
    assert!(total.starts_with("MemTotal:         262144 kB\nMemFree:"), "{total}");
    let words = |s: &str, line: &str| {
        s.lines().find(|l| l.split(' ').next() == Some(line)).unwrap().split_whitespace().count()
    };
    let (ours, theirs) = (read(&init, "/stat").unwrap(), host("stat"));
    for line in
        ["cpu", "cpu0", "ctxt", "btime", "processes", "procs_running", "procs_blocked", "softirq"]
    {
        assert_eq!(words(&ours, line), words(&theirs, line), "{line}");
    }
    let btime = |s: &str| -> i64 {
        s.lines().find_map(|l| l.strip_prefix("btime ")).unwrap().parse().unwrap()
    };
    let now = uml_core::vfs::now().sec;
    assert!((now - 60..=now).contains(&btime(&ours)));
    assert_eq!(read(&init, "/uptime").unwrap().split_whitespace().count(), 2);
    assert_eq!(read(&init, "/loadavg").unwrap().split_whitespace().count(), 5);
    assert!(read(&init, "/version").unwrap().starts_with("Linux version 6."));
    assert_eq!(
        read(&init, "/swaps").unwrap(),
        host("swaps").lines().next().unwrap().to_string() + "\n"
    );
    assert!(read(&init, "/filesystems").unwrap().contains("nodev\tproc\n"));
    let cpu = read(&init, "/cpuinfo").unwrap();
    assert_eq!(cpu.matches("vendor_id\t: User Mode Linux\n").count(), 2);
    let flags = |s: &str| {
        s.lines()
            .find(|l| l.starts_with("flags"))
            .map(|l| l.split_once(':').unwrap().1.trim().to_string())
    };
    assert_eq!(flags(&cpu), flags(&host("cpuinfo")));
    assert_eq!(
        read(&init, "/self/limits").unwrap().lines().count(),
        host("self/limits").lines().count()
    );
    let names =
        |s: &str| s.lines().map(|l| l[..26].to_string() + l[68..].trim()).collect::<Vec<_>>();
    assert_eq!(names(&read(&init, "/self/limits").unwrap()), names(&host("self/limits")));
    assert_eq!(keys(&read(&init, "/self/io").unwrap()), keys(&host("self/io")));
}

#[test]
fn memory_files_show_the_program() {
    let (k, ns, _init) = machine(b"");
    let t = process(&k, &ns, 12, 1, Cred::root());
    program(&t);
    assert_eq!(read(&t, "/self/cmdline").unwrap(), "prog\0-v\0two words\0");
    assert_eq!(read(&t, "/self/environ").unwrap(), "HOME=/root\0TERM=vt100\0");
    assert_eq!(read_in(&t, "/self/auxv", 64).unwrap(), [7; 32]);
    let maps = read(&t, "/self/maps").unwrap();
    let lines: Vec<_> = maps.lines().collect();
    assert_eq!(lines[0], "00400000-00402000 r-xp 00000000 00:00 0 ");
    assert_eq!(
        lines[2],
        "7ff000000000-7ff000021000 rw-p 00000000 00:00 0                          [stack]"
    );
    // The host's own stack line has its name in the same column.
    let theirs = host("self/maps");
    let stack = theirs.lines().find(|l| l.ends_with("[stack]")).unwrap();
    assert_eq!(lines[2].find('['), stack.find('['));
    in_order(
        &keys(&smaps_block(&read(&t, "/self/smaps").unwrap())),
        &keys(&smaps_block(&host("self/smaps"))),
    );
    let rollup = |s: &str| smaps_block(s);
    in_order(
        &keys(&rollup(&read(&t, "/self/smaps_rollup").unwrap())),
        &keys(&rollup(&host("self/smaps_rollup"))),
    );
    assert_eq!(read(&t, "/self/statm").unwrap().split_whitespace().count(), 7);
    let mem = open_file(&t, "/self/mem", libc::O_RDWR).unwrap();
    let mut s = uml_core::io::VecSink::new(4);
    assert_eq!(mem.read_at(&t, 0x7ff0_0000_0000, &mut s), Ok(4));
    assert_eq!(s.data, b"prog");
    let new = &mut uml_core::io::BufSource::new(b"PROG");
    assert_eq!(mem.write_at(&t, 0x7ff0_0000_0000, new), Ok(4));
    assert!(read(&t, "/self/cmdline").unwrap().starts_with("PROG\0"));
    assert_eq!(mem.read_at(&t, 16, &mut uml_core::io::VecSink::new(1)), Err(EIO));
}

/// The lines after the first address line, up to the next.
fn smaps_block(text: &str) -> String {
    text.lines()
        .skip(1)
        .take_while(|l| !l.contains(" 00000000 ") && !l.contains("-"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn titles_over_the_arguments_are_shown() {
    let (k, ns, _init) = machine(b"");
    let t = process(&k, &ns, 13, 1, Cred::root());
    program(&t);
    let mm = t.mm().unwrap();
    mm.write(0x7ff0_0000_0000, b"daemon: serving many clients\0").unwrap();
    assert_eq!(read(&t, "/self/cmdline").unwrap(), "daemon: serving many clients\0");
}

#[test]
fn others_may_not_look_inside() {
    let (k, ns, _init) = machine(b"");
    let a = process(&k, &ns, 20, 1, user(1000));
    let b = process(&k, &ns, 21, 1, user(1001));
    program(&a);
    for f in ["maps", "smaps"] {
        assert_eq!(read(&b, &format!("/20/{f}")), Err(EACCES), "{f}");
        assert!(read(&a, &format!("/20/{f}")).is_ok());
    }
    for f in ["environ", "auxv", "io", "mem", "fd"] {
        assert_eq!(open_file(&b, &format!("/20/{f}"), libc::O_RDONLY).err(), Some(EACCES), "{f}");
        assert!(open_file(&a, &format!("/20/{f}"), libc::O_RDONLY).is_ok(), "{f}");
    }
    for l in ["cwd", "root", "exe", "ns/mnt"] {
        assert!(matches!(readlink(&b, &format!("/20/{l}")), Err(EACCES)), "{l}");
    }
    // What is public stays public, without addresses.
    let stat = read(&b, "/20/stat").unwrap();
    assert!(stat.contains(" 1 1 0 0 0 "), "{stat}");
    assert_eq!(read(&b, "/20/cmdline").unwrap(), "prog\0-v\0two words\0");
    assert_eq!(stat_of(&a, "/20/environ"), (1000, 0o400));
    // A program that may not be dumped belongs to root, and still sees its descriptors.
    a.process.dumpable.store(0, Ordering::Relaxed);
    assert_eq!(stat_of(&a, "/20/environ"), (0, 0o400));
    assert_eq!(read(&a, "/self/environ"), Err(EACCES));
    assert!(open_file(&a, "/self/fd", libc::O_RDONLY).is_ok());
    assert!(open_file(&a, "/self/map_files", libc::O_RDONLY).is_ok());
    let c = process(&k, &ns, 22, 1, user(1000));
    assert_eq!(read(&c, "/20/environ"), Err(EACCES));
    assert_eq!(read(&c, "/20/maps"), Err(EACCES));
}

fn stat_of(t: &Arc<Task>, path: &str) -> (u32, u32) {
    let m = common::stat(t, path).unwrap();
    (m.uid, m.mode & 0o7777)
}

#[test]
fn hidepid_hides() {
    for (options, entry, list_sees) in [
        ("hidepid=0", Ok(()), true),
        ("hidepid=1", Err(EPERM), true),
        ("hidepid=invisible", Err(ENOENT), false),
        ("hidepid=2,gid=1001", Ok(()), true),
        ("hidepid=4,gid=1001", Err(ENOENT), false),
    ] {
        let (k, ns, init) = machine(options.as_bytes());
        process(&k, &ns, 20, 1, user(1000));
        let b = process(&k, &ns, 21, 1, user(1001));
        assert_eq!(read(&b, "/20/stat").map(|_| ()), entry, "{options}");
        assert_eq!(list(&b, "/").unwrap().iter().any(|n| n == "20"), list_sees, "{options}");
        assert!(read(&b, "/self/stat").is_ok(), "{options}");
        assert!(read(&init, "/20/stat").is_ok(), "{options}");
    }
    let k = kernel();
    let p = uml_procfs::register(&k);
    for bad in ["hidepid=3", "gid=x", "nonsense"] {
        assert_eq!(p.instance(&k, bad.as_bytes()).err(), Some(EINVAL), "{bad}");
    }
}

#[test]
fn descriptors_are_links_to_their_files() {
    let (k, ns, _init) = machine(b"");
    let t = process(&k, &ns, 30, 1, Cred::root());
    let f = open_file(&t, "/version", libc::O_RDONLY).unwrap();
    f.seek(5, libc::SEEK_SET).unwrap();
    let fd = t.install_fd(f.clone(), true).unwrap();
    assert_eq!(list(&t, "/self/fd").unwrap(), [fd.to_string()]);
    assert_eq!(readlink(&t, &format!("/self/fd/{fd}")).unwrap(), "/version");
    let m = uml_core::vfs::lookup(&t, &uml_core::vfs::DirFd::Cwd, b"/self/fd/0", 0).unwrap();
    assert_eq!(m.metadata().unwrap().mode & 0o777, 0o500);
    assert!(read(&t, "/self/fd/0").unwrap().starts_with("Linux version"));
    let info = read(&t, "/self/fdinfo/0").unwrap();
    assert!(info.starts_with("pos:\t5\nflags:\t02100000\nmnt_id:\t"), "{info}");
    in_order(&keys(&info), &keys(&host("self/fdinfo/0")));
    assert_eq!(readlink(&t, "/self/fd/1"), Err(ENOENT));
    assert_eq!(readlink(&t, "/self/fd/00"), Err(ENOENT));
    // The file that is read may be the one that is described.
    let own = open_file(&t, "/self/fdinfo/0", libc::O_RDONLY).unwrap();
    let n = t.files().replace(0, own.clone(), false, 1024).unwrap();
    drop(n);
    assert!(own.read(&t, &mut uml_core::io::VecSink::new(100)).is_ok());
}

#[test]
fn zombies_keep_name_and_owner() {
    let (k, ns, init) = machine(b"");
    let t = process(&k, &ns, 40, 1, user(1000));
    {
        let mut tree = k.tree.write();
        tree.remove_thread(&t);
        tree.get_mut(40).unwrap().state = ChildState::Zombie(0x100);
    }
    drop(t);
    let stat = read(&init, "/40/stat").unwrap();
    assert!(stat.starts_with("40 (test prog) Z 1 "), "{stat}");
    assert!(stat.ends_with(" 256\n"), "{stat}");
    let status = read(&init, "/40/status").unwrap();
    assert!(status.contains("State:\tZ (zombie)\n") && status.contains("Uid:\t1000\t"), "{status}");
    assert!(!status.contains("VmSize"));
    assert_eq!(read(&init, "/40/cmdline").unwrap(), "");
    assert_eq!(read(&init, "/40/maps").unwrap(), "");
    assert_eq!(readlink(&init, "/40/exe"), Err(ENOENT));
    let held = open_file(&init, "/40/stat", libc::O_RDONLY).unwrap();
    k.tree.write().remove_process(40);
    assert_eq!(held.read(&init, &mut uml_core::io::VecSink::new(9)), Err(ESRCH));
    assert_eq!(read(&init, "/40/stat"), Err(ENOENT));
    // A new process of that pid is another directory.
    process(&k, &ns, 40, 1, Cred::root());
    assert!(read(&init, "/40/stat").unwrap().starts_with("40 (test prog) R "));
    assert_eq!(held.read(&init, &mut uml_core::io::VecSink::new(9)), Err(ESRCH));
}

#[test]
fn mounts_are_shown_as_the_host_shows_its_own() {
    let (_k, _ns, init) = machine(b"hidepid=2");
    assert_eq!(read(&init, "/mounts").unwrap(), "test / proc rw,hidepid=invisible 0 0\n");
    let ours = read(&init, "/self/mountinfo").unwrap();
    let w: Vec<_> = ours.split_whitespace().collect();
    assert_eq!(w[3..5], ["/", "/"]);
    assert_eq!(w[6..], ["-", "proc", "test", "rw,hidepid=invisible"]);
    let theirs = host("self/mountinfo");
    let shape = |l: &str| l.split(" - ").nth(1).unwrap().split_whitespace().count();
    assert_eq!(shape(&ours), shape(theirs.lines().next().unwrap()));
}

#[test]
fn written_values_take_effect_or_are_refused() {
    let (k, ns, init) = machine(b"");
    let u = process(&k, &ns, 50, 1, user(1000));
    program(&u);
    assert_eq!(write(&init, "/exitcode", "0x17\n"), Ok(5));
    assert_eq!(k.exit_code.load(Ordering::Relaxed), 0x17);
    assert_eq!(write(&init, "/exitcode", "seven"), Err(EINVAL));
    assert_eq!(read(&init, "/exitcode").unwrap(), "23\n");
    assert_eq!(write(&u, "/exitcode", "1"), Err(EACCES));
    assert_eq!(write(&u, "/self/comm", "renamed"), Ok(7));
    assert_eq!(u.comm(), b"renamed");
    assert_eq!(write(&init, "/50/comm", "x"), Err(EINVAL));
    assert_eq!(write(&u, "/self/oom_score_adj", "500"), Ok(3));
    assert_eq!(write(&u, "/self/oom_score_adj", "0"), Err(EACCES));
    assert_eq!(write(&u, "/self/oom_score_adj", "1001"), Err(EINVAL));
    assert_eq!(read(&u, "/self/oom_score_adj").unwrap(), "500\n");
    assert_eq!(read(&u, "/self/loginuid").unwrap(), "4294967295");
    assert_eq!(write(&u, "/self/loginuid", "1000"), Ok(4));
    assert_eq!(write(&u, "/self/loginuid", "0"), Err(EPERM));
    assert_eq!(read(&u, "/self/loginuid").unwrap(), "1000");
    assert_eq!(write(&init, "/self/uid_map", "0 0 1"), Err(EPERM));
    assert_eq!(write(&init, "/sysrq-trigger", "h"), Err(EIO));
}

#[test]
fn namespaces_have_numbers() {
    let (k, ns, init) = machine(b"");
    let t = process(&k, &ns, 60, 1, Cred::root());
    assert_eq!(readlink(&t, "/self/ns/uts").unwrap(), "uts:[4026531838]");
    let m = common::stat(&t, "/self/ns/uts").unwrap();
    assert_eq!(m.ino, 4_026_531_838);
    let a = common::stat(&t, "/self/ns/mnt").unwrap().ino;
    assert_eq!(a, common::stat(&init, "/1/ns/mnt").unwrap().ino);
    assert_eq!(readlink(&t, "/self/ns/mnt").unwrap(), format!("mnt:[{a}]"));
    let f = open_file(&t, "/self/ns/mnt", libc::O_RDONLY).unwrap();
    assert!(f.downcast::<uml_core::ns::nsfs::NsFile>().is_some_and(|n| n.ns.id() == a));
}

#[test]
fn settings_are_read_written_and_checked() {
    let (k, ns, init) = machine(b"");
    let u = process(&k, &ns, 70, 1, user(1000));
    assert_eq!(write(&init, "/sys/kernel/hostname", "guest\n"), Ok(6));
    assert_eq!(*k.namespaces.uts.hostname.lock(), b"guest");
    assert_eq!(read(&u, "/sys/kernel/hostname").unwrap(), "guest\n");
    assert_eq!(write(&u, "/sys/kernel/hostname", "mine"), Err(EACCES));
    assert_eq!(read(&init, "/sys/kernel/sem").unwrap(), "32000\t1024000000\t500\t32000\n");
    assert_eq!(write(&init, "/sys/kernel/sem", "100 200\n"), Ok(8));
    assert_eq!(read(&init, "/sys/kernel/sem").unwrap(), "100\t200\t500\t32000\n");
    assert_eq!(write(&init, "/sys/vm/swappiness", "201"), Err(EINVAL));
    assert_eq!(write(&init, "/sys/vm/swappiness", "x"), Err(EINVAL));
    assert_eq!(write(&init, "/sys/vm/swappiness", "7\n"), Ok(2));
    assert_eq!(k.sysctl.vm_swappiness.get(), 7);
    assert_eq!(write(&init, "/sys/kernel/printk", "4 4 1 7"), Ok(7));
    assert_eq!(k.console_level(), 4);
    assert_eq!(write(&init, "/sys/fs/protected_symlinks", "1"), Ok(1));
    assert_eq!(k.vfs.protection.symlinks.load(Ordering::Relaxed), 1);
    assert_eq!(write(&init, "/sys/fs/protected_symlinks", "2"), Err(EINVAL));
    assert_eq!(write(&init, "/sys/kernel/ostype", "BSD"), Err(EIO));
    assert_eq!(read(&init, "/sys/vm/drop_caches"), Err(EIO));
    let boot = read(&init, "/sys/kernel/random/boot_id").unwrap();
    assert_eq!(boot, read(&u, "/sys/kernel/random/boot_id").unwrap());
    assert_ne!(boot, read(&init, "/sys/kernel/random/uuid").unwrap());
    assert_eq!(boot.len(), host("sys/kernel/random/boot_id").len());
    assert_eq!(read(&init, "/sys/fs/file-nr").unwrap().split('\t').count(), 3);
}

#[test]
fn settings_exist_as_on_the_host_with_the_same_shape() {
    let (_k, _ns, init) = machine(b"");
    let mut checked = 0;
    for dir in
        ["kernel", "kernel/random", "vm", "fs", "fs/inotify", "fs/epoll", "fs/mqueue", "net/core"]
    {
        for name in list(&init, &format!("/sys/{dir}")).unwrap() {
            let path = format!("sys/{dir}/{name}");
            let Ok(theirs) = std::fs::read(format!("/proc/{path}")) else { continue };
            let ours = read(&init, &format!("/{path}")).unwrap();
            let theirs = String::from_utf8_lossy(&theirs).into_owned();
            let is_number = |s: &str| s.split_whitespace().all(|w| w.parse::<u64>().is_ok());
            if is_number(&theirs) {
                assert!(is_number(&ours), "{path}: {ours}");
                assert_eq!(ours.split('\t').count(), theirs.split('\t').count(), "{path}");
            }
            checked += 1;
        }
    }
    assert!(checked > 60, "{checked}");
}

#[test]
fn other_subsystems_add_files() {
    let k = kernel();
    let proc = uml_procfs::register(&k);
    let sb = proc.instance(&k, b"").unwrap();
    let ns = namespace(&k, sb);
    let init = process(&k, &ns, 1, 0, Cred::root());
    let text = |s: &'static str| {
        uml_procfs::synth::TextFn::new(move |_, out| {
            out.raw(s.as_bytes());
            Ok(())
        })
    };
    proc.sources.add_sysctl("net/ipv4/conf/all/forwarding", 0o644, text("0\n"));
    proc.sources.add_net("igmp", 0o444, text("igmp\n"));
    proc.sources.add_file("mconsole", 0o200, uml_procfs::synth::TextFn::command(|_, _| Ok(())));
    assert_eq!(list(&init, "/sys/net").unwrap(), ["core", "ipv4", "unix"]);
    assert_eq!(read(&init, "/sys/net/ipv4/conf/all/forwarding").unwrap(), "0\n");
    assert_eq!(read(&init, "/net/igmp").unwrap(), "igmp\n");
    assert_eq!(write(&init, "/mconsole", "hello"), Ok(5));
    assert!(list(&init, "/").unwrap().contains(&"mconsole".to_string()));
}
