//! Namespaces: unshare, setns, clone flags, uid maps, pid numbers.

use crate::sys::*;
use crate::{c, cases, sc};

cases! {
    user_maps_itself, user_bad_maps, map_opener, unshare_errors, nested_pids, uts_root: root, mounts_root: root, pids_root: root,
    exec_by_thread, init_dies_root: root, join_root: root, ipc_root: root, abstract_names_root: root, ids_root: root, init_signals_root: root, last_pid_root: root, unix_table_root: root, proc_subset_root: root, remount_root: root, tmpfs_mode_root: root, read_only_tmpfs_root: root, cgroup_view_root: root, locked_flags_root: root, reboot_root: root, ptrace_info_root: root, pts_of_user_namespace_root: root,
}

fn unshare(flags: i32) -> R {
    c!(libc::unshare(flags))
}

fn put(path: &str, text: &str) -> R {
    match std::fs::write(path, text) {
        Ok(()) => R(0),
        Err(e) => R(-i64::from(e.raw_os_error().unwrap_or(0))),
    }
}

fn get(path: &str) -> String {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|e| errno_name(e.raw_os_error().unwrap_or(0)));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Fields of /proc/self/status, as one line.
fn status(field: &str) -> String {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with(field)).unwrap_or_default();
    line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
}

fn link(kind: &str) -> String {
    let l = std::fs::read_link(format!("/proc/self/ns/{kind}"));
    l.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default()
}

fn user_maps_itself() {
    let (u, g) = unsafe { (libc::getuid(), libc::getgid()) };
    let before = link("user");
    say("unshare", unshare(libc::CLONE_NEWUSER));
    say("another namespace", link("user") != before);
    say("nobody", unsafe { (libc::getuid(), libc::getgid()) } == (65534, 65534));
    say("all capabilities", status("CapEff") == status("CapBnd"));
    say("setuid without a map", c!(libc::setuid(0)));
    say("uid_map", put("/proc/self/uid_map", &format!("0 {u} 1")));
    say("again", put("/proc/self/uid_map", &format!("0 {u} 1")));
    say("gid_map before setgroups", put("/proc/self/gid_map", &format!("0 {g} 1")));
    say("setgroups", put("/proc/self/setgroups", "deny"));
    say("gid_map", put("/proc/self/gid_map", &format!("0 {g} 1")));
    say("setgroups allow", put("/proc/self/setgroups", "allow"));
    say("ids", format!("{} {}", unsafe { libc::getuid() }, unsafe { libc::getgid() }));
    say("Uid", status("Uid"));
    say("map", get("/proc/self/uid_map") == format!("0 {u} 1"));
    say("setgroups(2)", c!(libc::setgroups(0, std::ptr::null())));
    say("setuid 1", c!(libc::setuid(1)));
    let f = std::fs::metadata(".").map(|m| std::os::unix::fs::MetadataExt::uid(&m));
    say("own directory", f.unwrap_or(9));
    let root = std::fs::metadata("/proc/1").map(|m| std::os::unix::fs::MetadataExt::uid(&m));
    say("others' files", root.is_ok_and(|v| v == 65534 || u == 0));
    say("sethostname outside", c!(libc::sethostname(c"x".as_ptr(), 1)));
    say("unshare uts", unshare(libc::CLONE_NEWUTS));
    say("sethostname inside", c!(libc::sethostname(c"x".as_ptr(), 1)));
    say("settimeofday", {
        let tv = libc::timeval { tv_sec: 1, tv_usec: 0 };
        c!(libc::settimeofday(&tv, std::ptr::null()))
    });
}

fn user_bad_maps() {
    let u = unsafe { libc::getuid() };
    say("unshare", unshare(libc::CLONE_NEWUSER));
    for bad in ["", "0", "0 0", "x 0 1", "0 0 0", "4294967295 0 1", "0 0 4294967295", "0 1 2 3"] {
        say(
            &format!("{bad:?}"),
            if bad.is_empty() {
                "-".to_string()
            } else {
                put("/proc/self/uid_map", bad).to_string()
            },
        );
    }
    if u != 0 {
        say("another's id", put("/proc/self/uid_map", &format!("0 {} 1", u + 1)));
        say("two ids", put("/proc/self/uid_map", &format!("0 {u} 2")));
    }
    say("garbage for setgroups", put("/proc/self/setgroups", "maybe"));
    say("own id", put("/proc/self/uid_map", &format!("7 {u} 1")));
    say("is 7", unsafe { libc::getuid() });
}

/// A map is judged by who opened the file, not by who writes to it.
fn map_opener() {
    let u = unsafe { libc::getuid() };
    // The child opens its own map before it has a namespace of its own: what it opened is the map of the initial one.
    let early = in_child(|| {
        let fd = open("/proc/self/uid_map", libc::O_RDWR);
        if !fd.is_ok() {
            return 100;
        }
        unshare(libc::CLONE_NEWUSER);
        let r = write(fd.fd(), format!("0 {u} 1").as_bytes());
        -r.0 as i32
    });
    say("opened outside, written inside", early);
    let twice = in_child(|| {
        unshare(libc::CLONE_NEWUSER);
        let fd = open("/proc/self/uid_map", libc::O_RDWR).fd();
        let text = read_text(fd, 64);
        let r = write(fd, format!("0 {u} 1").as_bytes());
        (-r.0 as i32) << 1 | i32::from(text.is_empty())
    });
    say("read, then written", twice);
    let moved = in_child(|| {
        unshare(libc::CLONE_NEWUSER);
        let fd = open("/proc/self/uid_map", libc::O_RDWR).fd();
        unsafe { libc::lseek(fd, 1, libc::SEEK_SET) };
        -write(fd, format!("0 {u} 1").as_bytes()).0 as i32
    });
    say("at another position", moved);
    say("setgroups of one's own", {
        let r = open("/proc/self/setgroups", libc::O_WRONLY);
        if u == 0 { "-".to_string() } else { r.ok() }
    });
}

fn unshare_errors() {
    say("unknown flag", unshare(libc::CLONE_PARENT));
    say("nothing", unshare(0));
    say("files, fs", unshare(libc::CLONE_FILES | libc::CLONE_FS | libc::CLONE_SYSVSEM));
    if unsafe { libc::getuid() } != 0 {
        for (name, f) in [
            ("mount", libc::CLONE_NEWNS),
            ("uts", libc::CLONE_NEWUTS),
            ("ipc", libc::CLONE_NEWIPC),
            ("pid", libc::CLONE_NEWPID),
            ("net", libc::CLONE_NEWNET),
            ("cgroup", libc::CLONE_NEWCGROUP),
        ] {
            say(name, unshare(f));
        }
    }
    let t = std::thread::spawn(pause_poll);
    let _ = t;
    say("setns on a file", {
        let f = c!(libc::open(c"/proc/self/status".as_ptr(), libc::O_RDONLY));
        c!(libc::setns(f.fd(), 0))
    });
    say("setns bad fd", c!(libc::setns(-1, 0)));
    let own = c!(libc::open(c"/proc/self/ns/user".as_ptr(), libc::O_RDONLY));
    say("own user namespace", c!(libc::setns(own.fd(), libc::CLONE_NEWUSER)));
    let uts = c!(libc::open(c"/proc/self/ns/uts".as_ptr(), libc::O_RDONLY));
    say("wrong kind", c!(libc::setns(uts.fd(), libc::CLONE_NEWIPC)));
    const NS_GET_NSTYPE: u64 = 0xb703;
    say("type", c!(libc::ioctl(uts.fd(), NS_GET_NSTYPE as _)) == R(libc::CLONE_NEWUTS.into()));
    say("write to it", c!(libc::open(c"/proc/self/ns/uts".as_ptr(), libc::O_WRONLY)));
    const TFLAGS: i32 =
        libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_VM | libc::CLONE_NEWUSER;
    say("clone thread with user", sc!(libc::SYS_clone, TFLAGS, 0, 0, 0, 0));
    say(
        "clone fs with mount",
        sc!(libc::SYS_clone, libc::CLONE_FS | libc::CLONE_NEWNS, 0, 0, 0, 0),
    );
}

/// In a new user and pid namespace, so that ordinary users can do it too.
fn nested_pids() {
    say("unshare", unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID));
    say("own pid stays", getpid() != 1);
    say("for children", std::fs::read_link("/proc/self/ns/pid_for_children").is_err());
    let end = in_child(|| {
        say("init", getpid());
        say("parent", unsafe { libc::getppid() });
        say("session", c!(libc::setsid()));
        say("group", unsafe { libc::getpgrp() });
        say("again", unshare(libc::CLONE_NEWPID).ok());
        let end = in_child(|| {
            say("nested init", getpid());
            say("nested tid", gettid());
            say("nested parent", unsafe { libc::getppid() });
            3
        });
        say("nested end", end);
        say("number of the child", c!(libc::waitpid(2, std::ptr::null_mut(), 0)));
        say("kill 1", c!(libc::kill(1, 0)));
        say("kill 9999", c!(libc::kill(9999, 0)));
        0
    });
    say("end", end);
    say("after init's death", sc!(libc::SYS_fork));
}

/// The thread that executes a program takes the leader's place and keeps its namespaces.
fn exec_by_thread() {
    say("unshare", unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWUTS));
    let own = link("uts");
    let end = in_child(|| {
        std::thread::spawn(move || {
            let script = cstr("test \"$(readlink /proc/self/ns/uts)\" = \"$0\" && echo same");
            let own = cstr(&own);
            let argv =
                [c"sh".as_ptr(), c"-c".as_ptr(), script.as_ptr(), own.as_ptr(), std::ptr::null()];
            say("exec", c!(libc::execv(c"/bin/sh".as_ptr(), argv.as_ptr())));
        });
        loop {
            pause_poll();
        }
    });
    say("end", end);
}

fn uts_root() {
    let name = || {
        let mut b = [0u8; 65];
        unsafe { libc::gethostname(b.as_mut_ptr().cast(), b.len()) };
        quoted(b.split(|c| *c == 0).next().unwrap_or_default())
    };
    let before = name();
    say(
        "child",
        in_child(|| {
            say("unshare", unshare(libc::CLONE_NEWUTS));
            say("same name", name() == before);
            say("sethostname", c!(libc::sethostname(c"other".as_ptr(), 5)));
            say("name", name());
            say("/proc", get("/proc/sys/kernel/hostname"));
            0
        }),
    );
    say("unchanged", name() == before);
}

fn mounts_root() {
    say("mkdir", c!(libc::mkdir(c"m".as_ptr(), 0o755)));
    say(
        "child",
        in_child(|| {
            say("unshare", unshare(libc::CLONE_NEWNS));
            let none = std::ptr::null();
            say(
                "private",
                c!(libc::mount(
                    none,
                    c"/".as_ptr(),
                    none,
                    libc::MS_REC | libc::MS_PRIVATE,
                    none.cast()
                )),
            );
            say(
                "mount",
                c!(libc::mount(c"t".as_ptr(), c"m".as_ptr(), c"tmpfs".as_ptr(), 0, none.cast())),
            );
            say("file", std::fs::write("m/f", "x").is_ok());
            0
        }),
    );
    say("not here", std::fs::metadata("m/f").is_err());
}

fn pids_root() {
    say("unshare", unshare(libc::CLONE_NEWPID));
    say(
        "init",
        in_child(|| {
            say("pid", getpid());
            let n = unsafe { libc::fork() };
            if n == 0 {
                unsafe { libc::_exit(i32::from(getpid() != 2)) };
            }
            say("child is 2", n);
            say("waited", wait_opt(n, 0));
            // An orphan comes to the namespace's init.
            let middle = unsafe { libc::fork() };
            if middle == 0 {
                if unsafe { libc::fork() } == 0 {
                    unsafe { libc::_exit(5) };
                }
                unsafe { libc::_exit(0) };
            }
            say("middle", wait_opt(middle, 0));
            say("orphan", wait_opt(-1, 0));
            say("nobody left", c!(libc::waitpid(-1, std::ptr::null_mut(), 0)));
            0
        }),
    );
}

fn init_dies_root() {
    let (r, w) = pipe();
    say("unshare", unshare(libc::CLONE_NEWPID));
    say(
        "init",
        in_child(|| {
            if unsafe { libc::fork() } == 0 {
                // Holds the pipe until it is killed with its namespace.
                loop {
                    pause_poll();
                }
            }
            7
        }),
    );
    close(w);
    say("everybody is gone", read(r, 1).map(|b| b.len()).unwrap_or(9));
}

fn init_signals_root() {
    say("unshare", unshare(libc::CLONE_NEWPID));
    say(
        "init",
        in_child(|| {
            say("own SIGTERM", c!(libc::kill(getpid(), libc::SIGTERM)));
            say("own SIGKILL", c!(libc::kill(getpid(), libc::SIGKILL)));
            say("lives", true);
            0
        }),
    );
}

fn join_root() {
    let pid_before = link("pid");
    let f = c!(libc::open(c"/proc/self/ns/uts".as_ptr(), libc::O_RDONLY)).fd();
    let before = link("uts");
    say("unshare", unshare(libc::CLONE_NEWUTS));
    say("changed", link("uts") != before);
    say("back", c!(libc::setns(f, libc::CLONE_NEWUTS)));
    say("as before", link("uts") == before);
    let p = sc!(libc::SYS_pidfd_open, getpid(), 0);
    say("by pidfd", c!(libc::setns(p.fd(), libc::CLONE_NEWUTS | libc::CLONE_NEWIPC)));
    say("by pidfd, no kind", c!(libc::setns(p.fd(), 0)));
    say("pid unchanged", link("pid") == pid_before);
    // A bind mount keeps a namespace alive.
    say("mount namespace", unshare(libc::CLONE_NEWNS));
    let none = std::ptr::null();
    say(
        "private",
        c!(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast())),
    );
    say("place", std::fs::write("held", "").is_ok());
    say(
        "child",
        in_child(|| {
            say("unshare", unshare(libc::CLONE_NEWUTS));
            say("name", c!(libc::sethostname(c"held".as_ptr(), 4)));
            say(
                "bind",
                c!(libc::mount(
                    c"/proc/self/ns/uts".as_ptr(),
                    c"held".as_ptr(),
                    none,
                    libc::MS_BIND,
                    none.cast()
                )),
            );
            0
        }),
    );
    let h = c!(libc::open(c"held".as_ptr(), libc::O_RDONLY));
    say("join what is held", c!(libc::setns(h.fd(), 0)));
    say("its name", get("/proc/sys/kernel/hostname"));
}

fn ipc_root() {
    const KEY: i32 = 0x4e53;
    let id = c!(libc::shmget(KEY, 4096, libc::IPC_CREAT | 0o600));
    say("segment", id.ok());
    say(
        "child",
        in_child(|| {
            say("unshare", unshare(libc::CLONE_NEWIPC));
            say("not there", c!(libc::shmget(KEY, 4096, 0)));
            say(
                "another",
                c!(libc::shmget(KEY, 4096, libc::IPC_CREAT | libc::IPC_EXCL | 0o600)).ok(),
            );
            0
        }),
    );
    say("still there", c!(libc::shmget(KEY, 4096, 0)) == id);
    say("remove", c!(libc::shmctl(id.0 as i32, libc::IPC_RMID, std::ptr::null_mut())));
}

fn abstract_names_root() {
    let mut a: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    a.sun_family = libc::AF_UNIX as u16;
    for (i, b) in b"gt-namespaces".iter().enumerate() {
        a.sun_path[i + 1] = *b as _;
    }
    let len = 2 + 1 + 13;
    let at = (&raw const a).cast();
    let socket = || c!(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)).fd();
    let s = socket();
    say("bind", c!(libc::bind(s, at, len)));
    say("taken", c!(libc::bind(socket(), at, len)));
    say("listen", c!(libc::listen(s, 1)));
    say(
        "child",
        in_child(|| {
            say("unshare", unshare(libc::CLONE_NEWNET));
            say("connect", c!(libc::connect(socket(), at, len)));
            say("bind", c!(libc::bind(socket(), at, len)));
            0
        }),
    );
}

fn ids_root() {
    let (r, w) = pipe();
    let (r2, w2) = pipe();
    let child = unsafe { libc::fork() };
    if child == 0 {
        say("unshare", unshare(libc::CLONE_NEWUSER));
        write(w, b"x");
        let _ = read(r2, 1);
        say("gid", unsafe { libc::getgid() });
        say("setgid", c!(libc::setgid(3)));
        say("setuid", c!(libc::setuid(2)));
        say("unmapped", c!(libc::setuid(100)));
        say("uids", status("Uid"));
        say("gids", status("Gid"));
        unsafe { libc::_exit(0) };
    }
    let _ = read(r, 1);
    say("uid_map", put(&format!("/proc/{child}/uid_map"), "0 100000 10"));
    say("overlap", put(&format!("/proc/{child}/gid_map"), "0 100000 10\n5 200000 10"));
    say("gid_map", put(&format!("/proc/{child}/gid_map"), "0 100000 5\n5 200000 10"));
    say("seen from outside", get(&format!("/proc/{child}/gid_map")));
    write(w2, b"x");
    say("child", wait_opt(child, 0));
}

fn last_pid_root() {
    unshare(libc::CLONE_NEWPID);
    let last = || {
        let text = std::fs::read_to_string("/proc/loadavg").unwrap();
        text.trim_end().rsplit(' ').next().unwrap().to_string()
    };
    let s = in_child(|| {
        say("init", last());
        say("child", in_child(|| 0));
        say("then", last());
        0
    });
    say("ends", s);
}

fn unix_table_root() {
    let here = c!(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)).fd();
    // Others' abstract names may be any bytes.
    let table = || std::fs::read("/proc/self/net/unix").unwrap();
    let lines = || table().iter().filter(|b| **b == b'\n').count();
    say("some", lines() > 1);
    say("unshare", unshare(libc::CLONE_NEWNET));
    say("none of the other namespace's", lines());
    let _s = c!(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)).fd();
    say("one", lines());
    close(here);
}

fn private_mounts() {
    unshare(libc::CLONE_NEWNS);
    let none = std::ptr::null::<libc::c_char>();
    let how = libc::MS_REC | libc::MS_PRIVATE;
    c!(libc::mount(none, c"/".as_ptr(), none, how, std::ptr::null()));
}

fn proc_subset_root() {
    private_mounts();
    let mount = |options: &std::ffi::CStr| {
        let kind = c"proc".as_ptr();
        c!(libc::mount(kind, c"/proc".as_ptr(), kind, 0, options.as_ptr().cast()))
    };
    say("unknown", mount(c"subset=net"));
    say("subset", mount(c"subset=pid"));
    say("cpuinfo", std::fs::read("/proc/cpuinfo").err().map_or(0, |e| e.raw_os_error().unwrap()));
    say("self", std::fs::read("/proc/self/stat").is_ok());
    let names = std::fs::read_dir("/proc").unwrap();
    let other = names.filter_map(|e| e.unwrap().file_name().into_string().ok());
    let mut other: Vec<_> = other.filter(|n| !n.bytes().all(|b| b.is_ascii_digit())).collect();
    other.sort();
    say("names", other.join(" "));
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    say("shown", mounts.lines().next_back().unwrap().contains("subset=pid"));
}

/// What a user namespace mounts stays as it is in the namespaces below it, and can be remounted so.
fn remount_root() {
    let s = in_child(|| {
        let enter = || {
            assert!(unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).is_ok());
            put("/proc/self/setgroups", "deny");
            put("/proc/self/uid_map", "0 0 1");
            put("/proc/self/gid_map", "0 0 1");
        };
        enter();
        let (kind, at) = (c"tmpfs".as_ptr(), c"/mnt".as_ptr());
        say("mount", c!(libc::mount(kind, at, kind, libc::MS_NOSUID, std::ptr::null())));
        let shown = || {
            let text = std::fs::read_to_string("/proc/self/mounts").unwrap();
            let line = text.lines().rfind(|l| l.contains(" /mnt ")).unwrap().to_string();
            ["nosuid", "nodev", "noexec"].iter().filter(|f| line.contains(**f)).count()
        };
        say("flags", shown());
        say("a device node", c!(libc::mknod(c"/mnt/null".as_ptr(), libc::S_IFCHR, 0x103)));
        enter();
        let again = |flags: u64| {
            c!(libc::mount(
                at,
                at,
                kind,
                libc::MS_REMOUNT | libc::MS_BIND | flags,
                std::ptr::null()
            ))
        };
        say("the same", again(libc::MS_NOSUID));
        say("more", again(libc::MS_NOSUID | libc::MS_NOEXEC));
        say("less", again(0));
        0
    });
    say("ends", s);
}

/// PTRACE_GETSIGINFO tells the sender as the tracee's namespace numbers it.
fn ptrace_info_root() {
    unshare(libc::CLONE_NEWPID);
    let s = in_child(|| {
        let pid = child(|| {
            sc!(libc::SYS_ptrace, 0, 0, 0, 0);
            unsafe { libc::raise(libc::SIGSTOP) };
            0
        });
        say("stops", wait_opt(pid, 0));
        let mut info = [0i32; 32];
        say("siginfo", sc!(libc::SYS_ptrace, 0x4202, pid, 0, info.as_mut_ptr()));
        say("sender", format!("{} {}", info[4], pid));
        sc!(libc::SYS_ptrace, 7, pid, 0, 0);
        say("ends", reap(pid));
        0
    });
    say("init ends", s);
}

/// Pseudo-terminals of a devpts that a user namespace mounted can be opened.
fn pts_of_user_namespace_root() {
    let s = in_child(|| {
        unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS);
        put("/proc/self/setgroups", "deny");
        put("/proc/self/uid_map", "0 0 1");
        put("/proc/self/gid_map", "0 0 1");
        let (kind, at) = (c"devpts".as_ptr(), c"/mnt".as_ptr());
        let data = c"newinstance,ptmxmode=0666".as_ptr().cast();
        say("mount", c!(libc::mount(kind, at, kind, 0, data)));
        say("ptmx", c!(libc::open(c"/mnt/ptmx".as_ptr(), libc::O_RDWR | libc::O_NOCTTY)).ok());
        0
    });
    say("ends", s);
}

/// Permissions in the options of a tmpfs are shown without zeros in front.
fn tmpfs_mode_root() {
    private_mounts();
    for mode in ["mode=0700", "mode=1777", "mode=5"] {
        let data = std::ffi::CString::new(mode).unwrap();
        let (kind, at) = (c"tmpfs".as_ptr(), c"/mnt".as_ptr());
        say(mode, c!(libc::mount(kind, at, kind, 0, data.as_ptr().cast())));
        let text = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let line = text.lines().rfind(|l| l.contains(" /mnt ")).unwrap();
        let shown = line.split([' ', ',']).find(|o| o.starts_with("mode=")).unwrap_or("none");
        say("shown", shown);
    }
}

/// A filesystem that is mounted read-only says so, in both places, and is.
fn read_only_tmpfs_root() {
    say("unshare", unshare(libc::CLONE_NEWNS));
    let none = std::ptr::null();
    let private = libc::MS_REC | libc::MS_PRIVATE;
    c!(libc::mount(c"none".as_ptr(), c"/".as_ptr(), none, private, none.cast()));
    std::fs::create_dir("ro").unwrap();
    let mount = |flags: u64| {
        let place = c"ro".as_ptr();
        c!(libc::mount(c"t".as_ptr(), place, c"tmpfs".as_ptr(), flags, c"size=64k".as_ptr().cast()))
    };
    let shown = || {
        let line = |file: &str, end: &str| {
            let t = std::fs::read_to_string(file).unwrap_or_default();
            t.lines().rfind(|l| l.contains(end)).unwrap_or_default().to_string()
        };
        let (m, i) =
            (line("/proc/self/mounts", "/ro tmpfs "), line("/proc/self/mountinfo", "/ro r"));
        let options = m.split(' ').nth(3).unwrap_or_default().split(',').next().unwrap_or("");
        say("mounts", options);
        say("mountinfo", i.split(' ').nth(5).unwrap_or_default().split(',').next().unwrap_or(""));
        let of_fs = i.split(" - ").nth(1).and_then(|e| e.split(' ').nth(2)).unwrap_or_default();
        say("filesystem", of_fs.split(',').next().unwrap_or_default());
    };
    say("mount", mount(libc::MS_RDONLY));
    shown();
    say("write", std::fs::write("ro/f", "x").is_ok());
    say("writable", mount(libc::MS_REMOUNT));
    shown();
    say("write", std::fs::write("ro/f", "x").is_ok());
    say("read-only", mount(libc::MS_REMOUNT | libc::MS_RDONLY));
    shown();
    say("write", std::fs::write("ro/f", "x").is_ok());
    say("this mount only", mount(libc::MS_REMOUNT));
    say("bound", mount(libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY));
    shown();
}

/// A mount of control groups in a namespace shows the namespace's part, and so do the tables.
fn cgroup_view_root() {
    let group = super::clone::own_cgroup("view");
    let below = format!("{group}/below");
    say("mkdir", std::fs::create_dir(&below).is_ok());
    let pid = child(|| {
        say("in", put(&format!("{group}/cgroup.procs"), "0"));
        say("unshare", unshare(libc::CLONE_NEWCGROUP));
        std::fs::create_dir("view").unwrap();
        let (fs, none) = (c"cgroup2".as_ptr(), std::ptr::null());
        say("mount", c!(libc::mount(c"none".as_ptr(), c"view".as_ptr(), fs, 0, none)));
        let text = |f: &str| std::fs::read_to_string(f).unwrap_or_default();
        let own = text("/proc/self/cgroup");
        say("own", own.lines().find(|l| l.starts_with("0::")).unwrap_or(""));
        let info = text("/proc/self/mountinfo");
        let root_of = |place: &str| {
            let line =
                info.lines().rfind(|l| l.split(' ').nth(4).is_some_and(|p| p.ends_with(place)));
            line.and_then(|l| l.split(' ').nth(3)).unwrap_or("").to_string()
        };
        say("root of the view", root_of("/view"));
        say("root of the other", root_of("/cg"));
        say("below", std::fs::metadata("view/below").is_ok());
        say("type", std::fs::metadata("view/cgroup.type").is_ok());
        say("member", text("view/cgroup.procs").trim() == getpid().to_string());
        say("make", std::fs::create_dir("view/made").is_ok());
        say("seen outside", std::fs::metadata(format!("{group}/made")).is_ok());
        say("remove", std::fs::remove_dir("view/made").is_ok());
        say("unmount", c!(libc::umount(c"view".as_ptr())));
        0
    });
    say("ended", reap(pid));
    for dir in [&below, &group] {
        say("rmdir", c!(libc::rmdir(cstr(dir).as_ptr())));
    }
}

/// Flags of mounts that came from a more privileged namespace stay, those of access times among them; copies can go away.
fn locked_flags_root() {
    let none: *const i8 = std::ptr::null();
    let place = |p: &'static std::ffi::CStr, source: &'static std::ffi::CStr, flags: u64| {
        c!(libc::mount(source.as_ptr(), p.as_ptr(), c"tmpfs".as_ptr(), flags, none.cast()))
    };
    say("unshare", unshare(libc::CLONE_NEWNS));
    let private = libc::MS_REC | libc::MS_PRIVATE;
    c!(libc::mount(c"none".as_ptr(), c"/".as_ptr(), none, private, none.cast()));
    for dir in ["from", "copy"] {
        std::fs::create_dir(dir).unwrap();
    }
    say("mount", place(c"from", c"t", libc::MS_NOATIME | libc::MS_NOSUID));
    let again = libc::MS_REMOUNT | libc::MS_BIND;
    let pid = child(|| {
        say("user namespace", unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS));
        for (name, flags) in [
            ("as it is", libc::MS_NOATIME | libc::MS_NOSUID),
            ("no word", libc::MS_NOSUID),
            ("relatime", libc::MS_RELATIME | libc::MS_NOSUID),
            ("strictatime", libc::MS_STRICTATIME | libc::MS_NOSUID),
            ("nodiratime", libc::MS_NOATIME | libc::MS_NODIRATIME | libc::MS_NOSUID),
            ("suid", libc::MS_NOATIME),
            ("more", libc::MS_NOATIME | libc::MS_NOSUID | libc::MS_NODEV),
        ] {
            say(name, place(c"from", c"none", again | flags));
        }
        say("unmount", c!(libc::umount(c"from".as_ptr())));
        say("bind", place(c"copy", c"from", libc::MS_BIND));
        say("copy: relatime", place(c"copy", c"none", again | libc::MS_RELATIME | libc::MS_NOSUID));
        say("copy: suid", place(c"copy", c"none", again | libc::MS_NOATIME));
        say("copy: unmount", c!(libc::umount(c"copy".as_ptr())));
        0
    });
    say("ended", reap(pid));
    say("still free here", place(c"from", c"none", again | libc::MS_RELATIME));
}

/// reboot(2) in a pid namespace ends its init and no more; the wait status tells which command it was.
fn reboot_root() {
    for (name, cmd) in [
        ("restart", libc::LINUX_REBOOT_CMD_RESTART),
        ("halt", libc::LINUX_REBOOT_CMD_HALT),
        ("power off", libc::LINUX_REBOOT_CMD_POWER_OFF),
        ("ctrl-alt-del", libc::LINUX_REBOOT_CMD_CAD_OFF),
    ] {
        let pid = child(move || {
            if !unshare(libc::CLONE_NEWPID).is_ok() {
                return 99;
            }
            // The init; another process of the namespace asks.
            let init = child(move || {
                let asks = child(move || {
                    // Never in the machine's own namespace.
                    if getpid() != 2 {
                        return 98;
                    }
                    let r = sc!(libc::SYS_reboot, 0xfee1_dead_u32, 672_274_793, 1, 0);
                    say("unknown command", r);
                    let r = sc!(libc::SYS_reboot, 0xfee1_dead_u32, 1, cmd, 0);
                    say("wrong magic", r);
                    say(name, sc!(libc::SYS_reboot, 0xfee1_dead_u32, 672_274_793, cmd, 0));
                    7
                });
                say("asker", reap(asks));
                5
            });
            say("init", reap(init));
            0
        });
        say("ended", reap(pid));
    }
}
