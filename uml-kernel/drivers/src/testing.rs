//! Tasks for tests: ordinary host threads in a machine without a platform.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use uml_abi::Result;
use uml_core::file::File;
use uml_core::io::{BufSink, BufSource};
use uml_core::kernel::Kernel;
use uml_core::signal::SigHand;
use uml_core::task::process::Process;
use uml_core::task::rlimit::Rlimits;
use uml_core::task::{Cred, FsContext, Task, TaskInit};
use uml_core::vfs::MountNs;
use uml_core::vfs::anon::{self, AnonKind};

/// A process of root's with one thread, leader of its own session.
pub fn task(kernel: &Arc<Kernel>) -> Arc<Task> {
    static NEXT: AtomicI32 = AtomicI32::new(100);
    let pid = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = Process::new(pid, SigHand::default(), Rlimits::initial(1024), libc::SIGCHLD);
    let cred = Arc::new(Cred::root());
    let root = anon::path(AnonKind::Other("[root]"), &cred);
    let task = Task::new(
        kernel,
        TaskInit {
            tid: pid,
            process,
            comm: [0; 16],
            cred,
            mm: None,
            files: Default::default(),
            fs: Arc::new(FsContext::new(root.clone(), MountNs::new(1, root.mnt))),
            blocked: 0,
        },
    );
    kernel.tree.write().add_process(&task, 0, pid, pid);
    task
}

/// read(2) as text.
pub fn read(task: &Task, f: &File, n: usize) -> Result<String> {
    let mut buf = vec![0; n];
    let got = f.read(task, &mut BufSink::new(&mut buf))?;
    Ok(String::from_utf8_lossy(&buf[..got]).into_owned())
}

/// write(2) of a text.
pub fn write(task: &Task, f: &File, data: &str) -> Result<usize> {
    f.write(task, &mut BufSource::new(data.as_bytes()))
}
