//! Processes that nobody forked: programs the machine's owner runs in the guest from outside.
//!
//! Such a process has no parent (getppid(2) is 0, as for a process that entered a pid namespace from outside), leads a
//! session of its own, and lives in init's namespaces, control group and limits. It is reaped by [`wait`].

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Events;

use crate::exec::{Program, exec_first};
use crate::file::fdtable::FdTable;
use crate::kernel::Kernel;
use crate::signal::SigHand;
use crate::task::tree::ChildState;
use crate::task::{Cred, Process, Task, TaskInit, WaitKind};

/// A process without a program, in the tree: it has a pid and can open files, but does not run. It must be given to
/// [`start`] or [`discard`]. `ESRCH` when there is no init, `EAGAIN` when there are too many tasks.
pub fn create(kernel: &Arc<Kernel>, cred: Cred) -> Result<Arc<Task>> {
    let init = kernel.tree.read().leader(1).ok_or(ESRCH)?;
    let limits = init.process.rlimits.lock().clone();
    let fs = init.fs().duplicate();
    fs.set_cwd(fs.root());
    fs.set_umask(0o022);
    let pid = {
        let mut tree = kernel.tree.write();
        if tree.task_count() >= kernel.max_tasks() {
            return Err(EAGAIN);
        }
        tree.alloc_pid(kernel.sysctl.kernel_pid_max.get() as i32)?
    };
    let task = Task::new(
        kernel,
        TaskInit {
            tid: pid,
            process: Process::new(pid, SigHand::default(), limits, 0),
            comm: init.comm_raw(),
            cred: Arc::new(cred),
            mm: None,
            files: Arc::new(FdTable::new()),
            fs: Arc::new(fs),
            blocked: 0,
        },
    );
    task.set_ns(init.ns());
    kernel.tree.write().add_process(&task, 0, pid, pid);
    if let Err(e) = kernel.cgroups.forked(&init, None, &task, true) {
        forget(&task);
        return Err(e);
    }
    Ok(task)
}

/// Lets the process run `program`. After an error it is gone.
pub fn start(task: &Arc<Task>, program: Program) -> Result<()> {
    let kernel = task.kernel();
    exec_first(task, program).inspect_err(|_| discard(task))?;
    kernel.count_fork();
    if task.is_freezing() {
        task.notice();
    }
    Ok(())
}

/// Gives up a process that was not started.
pub fn discard(task: &Arc<Task>) {
    task.set_files(None);
    task.kernel().cgroups.exited(&task.process);
    forget(task);
}

fn forget(task: &Arc<Task>) {
    let kernel = task.kernel();
    let mut tree = kernel.tree.write();
    tree.remove_thread(task);
    tree.remove_process(task.process.pid);
}

/// Waits in `waiter` (a task of the kernel) for the end of the process and reaps it; its wait status. `EINTR` when the
/// waiter is to end first.
pub fn wait(waiter: &Task, task: &Arc<Task>) -> Result<i32> {
    let kernel = task.kernel();
    let pid = task.process.pid;
    let ended = || match kernel.tree.read().get(pid).map(|e| e.state) {
        Some(ChildState::Zombie(status)) => Some(status),
        Some(_) => None,
        // Nobody else reaps it; if it is gone all the same, this is what it left.
        None => Some(task.exit_status.load(std::sync::atomic::Ordering::SeqCst)),
    };
    let queue = &task.process.exit_wait;
    let status = waiter
        .wait(queue, Events::ALL, WaitKind::Killable, None, "door_wait", ended)?
        .ok_or(EINTR)?;
    kernel.tree.write().remove_process(pid);
    Ok(status)
}
