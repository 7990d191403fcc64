//! Pipes (pipe(7)): a queue of page buffers with readers and writers.
//!
//! Capacity is counted in page slots as on Linux, so that `F_SETPIPE_SZ`, readiness and the moment a
//! writer blocks agree with the manual: a write appends to the last page when its odd part
//! fits there, and otherwise starts a new one.

mod buf;
mod file;
mod io;
mod limits;
mod splice;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, Rank, WaitQueue};
use uml_core::file::File;
use uml_core::task::{Cap, Cred, Task};
use uml_core::vfs::anon::{self, AnonInode, AnonKind};

use buf::Buf;
pub use file::PipeFile;
pub use limits::MAX_SIZE;
pub use splice::Position;

/// Bytes in a page, the unit of capacity.
pub const PAGE: usize = 4096;
/// Writes of at most this many bytes are atomic (pipe(7)).
pub const PIPE_BUF: usize = 4096;
/// Slots of a new pipe: 64 KiB.
const DEFAULT_SLOTS: usize = 16;
/// Most bytes moved by one copy.
const CHUNK: usize = 64 * 1024;

/// What the short lock protects.
struct Inner {
    bufs: VecDeque<Buf>,
    /// Unread bytes, including those a reader is copying out.
    bytes: usize,
    /// Slots in use, including those of a buffer a reader is copying out.
    used: usize,
    /// Slots there are.
    slots: usize,
    readers: usize,
    writers: usize,
    /// Times that a reading or writing end was opened (FIFOs: fifo(7)).
    read_opens: u64,
    write_opens: u64,
    /// An unused buffer, kept for the next write.
    spare: Option<Box<[u8]>>,
}

impl Inner {
    fn full(&self) -> bool {
        self.used >= self.slots
    }

    /// Bytes that fit without merging.
    fn room(&self) -> usize {
        self.slots.saturating_sub(self.used) * PAGE
    }
}

/// Open ends now, and how often each was opened.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    pub readers: usize,
    pub writers: usize,
    pub read_opens: u64,
    pub write_opens: u64,
}

impl Ends {
    fn of(i: &Inner) -> Ends {
        Ends {
            readers: i.readers,
            writers: i.writers,
            read_opens: i.read_opens,
            write_opens: i.write_opens,
        }
    }
}

/// A pipe or the live part of a FIFO.
pub struct Pipe {
    /// Serialises readers while bytes leave; the queue's front belongs to its holder.
    read_side: Mutex<()>,
    /// Serialises writers while bytes enter; only its holder makes `used` grow.
    write_side: Mutex<()>,
    inner: Mutex<Inner>,
    queue: Arc<WaitQueue>,
    /// Somebody polls: every write is announced, as edge-triggered epoll(7) users expect.
    polled: AtomicBool,
    /// User whose page quota pays for the slots.
    uid: u32,
}

impl Pipe {
    /// A pipe without ends, paid for by `cred`'s user.
    pub fn new(cred: &Cred) -> Result<Arc<Pipe>> {
        let slots = limits::charge_new(cred)?;
        Ok(Arc::new(Pipe {
            read_side: Mutex::new(Rank::STREAM_READ, ()),
            write_side: Mutex::new(Rank::STREAM_WRITE, ()),
            inner: Mutex::new(
                Rank::PIPE,
                Inner {
                    bufs: VecDeque::new(),
                    bytes: 0,
                    used: 0,
                    slots,
                    readers: 0,
                    writers: 0,
                    read_opens: 0,
                    write_opens: 0,
                    spare: None,
                },
            ),
            queue: WaitQueue::shared(),
            polled: AtomicBool::new(false),
            uid: cred.uid,
        }))
    }

    /// pipe2(2): the reading and the writing end. `flags` may have O_NONBLOCK and O_DIRECT.
    pub fn pair(task: &Task, flags: u32) -> Result<(Arc<File>, Arc<File>)> {
        let cred = task.cred();
        let pipe = Pipe::new(&cred)?;
        let inode = AnonInode::new(AnonKind::Pipe, &cred);
        let object: Arc<dyn std::any::Any + Send + Sync> = pipe.clone();
        inode.set_object(Arc::downgrade(&object));
        let path = anon::path_of(inode);
        let status = flags & (libc::O_NONBLOCK | libc::O_DIRECT) as u32;
        let read = File::new(
            Box::new(PipeFile::new(pipe.clone(), true, false)),
            path.clone(),
            status & libc::O_NONBLOCK as u32 | libc::O_RDONLY as u32,
            cred.clone(),
        );
        let write = File::new(
            Box::new(PipeFile::new(pipe, false, true)),
            path,
            status | libc::O_WRONLY as u32,
            cred,
        );
        Ok((read, write))
    }

    /// The pipe behind an open file, if it is one.
    pub fn of(file: &File) -> Option<&Arc<Pipe>> {
        file.downcast::<PipeFile>().map(|f| &f.pipe)
    }

    /// Capacity in bytes (F_GETPIPE_SZ).
    pub fn capacity(&self) -> usize {
        self.inner.lock().slots * PAGE
    }

    /// F_SETPIPE_SZ: sets the capacity to at least `size` bytes and returns what it became. `EBUSY`
    /// when more is in use, `EPERM` beyond the system's or the user's limit without privilege.
    pub fn set_capacity(&self, task: &Task, size: u32) -> Result<usize> {
        let bytes = limits::round_size(size)?;
        let slots = bytes / PAGE;
        let privileged = task.require(Cap::SysResource).is_ok();
        let admin = privileged || task.require(Cap::SysAdmin).is_ok();
        let _w = self.write_side.lock();
        let mut inner = self.inner.lock();
        if slots > inner.slots && bytes > limits::MAX_SIZE && !privileged {
            return Err(EPERM);
        }
        if slots < inner.used {
            return Err(EBUSY);
        }
        limits::recharge(self.uid, inner.slots, slots, admin)?;
        let was_full = inner.full();
        inner.slots = slots;
        let wake = was_full && !inner.full();
        drop(inner);
        if wake {
            self.queue.wake_all(Events::WRITABLE);
        }
        Ok(bytes)
    }

    /// Unread bytes (FIONREAD).
    pub fn unread(&self) -> usize {
        self.inner.lock().bytes
    }

    /// Who has it open.
    pub(crate) fn ends(&self) -> Ends {
        Ends::of(&self.inner.lock())
    }

    pub(crate) fn queue(&self) -> &Arc<WaitQueue> {
        &self.queue
    }

    /// Adds the ends that an open file holds. Who has the pipe open then: a partner may come and go right after.
    fn attach(&self, read: bool, write: bool) -> Ends {
        let mut inner = self.inner.lock();
        if read {
            inner.readers += 1;
            inner.read_opens += 1;
        }
        if write {
            inner.writers += 1;
            inner.write_opens += 1;
        }
        let ends = Ends::of(&inner);
        drop(inner);
        // Openers of the other end of a FIFO wait for this.
        self.queue.wake_all(Events::MSG);
        ends
    }

    /// Removes them.
    fn detach(&self, read: bool, write: bool) {
        let mut events = Events::NONE;
        {
            let mut inner = self.inner.lock();
            if read {
                inner.readers -= 1;
                if inner.readers == 0 {
                    events |= Events::WRITABLE | Events::ERR;
                }
            }
            if write {
                inner.writers -= 1;
                if inner.writers == 0 {
                    events |= Events::READABLE | Events::HUP;
                }
            }
        }
        if !events.is_empty() {
            self.queue.wake_all(events);
        }
    }

    fn announce_data(&self, was_empty: bool) {
        if was_empty || self.polled.load(Ordering::Relaxed) {
            self.queue.wake_one(Events::READABLE);
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let slots = self.inner.lock().slots;
        limits::uncharge(self.uid, slots);
    }
}
