//! inotify(7), and the refusals of fanotify(7).

use std::any::Any;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, PollRegistrar, Rank, WaitQueue};
use uml_core::ctx::Ctx;
use uml_core::file::{File, FileOps, Io};
use uml_core::io::Sink;
use uml_core::user;
use uml_core::vfs::anon::{self, AnonKind};
use uml_core::vfs::perm::{MAY_READ, inode_permission};
use uml_core::vfs::walk::{self, DirFd};
use uml_core::vfs::watch::{self, Watcher};
use uml_core::vfs::{Inode, inode_key};

use crate::call;
use crate::table::Entry;

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(253, "inotify_init", inotify_init()),
    call!(294, "inotify_init1", inotify_init1(Flags)),
    call!(254, "inotify_add_watch", inotify_add_watch(Fd, Path, Flags)),
    call!(255, "inotify_rm_watch", inotify_rm_watch(Fd, Int)),
    call!(300, "fanotify_init", no_fanotify(), Never, Refused("no fanotify; ENOSYS")),
    call!(301, "fanotify_mark", no_fanotify(), Never, Refused("no fanotify; ENOSYS")),
];

const IN_ALL: u32 = 0xfff;
const IN_ONLYDIR: u32 = 0x0100_0000;
const IN_DONT_FOLLOW: u32 = 0x0200_0000;
const IN_MASK_CREATE: u32 = 0x1000_0000;
const IN_MASK_ADD: u32 = 0x2000_0000;
const IN_ONESHOT: u32 = 0x8000_0000;

/// /proc/sys/fs/inotify/max_queued_events and the watches one instance may have.
const MAX_EVENTS: usize = 16384;
const MAX_WATCHES: usize = 65536;

struct Watch {
    inode: Arc<dyn Inode>,
    mask: u32,
}

#[derive(PartialEq, Eq)]
struct Event {
    wd: i32,
    mask: u32,
    cookie: u32,
    name: Vec<u8>,
}

impl Event {
    /// Bytes of `struct inotify_event` with the padded name.
    fn size(&self) -> usize {
        16 + if self.name.is_empty() { 0 } else { (self.name.len() + 1).next_multiple_of(16) }
    }

    fn bytes(&self) -> Vec<u8> {
        let len = self.size() - 16;
        let mut b = Vec::with_capacity(self.size());
        b.extend_from_slice(&self.wd.to_ne_bytes());
        b.extend_from_slice(&self.mask.to_ne_bytes());
        b.extend_from_slice(&self.cookie.to_ne_bytes());
        b.extend_from_slice(&(len as u32).to_ne_bytes());
        b.extend_from_slice(&self.name);
        b.resize(16 + len, 0);
        b
    }
}

#[derive(Default)]
struct State {
    watches: BTreeMap<i32, Watch>,
    by_inode: HashMap<usize, i32>,
    next: i32,
    events: VecDeque<Event>,
}

impl State {
    fn push(&mut self, e: Event) {
        // An event equal to the last one is not repeated.
        if self.events.back() == Some(&e) {
            return;
        }
        if self.events.len() >= MAX_EVENTS {
            let full = Event { wd: -1, mask: watch::IN_Q_OVERFLOW, cookie: 0, name: Vec::new() };
            if self.events.back() != Some(&full) {
                self.events.push_back(full);
            }
            return;
        }
        self.events.push_back(e);
    }

    /// Ends a watch and says so.
    fn remove(&mut self, wd: i32) -> Option<Watch> {
        let w = self.watches.remove(&wd)?;
        self.by_inode.remove(&inode_key(&w.inode));
        self.push(Event { wd, mask: watch::IN_IGNORED, cookie: 0, name: Vec::new() });
        Some(w)
    }
}

/// One inotify instance.
struct Instance {
    state: Mutex<State>,
    queue: Arc<WaitQueue>,
    me: std::sync::Weak<Instance>,
}

impl Instance {
    fn watcher(&self) -> Option<Arc<dyn Watcher>> {
        self.me.upgrade().map(|m| m as Arc<dyn Watcher>)
    }

    fn unwatch(&self, w: Watch) {
        if let Some(me) = self.watcher() {
            watch::table().remove(inode_key(&w.inode), &me);
        }
    }
}

impl Watcher for Instance {
    fn event(&self, inode: usize, mask: u32, cookie: u32, name: &[u8], unlinked: bool) {
        let ended = {
            let mut s = self.state.lock();
            let Some(&wd) = s.by_inode.get(&inode) else { return };
            let Some(w) = s.watches.get(&wd) else { return };
            let wanted = w.mask;
            if unlinked && wanted & watch::IN_EXCL_UNLINK != 0 {
                return;
            }
            let gone = mask & (watch::IN_DELETE_SELF | watch::IN_UNMOUNT) != 0;
            let asked = wanted & mask & IN_ALL != 0 || mask & watch::IN_UNMOUNT != 0;
            if asked {
                // A directory's own events carry IN_ISDIR too, except those of its end.
                let mask = if gone { mask & !watch::IN_ISDIR } else { mask };
                s.push(Event { wd, mask, cookie, name: name.to_vec() });
            }
            if gone || (asked && wanted & IN_ONESHOT != 0) { s.remove(wd) } else { None }
        };
        if let Some(w) = ended {
            self.unwatch(w);
        }
        self.queue.wake_all(Events::READABLE);
    }
}

/// The descriptor; the instance ends with it.
struct InotifyFile(Arc<Instance>);

impl Drop for InotifyFile {
    fn drop(&mut self) {
        let all = std::mem::take(&mut self.0.state.lock().watches);
        for (_, w) in all {
            self.0.unwatch(w);
        }
    }
}

impl FileOps for InotifyFile {
    fn read(&self, io: &Io<'_>, _: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        let room = dst.remaining();
        let data = io.task.retry(
            &self.0.queue,
            Events::READABLE,
            io.nonblock,
            None,
            "inotify_read",
            || {
                let mut s = self.0.state.lock();
                let Some(first) = s.events.front() else { return Err(EAGAIN) };
                if first.size() > room {
                    return Err(EINVAL);
                }
                let mut out = Vec::new();
                while let Some(e) = s.events.front() {
                    if out.len() + e.size() > room {
                        break;
                    }
                    out.extend_from_slice(&e.bytes());
                    s.events.pop_front();
                }
                Ok(out)
            },
        )?;
        dst.put(&data)
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(r) = reg {
            r.register(&self.0.queue);
        }
        Events::READABLE.when(!self.0.state.lock().events.is_empty())
    }

    fn pollable(&self) -> bool {
        true
    }

    fn signals_owner(&self) -> bool {
        true
    }

    fn seek(&self, cur: u64, _: i64, _: i32) -> Result<u64> {
        Ok(cur)
    }

    fn show_fdinfo(&self, _: &std::sync::Arc<uml_core::ns::PidNs>, out: &mut Vec<u8>) {
        let watches: Vec<_> = {
            let s = self.0.state.lock();
            s.watches.iter().map(|(wd, w)| (*wd, w.inode.clone(), w.mask)).collect()
        };
        for (wd, inode, mask) in watches {
            let dev = inode.dev().unwrap_or_else(|| inode.superblock().dev()).encode();
            let ino = inode.metadata().map_or(0, |m| m.ino);
            let text = format!(
                "inotify wd:{wd:x} ino:{ino:x} sdev:{dev:x} mask:{mask:x} ignored_mask:0 \n"
            );
            out.extend_from_slice(text.as_bytes());
        }
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, _: &Arc<File>, cmd: u32, arg: u64) -> Result<u64> {
        const FIONREAD: u32 = 0x541b;
        if cmd != FIONREAD {
            return Err(ENOTTY);
        }
        let n: usize = self.0.state.lock().events.iter().map(Event::size).sum();
        user::write_obj(&cx.task, arg, &(n as i32))?;
        Ok(0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn inotify_init(cx: &mut Ctx<'_>) -> Result<u64> {
    inotify_init1(cx, 0)
}

fn inotify_init1(cx: &mut Ctx<'_>, flags: u32) -> Result<u64> {
    let cloexec = libc::O_CLOEXEC as u32;
    if flags & !(cloexec | libc::O_NONBLOCK as u32) != 0 {
        return Err(EINVAL);
    }
    let task = &cx.task;
    let instance = Arc::new_cyclic(|me| Instance {
        state: Mutex::new(Rank::LEAF, State { next: 1, ..State::default() }),
        queue: WaitQueue::shared(),
        me: me.clone(),
    });
    let cred = task.cred();
    let path = anon::path(AnonKind::Other("inotify"), &cred);
    let file = File::new(Box::new(InotifyFile(instance)), path, flags & !cloexec, cred);
    Ok(task.install_fd(file, flags & cloexec != 0)? as u64)
}

fn inotify_add_watch(cx: &mut Ctx<'_>, fd: i32, path: u64, mask: u32) -> Result<u64> {
    let task = &cx.task;
    let known = IN_ALL
        | IN_ONLYDIR
        | IN_DONT_FOLLOW
        | watch::IN_EXCL_UNLINK
        | IN_MASK_CREATE
        | IN_MASK_ADD
        | IN_ONESHOT
        | watch::IN_ISDIR
        | watch::IN_UNMOUNT
        | watch::IN_Q_OVERFLOW
        | watch::IN_IGNORED;
    if mask & known == 0 || mask & !known != 0 {
        return Err(EINVAL);
    }
    if mask & IN_MASK_ADD != 0 && mask & IN_MASK_CREATE != 0 {
        return Err(EINVAL);
    }
    let file = task.file(fd)?;
    let instance = file.downcast::<InotifyFile>().ok_or(EINVAL)?.0.clone();
    let path = user::read_path(task, path)?;
    let mut flags = 0;
    if mask & IN_DONT_FOLLOW == 0 {
        flags |= walk::FOLLOW;
    }
    if mask & IN_ONLYDIR != 0 {
        flags |= walk::DIRECTORY;
    }
    let p = walk::lookup(task, &DirFd::Cwd, &path, flags)?;
    let inode = p.inode().clone();
    inode_permission(&inode, &task.cred(), MAY_READ)?;
    let keep = mask & (IN_ALL | IN_ONESHOT | watch::IN_EXCL_UNLINK);
    let wd = {
        let mut s = instance.state.lock();
        match s.by_inode.get(&inode_key(&inode)).copied() {
            Some(_) if mask & IN_MASK_CREATE != 0 => return Err(EEXIST),
            Some(wd) => {
                if let Some(w) = s.watches.get_mut(&wd) {
                    w.mask = if mask & IN_MASK_ADD != 0 { w.mask | keep } else { keep };
                }
                return Ok(wd as u64);
            }
            None => {
                if s.watches.len() >= MAX_WATCHES {
                    return Err(ENOSPC);
                }
                let wd = s.next;
                s.next = wd.checked_add(1).ok_or(ENOSPC)?;
                s.by_inode.insert(inode_key(&inode), wd);
                s.watches.insert(wd, Watch { inode: inode.clone(), mask: keep });
                wd
            }
        }
    };
    watch::table().add(&inode, instance);
    Ok(wd as u64)
}

fn inotify_rm_watch(cx: &mut Ctx<'_>, fd: i32, wd: i32) -> Result<u64> {
    let file = cx.task.file(fd)?;
    let instance = file.downcast::<InotifyFile>().ok_or(EINVAL)?.0.clone();
    let w = instance.state.lock().remove(wd).ok_or(EINVAL)?;
    instance.unwatch(w);
    instance.queue.wake_all(Events::READABLE);
    Ok(0)
}

fn no_fanotify(_: &mut Ctx<'_>) -> Result<u64> {
    Err(ENOSYS)
}
