//! A counter that can be waited for (eventfd(2)).

use std::any::Any;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, PollRegistrar, Rank, WaitQueue};
use uml_core::file::{File, FileOps, Io};
use uml_core::io::{Sink, Source};
use uml_core::ns::PidNs;
use uml_core::task::Task;
use uml_core::vfs::anon::{self, AnonKind};

/// The value a counter never exceeds.
const MAX: u64 = u64::MAX - 1;

/// An eventfd object.
pub struct EventFd {
    count: Mutex<u64>,
    queue: Arc<WaitQueue>,
    /// EFD_SEMAPHORE: reads take one at a time.
    semaphore: bool,
}

impl EventFd {
    /// eventfd2(2); `flags` are EFD_SEMAPHORE and EFD_NONBLOCK, already checked.
    pub fn open(task: &Task, initial: u32, flags: i32) -> Arc<File> {
        let cred = task.cred();
        let ops = EventFd {
            count: Mutex::new(Rank::LEAF, u64::from(initial)),
            queue: WaitQueue::shared(),
            semaphore: flags & libc::EFD_SEMAPHORE != 0,
        };
        let path = anon::path(AnonKind::Other("[eventfd]"), &cred);
        let status = (flags & libc::EFD_NONBLOCK) | libc::O_RDWR;
        File::new(Box::new(ops), path, status as u32, cred)
    }

    /// Adds `n` without sleeping, stopping at the largest value (kernel-side signalling).
    pub fn signal(&self, n: u64) {
        let mut count = self.count.lock();
        *count = count.saturating_add(n);
        drop(count);
        self.queue.wake_all(Events::READABLE);
    }

    /// The counter, for /proc/<pid>/fdinfo.
    pub fn count(&self) -> u64 {
        *self.count.lock()
    }

    fn take(&self) -> Result<u64> {
        let mut count = self.count.lock();
        if *count == 0 {
            return Err(EAGAIN);
        }
        let n = if self.semaphore { 1 } else { *count };
        *count -= n;
        Ok(n)
    }

    fn add(&self, n: u64) -> Result<()> {
        let mut count = self.count.lock();
        if MAX - (*count).min(MAX) < n {
            return Err(EAGAIN);
        }
        *count += n;
        Ok(())
    }
}

impl FileOps for EventFd {
    fn read(&self, io: &Io<'_>, _off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        if dst.remaining() < 8 {
            return Err(EINVAL);
        }
        let take = || self.take();
        let n = io.task.retry(
            &self.queue,
            Events::READABLE,
            io.nonblock,
            None,
            "eventfd_read",
            take,
        )?;
        self.queue.wake_all(Events::WRITABLE);
        if dst.put(&n.to_le_bytes())? != 8 {
            return Err(EFAULT);
        }
        Ok(8)
    }

    fn write(&self, io: &Io<'_>, _off: &mut u64, src: &mut dyn Source) -> Result<usize> {
        if src.remaining() != 8 {
            return Err(EINVAL);
        }
        let mut bytes = [0; 8];
        if src.take(&mut bytes)? != 8 {
            return Err(EFAULT);
        }
        let n = u64::from_le_bytes(bytes);
        if n == u64::MAX {
            return Err(EINVAL);
        }
        let add = || self.add(n);
        io.task.retry(&self.queue, Events::WRITABLE, io.nonblock, None, "eventfd_write", add)?;
        self.queue.wake_all(Events::READABLE);
        Ok(8)
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(reg) = reg {
            reg.register(&self.queue);
        }
        let count = *self.count.lock();
        Events::READABLE.when(count > 0)
            | Events::WRITABLE.when(count < MAX)
            | Events::ERR.when(count == u64::MAX)
    }

    fn pollable(&self) -> bool {
        true
    }

    fn seek(&self, cur: u64, _: i64, _: i32) -> Result<u64> {
        Ok(cur)
    }

    fn show_fdinfo(&self, _: &Arc<PidNs>, out: &mut Vec<u8>) {
        let (count, semaphore) = (self.count(), i32::from(self.semaphore));
        let text = format!("eventfd-count: {count:16x}\neventfd-semaphore: {semaphore}\n");
        out.extend_from_slice(text.as_bytes());
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
