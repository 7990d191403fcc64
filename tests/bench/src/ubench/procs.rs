//! Processes, threads and memory.

use crate::measure::{Bench, emit, fail, os_error};
use std::time::Instant;

pub fn fork_exit(b: &Bench) {
    b.per_op("fork_exit", |n| {
        for _ in 0..n {
            unsafe {
                let p = libc::fork();
                if p == 0 {
                    libc::_exit(0);
                }
                libc::waitpid(p, std::ptr::null_mut(), 0);
            }
        }
    });
}

/// `posix_spawn` (a vfork) of `/bin/true`, and its end.
pub fn vfork_exec(b: &Bench) {
    let argv = [c"true".as_ptr().cast_mut(), std::ptr::null_mut()];
    let env = [std::ptr::null_mut()];
    let mut bad = 0;
    b.per_op("vfork_exec", |n| {
        for _ in 0..n {
            let (mut pid, mut s) = (0, 0);
            unsafe {
                let r = libc::posix_spawn(
                    &mut pid,
                    c"/bin/true".as_ptr(),
                    std::ptr::null(),
                    std::ptr::null(),
                    argv.as_ptr(),
                    env.as_ptr(),
                );
                if r == 0 {
                    libc::waitpid(pid, &mut s, 0);
                }
                bad += i32::from(r != 0 || s != 0);
            }
        }
    });
    if bad > 0 {
        fail("vfork_exec", &format!("{bad} programs failed"));
    }
}

pub fn thread_create_join(b: &Bench) {
    extern "C" fn body(p: *mut libc::c_void) -> *mut libc::c_void {
        p
    }
    b.per_op("thread_create_join", |n| {
        for _ in 0..n {
            unsafe {
                let mut t = 0;
                libc::pthread_create(&mut t, std::ptr::null(), body, std::ptr::null_mut());
                libc::pthread_join(t, std::ptr::null_mut());
            }
        }
    });
}

fn map(len: usize) -> *mut u8 {
    let p = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    p.cast()
}

/// First touch of anonymous pages, in microseconds a page; mapping and unmapping are not counted.
pub fn page_fault(b: &Bench) {
    const PAGES: usize = 4096;
    b.rounds("page_fault", "us", || {
        let p = map(PAGES * 4096);
        if p as isize == -1 {
            return Err(os_error("mmap"));
        }
        // Small pages everywhere: huge ones would measure something else.
        unsafe { libc::madvise(p.cast(), PAGES * 4096, libc::MADV_NOHUGEPAGE) };
        let t = Instant::now();
        for i in 0..PAGES {
            unsafe { p.add(i * 4096).write_volatile(1) };
        }
        let us = t.elapsed().as_secs_f64() * 1e6 / PAGES as f64;
        unsafe { libc::munmap(p.cast(), PAGES * 4096) };
        Ok(us)
    });
}

pub fn mmap_munmap(b: &Bench) {
    b.per_op("mmap_munmap", |n| {
        for _ in 0..n {
            let p = map(64 << 10);
            unsafe { libc::munmap(p.cast(), 64 << 10) };
        }
    });
}

/// 4096 processes alive at once: the time to make them all.
pub fn tasks_4096(_: &Bench) {
    let mut gate = [0i32; 2];
    unsafe { libc::pipe(gate.as_mut_ptr()) };
    let t = Instant::now();
    let mut pids = Vec::new();
    let mut error = None;
    for _ in 0..4096 {
        let p = unsafe { libc::fork() };
        match p {
            0 => unsafe {
                libc::close(gate[1]);
                let mut c = 0u8;
                libc::read(gate[0], (&raw mut c).cast(), 1);
                libc::_exit(0)
            },
            -1 => {
                error = Some(format!("{} after {} tasks", os_error("fork"), pids.len()));
                break;
            }
            p => pids.push(p),
        }
    }
    let ms = t.elapsed().as_secs_f64() * 1000.0;
    unsafe { libc::close(gate[1]) };
    for p in pids {
        unsafe { libc::waitpid(p, std::ptr::null_mut(), 0) };
    }
    unsafe { libc::close(gate[0]) };
    match error {
        None => emit("tasks_4096", "ms", vec![ms]),
        Some(e) => fail("tasks_4096", &e),
    }
}
