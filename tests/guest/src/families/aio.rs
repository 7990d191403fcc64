//! Native asynchronous I/O (io_setup and its kin).

use crate::sys::*;
use crate::{c, cases, sc};

cases! { contexts, reads_and_writes, submission_errors, completion_errors, several_at_once, eventfd_completion, not_inherited, polls, poll_errors, poll_cancel, poll_eventfd, poll_many, poll_destroy }

#[repr(C)]
#[derive(Clone, Copy)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: i32,
    buf: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_fd: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
struct IoEvent {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

const PREAD: u16 = 0;
const PWRITE: u16 = 1;
const FSYNC: u16 = 2;
const PWRITEV: u16 = 8;

fn iocb(opcode: u16, fd: i32, buf: &[u8], offset: i64) -> Iocb {
    Iocb {
        data: 0x1234,
        key: 77,
        rw_flags: 0,
        opcode,
        priority: 0,
        fd,
        buf: if opcode == FSYNC { 0 } else { buf.as_ptr() as u64 },
        len: buf.len() as u64,
        offset,
        reserved: 0,
        flags: 0,
        event_fd: 0,
    }
}

fn setup(n: u32) -> u64 {
    let mut id = 0u64;
    let r = sc!(libc::SYS_io_setup, n, &raw mut id);
    assert!(r.is_ok(), "io_setup: {r}");
    id
}

fn submit(id: u64, list: &[&Iocb]) -> R {
    let list: Vec<*const Iocb> = list.iter().map(|i| *i as *const Iocb).collect();
    sc!(libc::SYS_io_submit, id, list.len(), list.as_ptr())
}

/// Results of up to `max` events once there are `min`, at most for a second.
fn results(id: u64, min: i64, max: usize) -> String {
    let mut e = vec![IoEvent::default(); max];
    let t = libc::timespec { tv_sec: 1, tv_nsec: 0 };
    let r = sc!(libc::SYS_io_getevents, id, min, max, e.as_mut_ptr(), &raw const t);
    if !r.is_ok() {
        return r.to_string();
    }
    let mut v: Vec<String> = e[..r.0 as usize]
        .iter()
        .map(|e| format!("{:x}:{}:{}", e.data, e.result, e.result2))
        .collect();
    v.sort();
    format!("{} {}", r.0, v.join(" "))
}

fn contexts() {
    let mut id = 0u64;
    say("no requests", sc!(libc::SYS_io_setup, 0, &raw mut id));
    let mut busy = 1u64;
    say("id not zero", sc!(libc::SYS_io_setup, 4, &raw mut busy));
    say("bad pointer", sc!(libc::SYS_io_setup, 4, 8));
    say("more than there may be", sc!(libc::SYS_io_setup, 0x7fff_ffff, &raw mut id));
    say("setup", sc!(libc::SYS_io_setup, 4, &raw mut id));
    say("id", id != 0);
    say("empty", results(id, 0, 4));
    say("fewer than nothing", results(id, -1, 4));
    say("bad id", sc!(libc::SYS_io_destroy, 4096));
    say("destroy", sc!(libc::SYS_io_destroy, id));
    say("again", sc!(libc::SYS_io_destroy, id));
    say("submit to it", sc!(libc::SYS_io_submit, id, 0, 0));
}

fn reads_and_writes() {
    put("f", b"0123456789");
    let fd = open("f", libc::O_RDWR).fd();
    let id = setup(8);
    let buf = vec![b'.'; 4];
    let r = iocb(PREAD, fd, &buf, 3);
    say("submit", submit(id, &[&r]));
    say("events", results(id, 1, 8));
    say("data", quoted(&buf));
    say("key was reset", r.key != 77);
    say("position stays", c!(libc::lseek(fd, 0, libc::SEEK_CUR)));
    let w = iocb(PWRITE, fd, b"abc", 8);
    say("write", submit(id, &[&w]));
    say("events", results(id, 1, 8));
    let parts = [
        libc::iovec { iov_base: b"xy".as_ptr() as *mut _, iov_len: 2 },
        libc::iovec { iov_base: b"z".as_ptr() as *mut _, iov_len: 1 },
    ];
    let mut v = iocb(PWRITEV, fd, b"", 0);
    v.buf = parts.as_ptr() as u64;
    v.len = 2;
    say("vector", submit(id, &[&v]));
    say("events", results(id, 1, 8));
    say("fsync", submit(id, &[&iocb(FSYNC, fd, b"", 0)]));
    say("events", results(id, 1, 8));
    say("file", get("f"));
    say("at the end", submit(id, &[&iocb(PREAD, fd, &buf, 100)]));
    say("events", results(id, 1, 8));
}

fn submission_errors() {
    put("f", b"0123456789");
    let fd = open("f", libc::O_RDONLY).fd();
    let id = setup(8);
    let buf = vec![0u8; 4];
    say("bad descriptor", submit(id, &[&iocb(PREAD, 999, &buf, 0)]));
    say("bad operation", submit(id, &[&iocb(99, fd, &buf, 0)]));
    say("write to what is read-only", submit(id, &[&iocb(PWRITE, fd, &buf, 0)]));
    let mut i = iocb(PREAD, fd, &buf, 0);
    i.reserved = 1;
    say("reserved", submit(id, &[&i]));
    i.reserved = 0;
    i.flags = 0x80;
    say("unknown flag", submit(id, &[&i]));
    i.flags = 1;
    i.event_fd = fd;
    say("no eventfd", submit(id, &[&i]));
    i.flags = 0;
    i.len = u64::MAX;
    say("huge length", submit(id, &[&i]));
    say("negative count", sc!(libc::SYS_io_submit, id, -1, 0));
    say("bad list", sc!(libc::SYS_io_submit, id, 1, 8));
    let bad = [8usize];
    say("bad request", sc!(libc::SYS_io_submit, id, 1, bad.as_ptr()));
    let good = iocb(PREAD, fd, &buf, 0);
    say("a good one first", submit(id, &[&good, &iocb(PREAD, 999, &buf, 0)]));
    say("events", results(id, 1, 8));
    let mut out = IoEvent::default();
    say("nothing to cancel", sc!(libc::SYS_io_cancel, id, &raw const good, &raw mut out));
    say("cancel with a bad pointer", sc!(libc::SYS_io_cancel, id, 8, &raw mut out));
}

fn completion_errors() {
    put("f", b"0123456789");
    let fd = open("f", libc::O_RDWR).fd();
    let id = setup(8);
    let mut i = iocb(PREAD, fd, b"1234", 0);
    i.buf = 8;
    say("bad buffer", submit(id, &[&i]));
    say("events", results(id, 1, 8));
    let mut n = iocb(PREAD, fd, b"1234", -5);
    n.data = 5;
    say("negative offset", submit(id, &[&n]));
    say("events", results(id, 1, 8));
}

fn several_at_once() {
    put("f", &[b'f'; 100]);
    let fd = open("f", libc::O_RDWR).fd();
    let id = setup(64);
    let buf = vec![0u8; 10];
    let many: Vec<Iocb> =
        (0..10).map(|k| Iocb { data: k, ..iocb(PREAD, fd, &buf, 10 * k as i64 + 5) }).collect();
    say("submit", submit(id, &many.iter().collect::<Vec<_>>()));
    say("four", results(id, 4, 4).len());
    say("the rest", results(id, 6, 64).split(' ').next().unwrap());
    say("no more", results(id, 0, 64));
    let past = libc::timespec { tv_sec: 0, tv_nsec: 1000 };
    let mut e = [IoEvent::default(); 4];
    say("timeout", sc!(libc::SYS_io_getevents, id, 1, 4, e.as_mut_ptr(), &raw const past));
    say("more wanted than taken", sc!(libc::SYS_io_getevents, id, 5, 4, e.as_mut_ptr(), 0));
}

fn eventfd_completion() {
    put("f", b"0123456789");
    let fd = open("f", libc::O_RDONLY).fd();
    let efd = c!(libc::eventfd(0, 0)).fd();
    let id = setup(8);
    let buf = vec![0u8; 4];
    let mut i = iocb(PREAD, fd, &buf, 0);
    i.flags = 1;
    i.event_fd = efd;
    say("submit", submit(id, &[&i, &i]));
    let mut sum = 0;
    while sum < 2 {
        sum += u64::from_ne_bytes(read(efd, 8).unwrap().try_into().unwrap());
    }
    say("told", sum);
    say("events", results(id, 2, 8));
}

const POLL: u16 = 5;

fn poll(fd: i32, events: i16) -> Iocb {
    let mut i = iocb(POLL, fd, b"", 0);
    i.buf = events as u16 as u64;
    i
}

fn polls() {
    let (r, w) = pipe();
    let id = setup(8);
    say("writable at once", submit(id, &[&poll(w, libc::POLLOUT)]));
    say("events", results(id, 1, 8));
    let p = poll(r, libc::POLLIN);
    say("not readable yet", submit(id, &[&p]));
    say("key was reset", p.key != 77);
    say("nothing", results(id, 0, 8));
    write(w, b"x");
    say("now", results(id, 1, 8));
    say("once only", results(id, 0, 8));
    say("readable at once", submit(id, &[&p]));
    say("events", results(id, 1, 8));
    let _ = read(r, 8);
    say("nothing is asked for", submit(id, &[&poll(r, 0)]));
    say("nothing", results(id, 0, 8));
    close(w);
    say("hang-up comes always", results(id, 1, 8));
    let e = Event::new();
    let d = c!(libc::dup(e.r)).fd();
    say("a descriptor that is closed meanwhile", submit(id, &[&poll(d, libc::POLLIN)]));
    close(d);
    e.post();
    say("events", results(id, 1, 8));
    let mut pair = [0; 2];
    c!(libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr()));
    let wanted = libc::POLLIN | libc::POLLRDHUP;
    say("socket", submit(id, &[&poll(pair[0], wanted)]));
    c!(libc::shutdown(pair[1], libc::SHUT_WR));
    say("events", results(id, 1, 8));
    let sleeper = child(|| {
        let id = setup(2);
        let (r, w) = pipe();
        submit(id, &[&poll(r, libc::POLLIN)]);
        let c = child(|| {
            await_sleep(unsafe { libc::getppid() });
            write(w, b"x");
            0
        });
        say("slept for it", results(id, 1, 1));
        reap(c);
        0
    });
    say("child", reap(sleeper));
}

fn poll_errors() {
    let (r, _w) = pipe();
    put("f", b"x");
    let id = setup(8);
    let f = open("f", libc::O_RDONLY).fd();
    say("ordinary file", submit(id, &[&poll(f, libc::POLLIN)]));
    say("events", results(id, 0, 8));
    let mut p = poll(r, libc::POLLIN);
    p.buf |= 0x1_0000;
    say("events beyond 16 bits", submit(id, &[&p]));
    p = poll(r, libc::POLLIN);
    p.offset = 1;
    say("offset", submit(id, &[&p]));
    p = poll(r, libc::POLLIN);
    p.len = 1;
    say("length", submit(id, &[&p]));
    p = poll(r, libc::POLLIN);
    p.rw_flags = 1;
    say("flags", submit(id, &[&p]));
    say("bad descriptor", submit(id, &[&poll(-1, libc::POLLIN)]));
}

fn poll_cancel() {
    let (r, w) = pipe();
    let id = setup(8);
    let p = poll(r, libc::POLLIN);
    say("submit", submit(id, &[&p]));
    let mut out = IoEvent::default();
    say("cancel", sc!(libc::SYS_io_cancel, id, &raw const p, &raw mut out));
    let mut e = [IoEvent::default(); 4];
    let t = libc::timespec { tv_sec: 5, tv_nsec: 0 };
    let n = sc!(libc::SYS_io_getevents, id, 1, 4, e.as_mut_ptr(), &raw const t);
    say("its event", format!("{n} {:x} {}", e[0].data, e[0].result));
    say("again", sc!(libc::SYS_io_cancel, id, &raw const p, &raw mut out));
    write(w, b"x");
    say("not woken any more", results(id, 0, 8));
    say("submit", submit(id, &[&p]));
    say("done", results(id, 1, 8));
    say("too late", sc!(libc::SYS_io_cancel, id, &raw const p, &raw mut out));
}

fn poll_eventfd() {
    let (r, w) = pipe();
    let efd = c!(libc::eventfd(0, 0)).fd();
    let id = setup(8);
    let mut p = poll(r, libc::POLLIN);
    p.flags = 1;
    p.event_fd = efd;
    say("submit", submit(id, &[&p]));
    write(w, b"x");
    say("told", read(efd, 8).map_or(0, |b| u64::from(b[0])));
    say("events", results(id, 1, 8));
}

fn poll_many() {
    let id = setup(64);
    let pipes: Vec<_> = (0..16).map(|_| pipe()).collect();
    let list: Vec<Iocb> = pipes
        .iter()
        .enumerate()
        .map(|(k, p)| Iocb { data: k as u64, ..poll(p.0, libc::POLLIN) })
        .collect();
    say("submit", submit(id, &list.iter().collect::<Vec<_>>()));
    for k in [3, 9] {
        write(pipes[k].1, b"x");
    }
    say("two", results(id, 2, 64));
    let both = [poll(pipes[3].0, libc::POLLIN), poll(pipes[3].0, libc::POLLIN)];
    say("one file twice", submit(id, &[&both[0], &both[1]]));
    say("events", results(id, 2, 64));
    for (k, p) in pipes.iter().enumerate() {
        if k != 3 && k != 9 {
            close(p.1);
        }
    }
    say("the rest", results(id, 14, 64).split(' ').next().unwrap());
}

fn poll_destroy() {
    let (r, w) = pipe();
    let id = setup(8);
    say("submit", submit(id, &[&poll(r, libc::POLLIN)]));
    say("destroy", sc!(libc::SYS_io_destroy, id));
    say("write", write(w, b"x"));
    let id = setup(1);
    let p = poll(c!(libc::eventfd(0, 0)).fd(), libc::POLLIN);
    say("fill it", submit(id, &[&p, &p, &p]) >= R(1));
    let (r, w) = pipe();
    let end = in_child(|| {
        let id = setup(4);
        say("nothing that comes", submit(id, &[&poll(w, libc::POLLPRI)]));
        0
    });
    say("end with it pending", end);
    let end = in_child(|| {
        let id = setup(4);
        submit(id, &[&poll(w, libc::POLLPRI)]);
        let argv = [c"true".as_ptr(), std::ptr::null()];
        unsafe { libc::fcntl(w, libc::F_SETFD, libc::FD_CLOEXEC) };
        say("exec", c!(libc::execv(c"/bin/true".as_ptr(), argv.as_ptr())));
        1
    });
    say("exec with it pending", end);
    close(w);
    say("nobody has the pipe", read_text(r, 4));
}

fn not_inherited() {
    let id = setup(8);
    say("in a child", in_child(|| (results(id, 0, 1) == "EINVAL") as i32));
    say("still here", results(id, 0, 1));
}
