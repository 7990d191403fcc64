//! Contents and attributes: truncation, allocation, holes, copies, times, extended attributes, limits, statx and statfs.

use super::files::*;
use crate::sys::*;
use crate::{c, cases, sc};

cases! {
    seek_hole_data, truncate, fallocate, copy_file_range, sendfile, statx, utimensat, xattrs, file_size_limit, sync_calls, big_offsets, readahead_fadvise, statfs,
}

fn seek_hole_data() {
    let fd = open("f", libc::O_RDWR | libc::O_CREAT).fd();
    let m = 1 << 20;
    unsafe {
        libc::ftruncate(fd, 3 * m);
        libc::pwrite(fd, [1u8; 4096].as_ptr().cast(), 4096, m);
    }
    // Filesystems may report no holes; the relations hold all the same.
    let (h0, d0) = (seek(fd, 0, libc::SEEK_HOLE), seek(fd, 0, libc::SEEK_DATA));
    say("data at or before what was written", d0.0 <= m);
    say("hole at or before the end", h0.0 <= 3 * m);
    let h = seek(fd, m, libc::SEEK_HOLE);
    say("hole after the data", h.0 >= m + 4096 && h.0 <= 3 * m);
    say("data in data", seek(fd, m + 100, libc::SEEK_DATA).0 == m + 100);
    say("at the end", seek(fd, 3 * m, libc::SEEK_DATA));
    say("hole at the end", seek(fd, 3 * m, libc::SEEK_HOLE));
    say("negative", seek(fd, -1, libc::SEEK_DATA));
    put("full", &[1; 100]);
    let fd = open("full", libc::O_RDONLY).fd();
    say("hole of a full file is its end", seek(fd, 0, libc::SEEK_HOLE));
    say("data", seek(fd, 50, libc::SEEK_DATA));
}

fn truncate() {
    put("f", b"0123456789");
    let p = c"f".as_ptr();
    say("truncate shorter", c!(libc::truncate(p, 4)));
    say("content", get("f"));
    say("longer", c!(libc::truncate(p, 6)));
    say("content", get("f"));
    say("negative", c!(libc::truncate(p, -1)));
    let r = open("f", libc::O_RDONLY).fd();
    let w = open("f", libc::O_WRONLY).fd();
    say("ftruncate read-only", c!(libc::ftruncate(r, 1)));
    say("ftruncate", c!(libc::ftruncate(w, 1)));
    say("negative", c!(libc::ftruncate(w, -1)));
    std::fs::create_dir("d").unwrap();
    say("directory", c!(libc::truncate(c"d".as_ptr(), 0)));
    say("open directory", c!(libc::ftruncate(open("d", 0).fd(), 0)));
    say("missing", c!(libc::truncate(c"none".as_ptr(), 0)));
    say("device", c!(libc::truncate(c"/dev/null".as_ptr(), 0)));
    unsafe { libc::chmod(p, 0o444) };
    say("no permission", c!(libc::truncate(p, 0)));
    say("already open for writing", c!(libc::ftruncate(w, 3)));
    // A reader's position beyond the new end.
    put("g", &[b'x'; 100]);
    let g = open("g", libc::O_RDWR).fd();
    seek(g, 50, libc::SEEK_SET);
    unsafe { libc::ftruncate(g, 10) };
    say("read beyond", read_text(g, 5));
    write(g, b"end");
    let b = std::fs::read("g").unwrap();
    say("zeros between", b.len() == 53 && b[10..50].iter().all(|c| *c == 0));
}

fn fallocate() {
    let fd = open("f", libc::O_RDWR | libc::O_CREAT).fd();
    let fa = |mode: i32, off: i64, len: i64| c!(libc::fallocate(fd, mode, off, len));
    say("allocate", fa(0, 0, 8192));
    say("size", stat(fd).st_size);
    say("keep size", fa(libc::FALLOC_FL_KEEP_SIZE, 8192, 8192));
    say("size", stat(fd).st_size);
    unsafe { libc::pwrite(fd, [7u8; 8192].as_ptr().cast(), 8192, 0) };
    let punch = fa(libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE, 100, 5000);
    say("punch", punch);
    let b = std::fs::read("f").unwrap();
    say(
        "punched range is zero, the rest stays",
        b[100..5100].iter().all(|c| *c == 0) && b[99] == 7 && b[5100] == 7,
    );
    say("punch without keep size", fa(libc::FALLOC_FL_PUNCH_HOLE, 0, 10));
    say("length 0", fa(0, 0, 0));
    say("negative", fa(0, -1, 10));
    say("unknown mode", fa(0x400, 0, 10));
    say("too big", fa(0, i64::MAX - 10, 100));
    say("read-only", c!(libc::fallocate(open("f", 0).fd(), 0, 0, 10)));
    say("posix_fallocate", unsafe { libc::posix_fallocate(fd, 0, 20_000) });
    say("size", stat(fd).st_size);
}

fn copy_file_range() {
    let data: Vec<u8> = (0..50_000).map(|i| (i % 249) as u8).collect();
    put("in", &data);
    let i = open("in", libc::O_RDONLY).fd();
    let o = open("out", libc::O_RDWR | libc::O_CREAT).fd();
    let cfr = |a: i32, ao: *mut i64, b: i32, bo: *mut i64, n: usize, f: u32| {
        sc!(libc::SYS_copy_file_range, a, ao, b, bo, n, f)
    };
    let null = std::ptr::null_mut();
    let mut total = 0;
    loop {
        let r = cfr(i, null, o, null, 20_000, 0);
        if r.0 <= 0 {
            say("end", r);
            break;
        }
        total += r.0;
    }
    say("copied", total);
    say("same", std::fs::read("out").unwrap() == data);
    let (mut a, mut b) = (10i64, 5i64);
    say("with offsets", cfr(i, &mut a, o, &mut b, 100, 0));
    say("offsets", format!("{a} {b}"));
    say("bad flags", cfr(i, null, o, null, 1, 1));
    say("to read-only", cfr(i, null, open("out", 0).fd(), null, 1, 0));
    say("to append", cfr(i, null, open("out", libc::O_WRONLY | libc::O_APPEND).fd(), null, 1, 0));
    (a, b) = (0, 50);
    say("overlap in one file", cfr(o, &mut a, o, &mut b, 100, 0));
    say("directory", cfr(open(".", 0).fd(), null, o, null, 1, 0));
    say("pipe", cfr(pipe().0, null, o, null, 1, 0));
    say("length 0", cfr(i, null, o, null, 0, 0));
}

fn sendfile() {
    let data: Vec<u8> = (0..30_000).map(|i| (i % 247) as u8).collect();
    put("in", &data);
    let i = open("in", libc::O_RDONLY).fd();
    let o = open("out", libc::O_RDWR | libc::O_CREAT).fd();
    say("file to file", c!(libc::sendfile(o, i, std::ptr::null_mut(), 100_000)));
    say("same", std::fs::read("out").unwrap() == data);
    say("at the end", c!(libc::sendfile(o, i, std::ptr::null_mut(), 10)));
    let mut off = 29_990i64;
    say("with offset", c!(libc::sendfile(o, i, &mut off, 100)));
    say("offset", off);
    let (r, w) = pipe();
    off = 0;
    say("to a pipe", c!(libc::sendfile(w, i, &mut off, 20)));
    say("arrived", read(r, 100).unwrap() == data[..20]);
    let mut sv = [0; 2];
    unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, sv.as_mut_ptr()) };
    off = 100;
    say("to a socket", c!(libc::sendfile(sv[0], i, &mut off, 50)));
    say("arrived", read(sv[1], 100).unwrap() == data[100..150]);
    say("from a pipe", c!(libc::sendfile(o, r, std::ptr::null_mut(), 1)));
    off = -1;
    say("negative offset", c!(libc::sendfile(o, i, &mut off, 1)));
    say(
        "to append",
        c!(libc::sendfile(
            open("out", libc::O_WRONLY | libc::O_APPEND).fd(),
            i,
            std::ptr::null_mut(),
            1
        )),
    );
    say("bad in", c!(libc::sendfile(o, 999, std::ptr::null_mut(), 1)));
    say(
        "write-only in",
        c!(libc::sendfile(o, open("in", libc::O_WRONLY).fd(), std::ptr::null_mut(), 1)),
    );
}

fn statx() {
    put("f", b"12345");
    unsafe { libc::chmod(c"f".as_ptr(), 0o640) };
    std::fs::hard_link("f", "g").unwrap();
    std::os::unix::fs::symlink("f", "l").unwrap();
    let sx = |p: &str, flags: i32, mask: u32| {
        let mut s: libc::statx = unsafe { std::mem::zeroed() };
        let p = cstr(p);
        (c!(libc::statx(libc::AT_FDCWD, p.as_ptr(), flags, mask, &mut s)), s)
    };
    let (r, s) = sx("f", 0, libc::STATX_BASIC_STATS);
    say("call", r);
    say("mask has the basics", s.stx_mask & libc::STATX_BASIC_STATS == libc::STATX_BASIC_STATS);
    say("size links mode", format!("{} {} {:o}", s.stx_size, s.stx_nlink, s.stx_mode));
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    unsafe { libc::stat(c"f".as_ptr(), &mut st) };
    say("inode as stat", s.stx_ino == st.st_ino);
    say("device as stat", libc::makedev(s.stx_dev_major, s.stx_dev_minor) == st.st_dev);
    say(
        "mtime as stat",
        s.stx_mtime.tv_sec == st.st_mtime && s.stx_mtime.tv_nsec as i64 == st.st_mtime_nsec,
    );
    say("link followed", sx("l", 0, 1).1.stx_mode & 0o170000 == 0o100000);
    say("not followed", sx("l", libc::AT_SYMLINK_NOFOLLOW, 1).1.stx_mode & 0o170000 == 0o120000);
    say("missing", sx("none", 0, 1).0);
    say("bad flags", sx("f", 0x10000, 1).0);
    say("force and dont sync", sx("f", 0x6000, 1).0);
    say("reserved mask", sx("f", 0, 0x8000_0000).0);
    let fd = open("f", 0).fd();
    let mut s: libc::statx = unsafe { std::mem::zeroed() };
    say("AT_EMPTY_PATH", c!(libc::statx(fd, c"".as_ptr(), libc::AT_EMPTY_PATH, 0x7ff, &mut s)));
    say("size", s.stx_size);
    say("bad buffer", sc!(libc::SYS_statx, fd, c"".as_ptr(), libc::AT_EMPTY_PATH, 0x7ff, 8));
}

fn utimensat() {
    put("f", b"");
    let ts = |s, n| libc::timespec { tv_sec: s, tv_nsec: n };
    let set = |a: libc::timespec, m: libc::timespec| {
        c!(libc::utimensat(libc::AT_FDCWD, c"f".as_ptr(), [a, m].as_ptr(), 0))
    };
    let show = || {
        let mut st: libc::stat = unsafe { std::mem::zeroed() };
        unsafe { libc::stat(c"f".as_ptr(), &mut st) };
        format!("{} {} {} {}", st.st_atime, st.st_atime_nsec, st.st_mtime, st.st_mtime_nsec)
    };
    say("set", set(ts(1_000_000_000, 123), ts(1_100_000_000, 456_789)));
    say("read", show());
    say("omit atime", set(ts(5, libc::UTIME_OMIT), ts(7, 0)));
    say("read", show());
    say("omit both", set(ts(0, libc::UTIME_OMIT), ts(0, libc::UTIME_OMIT)));
    say("read", show());
    say("before 1970", set(ts(-5, 0), ts(-1, 999)));
    say("read", show());
    say("now", set(ts(0, libc::UTIME_NOW), ts(0, libc::UTIME_NOW)));
    let m = std::fs::metadata("f").unwrap().modified().unwrap();
    say("close to now", m.elapsed().map(|d| d.as_secs() < 60).unwrap_or(true));
    say("bad nsec", set(ts(0, 1_000_000_000), ts(0, 0)));
    say("bad flag", c!(libc::utimensat(libc::AT_FDCWD, c"f".as_ptr(), std::ptr::null(), 0x8000)));
    std::os::unix::fs::symlink("f", "l").unwrap();
    let t = [ts(1, 1), ts(2, 2)];
    say(
        "link itself",
        c!(libc::utimensat(libc::AT_FDCWD, c"l".as_ptr(), t.as_ptr(), libc::AT_SYMLINK_NOFOLLOW)),
    );
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    unsafe { libc::lstat(c"l".as_ptr(), &mut st) };
    say("its mtime", st.st_mtime);
    let fd = open("f", libc::O_RDWR).fd();
    say("futimens", c!(libc::futimens(fd, t.as_ptr())));
    say("read", show());
    // Writing moves mtime, reading does not move it.
    write(fd, b"x");
    unsafe { libc::fstat(fd, &mut st) };
    say("write sets mtime", st.st_mtime > 1_000_000_000);
    unsafe { libc::futimens(fd, t.as_ptr()) };
    seek(fd, 0, 0);
    let _ = read(fd, 1);
    unsafe { libc::fstat(fd, &mut st) };
    say("read leaves mtime", st.st_mtime);
    say(
        "others' file, times given",
        c!(libc::utimensat(libc::AT_FDCWD, c"/etc/passwd".as_ptr(), t.as_ptr(), 0)),
    );
    say(
        "others' file, now",
        c!(libc::utimensat(libc::AT_FDCWD, c"/etc/passwd".as_ptr(), std::ptr::null(), 0)),
    );
}

fn xattrs() {
    put("f", b"");
    let f = c"f".as_ptr();
    let set = |n: &str, v: &[u8], fl: i32| {
        let n = cstr(n);
        c!(libc::setxattr(f, n.as_ptr(), v.as_ptr().cast(), v.len(), fl))
    };
    let get = |n: &str, size: usize| {
        let n = cstr(n);
        let mut b = vec![0u8; size];
        let r = c!(libc::getxattr(f, n.as_ptr(), b.as_mut_ptr().cast(), size));
        if r.is_ok() && size > 0 { quoted(&b[..r.0 as usize]) } else { r.to_string() }
    };
    say("set", set("user.one", b"value", 0));
    say("get", get("user.one", 100));
    say("size only", get("user.one", 0));
    say("buffer too small", get("user.one", 2));
    say("create existing", set("user.one", b"x", libc::XATTR_CREATE));
    say("replace missing", set("user.two", b"x", libc::XATTR_REPLACE));
    say("replace", set("user.one", b"new", libc::XATTR_REPLACE));
    say("empty value", set("user.empty", b"", 0));
    say("get empty", get("user.empty", 10));
    say("both flags", set("user.x", b"", 3));
    say("no namespace", set("nothing", b"x", 0));
    say("unknown namespace", set("foo.bar", b"x", 0));
    say("only the prefix", set("user.", b"x", 0));
    say("trusted as user", set("trusted.x", b"x", 0));
    say("name of 255", set(&format!("user.{}", "n".repeat(250)), b"x", 0));
    say("name of 256", set(&format!("user.{}", "n".repeat(251)), b"x", 0));
    say("value over 64 KiB", set("user.big", &vec![0; 65537], 0));
    let mut b = vec![0u8; 4096];
    let r = c!(libc::listxattr(f, b.as_mut_ptr().cast(), 4096));
    let mut l: Vec<String> = b[..r.0.max(0) as usize]
        .split(|c| *c == 0)
        .map(|s| String::from_utf8_lossy(s).into_owned())
        .collect();
    l.retain(|s| s.starts_with("user.") && s.len() < 100);
    l.sort();
    say("list", l.join(" "));
    say("list too small", c!(libc::listxattr(f, b.as_mut_ptr().cast(), 3)));
    say("remove", c!(libc::removexattr(f, c"user.one".as_ptr())));
    say("remove again", c!(libc::removexattr(f, c"user.one".as_ptr())));
    say("get removed", get("user.one", 10));
    std::os::unix::fs::symlink("f", "l").unwrap();
    say(
        "user on a link",
        c!(libc::lsetxattr(c"l".as_ptr(), c"user.x".as_ptr(), b"x".as_ptr().cast(), 1, 0)),
    );
    say(
        "fgetxattr",
        c!(libc::fgetxattr(open("f", 0).fd(), c"user.empty".as_ptr(), b.as_mut_ptr().cast(), 10)),
    );
}

fn file_size_limit() {
    let limit = |n: u64| {
        let l = libc::rlimit { rlim_cur: n, rlim_max: libc::RLIM_INFINITY };
        unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &l) };
    };
    set_action(libc::SIGXFSZ, libc::SIG_IGN);
    let fd = open("f", libc::O_RDWR | libc::O_CREAT).fd();
    // Nothing is said under the limit: the transcript may go to a file, too.
    limit(10_000);
    let partial = write(fd, &[1; 12_000]);
    let full = write(fd, b"x");
    let truncate = c!(libc::ftruncate(fd, 20_000));
    let allocate = c!(libc::fallocate(fd, 0, 0, 20_000));
    let killed = in_child(|| {
        set_action(libc::SIGXFSZ, libc::SIG_DFL);
        write(fd, b"x");
        0
    });
    limit(libc::RLIM_INFINITY);
    say("partial", partial);
    say("at the limit", full);
    say("ftruncate beyond", truncate);
    say("fallocate beyond", allocate);
    say("default action", killed);
}

fn sync_calls() {
    put("f", b"x");
    let fd = open("f", libc::O_RDWR).fd();
    say("fsync", c!(libc::fsync(fd)));
    say("fdatasync", c!(libc::fdatasync(fd)));
    say("syncfs", c!(libc::syncfs(fd)));
    say("sync_file_range", c!(libc::sync_file_range(fd, 0, 0, 7)));
    say("bad flags", c!(libc::sync_file_range(fd, 0, 0, 8)));
    say("fsync of a directory", c!(libc::fsync(open(".", 0).fd())));
    say("bad fd", c!(libc::fsync(999)));
}

fn big_offsets() {
    let fd = open("f", libc::O_RDWR | libc::O_CREAT).fd();
    let far = (1i64 << 32) + 5;
    say("write over 4 GiB", c!(libc::pwrite(fd, b"far".as_ptr().cast(), 3, far)));
    say("size", stat(fd).st_size);
    let mut b = [9u8; 3];
    say("read it", c!(libc::pread(fd, b.as_mut_ptr().cast(), 3, far)));
    say("data", quoted(&b));
    unsafe { libc::pread(fd, b.as_mut_ptr().cast(), 3, 1 << 31) };
    say("hole", quoted(&b));
    say("write at the largest offset", c!(libc::pwrite(fd, b"x".as_ptr().cast(), 1, i64::MAX)));
    say("read there", c!(libc::pread(fd, b.as_mut_ptr().cast(), 1, i64::MAX)));
}

fn readahead_fadvise() {
    put("f", &[1; 10_000]);
    let fd = open("f", libc::O_RDWR).fd();
    for a in 0..6 {
        say(&format!("advice {a}"), unsafe { libc::posix_fadvise(fd, 0, 0, a) });
    }
    say("bad advice", errno_name(unsafe { libc::posix_fadvise(fd, 0, 0, 9) }));
    say("pipe", errno_name(unsafe { libc::posix_fadvise(pipe().0, 0, 0, 0) }));
    say("bad fd", errno_name(unsafe { libc::posix_fadvise(999, 0, 0, 0) }));
    say("readahead", c!(libc::readahead(fd, 0, 4096)));
    say("readahead of a pipe", c!(libc::readahead(pipe().0, 0, 4096)));
}

fn statfs() {
    let mut s: libc::statfs = unsafe { std::mem::zeroed() };
    say("here", c!(libc::statfs(c".".as_ptr(), &mut s)));
    say(
        "sane",
        s.f_bsize > 0 && s.f_blocks >= s.f_bfree && s.f_bfree >= s.f_bavail && s.f_namelen == 255,
    );
    say("proc", c!(libc::statfs(c"/proc".as_ptr(), &mut s)));
    say("proc's magic", format!("{:#x}", s.f_type));
    say("missing", c!(libc::statfs(c"none".as_ptr(), &mut s)));
    say("fstatfs of a pipe", c!(libc::fstatfs(pipe().0, &mut s)));
    say("pipefs magic", format!("{:#x}", s.f_type));
    let mut v: libc::statvfs = unsafe { std::mem::zeroed() };
    say("statvfs", c!(libc::statvfs(c".".as_ptr(), &mut v)));
}
