//! Signals that are read (signalfd(2)).

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, PollRegistrar};
use uml_core::file::{File, FileOps, Io};
use uml_core::io::Sink;
use uml_core::ns::PidNs;
use uml_core::signal::{SIGINFO_SIZE, SigFields, SigInfo, UNBLOCKABLE};
use uml_core::task::{Process, Task};
use uml_core::vfs::anon::{self, AnonKind};

/// Size of `struct signalfd_siginfo`.
const SIZE: usize = 128;

/// What a signalfd refers to. Who reads or polls it sees signals of its own, not the creator's.
pub struct SignalFd {
    mask: AtomicU64,
    /// For pollers that have no task (an epoll instance inside another).
    creator: Weak<Process>,
}

impl SignalFd {
    /// signalfd4(2) for a new descriptor; `flags` may have SFD_NONBLOCK.
    pub fn open(task: &Task, mask: u64, flags: i32) -> Arc<File> {
        let cred = task.cred();
        let creator = Arc::downgrade(&task.process);
        let ops = SignalFd { mask: AtomicU64::new(mask & !UNBLOCKABLE), creator };
        let path = anon::path(AnonKind::Other("[signalfd]"), &cred);
        let status = libc::O_RDWR | (flags & libc::SFD_NONBLOCK);
        File::new(Box::new(ops), path, status as u32, cred)
    }

    /// The object behind an open file; `EINVAL` when it is something else.
    pub fn of(file: &File) -> Result<&SignalFd> {
        file.downcast::<SignalFd>().ok_or(EINVAL)
    }

    /// Replaces the set of signals; sleepers look again.
    pub fn set_mask(&self, task: &Task, mask: u64) {
        self.mask.store(mask & !UNBLOCKABLE, Ordering::SeqCst);
        task.process.signal_wait.wake_all(Events::READABLE);
    }

    /// The set of signals, for /proc/<pid>/fdinfo.
    pub fn mask(&self) -> u64 {
        self.mask.load(Ordering::SeqCst)
    }
}

/// `struct signalfd_siginfo`.
fn record(info: &SigInfo) -> [u8; SIZE] {
    let mut b = [0; SIZE];
    let mut put = |at: usize, v: &[u8]| b[at..at + v.len()].copy_from_slice(v);
    put(0, &info.signo.to_le_bytes());
    put(4, &info.errno.to_le_bytes());
    put(8, &info.code.to_le_bytes());
    let mut who = |pid: i32, uid: u32| {
        put(12, &pid.to_le_bytes());
        put(16, &uid.to_le_bytes());
    };
    match info.fields {
        SigFields::Kill { pid, uid } => who(pid, uid),
        SigFields::Queue { pid, uid, value } => {
            who(pid, uid);
            put(44, &(value as i32).to_le_bytes());
            put(48, &value.to_le_bytes());
        }
        SigFields::Timer { id, overrun, value } => {
            put(24, &id.to_le_bytes());
            put(32, &overrun.to_le_bytes());
            put(44, &(value as i32).to_le_bytes());
            put(48, &value.to_le_bytes());
        }
        SigFields::Child { pid, uid, status, utime, stime } => {
            who(pid, uid);
            put(40, &status.to_le_bytes());
            put(56, &utime.to_le_bytes());
            put(64, &stime.to_le_bytes());
        }
        SigFields::Fault { addr } => put(72, &addr.to_le_bytes()),
        SigFields::Poll { band, fd } => {
            put(20, &fd.to_le_bytes());
            put(28, &(band as i32).to_le_bytes());
        }
        SigFields::Sys { addr, nr, arch } => {
            put(84, &nr.to_le_bytes());
            put(88, &addr.to_le_bytes());
            put(96, &arch.to_le_bytes());
        }
        // The layout of rt_sigqueueinfo(2)'s usual payload: sender and value.
        SigFields::Raw(raw) => {
            put(12, &raw[0..8]);
            put(44, &raw[8..12]);
            put(48, &raw[8..16]);
        }
    }
    b
}

const _: () = assert!(SIGINFO_SIZE == SIZE);

impl FileOps for SignalFd {
    fn read(&self, io: &Io<'_>, _off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        let room = dst.remaining() / SIZE;
        if room == 0 {
            return Err(EINVAL);
        }
        let take = || io.task.dequeue_signal(self.mask()).ok_or(EAGAIN);
        let queue = io.task.process.signal_wait.clone();
        let mut info =
            io.task.retry(&queue, Events::READABLE, io.nonblock, None, "signalfd_read", take)?;
        let mut done = 0;
        loop {
            if dst.put(&record(&info))? < SIZE {
                return if done > 0 { Ok(done) } else { Err(EFAULT) };
            }
            done += SIZE;
            if done / SIZE == room {
                return Ok(done);
            }
            // Further ones are not waited for.
            match take() {
                Ok(next) => info = next,
                Err(_) => return Ok(done),
            }
        }
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        let Some(process) = self.creator.upgrade() else { return Events::NONE };
        if let Some(reg) = reg {
            reg.register(&process.signal_wait);
        }
        let pending = process.sighand.lock().pending.set;
        Events::READABLE.when(pending & self.mask() != 0)
    }

    fn poll_as(&self, task: &Task, reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(reg) = reg {
            reg.register(&task.process.signal_wait);
        }
        Events::READABLE.when(task.pending_set() & self.mask() != 0)
    }

    fn pollable(&self) -> bool {
        true
    }

    fn seek(&self, cur: u64, _: i64, _: i32) -> Result<u64> {
        Ok(cur)
    }

    fn show_fdinfo(&self, _: &Arc<PidNs>, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("sigmask:\t{:016x}\n", self.mask()).as_bytes());
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
