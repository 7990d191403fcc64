//! Descriptors of processes (pidfd_open(2)).

use std::any::Any;
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, PollRegistrar};
use uml_core::file::{File, FileOps};
use uml_core::kernel::Kernel;
use uml_core::ns::PidNs;
use uml_core::task::tree::ChildState;
use uml_core::task::{Process, Task};
use uml_core::vfs::anon::{self, AnonKind};

/// What a pidfd refers to.
pub struct PidFd {
    process: Arc<Process>,
    kernel: Weak<Kernel>,
}

impl PidFd {
    /// A file for `process`; `flags` may have PIDFD_NONBLOCK (O_NONBLOCK).
    pub fn open(task: &Task, process: &Arc<Process>, flags: i32) -> Arc<File> {
        let cred = task.cred();
        let ops = PidFd { process: process.clone(), kernel: Arc::downgrade(&task.kernel()) };
        let status = libc::O_RDWR | (flags & libc::O_NONBLOCK);
        let path = anon::path(AnonKind::Other("[pidfd]"), &cred);
        File::new(Box::new(ops), path, status as u32, cred)
    }

    /// The process behind an open file; `EBADF` when it is something else.
    pub fn of(file: &File) -> Result<&Arc<Process>> {
        file.downcast::<PidFd>().map(|f| &f.process).ok_or(EBADF)
    }
}

/// `Hooks::make_pidfd`.
pub fn make(task: &Arc<Task>, process: &Arc<Process>) -> Result<Arc<File>> {
    Ok(PidFd::open(task, process, 0))
}

/// `Hooks::pidfd_of`.
pub fn target(file: &Arc<File>) -> Result<(i32, bool)> {
    let process = PidFd::of(file)?;
    Ok((process.pid, file.flags() & libc::O_NONBLOCK as u32 != 0))
}

impl FileOps for PidFd {
    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(reg) = reg {
            reg.register(&self.process.exit_wait);
        }
        let Some(kernel) = self.kernel.upgrade() else { return Events::HUP };
        let tree = kernel.tree.read();
        match tree.get(self.process.pid) {
            Some(e) if Arc::ptr_eq(&e.process, &self.process) => {
                Events::READABLE.when(matches!(e.state, ChildState::Zombie(_)))
            }
            // Waited for: gone.
            _ => Events::READABLE | Events::HUP,
        }
    }

    fn pollable(&self) -> bool {
        true
    }

    fn show_fdinfo(&self, ns: &Arc<PidNs>, out: &mut Vec<u8>) {
        let alive = self.kernel.upgrade().is_some_and(|k| {
            let tree = k.tree.read();
            tree.get(self.process.pid).is_some_and(|e| Arc::ptr_eq(&e.process, &self.process))
        });
        let (pid, below) = match alive {
            false => (-1, String::new()),
            true => {
                let pid = self.process.pid;
                let own = self.process.pid_ns.chain().take_while(|n| !Arc::ptr_eq(n, ns));
                let own: Vec<String> = own.map(|n| format!("\t{}", n.show(pid))).collect();
                (ns.show(pid), own.into_iter().rev().collect())
            }
        };
        // Who is in no namespace below the reader's has number 0 there, and nothing else.
        let below = if pid == 0 { String::new() } else { below };
        out.extend_from_slice(format!("Pid:\t{pid}\nNSpid:\t{pid}{below}\n").as_bytes());
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
