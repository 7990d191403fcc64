//! Single system calls.

use crate::measure::{Bench, fail, os_error};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub fn getppid(b: &Bench) {
    b.per_op("getppid", |n| {
        for _ in 0..n {
            black_box(unsafe { libc::syscall(libc::SYS_getppid) });
        }
    });
}

pub fn clock_gettime(b: &Bench) {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    b.per_op("clock_gettime", |n| {
        for _ in 0..n {
            black_box(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) });
        }
    });
}

/// One byte read from `/dev/zero` or written to `/dev/null`: the mean of the two.
pub fn read_write(b: &Bench) {
    let (zero, null) = unsafe {
        (
            libc::open(c"/dev/zero".as_ptr(), libc::O_RDONLY),
            libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY),
        )
    };
    if zero < 0 || null < 0 {
        return fail("read_write_1", &os_error("opening /dev/zero and /dev/null"));
    }
    let mut c = 0u8;
    b.per_op("read_write_1", |n| {
        for _ in 0..n.div_ceil(2) {
            unsafe {
                libc::read(zero, (&raw mut c).cast(), 1);
                libc::write(null, (&raw const c).cast(), 1);
            }
        }
    });
    unsafe {
        libc::close(zero);
        libc::close(null);
    }
}

pub fn stat(b: &Bench) {
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    b.per_op("stat", |n| {
        for _ in 0..n {
            black_box(unsafe { libc::stat(c"/etc/passwd".as_ptr(), &mut st) });
        }
    });
}

pub fn open_read_close(b: &Bench) {
    let mut buf = [0u8; 512];
    b.per_op("open_read_close", |n| {
        for _ in 0..n {
            unsafe {
                let fd = libc::open(c"/etc/passwd".as_ptr(), libc::O_RDONLY);
                libc::read(fd, buf.as_mut_ptr().cast(), buf.len());
                libc::close(fd);
            }
        }
    });
}

static CAUGHT: AtomicU64 = AtomicU64::new(0);

extern "C" fn catch(_: i32) {
    CAUGHT.fetch_add(1, Relaxed);
}

/// `kill` to the own process, handler and return.
pub fn signal_self(b: &Bench) {
    let pid = unsafe {
        let mut sa: libc::sigaction = std::mem::zeroed();
        sa.sa_sigaction = catch as *const () as usize;
        libc::sigaction(libc::SIGUSR1, &sa, std::ptr::null_mut());
        libc::getpid()
    };
    let before = CAUGHT.load(Relaxed);
    let mut sent = 0;
    b.per_op("signal_self", |n| {
        for _ in 0..n {
            unsafe { libc::kill(pid, libc::SIGUSR1) };
        }
        sent += n;
    });
    let got = CAUGHT.load(Relaxed) - before;
    if got != sent {
        fail("signal_self", &format!("{got} of {sent} signals were handled"));
    }
}
