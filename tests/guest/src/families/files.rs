//! Open files: flags, reading and writing at offsets, descriptors, fcntl, directories, device files.

use crate::sys::*;
use crate::{c, cases, sc};

cases! {
    open_flags, open_errors, append, offsets, pread_pwrite, vectors, dup_forms, close_range, fcntl_flags, descriptor_limit, tmpfile, o_path, getdents, directory_seek, unlinked_file, proc_fd, dev_files, tmpfile_flags, extent_map,
}

pub(super) fn stat(fd: i32) -> libc::stat {
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    unsafe { libc::fstat(fd, &mut st) };
    st
}

pub(super) fn seek(fd: i32, off: i64, whence: i32) -> R {
    c!(libc::lseek(fd, off, whence))
}

fn open_flags() {
    say("create", open("f", libc::O_RDWR | libc::O_CREAT | libc::O_EXCL).ok());
    say("exclusive again", open("f", libc::O_RDWR | libc::O_CREAT | libc::O_EXCL));
    put("f", b"content");
    say("truncate", open("f", libc::O_WRONLY | libc::O_TRUNC).ok());
    say("size", std::fs::metadata("f").unwrap().len());
    put("f", b"content");
    let r = open("f", libc::O_RDONLY).fd();
    let w = open("f", libc::O_WRONLY).fd();
    say("write to read-only", write(r, b"x"));
    say("read from write-only", read_text(w, 1));
    say("access mode 3: read", read_text(open("f", 3).fd(), 1));
    let flags = |f: i32| c!(libc::fcntl(f, libc::F_GETFL)).0 & !0o100000;
    for (n, f) in [
        ("O_RDONLY", 0),
        ("O_RDWR|O_APPEND", libc::O_RDWR | libc::O_APPEND),
        ("O_NONBLOCK", libc::O_NONBLOCK),
        ("O_SYNC", libc::O_SYNC),
        ("O_DSYNC", libc::O_DSYNC),
        ("O_CREAT|O_TRUNC are not kept", libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC),
        ("O_CLOEXEC is not a status flag's effect", libc::O_CLOEXEC),
        ("O_NOFOLLOW", libc::O_NOFOLLOW),
        ("O_PATH", libc::O_PATH),
    ] {
        say(n, format!("{:o}", flags(open("f", f).fd()) & !libc::O_CLOEXEC as i64));
    }
    let modes = |m: u32| {
        let _ = std::fs::remove_file("m");
        open_mode("m", libc::O_CREAT | libc::O_WRONLY, m);
        use std::os::unix::fs::MetadataExt;
        format!("{:o}", std::fs::metadata("m").unwrap().mode())
    };
    say("mode 0666 with umask 022", modes(0o666));
    say("mode 0777", modes(0o777));
    say("mode 04711", modes(0o4711));
    say("mode 0", modes(0));
    unsafe { libc::umask(0) };
    say("mode 0666 with umask 0", modes(0o666));
}

fn open_errors() {
    put("f", b"");
    std::fs::create_dir("d").unwrap();
    std::os::unix::fs::symlink("nowhere", "dangling").unwrap();
    std::os::unix::fs::symlink("f", "link").unwrap();
    say("missing", open("missing", libc::O_RDONLY));
    say("missing directory", open("no/file", libc::O_CREAT | libc::O_WRONLY));
    say("file as directory", open("f/x", libc::O_RDONLY));
    say("trailing slash on a file", open("f/", libc::O_RDONLY));
    say("create with trailing slash", open("new/", libc::O_CREAT | libc::O_WRONLY));
    say("directory for writing", open("d", libc::O_WRONLY));
    say("directory with O_CREAT", open("d", libc::O_RDONLY | libc::O_CREAT));
    say("O_DIRECTORY on a file", open("f", libc::O_DIRECTORY));
    say("O_DIRECTORY|O_CREAT", open("d2", libc::O_DIRECTORY | libc::O_CREAT));
    say("dangling", open("dangling", libc::O_RDONLY));
    say("dangling exclusive", open("dangling", libc::O_CREAT | libc::O_EXCL));
    say("through dangling, creates", open("dangling", libc::O_CREAT | libc::O_WRONLY).ok());
    say("its target", std::path::Path::new("nowhere").exists());
    say("O_NOFOLLOW on a link", open("link", libc::O_NOFOLLOW));
    say("O_NOFOLLOW|O_PATH on a link", open("link", libc::O_NOFOLLOW | libc::O_PATH).ok());
    say("empty", open("", 0));
    say("name of 255", open(&"x".repeat(255), libc::O_CREAT | libc::O_WRONLY).ok());
    say("name of 256", open(&"x".repeat(256), libc::O_CREAT | libc::O_WRONLY));
    say("path of 4095", open(&format!("./{}f", "./".repeat(2046)), libc::O_RDONLY).ok());
    say("path of 4096", open(&format!("/./{}f", "./".repeat(2046)), libc::O_RDONLY));
    say("bad pointer", sc!(libc::SYS_open, 8, 0, 0));
    say("unknown flags are ignored by open", open("f", 1 << 30).ok());
    say("device without driver", {
        let s = c!(libc::mknod(c"n".as_ptr(), libc::S_IFSOCK | 0o600, 0));
        format!("{s} {}", open("n", libc::O_RDWR))
    });
    say("O_TRUNC with O_RDONLY", {
        put("t", b"123");
        open("t", libc::O_RDONLY | libc::O_TRUNC);
        std::fs::metadata("t").unwrap().len()
    });
}

fn append() {
    put("f", b"start");
    let a = open("f", libc::O_WRONLY | libc::O_APPEND).fd();
    let b = open("f", libc::O_RDWR | libc::O_APPEND).fd();
    say("initial offset", seek(a, 0, libc::SEEK_CUR));
    write(a, b"-a");
    write(b, b"-b");
    say("offset after", seek(a, 0, libc::SEEK_CUR));
    seek(a, 0, libc::SEEK_SET);
    write(a, b"-c");
    say("content", get("f"));
    say("pwrite appends too", c!(libc::pwrite(b, b"-p".as_ptr().cast(), 2, 0)));
    say("content", get("f"));
    let kids: Vec<i32> = (0..4u8)
        .map(|k| {
            child(move || {
                let fd = open("g", libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT).fd();
                for _ in 0..100 {
                    write(fd, &[b'a' + k; 10]);
                }
                0
            })
        })
        .collect();
    for k in kids {
        reap(k);
    }
    let g = std::fs::read("g").unwrap();
    say("four appenders: bytes", g.len());
    say("torn records", g.chunks(10).filter(|c| c.iter().any(|b| *b != c[0])).count());
}

fn offsets() {
    put("f", b"0123456789");
    let fd = open("f", libc::O_RDWR).fd();
    say("SEEK_SET", seek(fd, 4, libc::SEEK_SET));
    say("SEEK_CUR back", seek(fd, -2, libc::SEEK_CUR));
    say("SEEK_END", seek(fd, -1, libc::SEEK_END));
    say("read", read_text(fd, 5));
    say("beyond the end", seek(fd, 100, libc::SEEK_SET));
    say("read there", read_text(fd, 5));
    say("negative", seek(fd, -1, libc::SEEK_SET));
    say("position kept", seek(fd, 0, libc::SEEK_CUR));
    say("bad whence", seek(fd, 0, 77));
    say("overflow", seek(fd, i64::MAX, libc::SEEK_END));
    say("write there", write(fd, b"x"));
    let b = std::fs::read("f").unwrap();
    say("size", b.len());
    say("hole is zero", b[10..100].iter().all(|c| *c == 0));
    say("bad fd", seek(999, 0, 0));
    let d = c!(libc::dup(fd)).fd();
    seek(d, 3, libc::SEEK_SET);
    say("shared with dup", seek(fd, 0, libc::SEEK_CUR));
    let o = open("f", libc::O_RDONLY).fd();
    say("own with another open", seek(o, 0, libc::SEEK_CUR));
}

fn pread_pwrite() {
    put("f", b"0123456789");
    let fd = open("f", libc::O_RDWR).fd();
    let mut b = [0u8; 4];
    say("pread", c!(libc::pread(fd, b.as_mut_ptr().cast(), 4, 3)));
    say("data", quoted(&b));
    say("position", seek(fd, 0, libc::SEEK_CUR));
    say("pread at the end", c!(libc::pread(fd, b.as_mut_ptr().cast(), 4, 8)));
    say("beyond", c!(libc::pread(fd, b.as_mut_ptr().cast(), 4, 80)));
    say("negative", c!(libc::pread(fd, b.as_mut_ptr().cast(), 4, -1)));
    say("pwrite", c!(libc::pwrite(fd, b"AB".as_ptr().cast(), 2, 1)));
    say("pwrite beyond", c!(libc::pwrite(fd, b"Z".as_ptr().cast(), 1, 12)));
    say("content", get("f"));
    say("bad buffer", sc!(libc::SYS_pread64, fd, 8, 4, 0));
    say("bad buffer at end of file", sc!(libc::SYS_pread64, fd, 8, 4, 100));
    say("bad buffer, 0 bytes", sc!(libc::SYS_pread64, fd, 8, 0, 0));
    let v = libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: 4 };
    say("preadv2 at -1 uses the position", c!(libc::preadv2(fd, &v, 1, -1, 0)));
    say("position moved", seek(fd, 0, libc::SEEK_CUR));
    say("preadv2 NOWAIT", {
        let r = c!(libc::preadv2(fd, &v, 1, 0, libc::RWF_NOWAIT));
        r.0 == 4 || r.is(libc::EAGAIN) || r.is(libc::EOPNOTSUPP)
    });
    say("pwritev2 APPEND", c!(libc::pwritev2(fd, &v, 1, 0, libc::RWF_APPEND)));
    say("size", stat(fd).st_size);
    say("pwritev2 DSYNC", c!(libc::pwritev2(fd, &v, 1, 0, libc::RWF_DSYNC)));
    say("unknown flag", c!(libc::preadv2(fd, &v, 1, 0, 1 << 20)));
}

fn vectors() {
    let fd = open("f", libc::O_RDWR | libc::O_CREAT).fd();
    let parts: Vec<Vec<u8>> = (0..1024).map(|i| vec![(i % 251) as u8; i % 7]).collect();
    let v: Vec<libc::iovec> = parts
        .iter()
        .map(|p| libc::iovec { iov_base: p.as_ptr() as *mut _, iov_len: p.len() })
        .collect();
    let total: usize = parts.iter().map(Vec::len).sum();
    say("1024 parts", c!(libc::writev(fd, v.as_ptr(), 1024)).0 == total as i64);
    say("content", std::fs::read("f").unwrap() == parts.concat());
    say("1025 parts", c!(libc::writev(fd, v.as_ptr(), 1025)));
    let huge = [
        libc::iovec { iov_base: parts[6].as_ptr() as *mut _, iov_len: isize::MAX as usize },
        libc::iovec { iov_base: parts[6].as_ptr() as *mut _, iov_len: isize::MAX as usize },
    ];
    let r = c!(libc::readv(fd, huge.as_ptr(), 2));
    say("at the end, huge lengths", r);
}

fn dup_forms() {
    let fd = open("/dev/null", libc::O_RDWR | libc::O_CLOEXEC).fd();
    let d = c!(libc::dup(fd)).fd();
    say("dup clears close-on-exec", c!(libc::fcntl(d, libc::F_GETFD)));
    close(d);
    say("dup takes the lowest", c!(libc::dup(fd)).fd() == d);
    say("dup2", c!(libc::dup2(fd, 50)));
    say("dup2 to itself", c!(libc::dup2(fd, fd)).0 == fd as i64);
    say("dup2 of a bad one to itself", c!(libc::dup2(999, 999)));
    say("dup2 closes the old", {
        let (r, w) = pipe();
        unsafe { libc::dup2(fd, w) };
        read_text(r, 1)
    });
    say("dup3", c!(libc::dup3(fd, 51, libc::O_CLOEXEC)));
    say("its flag", c!(libc::fcntl(51, libc::F_GETFD)));
    say("dup3 same", c!(libc::dup3(fd, fd, 0)));
    say("dup3 bad flag", c!(libc::dup3(fd, 52, libc::O_NONBLOCK)));
    say("dup2 negative", c!(libc::dup2(fd, -1)));
    say("dup2 over the limit", c!(libc::dup2(fd, 5_000_000)));
    say("F_DUPFD", c!(libc::fcntl(fd, libc::F_DUPFD, 60)));
    say("F_DUPFD again", c!(libc::fcntl(fd, libc::F_DUPFD, 60)));
    say("F_DUPFD_CLOEXEC", c!(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 60)));
    say("F_DUPFD over the limit", c!(libc::fcntl(fd, libc::F_DUPFD, 5_000_000)));
    say("F_DUPFD negative", c!(libc::fcntl(fd, libc::F_DUPFD, -1)));
    say("close", c!(libc::close(50)));
    say("close again", c!(libc::close(50)));
    say("close negative", c!(libc::close(-1)));
    say("F_DUPFD_QUERY same file", {
        let r = c!(libc::fcntl(fd, 1027, 51));
        r.0 == 1 || r.is(libc::EINVAL)
    });
}

fn close_range() {
    let fd = open("/dev/null", libc::O_RDWR).fd();
    for n in 100..110 {
        unsafe { libc::dup2(fd, n) };
    }
    let cr = |a: u32, b: u32, f: u32| sc!(libc::SYS_close_range, a, b, f);
    say("middle", cr(103, 105, 0));
    let alive = || {
        (100..110)
            .filter(|n| c!(libc::fcntl(*n, libc::F_GETFD)).is_ok())
            .map(|n| n.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    };
    say("left", alive());
    say("cloexec", cr(106, 107, 4));
    say(
        "106 107 108",
        format!(
            "{} {} {}",
            c!(libc::fcntl(106, 1)),
            c!(libc::fcntl(107, 1)),
            c!(libc::fcntl(108, 1))
        ),
    );
    say("first over last", cr(9, 8, 0));
    say("bad flags", cr(1, 2, 8));
    say("to the end", cr(108, u32::MAX, 0));
    say("left", alive());
    let s = in_child(|| {
        say("unshare", cr(100, u32::MAX, 2));
        0
    });
    say("parent's stay", format!("{s}: {}", alive()));
}

fn fcntl_flags() {
    put("f", b"0123456789");
    let fd = open("f", libc::O_RDWR).fd();
    let fl = || format!("{:o}", c!(libc::fcntl(fd, libc::F_GETFL)).0 & !0o100000);
    say(
        "F_SETFL O_APPEND|O_NONBLOCK",
        c!(libc::fcntl(fd, libc::F_SETFL, libc::O_APPEND | libc::O_NONBLOCK)),
    );
    say("F_GETFL", fl());
    say(
        "access mode and creation flags are ignored",
        c!(libc::fcntl(fd, libc::F_SETFL, libc::O_WRONLY | libc::O_TRUNC | libc::O_CREAT)),
    );
    say("F_GETFL", fl());
    say("size", stat(fd).st_size);
    say("F_SETFD 255 keeps bit 0", c!(libc::fcntl(fd, libc::F_SETFD, 255)));
    say("F_GETFD", c!(libc::fcntl(fd, libc::F_GETFD)));
    say("unknown command", c!(libc::fcntl(fd, 9999, 0)));
    say("bad descriptor", c!(libc::fcntl(999, libc::F_GETFL)));
    say("F_GETOWN", c!(libc::fcntl(fd, libc::F_GETOWN)));
    say("F_SETOWN self", c!(libc::fcntl(fd, libc::F_SETOWN, getpid())));
    say("F_GETOWN is self", c!(libc::fcntl(fd, libc::F_GETOWN)).0 == getpid() as i64);
    say("F_SETOWN nobody", c!(libc::fcntl(fd, libc::F_SETOWN, i32::MAX)));
    let p = open("f", libc::O_PATH).fd();
    say("O_PATH: F_GETFL", c!(libc::fcntl(p, libc::F_GETFL)).is_ok());
    say("O_PATH: F_SETFL", c!(libc::fcntl(p, libc::F_SETFL, 0)));
    say("O_PATH: F_DUPFD", c!(libc::fcntl(p, libc::F_DUPFD, 0)).ok());
    say("F_GET_RW_HINT", {
        let mut h = 9u64;
        let r = c!(libc::fcntl(fd, 1035, &mut h));
        format!("{r} {h}")
    });
}

fn descriptor_limit() {
    let l = libc::rlimit { rlim_cur: 20, rlim_max: 20 };
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &l) };
    let mut last = R(0);
    for _ in 0..30 {
        let r = open("/dev/null", libc::O_RDONLY);
        if !r.is_ok() {
            say("then", r);
            break;
        }
        last = r;
    }
    say("highest", last);
    say("dup", c!(libc::dup(0)));
    let mut p = [0; 2];
    say("pipe", c!(libc::pipe(p.as_mut_ptr())));
    close(19);
    say("pipe with one free", c!(libc::pipe(p.as_mut_ptr())));
    say("open with one free", open("/dev/null", 0));
    say("socket", c!(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)));
    say("epoll", c!(libc::epoll_create1(0)));
    say("raise the hard limit as user", {
        let l = libc::rlimit { rlim_cur: 20, rlim_max: 30 };
        c!(libc::setrlimit(libc::RLIMIT_NOFILE, &l))
    });
}

fn tmpfile() {
    let fd = open(".", libc::O_TMPFILE | libc::O_RDWR);
    say("make", fd.ok());
    let fd = fd.fd();
    say("links", stat(fd).st_nlink);
    write(fd, b"unnamed");
    say("directory stays empty", std::fs::read_dir(".").unwrap().count());
    let p = cstr(&format!("/proc/self/fd/{fd}"));
    say(
        "linkat",
        c!(libc::linkat(
            libc::AT_FDCWD,
            p.as_ptr(),
            libc::AT_FDCWD,
            c"named".as_ptr(),
            libc::AT_SYMLINK_FOLLOW
        )),
    );
    say("content", get("named"));
    say("links", stat(fd).st_nlink);
    let fd = open(".", libc::O_TMPFILE | libc::O_RDWR | libc::O_EXCL).fd();
    let p = cstr(&format!("/proc/self/fd/{fd}"));
    say(
        "O_EXCL cannot be linked",
        c!(libc::linkat(
            libc::AT_FDCWD,
            p.as_ptr(),
            libc::AT_FDCWD,
            c"n2".as_ptr(),
            libc::AT_SYMLINK_FOLLOW
        )),
    );
    say("read-only", open(".", libc::O_TMPFILE | libc::O_RDONLY));
    say("on a file", open("named", libc::O_TMPFILE | libc::O_RDWR));
    say("missing directory", open("nodir", libc::O_TMPFILE | libc::O_RDWR));
}

fn o_path() {
    put("f", b"data");
    let fd = open("f", libc::O_PATH).fd();
    say("read", read_text(fd, 1));
    say("write", write(fd, b"x"));
    say("fstat", stat(fd).st_size);
    say("fchmod", c!(libc::fchmod(fd, 0o600)));
    say("ioctl", c!(libc::ioctl(fd, libc::FIONREAD, 0)));
    say("lseek", seek(fd, 0, 0));
    say("reopen by proc", read_text(open(&format!("/proc/self/fd/{fd}"), libc::O_RDONLY).fd(), 10));
    let d = open(".", libc::O_PATH).fd();
    say("as directory of openat", c!(libc::openat(d, c"f".as_ptr(), libc::O_RDONLY)).ok());
    say("fchdir", c!(libc::fchdir(d)));
    std::os::unix::fs::symlink("f", "l").unwrap();
    let l = open("l", libc::O_PATH | libc::O_NOFOLLOW).fd();
    say("link itself", format!("{:o}", stat(l).st_mode & libc::S_IFMT));
    let mut b = [0u8; 10];
    say("readlinkat of it", c!(libc::readlinkat(l, c"".as_ptr(), b.as_mut_ptr().cast(), 10)));
    unsafe { libc::chmod(c"f".as_ptr(), 0) };
    say("without permission", open("f", libc::O_PATH).ok());
    say("poll", {
        let mut p = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        unsafe { libc::poll(&mut p, 1, 0) };
        p.revents
    });
}

fn getdents() {
    std::fs::create_dir("d").unwrap();
    for i in 0..300 {
        put(&format!("d/file-{i:03}"), b"");
    }
    std::fs::create_dir("d/sub").unwrap();
    std::os::unix::fs::symlink("x", "d/link").unwrap();
    let fd = open("d", libc::O_RDONLY).fd();
    let mut buf = vec![0u8; 1000];
    let (mut names, mut types, mut calls) = (Vec::new(), std::collections::BTreeMap::new(), 0);
    loop {
        let r = sc!(libc::SYS_getdents64, fd, buf.as_mut_ptr(), buf.len());
        if r.0 <= 0 {
            say("end", r);
            break;
        }
        calls += 1;
        let mut o = 0;
        while o < r.0 as usize {
            let len = u16::from_ne_bytes([buf[o + 16], buf[o + 17]]) as usize;
            let name = &buf[o + 19..o + len];
            let name = String::from_utf8_lossy(&name[..name.iter().position(|b| *b == 0).unwrap()])
                .into_owned();
            *types.entry(buf[o + 18]).or_insert(0) += 1;
            assert!(len.is_multiple_of(8));
            names.push(name);
            o += len;
        }
    }
    names.sort();
    names.dedup();
    say("names", names.len());
    say("first", names[..3].join(" "));
    // A filesystem may answer DT_UNKNOWN, so only the known kinds are checked against it.
    let t = |k: u8| types.get(&k).copied().unwrap_or(0);
    say("files, directories, links", format!("{} {} {}", t(8), t(4), t(10)));
    say("several calls", calls > 5);
    say("buffer too small", {
        seek(fd, 0, libc::SEEK_SET);
        sc!(libc::SYS_getdents64, fd, buf.as_mut_ptr(), 10)
    });
    say("bad pointer", sc!(libc::SYS_getdents64, fd, 8, 1000));
    say(
        "not a directory",
        sc!(libc::SYS_getdents64, open("d/file-000", 0).fd(), buf.as_mut_ptr(), 1000),
    );
    std::fs::remove_dir_all("d").unwrap();
    say("removed while open", {
        seek(fd, 0, libc::SEEK_SET);
        sc!(libc::SYS_getdents64, fd, buf.as_mut_ptr(), 1000)
    });
}

fn directory_seek() {
    std::fs::create_dir("d").unwrap();
    for i in 0..50 {
        put(&format!("d/{i}"), b"");
    }
    unsafe {
        let d = libc::opendir(c"d".as_ptr());
        let mut first = Vec::new();
        for _ in 0..20 {
            libc::readdir(d);
        }
        let pos = libc::telldir(d);
        for _ in 0..10 {
            first.push(std::ffi::CStr::from_ptr((*libc::readdir(d)).d_name.as_ptr()).to_owned());
        }
        libc::seekdir(d, pos);
        let again: Vec<_> = (0..10)
            .map(|_| std::ffi::CStr::from_ptr((*libc::readdir(d)).d_name.as_ptr()).to_owned())
            .collect();
        say("seekdir returns to the place", first == again);
        libc::rewinddir(d);
        let mut n = 0;
        while !libc::readdir(d).is_null() {
            n += 1;
        }
        say("rewinddir, entries", n);
        // Removing while reading still visits each remaining entry once.
        libc::rewinddir(d);
        let mut seen = 0;
        loop {
            let e = libc::readdir(d);
            if e.is_null() {
                break;
            }
            let name = std::ffi::CStr::from_ptr((*e).d_name.as_ptr()).to_str().unwrap();
            if name.starts_with('.') {
                continue;
            }
            seen += 1;
            std::fs::remove_file(format!("d/{name}")).unwrap();
        }
        say("seen while removing", seen);
        say("empty at the end", std::fs::read_dir("d").unwrap().count());
    }
}

fn unlinked_file() {
    put("f", b"still here");
    let fd = open("f", libc::O_RDWR).fd();
    unsafe { libc::unlink(c"f".as_ptr()) };
    say("read", read_text(fd, 20));
    say("links", stat(fd).st_nlink);
    write(fd, b"!");
    say("size", stat(fd).st_size);
    let l = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
    say("proc link says so", l.to_str().unwrap().ends_with("/f (deleted)"));
    put("f", b"other");
    seek(fd, 0, 0);
    say("another file of the name does not matter", read_text(fd, 5));
    say("chmod of it", c!(libc::fchmod(fd, 0o600)));
    say("opened again by proc", read_text(open(&format!("/proc/self/fd/{fd}"), 0).fd(), 5));
}

fn proc_fd() {
    put("f", b"");
    let fd = open("f", libc::O_RDWR | libc::O_APPEND).fd();
    seek(fd, 3, 0);
    let cwd = std::env::current_dir().unwrap();
    let l = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
    say("link", l == cwd.join("f"));
    let i = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    let f = |k: &str| {
        i.lines()
            .find(|l| l.starts_with(k))
            .unwrap_or("")
            .split_whitespace()
            .nth(1)
            .unwrap_or("-")
            .to_string()
    };
    say("pos", f("pos:"));
    say("flags", f("flags:"));
    let n = std::fs::read_dir("/proc/self/fd").unwrap().count();
    close(fd);
    say("one less after close", std::fs::read_dir("/proc/self/fd").unwrap().count() == n - 1);
    say("gone", std::fs::read_link(format!("/proc/self/fd/{fd}")).is_err());
    say("/dev/fd", std::fs::read_link("/dev/fd").unwrap().to_str().unwrap());
    say("/dev/stdin opens", open("/dev/stdin", 0).ok());
}

fn dev_files() {
    let null = open("/dev/null", libc::O_RDWR).fd();
    say("null: write, read", format!("{} {}", write(null, &[0; 1000]), read_text(null, 10)));
    let zero = open("/dev/zero", libc::O_RDWR).fd();
    say("zero", read(zero, 1000).unwrap().iter().all(|b| *b == 0));
    let full = open("/dev/full", libc::O_RDWR).fd();
    say("full: write", write(full, b"x"));
    say("full: read", read(full, 10).unwrap().len());
    let rnd = open("/dev/urandom", libc::O_RDONLY).fd();
    let (a, b) = (read(rnd, 32).unwrap(), read(rnd, 32).unwrap());
    say("urandom differs", a != b);
    say("random", read(open("/dev/random", 0).fd(), 16).map(|v| v.len()).unwrap_or(0));
    let st = stat(null);
    say(
        "null is 1:3",
        format!(
            "{}:{} {:o}",
            libc::major(st.st_rdev),
            libc::minor(st.st_rdev),
            st.st_mode & libc::S_IFMT
        ),
    );
    say("seek in null", seek(null, 100, libc::SEEK_SET));
    say("pread of zero", c!(libc::pread(zero, [0u8; 4].as_mut_ptr().cast(), 4, 1 << 40)));
}

fn tmpfile_flags() {
    let fd = open(".", libc::O_RDWR | libc::O_TMPFILE).fd();
    let flags = c!(libc::fcntl(fd, libc::F_GETFL)).0 as i32;
    say("flags", format!("{:o}", flags & !0o100_000));
}

/// FS_IOC_FIEMAP where nothing lies on a device.
fn extent_map() {
    let map = |fd: i32| {
        let mut m = [0u64, u64::MAX, 0, 0];
        c!(libc::ioctl(fd, 0xc020_660b, m.as_mut_ptr()))
    };
    say("memfd", map(c!(libc::memfd_create(c"m".as_ptr(), 0)).fd()));
    say("pipe", map(pipe().0));
    say("device", map(open("/dev/null", libc::O_RDONLY).fd()));
    say("proc", map(open("/proc/version", libc::O_RDONLY).fd()));
    say("socket", map(c!(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)).fd()));
}
