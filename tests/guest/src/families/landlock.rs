//! Landlock: rulesets and who may restrict itself, opening, making, removing and truncating files.

use crate::sys::*;
use crate::{c, cases, sc};

cases! {
    create_errors, add_errors, restrict_errors, restrict_root: root, without_privileges, open_rights, programs, directories,
    making, making_devices: root, tmpfile, truncating, device_ioctl, layers, inheritance, threads, magic_links, queues,
}

pub(super) const EXECUTE: u64 = 1;
pub(super) const WRITE: u64 = 1 << 1;
pub(super) const READ: u64 = 1 << 2;
pub(super) const READ_DIR: u64 = 1 << 3;
pub(super) const REMOVE_DIR: u64 = 1 << 4;
pub(super) const REMOVE_FILE: u64 = 1 << 5;
const MAKE_CHAR: u64 = 1 << 6;
pub(super) const MAKE_DIR: u64 = 1 << 7;
pub(super) const MAKE_REG: u64 = 1 << 8;
const MAKE_SOCK: u64 = 1 << 9;
const MAKE_FIFO: u64 = 1 << 10;
const MAKE_BLOCK: u64 = 1 << 11;
const MAKE_SYM: u64 = 1 << 12;
pub(super) const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;
pub(super) const ALL: u64 = (1 << 16) - 1;
pub(super) const BIND: u64 = 1;
pub(super) const CONNECT: u64 = 2;
pub(super) const ABSTRACT: u64 = 1;
pub(super) const SIGNAL: u64 = 2;

const CREATE: i64 = 444;
const ADD: i64 = 445;
const RESTRICT: i64 = 446;

fn create(attr: &[u64], size: usize, flags: u32) -> R {
    sc!(CREATE, attr.as_ptr(), size, flags)
}

/// A ruleset that handles these rights.
pub(super) fn ruleset(fs: u64, net: u64, scoped: u64) -> i32 {
    create(&[fs, net, scoped], 24, 0).fd()
}

/// `struct landlock_path_beneath_attr` is packed.
pub(super) fn beneath_fd(rs: i32, fd: i32, access: u64) -> R {
    let mut raw = [0u8; 12];
    raw[..8].copy_from_slice(&access.to_le_bytes());
    raw[8..].copy_from_slice(&fd.to_le_bytes());
    sc!(ADD, rs, 1, raw.as_ptr(), 0)
}

pub(super) fn beneath(rs: i32, path: &str, access: u64) -> R {
    let fd = open(path, libc::O_PATH | libc::O_CLOEXEC).fd();
    let r = beneath_fd(rs, fd, access);
    close(fd);
    r
}

pub(super) fn port(rs: i32, port: u64, access: u64) -> R {
    sc!(ADD, rs, 2, [access, port].as_ptr(), 0)
}

pub(super) fn no_new_privs() {
    c!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

pub(super) fn restrict(rs: i32) -> R {
    sc!(RESTRICT, rs, 0)
}

/// Restricts the calling thread.
pub(super) fn enter(rs: i32) {
    no_new_privs();
    let r = restrict(rs);
    assert!(r.is_ok(), "restrict: {r}");
}

/// Runs `f` in a child; says how it ended unless well.
pub(super) fn apart(f: impl FnOnce()) {
    let end = in_child(|| {
        f();
        0
    });
    if end != "exit 0" {
        say("child", end);
    }
}

fn create_errors() {
    say("version", sc!(CREATE, 0, 0, 1).0 >= 7);
    say("errata", sc!(CREATE, 0, 0, 2).0 & 7);
    for (attr, size, flags) in
        [(1usize, 0usize, 1u32), (0, 8, 1), (0, 0, 3), (0, 0, 4), (0, 0, 0x8000_0000), (1, 8, 4)]
    {
        say(&format!("{attr} {size} {flags:#x}"), sc!(CREATE, attr, size, flags));
    }
    say("null", sc!(CREATE, 0, 8, 0));
    say("null, too small", sc!(CREATE, 0, 7, 0));
    say("bad pointer", sc!(CREATE, 8, 8, 0));
    let a = [1u64; 1024];
    for size in [0, 1, 7, 4097, usize::MAX] {
        say(&format!("size {size}"), create(&a, size, 0).ok());
    }
    for (what, attr) in [
        ("nothing", [0u64, 0, 0, 0]),
        ("unknown right", [1 << 16, 0, 0, 0]),
        ("all rights", [ALL, 0, 0, 0]),
        ("high right", [1 << 63, 0, 0, 0]),
        ("unknown of the network", [1, 4, 0, 0]),
        ("network only", [0, 3, 0, 0]),
        ("unknown scope", [1, 0, 4, 0]),
        ("scope only", [0, 0, 3, 0]),
        ("more", [1, 0, 0, 1]),
    ] {
        for size in [8, 9, 16, 20, 24, 25, 32] {
            say(&format!("{what} {size}"), create(&attr, size, 0).ok());
        }
    }
    let rs = ruleset(1, 0, 0);
    say("cloexec", c!(libc::fcntl(rs, libc::F_GETFD)));
    say("flags", c!(libc::fcntl(rs, libc::F_GETFL)).0 & i64::from(libc::O_ACCMODE));
    say("name", std::fs::read_link(format!("/proc/self/fd/{rs}")).unwrap().display());
    say("read", read_text(rs, 8));
    say("write", write(rs, b"x"));
    say("lseek", c!(libc::lseek(rs, 0, libc::SEEK_SET)).ok());
    say("ioctl", c!(libc::ioctl(rs, libc::TCGETS, 0)));
}

fn add_errors() {
    let rs = ruleset(READ | READ_DIR | WRITE, BIND, 0);
    let here = open(".", libc::O_PATH).fd();
    put("file", b"");
    let mut raw = [0u8; 12];
    raw[..8].copy_from_slice(&READ.to_le_bytes());
    raw[8..].copy_from_slice(&here.to_le_bytes());
    let p = raw.as_ptr();
    say("flags", sc!(ADD, rs, 1, p, 1));
    say("flags before the descriptor", sc!(ADD, -1, 1, p, 1));
    say("no descriptor", sc!(ADD, -1, 1, p, 0));
    say("no ruleset", sc!(ADD, here, 1, p, 0));
    say("no ruleset, opened", sc!(ADD, open(".", 0).fd(), 1, p, 0));
    say("type 0", sc!(ADD, rs, 0, p, 0));
    say("type 3", sc!(ADD, rs, 3, p, 0));
    say("bad pointer", sc!(ADD, rs, 1, 8, 0));
    say("bad pointer of a port", sc!(ADD, rs, 2, 8, 0));
    say("well", sc!(ADD, rs, 1, p, 0));
    say("again", sc!(ADD, rs, 1, p, 0));
    say("no right", beneath(rs, ".", 0));
    say("not handled", beneath(rs, ".", READ | EXECUTE));
    say("unknown", beneath(rs, ".", 1 << 40));
    say("no parent", beneath_fd(rs, -1, READ));
    say("no right before no parent", beneath_fd(rs, -1, 0));
    say("directory right of a file", beneath(rs, "file", READ_DIR));
    say("rights of a file", beneath(rs, "file", READ | WRITE));
    say("of a ruleset", beneath_fd(rs, rs, READ));
    let (r, _) = pipe();
    say("of a pipe", beneath_fd(rs, r, READ));
    say(
        "of a socket",
        beneath_fd(rs, c!(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)).fd(), READ),
    );
    say("of a memfd", beneath_fd(rs, c!(libc::memfd_create(c"x".as_ptr(), 0)).fd(), READ));
    say("of an eventfd", beneath_fd(rs, c!(libc::eventfd(0, 0)).fd(), READ));
    say("of a device", beneath(rs, "/dev/null", READ));
    say("of proc", beneath(rs, "/proc", READ));
    say("of a namespace", beneath(rs, "/proc/self/ns/mnt", READ).is_ok());
    say("of something deleted", {
        let fd = open("gone", libc::O_CREAT | libc::O_RDWR).fd();
        std::fs::remove_file("gone").unwrap();
        beneath_fd(rs, fd, READ)
    });
    for (p, access) in [
        (0, BIND),
        (65535, BIND),
        (65536, BIND),
        (u64::MAX, BIND),
        (1, 0),
        (65536, 0),
        (1, CONNECT),
        (1, 4),
        (1, BIND | 8),
    ] {
        say(&format!("port {p} {access}"), port(rs, p, access));
    }
    say("port of a ruleset of files", port(ruleset(READ, 0, 0), 1, BIND));
    say("files of a ruleset of ports", beneath(ruleset(0, 1, 0), ".", READ));
}

fn restrict_errors() {
    let rs = ruleset(READ, 0, 0);
    say("without no_new_privs", restrict(rs));
    say("that before flags", sc!(RESTRICT, rs, 0x80));
    say("that before the descriptor", sc!(RESTRICT, -1, 0));
    no_new_privs();
    say("unknown flag", sc!(RESTRICT, rs, 0x80));
    say("flags before the descriptor", sc!(RESTRICT, -1, 0x80));
    say("no descriptor", restrict(-1));
    say("closed", restrict(999));
    say("of another kind", restrict(open(".", 0).fd()));
    say("of O_PATH", restrict(open(".", libc::O_PATH).fd()));
    say("nothing but logs", sc!(RESTRICT, -1, 4));
    say("two flags of logs", sc!(RESTRICT, -1, 6));
    put("file", b"");
    say("still unrestricted", open("file", 0).ok());
    say("logs", sc!(RESTRICT, rs, 7));
    say("restricted", open("file", 0).ok());
    let mut n = 1;
    let last = loop {
        match restrict(rs) {
            R(0) => n += 1,
            e => break e,
        }
    };
    say("layers", format!("{n} {last}"));
    say("logs without a layer", sc!(RESTRICT, -1, 4));
}

fn restrict_root() {
    let rs = ruleset(READ, 0, 0);
    put("file", b"");
    apart(|| {
        say("with CAP_SYS_ADMIN", restrict(rs));
        say("no_new_privs", c!(libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)));
        say("restricted, too", open("file", 0).ok());
    });
    apart(|| {
        c!(libc::setresuid(1, 1, 1));
        say("without", restrict(rs));
    });
}

/// In a user namespace of its own the program has the capability.
fn without_privileges() {
    let rs = ruleset(READ, 0, 0);
    apart(|| {
        say("before", restrict(rs));
        say("unshare", c!(libc::unshare(libc::CLONE_NEWUSER)));
        say("after", restrict(rs));
    });
}

fn open_rights() {
    std::fs::create_dir_all("dir/sub").unwrap();
    put("dir/file", b"text");
    put("file", b"text");
    put("dir/sub/deep", b"text");
    let before = open("file", libc::O_RDWR).fd();
    let try_all = || {
        for path in ["file", "dir/file", "dir/sub/deep", "dir", "dir/sub", "."] {
            for (what, flags) in [
                ("read", libc::O_RDONLY),
                ("write", libc::O_WRONLY),
                ("both", libc::O_RDWR),
                ("neither", 3),
                ("append", libc::O_WRONLY | libc::O_APPEND),
                ("place", libc::O_PATH),
                ("directory", libc::O_DIRECTORY),
                ("create", libc::O_CREAT | libc::O_WRONLY),
            ] {
                say(&format!("{path} {what}"), open(path, flags).ok());
            }
            let mut st: libc::stat = unsafe { std::mem::zeroed() };
            let p = cstr(path);
            say(
                &format!("{path} others"),
                format!(
                    "{} {} {} {}",
                    c!(libc::stat(p.as_ptr(), &mut st)),
                    c!(libc::access(p.as_ptr(), libc::R_OK | libc::W_OK)),
                    c!(libc::chmod(p.as_ptr(), 0o755)),
                    c!(libc::utimes(p.as_ptr(), std::ptr::null())),
                ),
            );
        }
        say("chdir", c!(libc::chdir(c"dir".as_ptr())));
        say("new name", open("fresh", libc::O_CREAT | libc::O_RDWR).ok());
        say("was made", std::fs::symlink_metadata("fresh").is_ok());
        say("old descriptor", format!("{} {}", read_text(before, 1), write(before, b"e")));
    };
    for (what, handled, rules) in [
        ("nothing granted", READ | WRITE | READ_DIR, &[][..]),
        ("read", READ | WRITE | READ_DIR, &[("dir", READ)]),
        ("all below", READ | WRITE | READ_DIR, &[("dir", READ | WRITE | READ_DIR)]),
        ("one deep", READ | WRITE | READ_DIR, &[("dir/sub", READ | READ_DIR), ("file", WRITE)]),
        ("directories", READ_DIR, &[("dir/sub", READ_DIR)]),
        ("from the root", READ | WRITE | READ_DIR, &[("/", READ | READ_DIR)]),
        ("sum of two", READ | WRITE, &[("dir", READ), ("dir/sub", WRITE)]),
        ("making", MAKE_REG | WRITE, &[("dir", MAKE_REG)]),
        ("network only", 0, &[]),
    ] {
        say("ruleset", what);
        apart(|| {
            let rs = ruleset(handled, BIND, 0);
            for (path, access) in rules {
                say(path, beneath(rs, path, *access));
            }
            enter(rs);
            try_all();
        });
        let _ = std::fs::remove_file("dir/fresh");
    }
}

fn programs() {
    let run = |path: &str| {
        let p = cstr(path);
        in_child(|| {
            let argv = [p.as_ptr(), std::ptr::null()];
            let e = c!(libc::execv(p.as_ptr(), argv.as_ptr()));
            say("execv", e);
            7
        })
    };
    put("script", b"#!/bin/true\n");
    c!(libc::chmod(c"script".as_ptr(), 0o755));
    for (what, handled, rules) in [
        ("nothing granted", EXECUTE, &[][..]),
        ("granted", EXECUTE, &[("/", EXECUTE)]),
        ("without reading", EXECUTE | READ, &[("/", EXECUTE)]),
        ("without execution", EXECUTE | READ, &[("/", READ)]),
        ("both", EXECUTE | READ, &[("/", EXECUTE | READ)]),
        ("only the script", EXECUTE, &[(".", EXECUTE)]),
        ("not the script", EXECUTE, &[("/usr", EXECUTE)]),
    ] {
        say("ruleset", what);
        apart(|| {
            let rs = ruleset(handled, 0, 0);
            for (path, access) in rules {
                beneath(rs, path, *access);
            }
            enter(rs);
            say("program", run("/bin/true"));
            say("script", run("./script"));
            let fd = open("script", libc::O_PATH).fd();
            let argv = [c"x".as_ptr(), std::ptr::null()];
            say(
                "execveat",
                in_child(|| {
                    let r = sc!(
                        libc::SYS_execveat,
                        fd,
                        c"".as_ptr(),
                        argv.as_ptr(),
                        argv[1..].as_ptr(),
                        libc::AT_EMPTY_PATH
                    );
                    say("error", r);
                    7
                }),
            );
        });
    }
}

fn directories() {
    std::fs::create_dir_all("a/b").unwrap();
    put("a/file", b"");
    let rs = ruleset(READ_DIR | REMOVE_DIR | MAKE_DIR, 0, 0);
    let a = open("a", libc::O_DIRECTORY).fd();
    enter(rs);
    say("list", std::fs::read_dir("a").map(|_| ()).map_err(|e| e.kind()).is_ok());
    let mut buf = [0u8; 512];
    say(
        "list through an old descriptor",
        sc!(libc::SYS_getdents64, a, buf.as_mut_ptr(), 512).is_ok(),
    );
    say("open below it", c!(libc::openat(a, c"file".as_ptr(), libc::O_RDWR)).ok());
    say("chdir", c!(libc::fchdir(a)));
    say("rmdir", c!(libc::rmdir(c"b".as_ptr())));
    say("rmdir of a file", c!(libc::rmdir(c"file".as_ptr())));
    say("rmdir of nothing", c!(libc::rmdir(c"none".as_ptr())));
    say("rmdir of dot", c!(libc::rmdir(c".".as_ptr())));
    say("mkdir", c!(libc::mkdir(c"new".as_ptr(), 0o777)));
    say("mkdir of something", c!(libc::mkdir(c"file".as_ptr(), 0o777)));
    say("unlink", c!(libc::unlink(c"file".as_ptr())));
    say("unlink of a directory", c!(libc::unlink(c"b".as_ptr())));
}

/// Makes one of each kind; says what happened and removes it again.
fn make_each(dir: &str) {
    let at = |name: &str| cstr(&format!("{dir}/{name}"));
    say(
        "file",
        c!(libc::open(
            at("file").as_ptr(),
            libc::O_CREAT | libc::O_EXCL | libc::O_PATH | libc::O_WRONLY,
            0o644
        ))
        .ok(),
    );
    say(
        "file",
        c!(libc::open(at("file").as_ptr(), libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY, 0o644))
            .ok(),
    );
    say("mknod", c!(libc::mknod(at("node").as_ptr(), libc::S_IFREG | 0o644, 0)));
    say("mknod of no type", c!(libc::mknod(at("plain").as_ptr(), 0o644, 0)));
    say("directory", c!(libc::mkdir(at("dir").as_ptr(), 0o755)));
    say("link", c!(libc::symlink(c"x".as_ptr(), at("sym").as_ptr())));
    say("fifo", c!(libc::mkfifo(at("fifo").as_ptr(), 0o644)));
    say("socket", c!(libc::mknod(at("sock").as_ptr(), libc::S_IFSOCK | 0o644, 0)));
    let s = c!(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)).fd();
    let name = format!("{dir}/bound");
    let mut a: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    a.sun_family = libc::AF_UNIX as u16;
    for (to, from) in a.sun_path.iter_mut().zip(name.bytes()) {
        *to = from as i8;
    }
    say("bind", c!(libc::bind(s, (&raw const a).cast(), 2 + name.len() as u32 + 1)));
    close(s);
    say("char", c!(libc::mknod(at("char").as_ptr(), libc::S_IFCHR | 0o644, libc::makedev(1, 3))));
    say("block", c!(libc::mknod(at("block").as_ptr(), libc::S_IFBLK | 0o644, libc::makedev(1, 3))));
    for n in ["file", "node", "plain", "sym", "fifo", "sock", "bound", "char", "block"] {
        say(&format!("unlink {n}"), c!(libc::unlink(at(n).as_ptr())));
    }
    say("rmdir", c!(libc::rmdir(at("dir").as_ptr())));
}

const MAKES: u64 = MAKE_CHAR | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_BLOCK | MAKE_SYM;

fn makers() {
    for right in [
        MAKE_REG,
        MAKE_DIR,
        MAKE_SYM,
        MAKE_FIFO,
        MAKE_SOCK,
        MAKE_CHAR | MAKE_BLOCK,
        REMOVE_FILE,
        REMOVE_DIR,
        MAKES,
    ] {
        for granted in [0, right] {
            std::fs::create_dir("in").unwrap();
            say("right", format!("{right:#x} {granted:#x}"));
            apart(|| {
                let rs = ruleset(right, 0, 0);
                if granted != 0 {
                    beneath(rs, "in", granted);
                }
                enter(rs);
                make_each("in");
            });
            std::fs::remove_dir_all("in").unwrap();
        }
    }
}

fn making() {
    makers();
}

fn making_devices() {
    makers();
}

fn tmpfile() {
    std::fs::create_dir("in").unwrap();
    std::fs::create_dir("out").unwrap();
    let rs = ruleset(READ | WRITE | MAKE_REG, 0, 0);
    beneath(rs, "in", READ | WRITE | MAKE_REG);
    enter(rs);
    let tmp = libc::O_TMPFILE;
    say("refused", open("out", tmp | libc::O_RDWR).ok());
    let fd = open("in", tmp | libc::O_RDWR).fd();
    let link = |to: &str| {
        let from = cstr(&format!("/proc/self/fd/{fd}"));
        c!(libc::linkat(
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            cstr(to).as_ptr(),
            libc::AT_SYMLINK_FOLLOW
        ))
    };
    say("link elsewhere", link("out/x"));
    say("link", link("in/x"));
    say("link beside", link("in/y"));
}

fn truncating() {
    std::fs::create_dir("in").unwrap();
    for p in ["in/file", "file"] {
        put(p, b"0123456789");
    }
    let old = open("file", libc::O_RDWR).fd();
    let rs = ruleset(TRUNCATE | WRITE, 0, 0);
    beneath(rs, "in", TRUNCATE | WRITE);
    beneath(rs, "file", WRITE);
    let (out, back) = c_pair();
    enter(rs);
    for p in ["in/file", "file"] {
        let cp = cstr(p);
        say(&format!("{p} truncate"), c!(libc::truncate(cp.as_ptr(), 9)));
        say(&format!("{p} O_TRUNC"), open(p, libc::O_WRONLY | libc::O_TRUNC).ok());
        say(&format!("{p} O_TRUNC for reading"), open(p, libc::O_RDONLY | libc::O_TRUNC).ok());
        say(&format!("{p} creat"), c!(libc::creat(cp.as_ptr(), 0o644)).ok());
        let fd = open(p, libc::O_WRONLY).fd();
        say(&format!("{p} write"), write(fd, b"abc"));
        say(&format!("{p} ftruncate"), c!(libc::ftruncate(fd, 2)));
        say(&format!("{p} fallocate"), c!(libc::fallocate(fd, 0, 0, 100)).ok());
        close(fd);
    }
    say("old descriptor", c!(libc::ftruncate(old, 1)));
    let m = c!(libc::memfd_create(c"m".as_ptr(), 0)).fd();
    say("memfd", c!(libc::ftruncate(m, 100)));
    say("new file", open("file2", libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY).ok());
    say("directory", c!(libc::truncate(c"in".as_ptr(), 0)));
    // What the descriptor lacks it lacks wherever it goes.
    let fd = open("file", libc::O_WRONLY).fd();
    write(out, &[fd as u8]);
    let dup = c!(libc::dup(fd)).fd();
    say("duplicate", c!(libc::ftruncate(dup, 0)));
    let n = read(back, 1).unwrap()[0];
    apart(|| say("in a child", c!(libc::ftruncate(i32::from(n), 0))));
    let again = open(&format!("/proc/self/fd/{old}"), libc::O_WRONLY).fd();
    say("opened again", c!(libc::ftruncate(again, 0)));
}

fn c_pair() -> (i32, i32) {
    let (r, w) = pipe();
    (w, r)
}

fn device_ioctl() {
    let (pty, mut size) = (open("/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY).fd(), 0u64);
    let rs = ruleset(IOCTL_DEV, 0, 0);
    beneath(rs, "/dev/zero", IOCTL_DEV);
    put("file", b"abc");
    enter(rs);
    let p = &raw mut size;
    let each = |name: &str, fd: i32| {
        for (what, cmd) in [
            ("FIOCLEX", 0x5451u64),
            ("FIONCLEX", 0x5450),
            ("FIONBIO", 0x5421),
            ("FIOASYNC", 0x5452),
            ("FIOQSIZE", 0x5460),
            ("FIONREAD", 0x541b),
            ("FIGETBSZ", 2),
            ("TCGETS", libc::TCGETS),
            ("TIOCGPTN", 0x8004_5430),
            ("unknown", 0x1234_5678),
        ] {
            size_zero(p);
            say(&format!("{name} {what}"), c!(libc::ioctl(fd, cmd, p)));
        }
    };
    each("null", open("/dev/null", libc::O_RDWR).fd());
    each("zero", open("/dev/zero", libc::O_RDWR).fd());
    each("file", open("file", libc::O_RDWR).fd());
    let mut termios = [0u8; 256];
    say("old terminal", c!(libc::ioctl(pty, 0x5401, termios.as_mut_ptr())));
    let new = open("/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY).fd();
    say("new terminal", c!(libc::ioctl(new, 0x5401, termios.as_mut_ptr())));
    let (r, _) = pipe();
    say("pipe", c!(libc::ioctl(r, libc::FIONREAD, p)));
}

fn size_zero(p: *mut u64) {
    unsafe { *p = 0 };
}

fn layers() {
    std::fs::create_dir_all("a/b/c").unwrap();
    for p in ["a/f", "a/b/f", "a/b/c/f"] {
        put(p, b"");
    }
    let look = |what: &str| {
        for p in ["a/f", "a/b/f", "a/b/c/f"] {
            say(
                &format!("{what} {p}"),
                format!("{} {}", open(p, libc::O_RDONLY).ok(), open(p, libc::O_WRONLY).ok()),
            );
        }
    };
    let rs = ruleset(READ | WRITE, 0, 0);
    beneath(rs, "a", READ);
    beneath(rs, "a/b", READ | WRITE);
    enter(rs);
    look("one");
    let rs = ruleset(READ | WRITE, 0, 0);
    beneath(rs, "a/b/c", READ | WRITE);
    beneath(rs, "a", READ);
    enter(rs);
    look("two");
    // Rules that come later do not count.
    beneath(rs, "a", READ | WRITE);
    look("two still");
    let rs = ruleset(WRITE, 0, 0);
    enter(rs);
    look("three");
    let rs = ruleset(MAKE_REG, 0, 0);
    enter(rs);
    look("four");
}

fn inheritance() {
    put("file", b"");
    let rs = ruleset(READ, 0, 0);
    beneath(rs, "/usr", READ);
    for d in ["/bin", "/lib", "/lib64", "/etc", "/proc", "/dev", "/sys"] {
        if std::fs::metadata(d).is_ok() {
            beneath(rs, d, READ);
        }
    }
    let before = Event::new();
    let elder = child(|| {
        before.wait();
        say("started before", open("file", 0).ok());
        0
    });
    enter(rs);
    say("here", open("file", 0).ok());
    apart(|| say("child", open("file", 0).ok()));
    before.post();
    reap(elder);
    let out = std::process::Command::new("/bin/cat").arg("file").output().unwrap();
    say("after execve", out.status.code().unwrap_or(-1));
    let out = std::process::Command::new("/bin/cat").arg("/etc/passwd").output().unwrap();
    say("what is granted", out.status.code().unwrap_or(-1));
    say(
        "namespaces",
        in_child(|| {
            say("unshare", c!(libc::unshare(libc::CLONE_NEWUSER)));
            say("in a user namespace", open("file", 0).ok());
            0
        }),
    );
}

fn threads() {
    put("file", b"");
    let rs = ruleset(READ, 0, 0);
    no_new_privs();
    let (tx, rx) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || {
        rx.recv().unwrap();
        open("file", 0).ok()
    });
    let inside = std::thread::spawn(move || {
        enter(rs);
        let own = open("file", 0).ok();
        let started = std::thread::spawn(|| open("file", 0).ok()).join().unwrap();
        format!("{own} {started}")
    });
    say("the thread and one it started", inside.join().unwrap());
    tx.send(()).unwrap();
    say("another", other.join().unwrap());
    say("the first", open("file", 0).ok());
}

/// What /proc/PID/fd leads to.
fn magic_links() {
    let (r, _w) = pipe();
    let m = c!(libc::memfd_create(c"m".as_ptr(), 0)).fd();
    let deleted = open("gone", libc::O_CREAT | libc::O_RDWR).fd();
    std::fs::remove_file("gone").unwrap();
    put("file", b"");
    let file = open("file", 0).fd();
    let rs = ruleset(READ | WRITE | READ_DIR, 0, 0);
    beneath(rs, "/proc", READ | READ_DIR);
    enter(rs);
    for (what, fd) in [("pipe", r), ("memfd", m), ("deleted", deleted), ("file", file)] {
        say(what, open(&format!("/proc/self/fd/{fd}"), libc::O_RDONLY).ok());
    }
    for p in [
        "/proc/self/ns/mnt",
        "/proc/self/status",
        "/proc/self/exe",
        "/proc/self/cwd",
        "/proc/self/fd",
        "/proc",
    ] {
        say(p, open(p, libc::O_RDONLY).ok());
    }
}

/// Message queues are files of an internal mount.
fn queues() {
    let name = cstr(&format!("/gt-landlock-{}", getpid()));
    let n = name.as_bytes_with_nul()[1..].as_ptr();
    let open_q = |flags: i32| sc!(libc::SYS_mq_open, n, flags, 0o600, 0);
    say("made before", open_q(libc::O_CREAT | libc::O_RDWR).ok());
    apart(|| {
        enter(ruleset(MAKE_REG | REMOVE_FILE, 0, 0));
        say("handles making: open", open_q(libc::O_RDWR).ok());
        say("handles making: create", {
            let other = cstr(&format!("gt-landlock-b-{}", getpid()));
            let r = sc!(libc::SYS_mq_open, other.as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600, 0);
            say("unlink", sc!(libc::SYS_mq_unlink, other.as_ptr()));
            r.ok()
        });
    });
    apart(|| {
        enter(ruleset(READ | WRITE, 0, 0));
        say("handles reading: open", open_q(libc::O_RDWR).ok());
        say("handles reading: write only", open_q(libc::O_WRONLY).ok());
    });
    say("unlink", sc!(libc::SYS_mq_unlink, n));
}
