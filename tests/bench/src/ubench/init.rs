//! `ubench` as the first process of a guest.

use std::process::{Command, ExitCode};

fn mount(source: &std::ffi::CStr, target: &std::ffi::CStr, kind: &std::ffi::CStr) {
    // What is there already, or is missing in this root, is no reason to stop.
    unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
}

/// Mounts what a bare guest lacks, runs `ubench WORDS...` for each group of words between `++`, and powers off. A word `@dir=DIR`
/// in front chooses the working directory.
pub fn as_init(words: &[&str]) -> ExitCode {
    if std::process::id() == 1 {
        mount(c"proc", c"/proc", c"proc");
        mount(c"sysfs", c"/sys", c"sysfs");
        mount(c"devtmpfs", c"/dev", c"devtmpfs");
        mount(c"tmpfs", c"/tmp", c"tmpfs");
        mount(c"tmpfs", c"/dev/shm", c"tmpfs");
        mount(c"tmpfs", c"/run", c"tmpfs");
        unsafe {
            let many = libc::rlimit { rlim_cur: 65536, rlim_max: 65536 };
            libc::setrlimit(libc::RLIMIT_NPROC, &many);
        }
    }
    let me = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let mut ok = true;
    for group in words.split(|w| *w == "++").filter(|g| !g.is_empty()) {
        let r = Command::new(&me)
            .args(group)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .status();
        ok &= r.is_ok_and(|s| s.success());
    }
    println!("UBENCH DONE");
    if std::process::id() == 1 {
        unsafe {
            libc::sync();
            libc::reboot(libc::RB_POWER_OFF);
        }
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A shell that waits for ever, as a user leaves it.
pub fn idle() -> ExitCode {
    let mut fds = [0i32; 2];
    unsafe { libc::pipe(fds.as_mut_ptr()) };
    use std::os::fd::FromRawFd;
    let stdin = unsafe { std::process::Stdio::from(std::fs::File::from_raw_fd(fds[0])) };
    match Command::new("/bin/sh").stdin(stdin).spawn() {
        Ok(mut c) => {
            println!("UBENCH IDLE");
            let _ = c.wait();
            ExitCode::SUCCESS
        }
        Err(e) => {
            println!("UBENCH FAILED {e}");
            ExitCode::FAILURE
        }
    }
}
