//! A machine without a platform: tasks are ordinary host threads.
#![allow(dead_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use uml_core::file::File;
use uml_core::io::{BufSink, BufSource};
use uml_core::kernel::Kernel;
use uml_core::signal::SigHand;
use uml_core::task::process::Process;
use uml_core::task::rlimit::Rlimits;
use uml_core::task::{Cred, FsContext, RunState, Task, TaskInit};
use uml_core::vfs::MountNs;
use uml_core::vfs::anon::{self, AnonKind};

pub fn kernel() -> Arc<Kernel> {
    let k = Kernel::new(64 << 20, 2);
    // Tasks hold their kernel weakly; a test machine lives as long as the test program.
    std::mem::forget(k.clone());
    k
}

/// A process with one thread, in the tree.
pub fn task(kernel: &Arc<Kernel>) -> Arc<Task> {
    task_as(kernel, Cred::root())
}

pub fn task_as(kernel: &Arc<Kernel>, cred: Cred) -> Arc<Task> {
    static NEXT: AtomicI32 = AtomicI32::new(2);
    let pid = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = Process::new(pid, SigHand::default(), Rlimits::initial(1024), libc::SIGCHLD);
    let root = anon::path(AnonKind::Other("[root]"), &cred);
    let task = Task::new(
        kernel,
        TaskInit {
            tid: pid,
            process,
            comm: *b"test\0\0\0\0\0\0\0\0\0\0\0\0",
            cred: Arc::new(cred),
            mm: None,
            files: Default::default(),
            fs: Arc::new(FsContext::new(root.clone(), MountNs::new(1, root.mnt))),
            blocked: 0,
        },
    );
    kernel.tree.write().add_process(&task, 0, pid, pid);
    task
}

/// An unprivileged user.
pub fn user(uid: u32) -> Cred {
    let root = Cred::root();
    Cred {
        uid,
        euid: uid,
        suid: uid,
        fsuid: uid,
        gid: uid,
        egid: uid,
        sgid: uid,
        fsgid: uid,
        cap_effective: 0,
        cap_permitted: 0,
        ..root
    }
}

pub fn read(task: &Task, file: &File, n: usize) -> uml_abi::Result<Vec<u8>> {
    let mut buf = vec![0; n];
    let mut sink = BufSink::new(&mut buf);
    let got = file.read(task, &mut sink)?;
    buf.truncate(got);
    Ok(buf)
}

pub fn write(task: &Task, file: &File, data: &[u8]) -> uml_abi::Result<usize> {
    file.write(task, &mut BufSource::new(data))
}

/// Runs `f` as `task` on a thread and returns once it sleeps or has finished.
pub fn start<T: Send + 'static>(
    task: &Arc<Task>,
    f: impl FnOnce(&Arc<Task>) -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let t = task.clone();
    let handle = std::thread::spawn(move || f(&t));
    while !handle.is_finished() && task.run_state() == RunState::Running {
        std::thread::yield_now();
    }
    handle
}
