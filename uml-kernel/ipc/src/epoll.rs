//! Epoll instances (epoll(7)).
//!
//! Every watched file has an item that sits on the file's wait queues. A wake-up there puts the item
//! on the instance's ready list; a wait looks only at that list. Edge- or level-triggering, one-shot
//! and exclusive are properties of the item, not of the watched object.

mod file;
mod item;
mod nest;
mod wait;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, Rank, WaitQueue};
use uml_core::file::File;
use uml_core::task::Task;
use uml_core::vfs::anon::{self, AnonKind};

pub use file::EpollFile;
use item::Item;

/// Flags in the event mask.
pub const EPOLLET: u32 = 1 << 31;
pub const EPOLLONESHOT: u32 = 1 << 30;
pub const EPOLLWAKEUP: u32 = 1 << 29;
pub const EPOLLEXCLUSIVE: u32 = 1 << 28;
const FLAG_BITS: u32 = EPOLLET | EPOLLONESHOT | EPOLLWAKEUP | EPOLLEXCLUSIVE;

/// What a program asks for and gets back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpollEvent {
    pub events: u32,
    pub data: u64,
}

/// An entry as /proc/<pid>/fdinfo shows it (proc_pid_fdinfo(5)).
pub struct Watched {
    pub fd: i32,
    /// EPOLL* bits.
    pub mask: u32,
    pub data: u64,
    /// Position, inode and encoded device of the watched file.
    pub pos: u64,
    pub ino: u64,
    pub dev: u64,
}

/// Identifies an entry: the descriptor and the open file it referred to when it was added.
type Key = (i32, usize);

fn key(fd: i32, file: &Arc<File>) -> Key {
    (fd, Arc::as_ptr(file) as usize)
}

/// An epoll instance.
pub struct Epoll {
    me: Weak<Epoll>,
    items: Mutex<HashMap<Key, Arc<Item>>>,
    /// Items that may be ready. Room for every item is reserved when it is added, so that waking
    /// allocates nothing.
    ready: Mutex<VecDeque<Arc<Item>>>,
    /// Waiters, and pollers of the instance itself.
    queue: Arc<WaitQueue>,
    /// Instances that watch this one.
    parents: Mutex<Vec<Weak<Epoll>>>,
}

impl Epoll {
    /// epoll_create1(2).
    pub fn open(task: &Task) -> Arc<File> {
        let epoll = Arc::new_cyclic(|me| Epoll {
            me: me.clone(),
            items: Mutex::new(Rank::EPOLL, HashMap::new()),
            ready: Mutex::new(Rank::LEAF, VecDeque::new()),
            queue: WaitQueue::shared(),
            parents: Mutex::new(Rank::LEAF, Vec::new()),
        });
        let cred = task.cred();
        let path = anon::path(AnonKind::Other("[eventpoll]"), &cred);
        File::new(Box::new(EpollFile { epoll }), path, libc::O_RDWR as u32, cred)
    }

    /// The instance behind an open file; `EINVAL` when it is something else.
    pub fn of(file: &File) -> Result<&Arc<Epoll>> {
        file.downcast::<EpollFile>().map(|f| &f.epoll).ok_or(EINVAL)
    }

    /// EPOLL_CTL_ADD.
    pub fn add(&self, task: &Task, fd: i32, file: &Arc<File>, event: EpollEvent) -> Result<()> {
        self.check_target(file)?;
        let mask = event.events;
        let nested = Epoll::of(file).ok();
        if mask & EPOLLEXCLUSIVE != 0 {
            let allowed = Events::IN | Events::OUT | Events::ERR | Events::HUP;
            let others = mask & !(allowed.0 | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE);
            if nested.is_some() || others != 0 {
                return Err(EINVAL);
            }
        }
        // Held over check and insertion, so that two additions cannot close a loop together.
        let _topology = nested.map(|n| self.check_nesting(n)).transpose()?;
        let item = Item::new(self, fd, file, event);
        {
            let mut items = self.items.lock();
            let slot = items.entry(key(fd, file));
            let std::collections::hash_map::Entry::Vacant(slot) = slot else {
                return Err(EEXIST);
            };
            slot.insert(item.clone());
            let mut ready = self.ready.lock();
            let missing = (items.len() + 1).saturating_sub(ready.len());
            ready.reserve(missing);
        }
        if let Some(n) = nested {
            n.parents.lock().push(self.me.clone());
        }
        let watcher: Arc<dyn uml_core::file::CloseWatcher> = item.clone();
        file.watch_close(Arc::downgrade(&watcher));
        item.attach(task, file, mask & EPOLLEXCLUSIVE != 0);
        Ok(())
    }

    /// EPOLL_CTL_MOD.
    pub fn modify(&self, task: &Task, fd: i32, file: &Arc<File>, event: EpollEvent) -> Result<()> {
        self.check_target(file)?;
        let item = self.items.lock().get(&key(fd, file)).cloned().ok_or(ENOENT)?;
        if event.events & EPOLLEXCLUSIVE != 0 || item.mask() & EPOLLEXCLUSIVE != 0 {
            return Err(EINVAL);
        }
        item.set(event);
        // Readiness that came before the change counts under the new mask.
        item.check_now(task, file);
        Ok(())
    }

    /// EPOLL_CTL_DEL.
    pub fn delete(&self, fd: i32, file: &Arc<File>) -> Result<()> {
        self.check_target(file)?;
        let item = self.items.lock().remove(&key(fd, file)).ok_or(ENOENT)?;
        self.forget(&item);
        Ok(())
    }

    /// `EPERM` for files that are always ready, `EINVAL` for the instance itself.
    fn check_target(&self, file: &Arc<File>) -> Result<()> {
        if !file.ops.pollable() {
            return Err(EPERM);
        }
        match Epoll::of(file) {
            Ok(other) if std::ptr::eq(&**other, self) => Err(EINVAL),
            _ => Ok(()),
        }
    }

    /// The last reference to a watched file is gone.
    fn file_closed(&self, item: &Item) {
        let removed = self.items.lock().remove(&item.key());
        if let Some(item) = removed {
            self.forget(&item);
        }
    }

    fn forget(&self, item: &Arc<Item>) {
        item.detach();
        let mut ready = self.ready.lock();
        if item.leave_ready() {
            ready.retain(|i| !Arc::ptr_eq(i, item));
        }
    }

    /// The instance's own file is closed. Not left to `drop`, because a wake-up in progress may hold
    /// the last reference, with a queue's lock.
    fn close(&self) {
        let items = std::mem::take(&mut *self.items.lock());
        for i in items.values() {
            i.detach();
        }
        self.ready.lock().clear();
    }

    /// The `nth` file that was added as descriptor `fd` (kcmp(2) KCMP_EPOLL_TFD); `ENOENT` when there is none.
    pub fn watched(&self, fd: i32, nth: usize) -> Result<Arc<File>> {
        let mut items: Vec<_> =
            self.items.lock().values().filter(|i| i.fd == fd).cloned().collect();
        items.sort_by_key(|i| i.key());
        items.get(nth).and_then(|i| i.file.upgrade()).ok_or(ENOENT)
    }

    /// Entries for /proc/<pid>/fdinfo, by descriptor.
    pub fn entries(&self) -> Vec<Watched> {
        let items: Vec<_> = self.items.lock().values().cloned().collect();
        let mut v: Vec<_> = items
            .iter()
            .filter_map(|i| {
                let file = i.file.upgrade()?;
                Some(Watched {
                    fd: i.fd,
                    mask: i.mask(),
                    data: i.data(),
                    pos: file.pos(),
                    ino: file.path.metadata().map_or(0, |m| m.ino),
                    dev: file.path.dev().encode(),
                })
            })
            .collect();
        v.sort_by_key(|w| w.fd);
        v
    }
}
