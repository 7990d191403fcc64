//! No guest process survives the kernel, however suddenly it ends.
//!
//! The test runs itself as a kernel that kills itself in the middle of forks, and as the
//! subreaper inherits whatever is left.

mod common;
#[path = "common/mayhem.rs"]
mod mayhem;

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::*;
use uml_platform::Backend;

const ROLE: &str = "UML_TEST_DIE_AFTER";

fn backend_of(name: &str) -> Backend {
    [Backend::Notify, Backend::Trap, Backend::Ptrace]
        .into_iter()
        .find(|b| b.to_string() == name)
        .expect("backend")
}

/// Runs guests and dies.
fn die(role: &str) -> ! {
    let (backend, tasks) = role.split_once(' ').expect("role");
    let tasks: usize = tasks.parse().expect("number");
    let k = Kernel::boot(backend_of(backend));
    *k.exec_text.lock().unwrap() = mayhem::torture().to_vec();
    k.max_tasks.store(64, Ordering::SeqCst);
    k.budget.store(100_000, Ordering::SeqCst);
    for _ in 0..12 {
        k.start(mayhem::torture());
    }
    while k.statuses().len() < tasks {
        std::thread::yield_now();
    }
    // SAFETY: a signal to ourselves.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    unreachable!()
}

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        die(&role);
    }
    // SAFETY: affects this process only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }, 0);
    for backend in BACKENDS {
        for tasks in [1, 5, 10, 20, 40, 80] {
            let me = std::env::current_exe().expect("own path");
            let status =
                Command::new(me).env(ROLE, format!("{backend} {tasks}")).status().expect("start");
            assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
            // Whatever it left is ours now, and must end by itself.
            let deadline = Instant::now() + Duration::from_secs(20);
            let mut found = 0;
            loop {
                // SAFETY: a null status pointer is allowed.
                match unsafe {
                    libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL)
                } {
                    0 => std::thread::sleep(Duration::from_millis(2)),
                    -1 => break,
                    _ => found += 1,
                }
                assert!(Instant::now() < deadline, "{backend}: guest processes survive the kernel");
            }
            println!("{backend}, killed after {tasks} tasks: {found} guest processes ended");
        }
    }
}
