//! One watched file of an epoll instance.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use uml_base::wait::WaitToken;
use uml_base::{Events, Mutex, PollRegistrar, Rank, WaitQueue, Wakeable};
use uml_core::file::{CloseWatcher, File};
use uml_core::task::Task;

use super::{EPOLLEXCLUSIVE, Epoll, EpollEvent, FLAG_BITS, Key};

/// Reported whether asked for or not (epoll_ctl(2)).
const ALWAYS: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;

type Registrations = Vec<(Arc<WaitQueue>, WaitToken)>;

pub(super) struct Item {
    me: Weak<Item>,
    epoll: Weak<Epoll>,
    /// The watched file; it stays open without us.
    pub file: Weak<File>,
    file_id: usize,
    pub fd: i32,
    mask: AtomicU32,
    data: AtomicU64,
    /// It is on the ready list, or about to be put there.
    listed: AtomicBool,
    /// `None` once the item has been removed.
    registrations: Mutex<Option<Registrations>>,
}

struct Collector<'a> {
    item: &'a Arc<Item>,
    exclusive: bool,
    done: Registrations,
}

impl PollRegistrar for Collector<'_> {
    fn register(&mut self, queue: &Arc<WaitQueue>) {
        // All events: the mask may be changed later, and is checked at wake-up.
        let token = queue.register(self.item.clone(), Events::ALL, self.exclusive);
        self.done.push((queue.clone(), token));
    }
}

impl Item {
    pub fn new(epoll: &Epoll, fd: i32, file: &Arc<File>, event: EpollEvent) -> Arc<Item> {
        Arc::new_cyclic(|me| Item {
            me: me.clone(),
            epoll: epoll.me.clone(),
            file: Arc::downgrade(file),
            file_id: Arc::as_ptr(file) as usize,
            fd,
            mask: AtomicU32::new(event.events | ALWAYS),
            data: AtomicU64::new(event.data),
            listed: AtomicBool::new(false),
            registrations: Mutex::new(Rank::LEAF, Some(Vec::new())),
        })
    }

    pub fn key(&self) -> Key {
        (self.fd, self.file_id)
    }

    pub fn mask(&self) -> u32 {
        self.mask.load(Ordering::SeqCst)
    }

    pub fn data(&self) -> u64 {
        self.data.load(Ordering::SeqCst)
    }

    pub fn set(&self, event: EpollEvent) {
        self.data.store(event.data, Ordering::SeqCst);
        self.mask.store(event.events | ALWAYS, Ordering::SeqCst);
    }

    /// EPOLLONESHOT: no more events until the next EPOLL_CTL_MOD.
    pub fn disable(&self) {
        self.mask.fetch_and(FLAG_BITS, Ordering::SeqCst);
    }

    /// The events asked for, errors and hang-ups among them; none when disabled.
    pub fn wanted(&self) -> Events {
        Events(self.mask() & !FLAG_BITS)
    }

    /// Current readiness of the file under the mask.
    pub fn readiness(&self, task: Option<&Task>, file: &File) -> Events {
        let now = match task {
            Some(t) => file.ops.poll_as(t, None),
            None => file.ops.poll(None),
        };
        now & self.wanted()
    }

    /// Goes onto the queues of the file and onto the ready list if it is ready already.
    pub fn attach(self: &Arc<Self>, task: &Task, file: &Arc<File>, exclusive: bool) {
        let mut c = Collector { item: self, exclusive, done: Vec::new() };
        let ready = file.ops.poll_as(task, Some(&mut c)) & self.wanted();
        let done = c.done;
        let mut slot = self.registrations.lock();
        match &mut *slot {
            Some(list) => *list = done,
            None => {
                drop(slot);
                unregister(done);
                return;
            }
        }
        drop(slot);
        if !ready.is_empty() {
            self.wake(ready);
        }
    }

    /// Puts it onto the ready list if it is ready.
    pub fn check_now(&self, task: &Task, file: &File) {
        let ready = self.readiness(Some(task), file);
        if !ready.is_empty() {
            self.wake(ready);
        }
    }

    /// Leaves the queues for good.
    pub fn detach(&self) {
        let taken = self.registrations.lock().take();
        unregister(taken.unwrap_or_default());
    }

    /// False once it has been removed: a wake-up under way may still list it.
    pub fn is_live(&self) -> bool {
        self.registrations.lock().is_some()
    }

    /// Marks it as on the ready list; false when it was.
    pub fn enter_ready(&self) -> bool {
        !self.listed.swap(true, Ordering::SeqCst)
    }

    /// Marks it as off the ready list; true when it was on it.
    pub fn leave_ready(&self) -> bool {
        self.listed.swap(false, Ordering::SeqCst)
    }
}

fn unregister(list: Registrations) {
    for (q, t) in &list {
        q.unregister(t);
    }
}

impl Wakeable for Item {
    fn wake(&self, events: Events) -> bool {
        let wanted = self.wanted();
        if wanted.is_empty() || !wanted.intersects(events) {
            return false;
        }
        let (Some(epoll), Some(me)) = (self.epoll.upgrade(), self.me.upgrade()) else {
            return false;
        };
        let waiters = epoll.queue.has_waiters();
        if self.enter_ready() {
            epoll.ready.lock().push_back(me);
        }
        epoll.queue.wake_one(Events::READABLE);
        // An exclusive wake-up counts as used only when somebody waits here for such an event.
        self.mask() & EPOLLEXCLUSIVE == 0 || waiters
    }
}

impl CloseWatcher for Item {
    fn closed(&self) {
        if let Some(epoll) = self.epoll.upgrade() {
            epoll.file_closed(self);
        }
    }
}
