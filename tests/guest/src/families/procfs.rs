//! What programs read in /proc: of the process itself, of others, and of the system.

use crate::sys::*;
use crate::{c, cases};

cases! {
    self_links, status_fields, stat_fields, statm_and_maps, cmdline_environ, fd_and_fdinfo, task_directory, other_processes, mem_file, oom_and_misc, system_files,
    sys_kernel, mounts_and_filesystems, exe_cwd_root, directory_listing, dev_tree, smaps_consistent, wait_for_exit, permissions_user, thread_self, named_by_thread, leader_gone, big_reads,
}

fn text(p: &str) -> String {
    std::fs::read_to_string(p).unwrap_or_else(|e| panic!("{p}: {e}"))
}

fn exists(p: &str) -> bool {
    std::fs::metadata(p).is_ok()
}

fn self_links() {
    say(
        "self",
        std::fs::read_link("/proc/self").unwrap().to_str().unwrap() == getpid().to_string(),
    );
    let s = in_child(|| {
        (std::fs::read_link("/proc/self").unwrap().to_str().unwrap() == getpid().to_string()) as i32
    });
    say("in a child", s);
    say(
        "thread-self",
        std::fs::read_link("/proc/thread-self").unwrap().to_str().unwrap()
            == format!("{0}/task/{0}", getpid()),
    );
    say("mounts", std::fs::read_link("/proc/mounts").unwrap().display());
    say("net", std::fs::read_link("/proc/net").unwrap().display());
}

fn status_fields() {
    let t = text("/proc/self/status");
    let keys: Vec<&str> = t.lines().filter_map(|l| l.split_once(':').map(|(k, _)| k)).collect();
    for k in [
        "Name",
        "Umask",
        "State",
        "Tgid",
        "Ngid",
        "Pid",
        "PPid",
        "TracerPid",
        "Uid",
        "Gid",
        "FDSize",
        "Groups",
        "NStgid",
        "NSpid",
        "NSpgid",
        "NSsid",
        "VmPeak",
        "VmSize",
        "VmLck",
        "VmPin",
        "VmHWM",
        "VmRSS",
        "RssAnon",
        "RssFile",
        "RssShmem",
        "VmData",
        "VmStk",
        "VmExe",
        "VmLib",
        "VmPTE",
        "VmSwap",
        "Threads",
        "SigQ",
        "SigPnd",
        "ShdPnd",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Cpus_allowed",
        "Cpus_allowed_list",
        "voluntary_ctxt_switches",
        "nonvoluntary_ctxt_switches",
    ] {
        say(k, keys.contains(&k));
    }
    let f = |k: &str| {
        t.lines()
            .find(|l| l.starts_with(&format!("{k}:")))
            .map(|l| l[k.len() + 1..].trim().to_string())
            .unwrap_or_default()
    };
    say("state", f("State"));
    say("pid and tgid", f("Pid") == getpid().to_string() && f("Tgid") == f("Pid"));
    say("ppid", f("PPid") == unsafe { libc::getppid() }.to_string());
    mask(libc::SIG_BLOCK, &[libc::SIGUSR1]);
    set_action(libc::SIGUSR2, libc::SIG_IGN);
    unsafe { libc::raise(libc::SIGUSR1) };
    let t = text("/proc/self/status");
    let f = |k: &str| {
        t.lines()
            .find(|l| l.starts_with(&format!("{k}:")))
            .map(|l| l[k.len() + 1..].trim().to_string())
            .unwrap_or_default()
    };
    say("blocked", f("SigBlk"));
    // Of the standard signals: who started us may ignore real-time ones.
    let ignored = u64::from_str_radix(&f("SigIgn"), 16).unwrap();
    say("ignored", format!("{:x}", ignored & 0x7fff_ffff));
    say("pending", f("SigPnd"));
    unsafe { libc::umask(0o137) };
    say(
        "umask",
        text("/proc/self/status")
            .lines()
            .find(|l| l.starts_with("Umask"))
            .unwrap()
            .replace('\t', " "),
    );
}

fn stat_fields() {
    unsafe { libc::prctl(libc::PR_SET_NAME, c"odd) (name".as_ptr()) };
    let t = text("/proc/self/stat");
    let open_p = t.find('(').unwrap();
    let close_p = t.rfind(')').unwrap();
    say("pid", t[..open_p - 1] == getpid().to_string());
    say("comm", &t[open_p..=close_p]);
    let f: Vec<&str> = t[close_p + 2..].split_whitespace().collect();
    say("fields", f.len() + 2);
    say("all numbers after the state", f[1..].iter().all(|v| v.parse::<i128>().is_ok()));
    say("state", f[0]);
    say(
        "ppid pgrp session",
        f[1] == unsafe { libc::getppid() }.to_string()
            && f[2] == unsafe { libc::getpgrp() }.to_string()
            && f[3] == getpid().to_string(),
    );
    say("no terminal", format!("{} {}", f[4], f[5]));
    say("threads", f[17]);
    say("start is not after now", {
        let up: f64 = text("/proc/uptime").split(' ').next().unwrap().parse().unwrap();
        f[19].parse::<f64>().unwrap() / 100.0 <= up + 0.02
    });
    say("vsize and rss", f[20].parse::<u64>().unwrap() > 0 && f[21].parse::<i64>().unwrap() > 0);
    say("nice", f[16]);
    say("exit signal", f[35]);
}

fn statm_and_maps() {
    let t = text("/proc/self/statm");
    let f: Vec<u64> = t.split_whitespace().map(|v| v.parse().unwrap()).collect();
    say("statm fields", f.len());
    say("size over resident over shared", f[0] >= f[1] && f[1] >= f[2]);
    let here = statm_and_maps as *const () as u64;
    let find = |a: u64, t: &str| {
        t.lines()
            .find(|l| {
                let (x, y) = l.split(' ').next().unwrap().split_once('-').unwrap();
                (u64::from_str_radix(x, 16).unwrap()..u64::from_str_radix(y, 16).unwrap())
                    .contains(&a)
            })
            .map(String::from)
    };
    let m = text("/proc/self/maps");
    let l = find(here, &m).unwrap();
    let w: Vec<&str> = l.split_whitespace().collect();
    say("own code", w[1]);
    say(
        "named by the program",
        w[5] == std::fs::read_link("/proc/self/exe").unwrap().to_str().unwrap(),
    );
    let x = 5u8;
    say("own stack", find(&raw const x as u64, &m).unwrap().ends_with("[stack]"));
    let h = Box::new(7u64);
    say("own heap", find(&raw const *h as u64, &m).unwrap().contains("rw-p"));
    let total: u64 = m
        .lines()
        .filter(|l| !l.ends_with("[vsyscall]"))
        .map(|l| {
            let (x, y) = l.split(' ').next().unwrap().split_once('-').unwrap();
            u64::from_str_radix(y, 16).unwrap() - u64::from_str_radix(x, 16).unwrap()
        })
        .sum();
    let now = text("/proc/self/statm").split(' ').next().unwrap().parse::<u64>().unwrap() * 4096;
    // The heap may grow between the two readings.
    say("maps add up to the size", total.abs_diff(now) <= 1 << 20);
    say(
        "columns",
        m.lines().all(|l| {
            l.as_bytes().iter().filter(|b| **b == b'-').count() >= 1
                && l.split_whitespace().count() >= 5
        }),
    );
}

fn cmdline_environ() {
    let s = in_child(|| {
        let sh = c"/bin/sh".as_ptr();
        let script =
            c"tr '\\0' '|' </proc/self/cmdline; echo; tr '\\0' '|' </proc/$$/environ; echo";
        unsafe {
            libc::execve(
                sh,
                [sh, c"-c".as_ptr(), script.as_ptr(), c"a b".as_ptr(), std::ptr::null()].as_ptr(),
                [c"X=1".as_ptr(), c"PATH=/bin:/usr/bin".as_ptr(), std::ptr::null()].as_ptr(),
            )
        }
    });
    say("shell", s);
    let pid = child(|| {
        unsafe {
            libc::execl(
                c"/bin/sleep".as_ptr(),
                c"my-sleep".as_ptr(),
                c"1000".as_ptr(),
                std::ptr::null::<libc::c_char>(),
            )
        };
        1
    });
    while !std::fs::read(format!("/proc/{pid}/cmdline")).unwrap().starts_with(b"my-sleep") {
        pause_poll();
    }
    say("another's comm", text(&format!("/proc/{pid}/comm")).trim());
    say("another's cmdline", quoted(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap()));
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    say(
        "another's exe",
        exe.ends_with("sleep") || exe.ends_with("busybox") || exe.ends_with("coreutils"),
    );
    unsafe { libc::kill(pid, libc::SIGKILL) };
    reap(pid);
}

fn fd_and_fdinfo() {
    put("file", b"");
    let f = open("file", libc::O_RDWR).fd();
    let (r, _w) = pipe();
    let mut sv = [0; 2];
    unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, sv.as_mut_ptr()) };
    let link = |fd: i32| {
        std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().to_str().unwrap().to_string()
    };
    say("file", link(f).ends_with("/file"));
    say("pipe", link(r).starts_with("pipe:["));
    say("socket", link(sv[0]).starts_with("socket:["));
    say("inode in the link is the file's", {
        let mut st: libc::stat = unsafe { std::mem::zeroed() };
        unsafe { libc::fstat(r, &mut st) };
        link(r) == format!("pipe:[{}]", st.st_ino)
    });
    say("mode of the link tells the access", {
        use std::os::unix::fs::MetadataExt;
        let m = |fd: i32| {
            std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).unwrap().mode() & 0o777
        };
        format!("{:o} {:o}", m(f), m(r))
    });
    let mut n: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|e| e.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    n.sort();
    say("listed", n.contains(&f) && n.contains(&r) && n.contains(&0));
    say(
        "fdinfo keys",
        text(&format!("/proc/self/fdinfo/{f}"))
            .lines()
            .map(|l| l.split(':').next().unwrap())
            .collect::<Vec<_>>()
            .join(" "),
    );
    say("open through a socket's link", crate::sys::open(&format!("/proc/self/fd/{}", sv[0]), 0));
    say(
        "missing",
        std::fs::read_link("/proc/self/fd/999")
            .map_err(|e| errno_name(e.raw_os_error().unwrap()))
            .unwrap_err(),
    );
}

fn task_directory() {
    let w: &'static [std::sync::atomic::AtomicI32; 64] = shared_words();
    let ts: Vec<_> = (0..3)
        .map(|i| {
            std::thread::Builder::new()
                .name(format!("worker-{i}"))
                .spawn(move || {
                    publish(&w[i], gettid());
                    await_change(&w[10], 0);
                })
                .unwrap()
        })
        .collect();
    for word in &w[..3] {
        await_change(word, 0);
    }
    let mut names: Vec<String> = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|e| text(&format!("{}/comm", e.unwrap().path().display())).trim().to_string())
        .collect();
    names.sort();
    names.retain(|n| n.starts_with("worker"));
    say("names", names.join(" "));
    let tid = w[0].load(std::sync::atomic::Ordering::SeqCst);
    await_state(getpid(), tid, "S");
    say(
        "status of a thread: tgid is the process",
        text(&format!("/proc/self/task/{tid}/status")).contains(&format!("Tgid:\t{}", getpid())),
    );
    say("a thread is reachable by its id", exists(&format!("/proc/{tid}/status")));
    say(
        "but not listed",
        !std::fs::read_dir("/proc")
            .unwrap()
            .any(|e| e.unwrap().file_name().to_str() == Some(&tid.to_string())),
    );
    publish(&w[10], 1);
    for t in ts {
        t.join().unwrap();
    }
}

fn other_processes() {
    let pid = child(|| {
        loop {
            unsafe { libc::pause() };
        }
    });
    await_sleep(pid);
    let d = format!("/proc/{pid}");
    say(
        "listed",
        std::fs::read_dir("/proc")
            .unwrap()
            .any(|e| e.unwrap().file_name().to_str() == Some(&pid.to_string())),
    );
    say(
        "state",
        text(&format!("{d}/status"))
            .lines()
            .find(|l| l.starts_with("State"))
            .unwrap()
            .replace('\t', " "),
    );
    say("parent is this", text(&format!("{d}/status")).contains(&format!("PPid:\t{}\n", getpid())));
    say(
        "children lists it",
        text(&format!("/proc/self/task/{}/children", getpid())).contains(&pid.to_string()),
    );
    let dir = crate::sys::open(&d, libc::O_RDONLY | libc::O_DIRECTORY).fd();
    unsafe { libc::kill(pid, libc::SIGSTOP) };
    wait_opt(pid, libc::WUNTRACED);
    say(
        "stopped",
        text(&format!("{d}/status"))
            .lines()
            .find(|l| l.starts_with("State"))
            .unwrap()
            .replace('\t', " "),
    );
    unsafe { libc::kill(pid, libc::SIGKILL) };
    await_state(pid, pid, "Z");
    say(
        "zombie",
        text(&format!("{d}/status"))
            .lines()
            .find(|l| l.starts_with("State"))
            .unwrap()
            .replace('\t', " "),
    );
    say(
        "zombie has no memory",
        text(&format!("{d}/maps")).is_empty() && !text(&format!("{d}/status")).contains("VmSize"),
    );
    reap(pid);
    say("gone", !exists(&d));
    say("through an open directory", c!(libc::openat(dir, c"status".as_ptr(), 0)));
}

fn mem_file() {
    let x = [1u8, 2, 3, 4];
    let fd = crate::sys::open("/proc/self/mem", libc::O_RDWR).fd();
    let mut b = [0u8; 4];
    say("read", c!(libc::pread(fd, b.as_mut_ptr().cast(), 4, x.as_ptr() as i64)));
    say("same", b == x);
    let mut y = [0u8; 4];
    say("write", c!(libc::pwrite(fd, x.as_ptr().cast(), 4, y.as_mut_ptr() as i64)));
    say("written", *std::hint::black_box(&y) == x);
    say("unmapped", c!(libc::pread(fd, b.as_mut_ptr().cast(), 4, 4096)));
    let pid = child(|| {
        loop {
            unsafe { libc::pause() };
        }
    });
    let cfd = crate::sys::open(&format!("/proc/{pid}/mem"), libc::O_RDONLY);
    say("child's", cfd.ok());
    say("read", c!(libc::pread(cfd.fd(), b.as_mut_ptr().cast(), 4, x.as_ptr() as i64)));
    unsafe { libc::kill(pid, libc::SIGKILL) };
    reap(pid);
    say("after its end", c!(libc::pread(cfd.fd(), b.as_mut_ptr().cast(), 4, x.as_ptr() as i64)));
}

fn oom_and_misc() {
    say("oom_score_adj", text("/proc/self/oom_score_adj").trim());
    say("set 500", std::fs::write("/proc/self/oom_score_adj", "500").is_ok());
    say("read back", text("/proc/self/oom_score_adj").trim());
    say(
        "beyond 1000",
        std::fs::write("/proc/self/oom_score_adj", "1001")
            .map_err(|e| errno_name(e.raw_os_error().unwrap()))
            .unwrap_err(),
    );
    say("inherited", in_child(|| (text("/proc/self/oom_score_adj").trim() == "500") as i32));
    say(
        "coredump_filter",
        u32::from_str_radix(text("/proc/self/coredump_filter").trim(), 16).is_ok(),
    );
    say("personality", text("/proc/self/personality").trim());
    say("loginuid or sessionid readable or absent", true);
    say("cgroup", text("/proc/self/cgroup").lines().all(|l| l.split(':').count() >= 3));
    say("uid_map", text("/proc/self/uid_map").split_whitespace().count() % 3);
    say(
        "limits header",
        text("/proc/self/limits")
            .lines()
            .next()
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "),
    );
    say("limits lines", text("/proc/self/limits").lines().count());
    let io: Vec<String> =
        text("/proc/self/io").lines().map(|l| l.split(':').next().unwrap().into()).collect();
    say("io", io.join(" "));
    let mut ns: Vec<String> = std::fs::read_dir("/proc/self/ns")
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    ns.sort();
    say("ns", ns.join(" "));
    say(
        "ns link",
        std::fs::read_link("/proc/self/ns/uts").unwrap().to_str().unwrap().starts_with("uts:["),
    );
}

fn system_files() {
    let up = text("/proc/uptime");
    say(
        "uptime",
        up.split_whitespace().count() == 2
            && up.split_whitespace().all(|v| v.parse::<f64>().is_ok()),
    );
    let l = text("/proc/loadavg");
    say("loadavg fields", l.split_whitespace().count());
    let m = text("/proc/meminfo");
    for k in [
        "MemTotal",
        "MemFree",
        "MemAvailable",
        "Buffers",
        "Cached",
        "SwapTotal",
        "SwapFree",
        "Shmem",
        "Committed_AS",
        "AnonPages",
        "Mapped",
        "Slab",
        "Dirty",
    ] {
        say(k, m.lines().any(|l| l.starts_with(&format!("{k}:")) && l.ends_with(" kB")));
    }
    let s = text("/proc/stat");
    let n = std::fs::read_to_string("/proc/cpuinfo")
        .unwrap()
        .lines()
        .filter(|l| l.starts_with("processor"))
        .count();
    say(
        "a cpu line for each processor",
        s.lines().filter(|l| l.starts_with("cpu") && !l.starts_with("cpu ")).count() == n,
    );
    say("cpu columns", s.lines().next().unwrap().split_whitespace().count());
    for k in ["intr", "ctxt", "btime", "processes", "procs_running", "procs_blocked", "softirq"] {
        say(k, s.lines().any(|l| l.starts_with(&format!("{k} "))));
    }
    say("boot time is now less uptime", {
        let b: f64 = s
            .lines()
            .find(|l| l.starts_with("btime"))
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        let u: f64 = text("/proc/uptime").split(' ').next().unwrap().parse().unwrap();
        (b + u - now).abs() < 3.0
    });
    say("version", text("/proc/version").starts_with("Linux version "));
    let c = text("/proc/cpuinfo");
    for k in ["processor", "vendor_id", "model name", "cpu MHz", "flags", "bogomips"] {
        say(k, c.lines().any(|l| l.starts_with(k)));
    }
    say(
        "sse2 among the flags",
        c.lines().find(|l| l.starts_with("flags")).unwrap().split_whitespace().any(|f| f == "sse2"),
    );
    for f in [
        "cmdline",
        "filesystems",
        "devices",
        "interrupts",
        "partitions",
        "diskstats",
        "vmstat",
        "swaps",
        "misc",
        "locks",
        "sysvipc/shm",
        "sysvipc/sem",
        "sysvipc/msg",
    ] {
        say(f, std::fs::read(format!("/proc/{f}")).is_ok());
    }
    say(
        "net files",
        ["dev", "unix", "tcp", "udp", "route", "if_inet6", "snmp"]
            .iter()
            .filter(|f| exists(&format!("/proc/net/{f}")))
            .count()
            >= 2,
    );
}

fn sys_kernel() {
    let num = |f: &str| text(&format!("/proc/sys/{f}")).trim().parse::<i64>().is_ok();
    for f in [
        "kernel/pid_max",
        "kernel/threads-max",
        "kernel/ngroups_max",
        "kernel/cap_last_cap",
        "kernel/shmmni",
        "kernel/msgmni",
        "fs/file-max",
        "fs/nr_open",
        "fs/pipe-max-size",
        "fs/mqueue/msg_max",
        "fs/inotify/max_user_watches",
        "vm/overcommit_memory",
        "vm/max_map_count",
        "vm/swappiness",
        "kernel/randomize_va_space",
    ] {
        say(f, num(f));
    }
    say("ostype", text("/proc/sys/kernel/ostype").trim());
    say("hostname", !text("/proc/sys/kernel/hostname").trim().is_empty());
    let id = text("/proc/sys/kernel/random/boot_id");
    say(
        "boot_id is stable",
        id == text("/proc/sys/kernel/random/boot_id") && id.trim().len() == 36,
    );
    say(
        "uuid is new each time",
        text("/proc/sys/kernel/random/uuid") != text("/proc/sys/kernel/random/uuid"),
    );
    if unsafe { libc::geteuid() } != 0 {
        say("write as user", crate::sys::open("/proc/sys/kernel/hostname", libc::O_WRONLY));
    }
    say(
        "pid_max bounds pids",
        getpid() as i64 <= text("/proc/sys/kernel/pid_max").trim().parse::<i64>().unwrap(),
    );
}

fn mounts_and_filesystems() {
    let m = text("/proc/self/mounts");
    say("mounts columns", m.lines().all(|l| l.split_whitespace().count() == 6));
    let i = text("/proc/self/mountinfo");
    say("mountinfo has a separator", i.lines().all(|l| l.contains(" - ")));
    say("same number", m.lines().count() == i.lines().count());
    say("root", i.lines().any(|l| l.split_whitespace().nth(4) == Some("/")));
    say(
        "proc is proc",
        m.lines().any(|l| {
            l.split_whitespace().nth(1) == Some("/proc")
                && l.split_whitespace().nth(2) == Some("proc")
        }),
    );
    let f = text("/proc/filesystems");
    for k in ["proc", "tmpfs", "devpts", "sysfs", "ext4"] {
        say(k, f.lines().any(|l| l.split_whitespace().last() == Some(k)));
    }
    say("nodev marked", f.lines().any(|l| l == "nodev\tproc"));
}

fn exe_cwd_root() {
    let cwd = std::env::current_dir().unwrap();
    say("cwd", std::fs::read_link("/proc/self/cwd").unwrap() == cwd);
    say("root", std::fs::read_link("/proc/self/root").unwrap().display());
    put("x", b"via cwd");
    say("file through the link", get("/proc/self/cwd/x"));
    say("root link", exists("/proc/self/root/etc/passwd"));
}

fn directory_listing() {
    let mut n: Vec<String> = std::fs::read_dir("/proc/self")
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    n.sort();
    for k in [
        "auxv",
        "cgroup",
        "cmdline",
        "comm",
        "cwd",
        "environ",
        "exe",
        "fd",
        "fdinfo",
        "limits",
        "maps",
        "mem",
        "mountinfo",
        "mounts",
        "ns",
        "oom_score",
        "root",
        "stat",
        "statm",
        "status",
        "task",
    ] {
        say(k, n.iter().any(|x| x == k));
    }
    say("pids ascend", {
        let p: Vec<i32> = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|e| e.unwrap().file_name().to_str().unwrap().parse().ok())
            .collect();
        p.is_sorted() && p.contains(&getpid()) && p.contains(&1)
    });
    say("create", crate::sys::open("/proc/new-file", libc::O_CREAT | libc::O_WRONLY).is_ok());
    say("mkdir", c!(libc::mkdir(c"/proc/new-dir".as_ptr(), 0o755)));
    say("unlink", c!(libc::unlink(c"/proc/version".as_ptr())).is_ok());
    say("pid that is not there", crate::sys::open("/proc/4194304/status", 0));
    say("leading zero is not a pid", crate::sys::open(&format!("/proc/0{}/status", getpid()), 0));
}

fn dev_tree() {
    for (p, major, minor) in [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ] {
        use std::os::unix::fs::MetadataExt;
        let m = std::fs::metadata(format!("/dev/{p}")).unwrap();
        say(
            p,
            libc::major(m.rdev()) == major
                && libc::minor(m.rdev()) == minor
                && m.mode() & 0o666 == 0o666,
        );
    }
    for (l, t) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        say(l, std::fs::read_link(format!("/dev/{l}")).unwrap().to_str().unwrap() == t);
    }
    for d in ["pts", "shm"] {
        say(d, std::fs::metadata(format!("/dev/{d}")).is_ok_and(|m| m.is_dir()));
    }
    say("shm is writable by all", {
        let n = format!("/dev/shm/gt-{}", getpid());
        let ok = std::fs::write(&n, b"x").is_ok();
        let _ = std::fs::remove_file(&n);
        ok
    });
}

fn smaps_consistent() {
    let s = text("/proc/self/smaps");
    let sum = |k: &str| {
        s.lines()
            .filter(|l| l.starts_with(&format!("{k}:")))
            .map(|l| l.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap())
            .sum::<u64>()
    };
    say("Rss over Pss over nothing", sum("Rss") >= sum("Pss") && sum("Pss") > 0);
    say("Size over Rss", sum("Size") >= sum("Rss"));
    let r = text("/proc/self/smaps_rollup");
    say("rollup", r.lines().next().unwrap().ends_with("[rollup]"));
    let p = c!(libc::mmap(
        std::ptr::null_mut(),
        64 * 4096,
        3,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        -1,
        0
    ))
    .0 as *mut u8;
    let rss = |t: &str| {
        t.lines()
            .find(|l| l.starts_with("VmRSS"))
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<i64>()
            .unwrap()
    };
    let before = rss(&text("/proc/self/status"));
    for i in 0..64 {
        unsafe { p.add(i * 4096).write_volatile(1) };
    }
    say("VmRSS grows when memory is touched", rss(&text("/proc/self/status")) > before);
}

fn wait_for_exit() {
    // An open file of a process that ended reads as ended, not as another process.
    let pid = child(|| {
        loop {
            unsafe { libc::pause() };
        }
    });
    let st = crate::sys::open(&format!("/proc/{pid}/status"), 0).fd();
    let maps = crate::sys::open(&format!("/proc/{pid}/maps"), 0).fd();
    unsafe { libc::kill(pid, libc::SIGKILL) };
    reap(pid);
    say("status", read_text(st, 10));
    say("maps", read_text(maps, 10));
}

fn permissions_user() {
    if unsafe { libc::geteuid() } == 0 {
        return;
    }
    for f in ["mem", "environ", "auxv", "fd", "cwd", "exe"] {
        let p = format!("/proc/1/{f}");
        let r = match f {
            "fd" => std::fs::read_dir(&p).map(|_| ()),
            "cwd" | "exe" => std::fs::read_link(&p).map(|_| ()),
            _ => std::fs::File::open(&p).map(|_| ()),
        };
        say(
            &format!("init's {f}"),
            r.map_err(|e| errno_name(e.raw_os_error().unwrap())).err().unwrap_or("ok".into()),
        );
    }
    for f in ["status", "stat", "cmdline", "comm", "statm"] {
        say(&format!("init's {f}"), std::fs::read(format!("/proc/1/{f}")).is_ok());
    }
}

fn thread_self() {
    let ok = std::thread::spawn(|| {
        std::fs::read_link("/proc/thread-self").unwrap().to_str().unwrap()
            == format!("{}/task/{}", getpid(), gettid())
    })
    .join()
    .unwrap();
    say("in a thread", ok);
    let ok = std::thread::spawn(|| {
        std::fs::read_link("/proc/self").unwrap().to_str().unwrap() == getpid().to_string()
    })
    .join()
    .unwrap();
    say("self in a thread is the process", ok);
}

/// `/proc/TID` of a thread that leads nothing: what is a thread's is that thread's, what is the process's is summed.
fn named_by_thread() {
    let w: &'static [std::sync::atomic::AtomicI32; 64] = shared_words();
    let word = &w[0];
    let sleeper = std::thread::Builder::new().name("sleeper".into());
    let thread = sleeper.spawn(move || {
        mask(libc::SIG_BLOCK, &[libc::SIGUSR2]);
        publish(word, gettid());
        unsafe { libc::pause() };
    });
    await_change(word, 0);
    let tid = word.load(std::sync::atomic::Ordering::SeqCst);
    await_state(getpid(), tid, "S");
    let status = text(&format!("/proc/{tid}/status"));
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(&format!("{name}:"))).unwrap_or("");
        line.split('\t').skip(1).collect::<Vec<_>>().join(" ")
    };
    let own = |id: &str| match id.parse::<i32>() {
        Ok(n) if n == getpid() => "the process",
        Ok(n) if n == tid => "the thread",
        _ => "another",
    };
    say("Name", field("Name"));
    say("State", field("State"));
    say("Tgid", own(&field("Tgid")));
    say("Pid", own(&field("Pid")));
    say("NSpid", own(&field("NSpid")));
    say("SigBlk", field("SigBlk"));
    say("Threads", field("Threads"));
    let stat = text(&format!("/proc/{tid}/stat"));
    let (first, rest) = stat.rsplit_once(") ").unwrap();
    let f: Vec<&str> = rest.split(' ').collect();
    say("stat", own(first.split(' ').next().unwrap()));
    say("name", first.split('(').nth(1).unwrap());
    say("state", f[0]);
    say("threads", f[17]);
    say("exit signal", f[35]);
    say("comm", text(&format!("/proc/{tid}/comm")).trim());
    say("task", std::fs::read_dir(format!("/proc/{tid}/task")).unwrap().count());
    say("of the process", text(&format!("/proc/{}/stat", getpid())).contains(") R "));
    drop(thread);
}

/// A process whose first thread has ended while another goes on.
fn leader_gone() {
    let w: &'static [std::sync::atomic::AtomicI32; 64] = shared_words();
    let pid = child(|| {
        let other = std::thread::Builder::new().name("other".into());
        let _thread = other.spawn(move || {
            publish(&w[0], gettid());
            await_change(&w[1], 0);
            unsafe { libc::_exit(5) };
        });
        await_change(&w[0], 0);
        unsafe { libc::syscall(libc::SYS_exit, 0) };
        0
    });
    await_change(&w[0], 0);
    let tid = w[0].load(std::sync::atomic::Ordering::SeqCst);
    await_state(pid, pid, "Z");
    await_state(pid, tid, "S");
    for (name, dir) in [("process", pid), ("thread", tid)] {
        let status = text(&format!("/proc/{dir}/status"));
        let field = |k: &str| {
            let line = status.lines().find(|l| l.starts_with(&format!("{k}:")));
            line.map_or("none".into(), |l| l.split('\t').skip(1).collect::<Vec<_>>().join(" "))
        };
        let fields = ["Name", "State", "Threads"].map(field);
        say(name, fields.join(", "));
        say("memory", field("VmSize") != "none");
        let stat = text(&format!("/proc/{dir}/stat"));
        say("stat", stat.rsplit_once(") ").unwrap().1.split(' ').next().unwrap());
        say("comm", text(&format!("/proc/{dir}/comm")).trim());
        for f in ["cmdline", "maps", "statm", "environ", "cgroup", "mounts"] {
            let r = std::fs::read(format!("/proc/{dir}/{f}"));
            say(
                f,
                r.map_or_else(
                    |e| errno_name(e.raw_os_error().unwrap()),
                    |b| (!b.is_empty()).to_string(),
                ),
            );
        }
        for f in ["exe", "cwd", "root"] {
            let r = std::fs::read_link(format!("/proc/{dir}/{f}"));
            say(f, r.map_or_else(|e| errno_name(e.raw_os_error().unwrap()), |_| "a link".into()));
        }
        say("task", std::fs::read_dir(format!("/proc/{dir}/task")).unwrap().count());
    }
    say("kill", c!(libc::kill(pid, 0)));
    say("not to be waited for", c!(libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG)));
    publish(&w[1], 1);
    say("ends", wait_opt(pid, 0));
}

fn big_reads() {
    // Read in small pieces, a file gives the same as in one.
    let whole = text("/proc/filesystems");
    let fd = crate::sys::open("/proc/filesystems", 0).fd();
    let mut v = Vec::new();
    loop {
        let b = read(fd, 7).unwrap();
        if b.is_empty() {
            break;
        }
        v.extend(b);
    }
    say("pieces of 7", String::from_utf8(v).unwrap() == whole);
    say("seek to the start", c!(libc::lseek(fd, 0, 0)));
    say("again", read(fd, 100_000).unwrap().len() == whole.len());
    let mut b = [0u8; 5];
    say("pread in the middle", c!(libc::pread(fd, b.as_mut_ptr().cast(), 5, 3)));
    say("data", b == whole.as_bytes()[3..8]);
    say("size by stat", std::fs::metadata("/proc/filesystems").unwrap().len());
    say("write", write(crate::sys::open("/proc/self/status", 0).fd(), b"x"));
}
