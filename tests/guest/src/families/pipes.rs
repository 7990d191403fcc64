//! Pipes and FIFOs: blocking, atomic writes, sizes, packets, splice, tee, vmsplice.

use crate::sys::*;
use crate::{c, cases, sc};

cases! {
    basics, eof_and_epipe, nonblocking, capacity, atomic_writes, partial_writes, many_writers, pipe2_flags, fcntl_size, fionread, packet_mode,
    fifo_open, fifo_io, fifo_last_writer, splice_file_pipe, splice_forms, tee, vmsplice, poll_states, readv_writev, lseek_and_friends,
    proc_reopen, big_transfer, stat_of_pipe,
}

fn set_nonblock(fd: i32) {
    unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
}

fn basics() {
    let (r, w) = pipe();
    say("write", write(w, b"hello"));
    say("write", write(w, b" world"));
    say("short read", read_text(r, 3));
    say("rest, over write boundaries", read_text(r, 100));
    say("write to read end", write(r, b"x"));
    say("read from write end", read_text(w, 1));
    say("zero bytes", write(w, b""));
    set_nonblock(r);
    say("nothing came of it", read_text(r, 1));
    say("read of 0", read_text(r, 0));
}

fn eof_and_epipe() {
    let (r, w) = pipe();
    write(w, b"last");
    close(w);
    say("data first", read_text(r, 10));
    say("then end of file", read_text(r, 10));
    say("and again", read_text(r, 10));
    let (r, w) = pipe();
    let w2 = c!(libc::dup(w)).fd();
    close(w);
    set_nonblock(r);
    say("another writer remains", read_text(r, 1));
    close(w2);
    say("none", read_text(r, 1));
    let (r, w) = pipe();
    close(r);
    set_action(libc::SIGPIPE, libc::SIG_IGN);
    say("no reader", write(w, b"x"));
    say("no reader, 0 bytes", write(w, b""));
    // A sleeping writer is told when the reader goes.
    let (r, w) = pipe();
    write(w, &[0; 65536]);
    let pid = child(|| {
        close(r);
        let e = write(w, b"y");
        e.is(libc::EPIPE) as i32
    });
    close(w);
    await_sleep(pid);
    close(r);
    say("sleeping writer got EPIPE", reap(pid));
}

fn nonblocking() {
    let (r, w) = pipe();
    set_nonblock(r);
    set_nonblock(w);
    say("empty", read_text(r, 1));
    let mut n = 0;
    while write(w, &[b'x'; 4096]).is_ok() {
        n += 1;
    }
    say("pages until full", n);
    say("then", write(w, b"1"));
    let _ = read(r, 4095);
    say("one page less a byte read: 4096 more", write(w, &[0; 4096]));
    let _ = read(r, 1);
    say("the page is free: 4096", write(w, &[0; 4096]));
    say("again", write(w, &[0; 4096]));
    let _ = read(r, 8192);
    say("more than PIPE_BUF is cut", write(w, &[0; 20000]));
}

fn capacity() {
    let (r, w) = pipe();
    say("default", c!(libc::fcntl(w, libc::F_GETPIPE_SZ)));
    say("whole capacity in one write", write(w, &vec![1; 65536]));
    say("one byte pieces", {
        let (_r2, w2) = pipe();
        set_nonblock(w2);
        let mut n = 0;
        while write(w2, b"x").is_ok() {
            n += 1;
        }
        n
    });
    say("read all", read(r, 100_000).unwrap().len());
}

fn atomic_writes() {
    // Writers of PIPE_BUF bytes each; records must not mix.
    let (r, w) = pipe();
    let kids: Vec<i32> = (0..4u8)
        .map(|k| {
            child(move || {
                for _ in 0..50 {
                    if write(w, &[b'a' + k; 4096]).0 != 4096 {
                        return 1;
                    }
                }
                0
            })
        })
        .collect();
    close(w);
    let mut all = Vec::new();
    loop {
        let b = read(r, 65536).unwrap();
        if b.is_empty() {
            break;
        }
        all.extend(b);
    }
    say("bytes", all.len());
    say("mixed records", all.chunks(4096).filter(|c| c.iter().any(|b| *b != c[0])).count());
    for k in kids {
        reap(k);
    }
}

fn partial_writes() {
    // A large blocking write is delivered whole.
    let (r, w) = pipe();
    let pid = child(|| {
        close(r);
        let b: Vec<u8> = (0..300_000).map(|i| (i % 251) as u8).collect();
        (write(w, &b).0 == 300_000) as i32
    });
    close(w);
    let mut all = Vec::new();
    loop {
        let b = read(r, 7001).unwrap();
        if b.is_empty() {
            break;
        }
        all.extend(b);
    }
    say("in order", all.iter().enumerate().all(|(i, b)| *b == (i % 251) as u8));
    say("writer got all", reap(pid));
    say("bytes", all.len());
}

fn many_writers() {
    let (r, w) = pipe();
    let kids: Vec<i32> = (0..20)
        .map(|i| {
            child(move || {
                write(w, format!("line {i:02}\n").as_bytes());
                0
            })
        })
        .collect();
    close(w);
    let mut t = String::new();
    loop {
        let b = read(r, 100).unwrap();
        if b.is_empty() {
            break;
        }
        t.push_str(std::str::from_utf8(&b).unwrap());
    }
    let mut l: Vec<&str> = t.lines().collect();
    l.sort_unstable();
    l.dedup();
    say("lines", l.len());
    say("first and last", format!("{} {}", l[0], l[19]));
    for k in kids {
        reap(k);
    }
}

fn pipe2_flags() {
    let mut p = [0; 2];
    for (n, f) in [
        ("none", 0),
        ("O_CLOEXEC", libc::O_CLOEXEC),
        ("O_NONBLOCK", libc::O_NONBLOCK),
        ("O_DIRECT", libc::O_DIRECT),
    ] {
        let r = c!(libc::pipe2(p.as_mut_ptr(), f));
        let fd = c!(libc::fcntl(p[0], libc::F_GETFD));
        let fl0 = c!(libc::fcntl(p[0], libc::F_GETFL)).0 & !0o100000;
        let fl1 = c!(libc::fcntl(p[1], libc::F_GETFL)).0 & !0o100000;
        say(n, format!("{r} fd {fd} read {fl0:o} write {fl1:o}"));
    }
    say("O_APPEND", c!(libc::pipe2(p.as_mut_ptr(), libc::O_APPEND)));
    say("bad pointer", sc!(libc::SYS_pipe2, 8, 0));
    // Nothing leaks after EFAULT.
    let a = open("/dev/null", 0).fd();
    close(a);
    sc!(libc::SYS_pipe2, 8, 0);
    say("no descriptor used by a failed call", open("/dev/null", 0).fd() == a);
}

fn fcntl_size() {
    let (r, w) = pipe();
    let set = |n: i64| c!(libc::fcntl(w, libc::F_SETPIPE_SZ, n as i32));
    say("to 4096", set(4096));
    say("to 1 rounds up", set(1));
    say("to 5000 rounds up", set(5000));
    say("to 0", set(0));
    say("to 1 MiB", set(1 << 20));
    say("beyond 1 MiB as user", set((1 << 20) + 1));
    say("negative", set(-1));
    say("to 2^31", set(1 << 31));
    write(w, &vec![0; 100_000]);
    say("below what is inside", set(4096));
    say("inside", {
        let mut n = 0i32;
        unsafe { libc::ioctl(r, libc::FIONREAD, &mut n) };
        n
    });
    say("not a pipe", c!(libc::fcntl(open("/dev/null", 0).fd(), libc::F_GETPIPE_SZ)));
    say("get on read end", c!(libc::fcntl(r, libc::F_GETPIPE_SZ)));
}

fn fionread() {
    let (r, w) = pipe();
    let n = |fd: i32| {
        let mut n = -1i32;
        let r = c!(libc::ioctl(fd, libc::FIONREAD, &mut n));
        if r.is_ok() { n.to_string() } else { r.to_string() }
    };
    say("empty", n(r));
    write(w, b"12345");
    say("five", n(r));
    say("write end", n(w));
    say("FIONBIO", {
        let on = 1i32;
        c!(libc::ioctl(r, libc::FIONBIO, &on))
    });
    let _ = read(r, 5);
    say("now non-blocking", read_text(r, 1));
    say("TCGETS", c!(libc::ioctl(r, libc::TCGETS, 0)));
    say("unknown", c!(libc::ioctl(r, 0x1234_5678, 0)));
}

fn packet_mode() {
    let mut p = [0; 2];
    unsafe { libc::pipe2(p.as_mut_ptr(), libc::O_DIRECT) };
    write(p[1], b"one");
    write(p[1], b"two!");
    write(p[1], &[b'z'; 5000]);
    say("a packet a read", read_text(p[0], 100));
    say("short read drops the rest", read_text(p[0], 2));
    say("long write is two packets", read(p[0], 9000).unwrap().len());
    say("second", read(p[0], 9000).unwrap().len());
}

fn mkfifo(n: &str) -> R {
    let p = cstr(n);
    c!(libc::mkfifo(p.as_ptr(), 0o644))
}

fn fifo_open() {
    say("mkfifo", mkfifo("f"));
    say("again", mkfifo("f"));
    say("write, non-blocking, no reader", open("f", libc::O_WRONLY | libc::O_NONBLOCK));
    let r = open("f", libc::O_RDONLY | libc::O_NONBLOCK);
    say("read, non-blocking", r.ok());
    say("read without writer", read_text(r.fd(), 1));
    let w = open("f", libc::O_WRONLY | libc::O_NONBLOCK);
    say("write with reader", w.ok());
    say("empty", read_text(r.fd(), 1));
    close(w.fd());
    close(r.fd());
    let pid = child(|| {
        let fd = open("f", libc::O_RDONLY).fd();
        (read_text(fd, 10) == "\"via fifo\"") as i32
    });
    await_sleep(pid);
    let w = open("f", libc::O_WRONLY).fd();
    write(w, b"via fifo");
    say("blocking open of both sides", reap(pid));
    let rw = open("f", libc::O_RDWR);
    say("read-write never blocks", rw.ok());
    write(rw.fd(), b"self");
    say("to itself", read_text(rw.fd(), 10));
    say(
        "mode",
        std::fs::symlink_metadata("f")
            .map(|m| {
                use std::os::unix::fs::FileTypeExt;
                m.file_type().is_fifo()
            })
            .unwrap(),
    );
    say("mknod S_IFIFO", c!(libc::mknod(c"g".as_ptr(), libc::S_IFIFO | 0o600, 0)));
    say("lseek", c!(libc::lseek(rw.fd(), 0, libc::SEEK_SET)));
}

fn fifo_io() {
    mkfifo("f");
    let r = open("f", libc::O_RDONLY | libc::O_NONBLOCK).fd();
    let w1 = open("f", libc::O_WRONLY).fd();
    let w2 = open("f", libc::O_WRONLY).fd();
    write(w1, b"a");
    write(w2, b"b");
    say("both writers", read_text(r, 10));
    unsafe { libc::unlink(c"f".as_ptr()) };
    write(w1, b"c");
    say("after unlink", read_text(r, 10));
    close(w1);
    say("one writer left", read_text(r, 1));
    close(w2);
    say("none", read_text(r, 1));
}

fn fifo_last_writer() {
    // A reader polls HUP after the last writer, and the state is reset by a new one.
    mkfifo("f");
    let r = open("f", libc::O_RDONLY | libc::O_NONBLOCK).fd();
    let poll = || {
        let mut p = libc::pollfd { fd: r, events: libc::POLLIN, revents: 0 };
        unsafe { libc::poll(&mut p, 1, 0) };
        format!("{:#x}", p.revents)
    };
    say("before any writer", poll());
    let w = open("f", libc::O_WRONLY).fd();
    say("with a writer", poll());
    write(w, b"x");
    say("data", poll());
    close(w);
    say("data and gone", poll());
    let _ = read(r, 1);
    say("gone", poll());
    let _w = open("f", libc::O_WRONLY).fd();
    say("a new one", poll());
}

fn splice(a: i32, ao: usize, b: i32, bo: usize, n: usize, fl: u32) -> R {
    sc!(libc::SYS_splice, a, ao, b, bo, n, fl)
}

fn splice_file_pipe() {
    let data: Vec<u8> = (0..20_000).map(|i| (i % 253) as u8).collect();
    put("in", &data);
    let i = open("in", libc::O_RDONLY).fd();
    let o = open("out", libc::O_RDWR | libc::O_CREAT).fd();
    let (r, w) = pipe();
    let mut total = 0;
    loop {
        let n = splice(i, 0, w, 0, 8192, 0);
        if n.0 <= 0 {
            say("end", n);
            break;
        }
        let m = splice(r, 0, o, 0, n.0 as usize, 0);
        total += m.0;
    }
    say("moved", total);
    say("same", std::fs::read("out").unwrap() == data);
    let off = 100i64;
    say("with offset", splice(i, &off as *const _ as usize, w, 0, 10, 0));
    say("offset moved", off);
    say("data", read(r, 10).unwrap() == data[100..110]);
    say("file position stays", c!(libc::lseek(i, 0, libc::SEEK_CUR)));
}

fn splice_forms() {
    put("in", b"0123456789");
    let i = open("in", libc::O_RDONLY).fd();
    let o = open("out", libc::O_RDWR | libc::O_CREAT | libc::O_APPEND).fd();
    let (r, w) = pipe();
    let (r2, w2) = pipe();
    let off = 0i64;
    say("two files", splice(i, 0, o, 0, 5, 0));
    say("offset for a pipe", splice(r, &off as *const _ as usize, o, 0, 5, 0));
    say("wrong end", splice(w, 0, w2, 0, 5, 0));
    say("same pipe", splice(r, 0, w, 0, 5, 0));
    write(w, b"abcdef");
    say("pipe to pipe", splice(r, 0, w2, 0, 4, 0));
    say("arrived", read_text(r2, 10));
    say("left", read_text(r, 10));
    say("empty, non-blocking", splice(r, 0, w2, 0, 4, libc::SPLICE_F_NONBLOCK));
    say("length 0", splice(r, 0, w2, 0, 0, 0));
    say("bad flags", splice(r, 0, w2, 0, 1, 0x100));
    write(w, b"x");
    say("to O_APPEND", splice(r, 0, o, 0, 1, 0));
    say("bad fd", splice(r, 0, 999, 0, 1, 0));
    close(w);
    say("no writer: end", splice(r, 0, w2, 0, 4, 0));
}

fn tee() {
    let (r, w) = pipe();
    let (r2, w2) = pipe();
    let tee = |a: i32, b: i32, n: usize, f: u32| sc!(libc::SYS_tee, a, b, n, f);
    write(w, b"duplicate");
    say("tee", tee(r, w2, 100, 0));
    say("copy", read_text(r2, 100));
    say("original", read_text(r, 100));
    say("empty", tee(r, w2, 1, libc::SPLICE_F_NONBLOCK));
    say("same pipe", tee(r, w, 1, 0));
    say("not a pipe", tee(open("/dev/null", 2).fd(), w2, 1, 0));
    // What is read in one does not change the other.
    write(w, b"abc");
    tee(r, w2, 3, 0);
    say("first", read_text(r, 1));
    say("second", read_text(r2, 3));
}

fn vmsplice() {
    let (r, w) = pipe();
    let data = b"from memory".to_vec();
    let v = [
        libc::iovec { iov_base: data.as_ptr() as *mut _, iov_len: 4 },
        libc::iovec { iov_base: unsafe { data.as_ptr().add(4) } as *mut _, iov_len: 7 },
    ];
    say("to pipe", c!(libc::vmsplice(w, v.as_ptr(), 2, 0)));
    say("read", read_text(r, 20));
    write(w, b"back");
    let mut b = [0u8; 10];
    let v = libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: 10 };
    say("from pipe", c!(libc::vmsplice(r, &v, 1, 0)));
    say("data", quoted(&b[..4]));
    say("bad flags", c!(libc::vmsplice(r, &v, 1, 0x100)));
    say("not a pipe", c!(libc::vmsplice(open("/dev/null", 2).fd(), &v, 1, 0)));
}

fn poll_states() {
    let show = |fd: i32| {
        let mut p = libc::pollfd { fd, events: libc::POLLIN | libc::POLLOUT, revents: 0 };
        unsafe { libc::poll(&mut p, 1, 0) };
        let names = [(1, "IN"), (4, "OUT"), (8, "ERR"), (16, "HUP"), (32, "NVAL")];
        let l: Vec<&str> =
            names.iter().filter(|(b, _)| p.revents & b != 0).map(|(_, n)| *n).collect();
        l.join(" ")
    };
    let (r, w) = pipe();
    say("empty: read, write", format!("[{}] [{}]", show(r), show(w)));
    write(w, b"x");
    say("a byte", format!("[{}] [{}]", show(r), show(w)));
    write(w, &[0; 65535 - 4095]);
    set_nonblock(w);
    while write(w, &[0; 4096]).is_ok() {}
    say("full", format!("[{}] [{}]", show(r), show(w)));
    let _ = read(r, 4095);
    say("a byte less than a page read", show(w));
    let _ = read(r, 4096);
    say("a page read", show(w));
    close(r);
    say("no reader", show(w));
    let (r, w) = pipe();
    write(w, b"x");
    close(w);
    say("no writer, data", show(r));
    let _ = read(r, 1);
    say("no writer, empty", show(r));
    say("closed descriptor", show(999));
}

fn readv_writev() {
    let (r, w) = pipe();
    let (a, b) = (b"abc", b"defgh");
    let v = [
        libc::iovec { iov_base: a.as_ptr() as *mut _, iov_len: 3 },
        libc::iovec { iov_base: 8 as *mut _, iov_len: 0 },
        libc::iovec { iov_base: b.as_ptr() as *mut _, iov_len: 5 },
    ];
    say("writev", c!(libc::writev(w, v.as_ptr(), 3)));
    let (mut x, mut y) = ([0u8; 2], [0u8; 10]);
    let v = [
        libc::iovec { iov_base: x.as_mut_ptr().cast(), iov_len: 2 },
        libc::iovec { iov_base: y.as_mut_ptr().cast(), iov_len: 10 },
    ];
    say("readv", c!(libc::readv(r, v.as_ptr(), 2)));
    say("parts", format!("{} {}", quoted(&x), quoted(&y[..6])));
    say("too many", c!(libc::writev(w, v.as_ptr(), 1025)));
    say("negative count", c!(libc::writev(w, v.as_ptr(), -1)));
    say("none", c!(libc::writev(w, v.as_ptr(), 0)));
    let neg = libc::iovec { iov_base: x.as_mut_ptr().cast(), iov_len: usize::MAX };
    say("negative length", c!(libc::writev(w, &neg, 1)));
    say("bad vector", sc!(libc::SYS_writev, w, 8, 1));
    let bad = [
        libc::iovec { iov_base: a.as_ptr() as *mut _, iov_len: 3 },
        libc::iovec { iov_base: 8 as *mut _, iov_len: 5 },
    ];
    say("good part, then bad", c!(libc::writev(w, bad.as_ptr(), 2)));
}

fn lseek_and_friends() {
    let (r, w) = pipe();
    let mut b = [0u8; 4];
    say("lseek", c!(libc::lseek(r, 0, libc::SEEK_CUR)));
    say("pread", c!(libc::pread(r, b.as_mut_ptr().cast(), 1, 0)));
    say("pwrite", c!(libc::pwrite(w, b.as_ptr().cast(), 1, 0)));
    say("ftruncate", c!(libc::ftruncate(w, 0)));
    say("fsync", c!(libc::fsync(w)));
    say("fallocate", c!(libc::fallocate(w, 0, 0, 10)));
    say("fchdir", c!(libc::fchdir(r)));
    say("getdents64", sc!(libc::SYS_getdents64, r, b.as_mut_ptr(), 4));
    say("mmap", c!(libc::mmap(std::ptr::null_mut(), 4096, 1, 1, r, 0)).ok());
    say("fchmod", c!(libc::fchmod(r, 0o600)));
    say("flock", c!(libc::flock(r, libc::LOCK_EX | libc::LOCK_NB)));
    say("sync_file_range", c!(libc::sync_file_range(r, 0, 0, 0)));
}

fn proc_reopen() {
    let (r, w) = pipe();
    let l = std::fs::read_link(format!("/proc/self/fd/{r}")).unwrap();
    say("link", l.to_str().unwrap().starts_with("pipe:["));
    let w2 = open(&format!("/proc/self/fd/{w}"), libc::O_WRONLY);
    say("open of the write end", w2.ok());
    write(w2.fd(), b"2");
    let r2 = open(&format!("/proc/self/fd/{w}"), libc::O_RDONLY | libc::O_NONBLOCK);
    say("read through the write end's link", read_text(r2.fd(), 4));
    let _ = r;
}

fn big_transfer() {
    let (r, w) = pipe();
    let pid = child(|| {
        close(r);
        let b: Vec<u8> =
            (0..65536u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for _ in 0..256 {
            let mut n = 0;
            while n < b.len() {
                n += write(w, &b[n..]).0 as usize;
            }
        }
        0
    });
    close(w);
    let (mut n, mut sum) = (0u64, 0u64);
    loop {
        let b = read(r, 30_000).unwrap();
        if b.is_empty() {
            break;
        }
        n += b.len() as u64;
        sum = b.iter().fold(sum, |s, v| s.wrapping_mul(31).wrapping_add(u64::from(*v)));
    }
    say("bytes", n);
    say("checksum", sum);
    reap(pid);
}

fn stat_of_pipe() {
    let (r, w) = pipe();
    let st = |fd: i32| {
        let mut s: libc::stat = unsafe { std::mem::zeroed() };
        unsafe { libc::fstat(fd, &mut s) };
        s
    };
    let (a, b) = (st(r), st(w));
    say("mode", format!("{:o}", a.st_mode));
    say("same inode", a.st_ino == b.st_ino);
    say("links", a.st_nlink);
    say("size", a.st_size);
    say("blksize", a.st_blksize);
    say("owner is self", a.st_uid == unsafe { libc::geteuid() });
    let (c2, _) = pipe();
    say("another pipe, another inode", st(c2).st_ino != a.st_ino);
    say("same device", st(c2).st_dev == a.st_dev);
}
