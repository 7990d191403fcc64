//! Hand-offs between processes and threads, and bytes through a socket.

use crate::measure::{Bench, fail, os_error};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::time::Instant;

/// Round trips of one byte between two processes.
pub fn pipe_pingpong(b: &Bench) {
    let (mut a, mut z) = ([0i32; 2], [0i32; 2]);
    let pid = unsafe {
        if libc::pipe(a.as_mut_ptr()) != 0 || libc::pipe(z.as_mut_ptr()) != 0 {
            return fail("pipe_pingpong", &os_error("pipe"));
        }
        libc::fork()
    };
    let mut c = 0u8;
    let p = (&raw mut c).cast::<libc::c_void>();
    match pid {
        -1 => return fail("pipe_pingpong", &os_error("fork")),
        0 => unsafe {
            libc::close(a[1]);
            libc::close(z[0]);
            while libc::read(a[0], p, 1) == 1 {
                libc::write(z[1], p, 1);
            }
            libc::_exit(0)
        },
        _ => {}
    }
    unsafe {
        libc::close(a[0]);
        libc::close(z[1]);
    }
    b.per_op("pipe_pingpong", |n| {
        for _ in 0..n {
            unsafe {
                libc::write(a[1], p, 1);
                libc::read(z[0], p, 1);
            }
        }
    });
    unsafe {
        libc::close(a[1]);
        libc::close(z[0]);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
}

fn wait(w: &AtomicI32, v: i32) {
    while w.load(SeqCst) == v {
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                w.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                v,
                0,
                0,
                0,
            )
        };
    }
}

fn set(w: &AtomicI32, v: i32) {
    w.store(v, SeqCst);
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            w.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            1,
            0,
            0,
            0,
        )
    };
}

/// Round trips between two threads that always sleep.
pub fn futex_pingpong(b: &Bench) {
    static A: AtomicI32 = AtomicI32::new(0);
    static Z: AtomicI32 = AtomicI32::new(0);
    let t = std::thread::spawn(|| {
        loop {
            wait(&A, 0);
            let v = A.swap(0, SeqCst);
            if v == 2 {
                return;
            }
            set(&Z, 1);
        }
    });
    b.per_op("futex_pingpong", |n| {
        for _ in 0..n {
            set(&A, 1);
            wait(&Z, 0);
            Z.store(0, SeqCst);
        }
    });
    set(&A, 2);
    if t.join().is_err() {
        fail("futex_pingpong", "the other thread failed");
    }
}

/// Megabytes a second through a stream pair, in blocks of 64 KiB.
pub fn unix_stream(b: &Bench) {
    const BLOCK: usize = 64 << 10;
    let total = 128usize << 20;
    b.rounds("unix_stream", "MB/s", || {
        let mut s = [0i32; 2];
        let mut buf = vec![1u8; BLOCK];
        let pid = unsafe {
            if libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, s.as_mut_ptr()) != 0 {
                return Err(os_error("socketpair"));
            }
            libc::fork()
        };
        if pid == 0 {
            let mut n = 0;
            while n < total {
                let r = unsafe { libc::write(s[1], buf.as_ptr().cast(), BLOCK) };
                if r <= 0 {
                    break;
                }
                n += r as usize;
            }
            unsafe { libc::_exit(0) };
        }
        unsafe { libc::close(s[1]) };
        let t = Instant::now();
        let mut n = 0;
        loop {
            let r = unsafe { libc::read(s[0], buf.as_mut_ptr().cast(), BLOCK) };
            if r <= 0 {
                break;
            }
            n += r as usize;
        }
        let dt = t.elapsed().as_secs_f64();
        unsafe {
            libc::close(s[0]);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
        if n < total {
            return Err(format!("{n} of {total} bytes arrived"));
        }
        Ok(n as f64 / 1e6 / dt)
    });
}
