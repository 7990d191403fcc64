//! File handles: name_to_handle_at(2), open_by_handle_at(2).

use crate::sys::*;
use crate::{c, cases, sc};

cases! { not_for_all, unprivileged, names_root: root, opening_root: root, stale_root: root, directories_root: root, errors_root: root, cgroup_root: root, only_names,
}

const MAX: usize = 128;

#[repr(C)]
#[derive(Clone, Copy, PartialEq)]
struct Handle {
    bytes: u32,
    kind: i32,
    data: [u8; MAX],
}

fn empty(bytes: usize) -> Handle {
    Handle { bytes: bytes as u32, kind: 0, data: [0; MAX] }
}

fn name_to(dir: i32, path: &str, h: &mut Handle, id: &mut i32, flags: i32) -> R {
    let p = cstr(path);
    sc!(libc::SYS_name_to_handle_at, dir, p.as_ptr(), h as *mut Handle, id as *mut i32, flags)
}

/// The handle of a path.
fn handle(path: &str) -> Handle {
    let (mut h, mut id) = (empty(MAX), 0);
    let r = name_to(libc::AT_FDCWD, path, &mut h, &mut id, 0);
    if !r.is_ok() {
        say(&format!("handle of {path}"), r);
    }
    h
}

fn by_handle(mount: i32, h: &Handle, flags: i32) -> R {
    sc!(libc::SYS_open_by_handle_at, mount, h as *const Handle, flags)
}

/// A tmpfs of its own in `m`, in a mount namespace of its own; a descriptor of it.
fn tmpfs() -> i32 {
    let none = std::ptr::null();
    c!(libc::unshare(libc::CLONE_NEWNS));
    let private = libc::MS_REC | libc::MS_PRIVATE;
    c!(libc::mount(c"none".as_ptr(), c"/".as_ptr(), none, private, none.cast()));
    std::fs::create_dir("m").unwrap();
    let r = c!(libc::mount(c"t".as_ptr(), c"m".as_ptr(), c"tmpfs".as_ptr(), 0, none.cast()));
    say("tmpfs", r);
    open("m", libc::O_RDONLY | libc::O_DIRECTORY).fd()
}

fn mount_id(place: &str) -> i32 {
    let t = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let line = t.lines().rfind(|l| l.split(' ').nth(4).is_some_and(|p| p.ends_with(place)));
    line.and_then(|l| l.split(' ').next()).and_then(|w| w.parse().ok()).unwrap_or(-1)
}

fn not_for_all() {
    let (mut h, mut id) = (empty(MAX), -7);
    let (r, _w) = pipe();
    say("pipe", name_to(r, "", &mut h, &mut id, libc::AT_EMPTY_PATH));
    say("id untouched", id);
    say("proc", name_to(libc::AT_FDCWD, "/proc/self/status", &mut h, &mut id, 0));
    let s = c!(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)).fd();
    say("socket", name_to(s, "", &mut h, &mut id, libc::AT_EMPTY_PATH));
    say("flags first", name_to(-1, "nowhere", &mut h, &mut id, 0x8));
    say("no path", name_to(libc::AT_FDCWD, "nowhere", &mut h, &mut id, 0));
    say("empty path", name_to(libc::AT_FDCWD, "", &mut h, &mut id, 0));
    say("descriptor", name_to(-1, "x", &mut h, &mut id, 0));
}

fn unprivileged() {
    if unsafe { libc::geteuid() } == 0 {
        return;
    }
    let mut h = empty(8);
    h.kind = 1;
    say("open", by_handle(libc::AT_FDCWD, &h, 0));
    say("bad descriptor", by_handle(-1, &h, 0));
    say("bad pointer", sc!(libc::SYS_open_by_handle_at, libc::AT_FDCWD, 8, 0));
}

fn names_root() {
    let m = tmpfs();
    put("m/f", b"content");
    std::os::unix::fs::symlink("f", "m/l").unwrap();
    std::fs::hard_link("m/f", "m/f2").unwrap();
    let (mut h, mut id) = (empty(0), -7);
    say("no room", name_to(libc::AT_FDCWD, "m/f", &mut h, &mut id, 0));
    say("room needed", h.bytes > 0);
    say("mount id", id == mount_id("/m"));
    let need = h.bytes;
    h.bytes -= 1;
    say("a byte short", name_to(libc::AT_FDCWD, "m/f", &mut h, &mut id, 0));
    say("told again", h.bytes == need);
    say("enough", name_to(libc::AT_FDCWD, "m/f", &mut h, &mut id, 0));
    let mut big = empty(MAX);
    say("more than enough", name_to(libc::AT_FDCWD, "m/f", &mut big, &mut id, 0));
    say("the same", big == h);
    say("larger than any", name_to(libc::AT_FDCWD, "m/f", &mut empty(MAX + 1), &mut id, 0));
    say("another name", handle("m/f2") == h);
    say("relative", {
        name_to(m, "f", &mut big, &mut id, 0);
        big == h
    });
    let mut l = empty(MAX);
    say("link", name_to(m, "l", &mut l, &mut id, 0));
    say("itself", l != h);
    say("followed", name_to(m, "l", &mut l, &mut id, libc::AT_SYMLINK_FOLLOW));
    say("its target", l == h);
    let f = open("m/f", libc::O_PATH).fd();
    let mut e = empty(MAX);
    say("descriptor", name_to(f, "", &mut e, &mut id, libc::AT_EMPTY_PATH));
    say("the same", e == h);
    say("the mount's own root", name_to(m, "", &mut e, &mut id, libc::AT_EMPTY_PATH));
    say(
        "bad handle pointer",
        sc!(libc::SYS_name_to_handle_at, m, c"f".as_ptr(), 8, &raw mut id, 0),
    );
    say("bad id pointer", sc!(libc::SYS_name_to_handle_at, m, c"f".as_ptr(), &raw mut e, 8, 0));
    std::fs::rename("m/f", "m/g").unwrap();
    say("renamed", handle("m/g") == h);
}

fn opening_root() {
    let m = tmpfs();
    put("m/f", b"content");
    put("other", b"");
    let h = handle("m/f");
    let fd = by_handle(m, &h, libc::O_RDWR);
    say("open", fd.ok());
    say("read", read_text(fd.fd(), 16));
    say("write", write(fd.fd(), b"more"));
    say("file", get("m/f"));
    say("O_TRUNC", by_handle(m, &h, libc::O_WRONLY | libc::O_TRUNC).ok());
    say("file", get("m/f"));
    say("close on exec", {
        let fd = by_handle(m, &h, libc::O_CLOEXEC).fd();
        c!(libc::fcntl(fd, libc::F_GETFD))
    });
    std::fs::rename("m/f", "m/g").unwrap();
    let fd = by_handle(m, &h, libc::O_RDONLY).fd();
    say("renamed", fd > 0);
    let same = |a: i32, path: &str| {
        use std::os::unix::fs::MetadataExt;
        let f = std::fs::metadata(format!("/proc/self/fd/{a}")).map(|m| (m.dev(), m.ino()));
        let p = std::fs::metadata(path).map(|m| (m.dev(), m.ino()));
        f.is_ok_and(|f| p.is_ok_and(|p| f == p))
    };
    say("same file", same(fd, "m/g"));
    let place = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
    say("place", place.ends_with("m/g"));
    say("as O_PATH", by_handle(m, &h, libc::O_PATH).ok());
    say("a file as directory", by_handle(m, &h, libc::O_DIRECTORY));
    let f = open("m/g", libc::O_PATH).fd();
    say("any file names the mount", by_handle(f, &h, 0).ok());
    c!(libc::chdir(c"m".as_ptr()));
    say("the working directory's", by_handle(libc::AT_FDCWD, &h, 0).ok());
    std::os::unix::fs::symlink("g", "l").unwrap();
    let l = handle("l");
    say("link", by_handle(m, &l, libc::O_RDONLY));
    let fd = by_handle(m, &l, libc::O_PATH);
    say("link as O_PATH", fd.ok());
    let mut b = [0u8; 8];
    say("its text", c!(libc::readlinkat(fd.fd(), c"".as_ptr(), b.as_mut_ptr().cast(), 8)));
    c!(libc::mkfifo(c"p".as_ptr(), 0o600));
    say("fifo", by_handle(m, &handle("p"), libc::O_RDWR).ok());
}

fn stale_root() {
    let m = tmpfs();
    put("m/f", b"content");
    put("m/g", b"content");
    let h = handle("m/f");
    std::fs::remove_file("m/f").unwrap();
    say("gone", by_handle(m, &h, 0));
    say("gone, as O_PATH", by_handle(m, &h, libc::O_PATH));
    put("m/f", b"again");
    say("a new one of that name", by_handle(m, &h, 0));
    let h = handle("m/g");
    let fd = open("m/g", libc::O_RDONLY);
    std::fs::remove_file("m/g").unwrap();
    say("unlinked but open", by_handle(m, &h, 0).ok());
    close(fd.fd());
    let mut bad = handle("m/f");
    bad.data[..4].fill(0xee);
    say("another file", by_handle(m, &bad, 0));
    let elsewhere = open("/proc", libc::O_RDONLY).fd();
    say("another filesystem", by_handle(elsewhere, &handle("m/f"), 0).is_ok());
}

fn directories_root() {
    let m = tmpfs();
    std::fs::create_dir_all("m/a/b/c").unwrap();
    put("m/a/b/c/f", b"deep");
    put("m/a/x", b"up");
    let (b, file) = (handle("m/a/b"), handle("m/a/b/c/f"));
    std::fs::rename("m/a", "m/z").unwrap();
    let fd = by_handle(m, &b, libc::O_RDONLY | libc::O_DIRECTORY);
    say("open", fd.ok());
    let place = std::fs::read_link(format!("/proc/self/fd/{}", fd.fd())).unwrap_or_default();
    say("place", place.ends_with("m/z/b"));
    c!(libc::fchdir(fd.fd()));
    say("below", get("c/f"));
    say("above", get("../x"));
    say("cwd", std::env::current_dir().is_ok_and(|d| d.ends_with("m/z/b")));
    say("list", std::fs::read_dir(".").map(|d| d.count()).unwrap_or(9));
    say("create", std::fs::write("new", "").is_ok());
    let deep = by_handle(m, &file, 0);
    say("file deep down", deep.ok());
    close(deep.fd());
    say("root", by_handle(m, &handle("../.."), 0).ok());
    std::fs::remove_file("new").unwrap();
    std::fs::remove_file("c/f").unwrap();
    std::fs::remove_dir("c").unwrap();
    c!(libc::chdir(c"/".as_ptr()));
    close(fd.fd());
    let at = std::ffi::CString::new("z/b").unwrap();
    say("rmdir", c!(libc::unlinkat(m, at.as_ptr(), libc::AT_REMOVEDIR)));
    say("gone", by_handle(m, &b, 0));
}

fn errors_root() {
    let m = tmpfs();
    put("m/f", b"content");
    let h = handle("m/f");
    say("bad descriptor", by_handle(-1, &h, 0));
    say("bad pointer", sc!(libc::SYS_open_by_handle_at, m, 8, 0));
    let mut e = h;
    e.bytes = 0;
    say("no bytes", by_handle(m, &e, 0));
    e.bytes = MAX as u32 + 1;
    say("too many bytes", by_handle(m, &e, 0));
    e.bytes = 4;
    say("too few bytes", by_handle(m, &e, 0));
    let (r, _w) = pipe();
    say("pipe as mount", by_handle(r, &h, 0).is_ok());
    say("O_CREAT alone", by_handle(m, &h, libc::O_CREAT).ok());
    say("O_TMPFILE", by_handle(m, &h, libc::O_TMPFILE | libc::O_RDWR).is_ok());
    c!(libc::setresgid(65534, 65534, 65534));
    c!(libc::setresuid(65534, 65534, 65534));
    say("without power", by_handle(m, &h, 0));
    say("bad descriptor", by_handle(-1, &h, 0));
}

/// systemd asks for a group's number that way.
fn cgroup_root() {
    let group = super::clone::own_cgroup("handle");
    let h = handle(&group);
    let ino = std::fs::metadata(&group).map(|m| std::os::unix::fs::MetadataExt::ino(&m));
    say("size and kind", format!("{} {:#x}", h.bytes, h.kind));
    let number = u64::from_ne_bytes(h.data[..8].try_into().unwrap());
    say("number", number == ino.unwrap_or(0));
    let fd = open("cg", libc::O_RDONLY).fd();
    let by = by_handle(fd, &h, libc::O_RDONLY | libc::O_DIRECTORY);
    say("open", by.ok());
    let place = std::fs::read_link(format!("/proc/self/fd/{}", by.fd())).unwrap_or_default();
    say("place", place.ends_with(&group));
    let procs = handle(&format!("{group}/cgroup.procs"));
    say("a file", by_handle(fd, &procs, libc::O_RDONLY).ok());
    close(by.fd());
    say("rmdir", std::fs::remove_dir(&group).is_ok());
    say("gone", by_handle(fd, &h, 0));
}

/// AT_HANDLE_FID: files of filesystems without handles have something to be told by.
fn only_names() {
    const FID: i32 = 0x200;
    let ino = std::os::linux::fs::MetadataExt::st_ino(&std::fs::metadata("/proc/version").unwrap());
    let get = |bytes: usize, flags: i32| {
        let (mut h, mut id) = (empty(bytes), 0);
        let r = name_to(libc::AT_FDCWD, "/proc/version", &mut h, &mut id, flags);
        let own = h.data[..8] == ino.to_ne_bytes();
        format!("{r} {} {:#x} its inode: {own}", h.bytes, h.kind)
    };
    say("without", get(MAX, 0));
    say("with", get(MAX, FID));
    say("no room", get(8, FID));
    say("unknown flag", get(MAX, FID | 0x8000));
    let (mut h, mut id) = (empty(4), 0);
    let r = name_to(libc::AT_FDCWD, "/dev/shm", &mut h, &mut id, FID);
    say("no room on tmpfs", format!("{r} {:#x}", h.kind));
}
