//! Modes and owners: permission checks, umask, chmod, chown, sticky and set-id bits, chroot.

use super::paths::*;
use crate::sys::*;
use crate::{c, cases, sc};
use std::os::unix::fs::MetadataExt;

cases! {
    permissions_user, umask_and_modes, access_calls, chmod_forms, mknod_user, chown_user, sticky: root, chown_root: root, setgid_directory: root, chroot: root, mknod_root: root, permissions_root: root, groups_and_permissions: root, chmod_clears_setgid: root, protected_owner: root,
}

fn permissions_user() {
    put("f", b"x");
    for m in [0o000, 0o200, 0o400, 0o600] {
        chmod("f", m);
        say(
            &format!("{m:03o} read, write"),
            format!("{} {}", open("f", 0).ok(), open("f", 1).ok()),
        );
    }
    mkdir("d", 0o755);
    put("d/x", b"");
    for m in [0o000, 0o100, 0o200, 0o300, 0o400, 0o500, 0o700] {
        chmod("d", m);
        let list = std::fs::read_dir("d").is_ok();
        let enter = open("d/x", 0).ok();
        let create = open("d/new", libc::O_CREAT | libc::O_WRONLY).ok();
        unlink("d/new");
        say(&format!("directory {m:03o}"), format!("list {list}, open {enter}, create {create}"));
    }
    say("system file for writing", open("/etc/passwd", libc::O_WRONLY));
    say("create in /", open("/gt-test-file", libc::O_CREAT | libc::O_WRONLY));
    say("unlink of a system file", unlink("/etc/passwd"));
    say("chmod of a system file", chmod("/etc/passwd", 0o777));
}

fn umask_and_modes() {
    for u in [0, 0o022, 0o077, 0o777] {
        unsafe { libc::umask(u) };
        open_mode("f", libc::O_CREAT | libc::O_WRONLY, 0o6777);
        mkdir("d", 0o1777);
        say(&format!("umask {u:03o}"), format!("{} {}", mode_of("f"), mode_of("d")));
        unlink("f");
        rmdir("d");
    }
    say("umask gives the old", format!("{:o}", unsafe { libc::umask(0o10777) }));
    say("bits beyond 0777 are dropped", format!("{:o}", unsafe { libc::umask(0) }));
}

fn access_calls() {
    put("f", b"");
    chmod("f", 0o500);
    let a = |m: i32| c!(libc::access(c"f".as_ptr(), m));
    say("F R W X", format!("{} {} {} {}", a(0), a(4), a(2), a(1)));
    say("R|X", a(5));
    say("R|W", a(6));
    say("bad mode", a(8));
    say("missing", c!(libc::access(c"none".as_ptr(), 0)));
    let f2 = |fl: i32| sc!(439, libc::AT_FDCWD, c"f".as_ptr(), libc::R_OK, fl);
    say("faccessat2 EACCESS", f2(libc::AT_EACCESS));
    say("faccessat2 bad flag", f2(0x8000));
    symlink("none", "l");
    say("dangling", sc!(439, libc::AT_FDCWD, c"l".as_ptr(), 0, 0));
    say(
        "dangling, NOFOLLOW",
        sc!(439, libc::AT_FDCWD, c"l".as_ptr(), 0, libc::AT_SYMLINK_NOFOLLOW),
    );
}

fn chmod_forms() {
    put("f", b"");
    say("chmod", chmod("f", 0o7751));
    say("mode", mode_of("f"));
    say("bits beyond 07777 are ignored", chmod("f", 0o170644));
    say("mode", mode_of("f"));
    let fd = open("f", 0).fd();
    say("fchmod of a read-only fd", c!(libc::fchmod(fd, 0o640)));
    say("mode", mode_of("f"));
    symlink("f", "l");
    // fchmodat2 (6.6) may say that links have no modes.
    let r = sc!(452, libc::AT_FDCWD, c"l".as_ptr(), 0o600, libc::AT_SYMLINK_NOFOLLOW);
    say("fchmodat2 of a link", r);
    say("fchmodat2 bad flag", sc!(452, libc::AT_FDCWD, c"f".as_ptr(), 0o600, 0x8000));
    say("missing", chmod("none", 0));
    // Writing clears set-id bits for an ordinary user.
    chmod("f", 0o6755);
    let w = open("f", libc::O_WRONLY).fd();
    write(w, b"x");
    say("set-id after write", mode_of("f"));
    chmod("f", 0o6755);
    unsafe { libc::truncate(c"f".as_ptr(), 0) };
    say("set-id after truncate", mode_of("f"));
}

fn mknod_user() {
    let mk = |n: &std::ffi::CStr, m: u32, d: u64| c!(libc::mknod(n.as_ptr(), m, d));
    say("regular", mk(c"r", libc::S_IFREG | 0o644, 0));
    say("type 0 is regular", mk(c"z", 0o644, 0));
    say("fifo", mk(c"p", libc::S_IFIFO | 0o644, 0));
    say("socket", mk(c"s", libc::S_IFSOCK | 0o644, 0));
    say("character device", mk(c"c", libc::S_IFCHR | 0o644, libc::makedev(1, 3)));
    say("directory", mk(c"d", libc::S_IFDIR | 0o644, 0));
    say("link", mk(c"l", libc::S_IFLNK | 0o644, 0));
    say("existing", mk(c"r", libc::S_IFREG | 0o644, 0));
    for n in ["r", "z", "p", "s"] {
        say(n, mode_of(n));
    }
}

fn chown_user() {
    put("f", b"");
    let me = unsafe { libc::getuid() };
    let g = unsafe { libc::getgid() };
    say("to self", c!(libc::chown(c"f".as_ptr(), me, g)));
    say("-1 -1", c!(libc::chown(c"f".as_ptr(), u32::MAX, u32::MAX)));
    if me != 0 {
        say("to root", c!(libc::chown(c"f".as_ptr(), 0, u32::MAX)));
        say("to a group that is not ours", c!(libc::chown(c"f".as_ptr(), u32::MAX, 0)));
    }
    say("lchown missing", c!(libc::lchown(c"none".as_ptr(), me, g)));
}

fn as_user(uid: u32, gid: u32, groups: &[u32], f: impl FnOnce() -> i32) -> String {
    in_child(|| {
        unsafe {
            assert_eq!(libc::setgroups(groups.len(), groups.as_ptr()), 0);
            assert_eq!(libc::setresgid(gid, gid, gid), 0);
            assert_eq!(libc::setresuid(uid, uid, uid), 0);
        }
        f()
    })
}

/// Lets other users reach the case's directory.
fn open_up() {
    chmod(".", 0o777);
}

fn sticky() {
    open_up();
    mkdir("t", 0o777);
    chmod("t", 0o1777);
    as_user(1001, 1001, &[], || {
        put("t/mine", b"");
        mkdir("t/dir", 0o777);
        0
    });
    as_user(1002, 1002, &[], || {
        say("unlink another's", unlink("t/mine"));
        say("rename another's", rename("t/mine", "t/x"));
        say("rmdir another's", rmdir("t/dir"));
        put("t/own", b"");
        say("rename over another's", rename("t/own", "t/mine"));
        say("own", unlink("t/own"));
        0
    });
    say("owner", as_user(1001, 1001, &[], || unlink("t/mine").is_ok() as i32));
    std::os::unix::fs::chown("t", Some(1003), None).unwrap();
    say("owner of the directory", as_user(1003, 1003, &[], || rmdir("t/dir").is_ok() as i32));
}

fn chown_root() {
    put("f", b"");
    chmod("f", 0o6755);
    say("chown", c!(libc::chown(c"f".as_ptr(), 5, 6)));
    let m = std::fs::metadata("f").unwrap();
    say("owner", format!("{} {}", m.uid(), m.gid()));
    say("set-id bits cleared", mode_of("f"));
    chmod("f", 0o2745);
    unsafe { libc::chown(c"f".as_ptr(), 7, u32::MAX) };
    say("set-gid without group x stays", mode_of("f"));
    symlink("f", "l");
    say("lchown", c!(libc::lchown(c"l".as_ptr(), 9, 9)));
    say("link's owner", std::fs::symlink_metadata("l").unwrap().uid());
    say("target's owner", std::fs::metadata("f").unwrap().uid());
    say("fchownat empty path", {
        let fd = open("f", libc::O_PATH).fd();
        c!(libc::fchownat(fd, c"".as_ptr(), 3, 3, libc::AT_EMPTY_PATH))
    });
    open_up();
    std::os::unix::fs::chown("f", Some(1001), Some(1001)).unwrap();
    as_user(1001, 1001, &[50], || {
        say("owner gives to own other group", c!(libc::chown(c"f".as_ptr(), u32::MAX, 50)));
        say("to a strange group", c!(libc::chown(c"f".as_ptr(), u32::MAX, 51)));
        say("gives away", c!(libc::chown(c"f".as_ptr(), 1002, u32::MAX)));
        0
    });
}

fn setgid_directory() {
    open_up();
    mkdir("d", 0o777);
    std::os::unix::fs::chown("d", None, Some(77)).unwrap();
    chmod("d", 0o2777);
    as_user(1001, 1001, &[], || {
        put("d/f", b"");
        mkdir("d/sub", 0o755);
        open_mode("d/x", libc::O_CREAT | libc::O_WRONLY, 0o2775);
        0
    });
    let m = |p: &str| std::fs::metadata(p).unwrap();
    say("file's group", m("d/f").gid());
    say("directory's group and bit", format!("{} {}", m("d/sub").gid(), mode_of("d/sub")));
    say("set-gid executable of a stranger", mode_of("d/x"));
}

fn chroot() {
    mkdir("r", 0o755);
    mkdir("r/sub", 0o755);
    put("r/f", b"inside");
    put("f", b"outside");
    symlink("/f", "r/abs");
    symlink("../f", "r/up");
    let dir = open(".", 0).fd();
    let s = in_child(|| {
        say("chroot", c!(libc::chroot(c"r".as_ptr())));
        say("cwd is outside still", get("f"));
        say("chdir", c!(libc::chdir(c"/".as_ptr())));
        say("root's file", get("/f"));
        say("absolute link", get("/abs"));
        say("dotdot stays inside", get("/up"));
        say("../../f", get("../../f"));
        say("getcwd", std::env::current_dir().unwrap().display());
        say(
            "by a descriptor from outside",
            read_text(c!(libc::openat(dir, c"f".as_ptr(), 0)).fd(), 10),
        );
        unsafe { libc::fchdir(dir) };
        let mut b = [0u8; 100];
        let r = sc!(libc::SYS_getcwd, b.as_mut_ptr(), 100);
        say("getcwd outside the root", r.is_ok() && b.starts_with(b"(unreachable)"));
        0
    });
    say("child", s);
    say("parent's root", get("f"));
    say("of a file", c!(libc::chroot(c"f".as_ptr())));
    say("missing", c!(libc::chroot(c"none".as_ptr())));
    open_up();
    as_user(1001, 1001, &[], || {
        say("as user", c!(libc::chroot(c"r".as_ptr())));
        0
    });
}

fn mknod_root() {
    let r = c!(libc::mknod(c"null".as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 3)));
    say("mknod 1:3", r);
    let m = std::fs::metadata("null").unwrap();
    say("device", format!("{}:{} {:o}", libc::major(m.rdev()), libc::minor(m.rdev()), m.mode()));
    say("block", c!(libc::mknod(c"blk".as_ptr(), libc::S_IFBLK | 0o600, libc::makedev(7, 200))));
    say("kind", mode_of("blk"));
}

fn permissions_root() {
    put("f", b"x");
    chmod("f", 0);
    say(
        "read and write without permission",
        format!("{} {}", open("f", 0).ok(), open("f", 1).ok()),
    );
    say("access R W X", {
        let a = |m: i32| c!(libc::access(c"f".as_ptr(), m));
        format!("{} {} {}", a(4), a(2), a(1))
    });
    mkdir("d", 0);
    say("create in a closed directory", open("d/x", libc::O_CREAT | libc::O_WRONLY).ok());
    say("list it", std::fs::read_dir("d").unwrap().count());
}

fn groups_and_permissions() {
    open_up();
    put("f", b"x");
    std::os::unix::fs::chown("f", Some(2000), Some(300)).unwrap();
    for (m, who, uid, gid, groups) in [
        (0o640, "group", 1001, 300, &[][..]),
        (0o640, "supplementary", 1001, 1001, &[300][..]),
        (0o640, "other", 1001, 1001, &[][..]),
        (0o604, "group is worse than other", 1001, 300, &[][..]),
        (0o064, "owner is worse than group", 2000, 300, &[][..]),
        (0o604, "other", 1001, 1001, &[][..]),
    ] {
        chmod("f", m);
        as_user(uid, gid, groups, || {
            say(&format!("{m:03o} {who}"), format!("{} {}", open("f", 0).ok(), open("f", 1).ok()));
            0
        });
    }
}

fn chmod_clears_setgid() {
    open_up();
    put("f", b"");
    std::os::unix::fs::chown("f", Some(1001), Some(300)).unwrap();
    as_user(1001, 1001, &[], || {
        say("set-gid for a group one is not in", chmod("f", 0o2755));
        say("mode", mode_of("f"));
        0
    });
    as_user(1001, 1001, &[300], || {
        chmod("f", 0o2755);
        say("member", mode_of("f"));
        0
    });
}

fn protected_owner() {
    open_up();
    put("f", b"");
    as_user(1001, 1001, &[], || {
        say("chmod of another's", chmod("f", 0o777));
        say("chown of another's", c!(libc::chown(c"f".as_ptr(), 1001, u32::MAX)));
        say("O_NOATIME of another's", open("f", libc::O_NOATIME));
        0
    });
    say("O_NOATIME as root", open("f", libc::O_NOATIME).ok());
}
