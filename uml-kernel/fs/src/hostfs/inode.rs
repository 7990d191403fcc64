//! Inodes: identity, attributes, directory operations.

use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::file::{DirEmit, FileOps};
use uml_core::shm::next_key;
use uml_core::task::{Cred, Task};
use uml_core::vfs::modify::RENAME_WHITEOUT;
use uml_core::vfs::{
    Caching, Dev, DirOps, Inode, Metadata, NewNode, NodeKind, Perm, SetAttr, SuperBlock,
    SymlinkOps, Timespec, XattrOps,
};
use uml_host::fs as host;

use crate::hostfs::Shared;
use crate::hostfs::file::{HostDir, HostFile};

/// For how long attributes read by a walk answer the calls that follow it.
const FRESH: Duration = Duration::from_micros(200);

/// What makes a host file the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    dev: (u32, u32),
    ino: u64,
    kind: u32,
    btime: Option<(i64, u32)>,
}

impl Identity {
    fn of(s: &host::Stat) -> Identity {
        Identity { dev: s.dev, ino: s.ino, kind: s.mode & libc::S_IFMT, btime: s.btime }
    }
}

/// Descriptors an inode has at the moment.
#[derive(Default)]
struct Handles {
    /// O_PATH.
    path: Option<Arc<OwnedFd>>,
    /// O_RDONLY, kept for the next open.
    read: Option<Arc<OwnedFd>>,
    /// O_RDWR or O_WRONLY, while a file is open for writing.
    write: Weak<OwnedFd>,
    /// Never closed for lack of room: the file has no name by which it could be found again.
    pinned: bool,
    queued: bool,
}

struct Place {
    /// `None` for the root.
    parent: Option<Arc<HostInode>>,
    name: Vec<u8>,
}

struct Attr {
    stat: host::Stat,
    /// When it was read; `None` when it no longer holds.
    at: Option<Instant>,
}

/// A file of the host.
pub struct HostInode {
    pub(crate) shared: Arc<Shared>,
    me: Weak<HostInode>,
    identity: Identity,
    pub(crate) key: u64,
    place: Mutex<Place>,
    handles: Mutex<Handles>,
    attr: Mutex<Attr>,
    used: AtomicBool,
    link: Mutex<Option<Arc<[u8]>>>,
}

impl HostInode {
    fn make(
        shared: &Arc<Shared>,
        place: Place,
        stat: &host::Stat,
        handles: Handles,
    ) -> Arc<HostInode> {
        Arc::new_cyclic(|me| HostInode {
            shared: shared.clone(),
            me: me.clone(),
            identity: Identity::of(stat),
            key: next_key(),
            place: Mutex::new(Rank::LEAF, place),
            handles: Mutex::new(Rank::LEAF, handles),
            attr: Mutex::new(Rank::LEAF, Attr { stat: *stat, at: Some(Instant::now()) }),
            used: AtomicBool::new(false),
            link: Mutex::new(Rank::LEAF, None),
        })
    }

    pub(crate) fn root(
        shared: &Arc<Shared>,
        fd: Arc<OwnedFd>,
        stat: &host::Stat,
    ) -> Arc<HostInode> {
        let handles = Handles { path: Some(fd), pinned: true, ..Handles::default() };
        HostInode::make(shared, Place { parent: None, name: Vec::new() }, stat, handles)
    }

    /// The inode for what was just found as `name` in `parent`.
    fn found(parent: &Arc<HostInode>, name: &[u8], stat: &host::Stat) -> Arc<HostInode> {
        let shared = &parent.shared;
        let id = Identity::of(stat);
        let mut map = shared.inodes.lock();
        if let Some(i) = map.get(&id).and_then(Weak::upgrade) {
            drop(map);
            i.refresh(stat);
            i.found_at(parent, name);
            return i;
        }
        let place = Place { parent: Some(parent.clone()), name: name.to_vec() };
        let i = HostInode::make(shared, place, stat, Handles::default());
        map.insert(id, Arc::downgrade(&i));
        i
    }

    /// Another link, or it moved on the host: the newest name is the best one. The root stays.
    fn found_at(&self, parent: &Arc<HostInode>, name: &[u8]) {
        let mut old = None;
        {
            let mut place = self.place.lock();
            let same =
                place.name == name && place.parent.as_ref().is_some_and(|p| Arc::ptr_eq(p, parent));
            if !same && place.parent.is_some() {
                let new = Place { parent: Some(parent.clone()), name: name.to_vec() };
                old = Some(std::mem::replace(&mut *place, new));
            }
        }
        drop(old);
    }

    fn refresh(&self, stat: &host::Stat) {
        *self.attr.lock() = Attr { stat: *stat, at: Some(Instant::now()) };
    }

    /// The attributes changed by our own doing.
    pub(crate) fn stale(&self) {
        self.attr.lock().at = None;
    }

    pub(crate) fn arc(&self) -> Result<Arc<HostInode>> {
        self.me.upgrade().ok_or(ESTALE)
    }

    fn place(&self) -> (Option<Arc<HostInode>>, Vec<u8>) {
        let p = self.place.lock();
        (p.parent.clone(), p.name.clone())
    }

    /// An O_PATH descriptor of exactly this file; `ESTALE` when its name leads elsewhere by now.
    pub(crate) fn path_fd(&self) -> Result<Arc<OwnedFd>> {
        self.used.store(true, Ordering::Relaxed);
        if let Some(fd) = self.open_path_fd() {
            return Ok(fd);
        }
        // Upwards to an ancestor with a descriptor (the root has one), then down again.
        let mut chain = vec![self.arc()?];
        let mut dir = loop {
            let Some(last) = chain.last() else { return Err(ESTALE) };
            let parent = last.place().0.ok_or(ESTALE)?;
            match parent.open_path_fd() {
                Some(fd) => break fd,
                None => chain.push(parent),
            }
        };
        for inode in chain.into_iter().rev() {
            let name = inode.place().1;
            let flags = libc::O_PATH | libc::O_NOFOLLOW;
            let fd = host::openat2(dir.as_fd(), &name, flags, 0, host::BENEATH)?;
            let stat = host::statx(fd.as_fd(), b"")?;
            if Identity::of(&stat) != inode.identity {
                return Err(ESTALE);
            }
            let fd = Arc::new(fd);
            inode.keep(|h| h.path = Some(fd.clone()));
            dir = fd;
        }
        Ok(dir)
    }

    fn open_path_fd(&self) -> Option<Arc<OwnedFd>> {
        let h = self.handles.lock();
        h.path.clone().or_else(|| h.read.clone()).or_else(|| h.write.upgrade())
    }

    /// Changes the descriptors and enters the inode in the bounded set.
    fn keep(&self, f: impl FnOnce(&mut Handles)) {
        let queue = {
            let mut h = self.handles.lock();
            f(&mut h);
            !std::mem::replace(&mut h.queued, true)
        };
        if queue && let Some(me) = self.me.upgrade() {
            self.shared.handles.add(&me);
        }
    }

    /// Closes descriptors that were not used lately; false when they are still needed.
    pub(crate) fn close_unused(&self) -> bool {
        if self.used.swap(false, Ordering::Relaxed) {
            return false;
        }
        let mut h = self.handles.lock();
        if h.pinned {
            return false;
        }
        let old = (h.path.take(), h.read.take());
        h.queued = false;
        drop(h);
        drop(old);
        true
    }

    /// The file loses its name: what is needed to reach it stays open.
    fn pin(&self) {
        if let Ok(fd) = self.path_fd() {
            let mut h = self.handles.lock();
            h.path = Some(fd);
            h.pinned = true;
        }
    }

    /// A descriptor for reading.
    pub(crate) fn read_fd(&self) -> Result<Arc<OwnedFd>> {
        self.used.store(true, Ordering::Relaxed);
        if let Some(fd) = self.handles.lock().read.clone() {
            return Ok(fd);
        }
        let fd = Arc::new(self.open_data(libc::O_RDONLY)?);
        self.keep(|h| h.read = Some(fd.clone()));
        Ok(fd)
    }

    /// A descriptor for writing (and reading where the host allows), shared by the files that are open.
    pub(crate) fn write_fd(&self) -> Result<Arc<OwnedFd>> {
        if let Some(fd) = self.handles.lock().write.upgrade() {
            return Ok(fd);
        }
        let fd = match self.open_data(libc::O_RDWR) {
            Err(EACCES) => self.open_data(libc::O_WRONLY)?,
            other => other?,
        };
        let fd = Arc::new(fd);
        let mut h = self.handles.lock();
        if let Some(other) = h.write.upgrade() {
            return Ok(other);
        }
        h.write = Arc::downgrade(&fd);
        Ok(fd)
    }

    /// Opens the file itself. With a descriptor at hand it is opened through that; otherwise by its name,
    /// and checked to be the same file.
    fn open_data(&self, flags: i32) -> Result<OwnedFd> {
        // Not blocked by a FIFO that somebody put in the file's place.
        let flags = flags | libc::O_NONBLOCK | libc::O_NOCTTY;
        if let Some(fd) = self.open_path_fd() {
            return host::reopen(fd.as_fd(), flags);
        }
        let (parent, name) = self.place();
        let parent = parent.ok_or(ESTALE)?.path_fd()?;
        let flags = flags | libc::O_NOFOLLOW;
        let fd = host::openat2(parent.as_fd(), &name, flags, 0, host::BENEATH)?;
        let stat = host::statx(fd.as_fd(), b"")?;
        if Identity::of(&stat) != self.identity {
            return Err(ESTALE);
        }
        Ok(fd)
    }

    /// Present attributes.
    pub(crate) fn stat(&self) -> Result<host::Stat> {
        {
            let a = self.attr.lock();
            let holds = a.at.is_some_and(|t| self.shared.trusted || t.elapsed() < FRESH);
            if holds {
                return Ok(a.stat);
            }
        }
        let stat = match self.open_path_fd() {
            Some(fd) => host::statx(fd.as_fd(), b"")?,
            None => {
                let (parent, name) = self.place();
                let s = host::statx(parent.ok_or(ESTALE)?.path_fd()?.as_fd(), &name)?;
                if Identity::of(&s) != self.identity {
                    return Err(ESTALE);
                }
                s
            }
        };
        self.refresh(&stat);
        Ok(stat)
    }

    /// Looks `name` up on the host.
    fn find(&self, name: &[u8]) -> Result<Arc<HostInode>> {
        let me = self.arc()?;
        let stat = host::statx(self.path_fd()?.as_fd(), name)?;
        Ok(HostInode::found(&me, name, &stat))
    }

    fn own(inode: &Arc<dyn Inode>) -> Result<&HostInode> {
        inode.as_any().downcast_ref::<HostInode>().ok_or(EXDEV)
    }
}

impl Drop for HostInode {
    fn drop(&mut self) {
        let mut map = self.shared.inodes.lock();
        if map.get(&self.identity).is_some_and(|w| w.strong_count() == 0) {
            map.remove(&self.identity);
        }
        drop(map);
        // As deep as the chain of directories that only this one kept.
        let mut next = self.place.lock().parent.take();
        while let Some(p) = next {
            next = Arc::into_inner(p).and_then(|i| i.place.lock().parent.take());
        }
    }
}

fn time(t: (i64, u32)) -> Timespec {
    Timespec { sec: t.0, nsec: t.1 }
}

impl Inode for HostInode {
    fn metadata(&self) -> Result<Metadata> {
        let s = self.stat()?;
        Ok(Metadata {
            ino: s.ino,
            mode: s.mode,
            nlink: s.nlink,
            uid: s.uid,
            gid: s.gid,
            rdev: Dev::new(s.rdev.0, s.rdev.1),
            size: s.size,
            blocks: s.blocks,
            blksize: s.blksize,
            atime: time(s.atime),
            mtime: time(s.mtime),
            ctime: time(s.ctime),
            btime: s.btime.map(time),
            attributes: 0,
            attributes_mask: 0,
        })
    }

    fn perm(&self) -> Result<Perm> {
        let s = self.stat()?;
        Ok(Perm { mode: s.mode, uid: s.uid, gid: s.gid })
    }

    fn set_attr(&self, attr: &SetAttr) -> Result<()> {
        self.stale();
        if let Some(size) = attr.size
            && !self.shared.append
        {
            host::truncate(self.write_fd()?.as_fd(), size)?;
        }
        let fd = self.path_fd()?;
        if attr.uid.is_some() || attr.gid.is_some() {
            host::chown(fd.as_fd(), attr.uid, attr.gid)?;
        }
        if let Some(mode) = attr.mode {
            host::chmod(fd.as_fd(), mode)?;
        }
        // A size change sets the times on the host already.
        if attr.size.is_none() && (attr.atime.is_some() || attr.mtime.is_some()) {
            let t = |t: Option<Timespec>| t.map(|t| (t.sec, t.nsec));
            host::utimes(fd.as_fd(), t(attr.atime), t(attr.mtime))?;
        }
        self.stale();
        Ok(())
    }

    fn superblock(&self) -> Arc<dyn SuperBlock> {
        match self.shared.superblock() {
            Some(sb) => sb,
            None => Arc::new(Unmounted { dev: self.shared.dev, me: self.me.clone() }),
        }
    }

    fn dev(&self) -> Option<Dev> {
        self.shared.guest_dev(self.identity.dev)
    }

    fn file_type(&self) -> u32 {
        self.identity.kind
    }

    fn dir(&self) -> Option<&dyn DirOps> {
        (self.identity.kind == libc::S_IFDIR).then_some(self as &dyn DirOps)
    }

    fn symlink(&self) -> Option<&dyn SymlinkOps> {
        (self.identity.kind == libc::S_IFLNK).then_some(self as &dyn SymlinkOps)
    }

    fn xattr(&self) -> Option<&dyn XattrOps> {
        matches!(self.identity.kind, libc::S_IFREG | libc::S_IFDIR).then_some(self as &dyn XattrOps)
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> Result<usize> {
        host::pread(self.read_fd()?.as_fd(), off, buf)
    }

    fn write_at(&self, off: u64, data: &[u8]) -> Result<()> {
        let fd = self.write_fd()?;
        let mut done = 0;
        while done < data.len() {
            match host::pwrite(fd.as_fd(), off + done as u64, &data[done..])? {
                0 => return Err(EIO),
                n => done += n,
            }
        }
        self.stale();
        Ok(())
    }

    fn open(&self, flags: u32) -> Result<Box<dyn FileOps>> {
        let me = self.arc()?;
        match self.identity.kind {
            libc::S_IFREG => Ok(Box::new(HostFile::open(me, flags)?)),
            libc::S_IFDIR => Ok(Box::new(HostDir::open(me)?)),
            _ => Err(ENXIO),
        }
    }

    fn permission(&self, _: &Cred, mask: u32) -> Option<Result<()>> {
        // The host decides first; what it allows is checked against mode bits like anywhere else.
        // Searching directories shows by itself whether the host allows it.
        let mask = mask & (libc::R_OK | libc::W_OK) as u32;
        let plain = matches!(self.identity.kind, libc::S_IFREG | libc::S_IFDIR);
        if mask == 0 || !plain || self.shared.trusted {
            return None;
        }
        let allowed = self.path_fd().and_then(|fd| host::access(fd.as_fd(), mask));
        allowed.err().map(Err)
    }

    fn caching(&self) -> Caching {
        if self.shared.trusted { Caching::Trusted } else { Caching::Revalidate }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl DirOps for HostInode {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        Ok(self.find(name)?)
    }

    fn create(&self, name: &[u8], node: &NewNode) -> Result<Arc<dyn Inode>> {
        let dir = self.path_fd()?;
        let mode = node.mode;
        match &node.kind {
            NodeKind::Regular => {
                let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR | libc::O_NOFOLLOW;
                drop(host::openat2(dir.as_fd(), name, flags, mode, host::BENEATH)?);
            }
            NodeKind::Directory => host::mkdir(dir.as_fd(), name, mode)?,
            NodeKind::Symlink(target) => host::symlink(target, dir.as_fd(), name)?,
            NodeKind::CharDevice(d) | NodeKind::BlockDevice(d) => {
                host::mknod(dir.as_fd(), name, node.kind.file_type() | mode, d.major, d.minor)?;
            }
            NodeKind::Fifo | NodeKind::Socket => {
                host::mknod(dir.as_fd(), name, node.kind.file_type() | mode, 0, 0)?;
            }
        }
        self.stale();
        Ok(self.find(name)?)
    }

    fn link(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<()> {
        let old = HostInode::own(inode)?;
        host::link(old.path_fd()?.as_fd(), self.path_fd()?.as_fd(), name)?;
        old.stale();
        self.stale();
        Ok(())
    }

    fn unlink(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<()> {
        if self.shared.append {
            return Err(EPERM);
        }
        let victim = HostInode::own(inode)?;
        victim.pin();
        host::unlink(self.path_fd()?.as_fd(), name, false)?;
        victim.stale();
        self.stale();
        Ok(())
    }

    fn rmdir(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<()> {
        let victim = HostInode::own(inode)?;
        victim.pin();
        host::unlink(self.path_fd()?.as_fd(), name, true)?;
        victim.stale();
        self.stale();
        Ok(())
    }

    fn rename(&self, old: &[u8], new_dir: &Arc<dyn Inode>, new: &[u8], flags: u32) -> Result<()> {
        if flags & RENAME_WHITEOUT != 0 {
            return Err(EINVAL);
        }
        let to = HostInode::own(new_dir)?;
        let to = to.arc()?;
        let (from_fd, to_fd) = (self.path_fd()?, to.path_fd()?);
        // What is replaced may be open.
        let source = self.find(old)?;
        let target = to.find(new).ok();
        if let Some(t) = &target {
            t.pin();
        }
        host::rename(from_fd.as_fd(), old, to_fd.as_fd(), new, flags)?;
        let moved = |i: &HostInode, parent: Arc<HostInode>, name: &[u8]| {
            let new = Place { parent: Some(parent), name: name.to_vec() };
            let gone = std::mem::replace(&mut *i.place.lock(), new);
            drop(gone);
            i.stale();
        };
        moved(&source, to.clone(), new);
        if let Some(t) = target
            && flags & uml_core::vfs::modify::RENAME_EXCHANGE != 0
        {
            moved(&t, self.arc()?, old);
        }
        self.stale();
        to.stale();
        Ok(())
    }

    fn readdir(&self, off: &mut u64, out: &mut dyn DirEmit) -> Result<()> {
        HostDir::open(self.arc()?)?.list(off, out)
    }
}

impl SymlinkOps for HostInode {
    fn readlink(&self, _: &Task) -> Result<Vec<u8>> {
        self.text()
    }

    fn text(&self) -> Result<Vec<u8>> {
        if self.shared.trusted
            && let Some(t) = &*self.link.lock()
        {
            return Ok(t.to_vec());
        }
        let text = host::readlink(self.path_fd()?.as_fd())?;
        if self.shared.trusted {
            *self.link.lock() = Some(text.clone().into());
        }
        Ok(text)
    }
}

/// The host's `user.` attributes and file capabilities; other namespaces are the host's own business.
fn visible(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name == b"security.capability"
}

impl XattrOps for HostInode {
    fn get(&self, name: &[u8]) -> Result<Vec<u8>> {
        if !visible(name) {
            return Err(if name.starts_with(b"system.") { EOPNOTSUPP } else { ENODATA });
        }
        host::getxattr(self.path_fd()?.as_fd(), name)
    }

    fn set(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        if !visible(name) {
            return Err(EOPNOTSUPP);
        }
        self.stale();
        host::setxattr(self.path_fd()?.as_fd(), name, value, flags)
    }

    fn remove(&self, name: &[u8]) -> Result<()> {
        if !visible(name) {
            return Err(EOPNOTSUPP);
        }
        self.stale();
        host::removexattr(self.path_fd()?.as_fd(), name)
    }

    fn list(&self) -> Result<Vec<Vec<u8>>> {
        let all = match host::listxattr(self.path_fd()?.as_fd()) {
            Err(EOPNOTSUPP) => Vec::new(),
            other => other?,
        };
        Ok(all.into_iter().filter(|n| visible(n)).collect())
    }
}

/// Stands in for the superblock of an inode that outlived its mount.
struct Unmounted {
    dev: Dev,
    me: Weak<HostInode>,
}

impl SuperBlock for Unmounted {
    fn fs_type(&self) -> &'static str {
        "hostfs"
    }
    fn root(&self) -> Arc<dyn Inode> {
        match self.me.upgrade() {
            Some(i) => i,
            None => unreachable!("made by an inode that is alive"),
        }
    }
    fn statfs(&self) -> Result<uml_core::vfs::StatFs> {
        Err(EIO)
    }
    fn dev(&self) -> Dev {
        self.dev
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
