//! Open files: what a descriptor refers to (open(2): "open file description").

pub mod async_notify;
pub mod fdtable;
pub mod leases;
pub mod locks;
pub mod notify_owner;

use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, MutexGuard, PollRegistrar, Rank};
use uml_mm::Mappable;

use crate::ctx::Ctx;
use crate::io::{Sink, Source};
use crate::landlock::Domain;
use crate::ns::PidNs;
use crate::signal::SigInfo;
use crate::task::{Cred, Resource, Task};
use crate::vfs::mount::{MNT_NOATIME, MNT_NODIRATIME, MNT_RELATIME};
use crate::vfs::{Inode, Path, open, watch};

/// Bits of open(2) flags that fcntl(2) F_SETFL may change.
pub const SETFL_MASK: u32 =
    (libc::O_APPEND | libc::O_ASYNC | libc::O_DIRECT | libc::O_NOATIME | libc::O_NONBLOCK) as u32;

/// Directory-entry receiver of [`FileOps::readdir`].
pub trait DirEmit {
    /// Offers one entry: `next` is the position that continues after it (`d_off`), `kind` a DT_*
    /// value. Returns false when the entry did not fit; the caller stops then and the entry is
    /// offered again later.
    fn emit(&mut self, name: &[u8], ino: u64, kind: u8, next: u64) -> bool;
}

/// What an I/O call needs to know about its circumstances.
pub struct Io<'a> {
    pub task: &'a Task,
    /// The credentials that the file was opened with.
    pub opener: &'a Cred,
    /// Do not block: O_NONBLOCK, RWF_NOWAIT or MSG_DONTWAIT.
    pub nonblock: bool,
    /// `EAGAIN` for data that a device would have to be waited for: RWF_NOWAIT, and requests that somebody else will
    /// wait for. Looked at where reading goes past the page cache.
    pub nowait: bool,
    /// Write at the end: O_APPEND or RWF_APPEND.
    pub append: bool,
    /// Data must be stable on return: O_DSYNC/O_SYNC, RWF_DSYNC/RWF_SYNC.
    pub dsync: bool,
    pub sync: bool,
    /// O_DIRECT.
    pub direct: bool,
}

/// Advice of posix_fadvise(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    Normal,
    Random,
    Sequential,
    WillNeed,
    DontNeed,
    NoReuse,
}

/// Behaviour of an open file. One value per open file description; bookkeeping
/// (flags, position, ownership) is [`File`]'s. Defaults return the errno that Linux gives for objects
/// that lack the operation.
pub trait FileOps: Any + Send + Sync {
    /// read(2)/pread(2) at `*off`, which is advanced by what was read (streams ignore it).
    fn read(&self, io: &Io<'_>, off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        let _ = (io, off, dst);
        Err(EINVAL)
    }

    /// write(2)/pwrite(2) at `*off`, or at the end when `io.append`; `*off` becomes the
    /// position after the data.
    fn write(&self, io: &Io<'_>, off: &mut u64, src: &mut dyn Source) -> Result<usize> {
        let _ = (io, off, src);
        Err(EINVAL)
    }

    /// Current readiness; registers with every queue that may change it first.
    /// The default is an ordinary file: always ready (poll(2)).
    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        let _ = reg;
        Events::READABLE | Events::WRITABLE
    }

    /// As [`FileOps::poll`] on behalf of `task`, for objects whose readiness depends on who asks
    /// (signalfd(2)).
    fn poll_as(&self, task: &Task, reg: Option<&mut dyn PollRegistrar>) -> Events {
        let _ = task;
        self.poll(reg)
    }

    /// True when epoll(7) accepts the file (ordinary files and directories are EPERM).
    fn pollable(&self) -> bool {
        false
    }

    /// ioctl(2).
    fn ioctl(&self, cx: &mut Ctx<'_>, file: &Arc<File>, cmd: u32, arg: u64) -> Result<u64> {
        let _ = (cx, file, cmd, arg);
        Err(ENOTTY)
    }

    /// Entries from position `*off` on (getdents64(2)).
    fn readdir(&self, task: &Task, off: &mut u64, out: &mut dyn DirEmit) -> Result<()> {
        let _ = (task, off, out);
        Err(ENOTDIR)
    }

    /// True when the file has a position (lseek(2) works, else `ESPIPE`).
    fn seekable(&self) -> bool {
        false
    }

    /// lseek(2) for SEEK_SET/CUR/END with `cur` the present position; returns the new position. The
    /// default uses [`FileOps::size`].
    fn seek(&self, cur: u64, off: i64, whence: i32) -> Result<u64> {
        seek_in(self.seekable().then(|| self.size()), cur, off, whence)
    }

    /// Size in bytes for SEEK_END, SEEK_DATA and SEEK_HOLE.
    fn size(&self) -> u64 {
        0
    }

    /// What mmap(2) maps. `ENODEV` when the object cannot be mapped.
    fn mappable(&self) -> Result<Arc<dyn Mappable>> {
        Err(ENODEV)
    }

    /// False when shared mappings may not be written even though the file is open for writing
    /// (memfd_create(2) F_SEAL_WRITE).
    fn may_map_writable(&self) -> bool {
        true
    }

    /// fsync(2), or fdatasync(2) when `data_only`.
    fn fsync(&self, task: &Task, data_only: bool) -> Result<()> {
        let _ = (task, data_only);
        Err(EINVAL)
    }

    /// sync_file_range(2): writes changed data of a range out, without the metadata that a power cut would
    /// need. The default makes all of the file's data durable.
    fn write_range(&self, task: &Task, off: u64, len: u64) -> Result<()> {
        let _ = (off, len);
        self.fsync(task, true)
    }

    /// posix_fadvise(2) and readahead(2) on a range; `len` 0 is up to the end. Objects without a cache have
    /// nothing to do.
    fn advise(&self, off: u64, len: u64, advice: Advice) -> Result<()> {
        let _ = (off, len, advice);
        Ok(())
    }

    /// fallocate(2).
    fn fallocate(&self, task: &Task, mode: u32, off: u64, len: u64) -> Result<()> {
        let _ = (task, mode, off, len);
        Err(EOPNOTSUPP)
    }

    /// fcntl(2) commands of particular kinds of file (pipe size, leases, seals).
    fn fcntl(&self, cx: &mut Ctx<'_>, file: &Arc<File>, cmd: i32, arg: u64) -> Result<u64> {
        let _ = (cx, file, cmd, arg);
        Err(EINVAL)
    }

    /// O_ASYNC has an effect (fcntl(2)): terminals, sockets, pipes, inotify.
    fn signals_owner(&self) -> bool {
        false
    }

    /// open(2) made the file for `task`; called once, for regular files, before anything else.
    fn opened_by(&self, task: &Task) {
        let _ = task;
    }

    /// Called for every close(2) of a descriptor (not only the last).
    fn flush(&self, task: &Task) {
        let _ = task;
    }

    /// fcntl(2) F_SETFL changed the flags (FIONBIO-like effects, O_ASYNC).
    fn set_flags(&self, flags: u32) -> Result<()> {
        let _ = flags;
        Ok(())
    }

    /// Further lines of /proc/<pid>/fdinfo/<fd>, each ended by a newline (proc_pid_fdinfo(5):
    /// `eventfd-count`, `tfd`, `inotify`, `Pid`, ...), with processes as `ns` numbers them.
    fn show_fdinfo(&self, ns: &Arc<PidNs>, out: &mut Vec<u8>) {
        let _ = (ns, out);
    }

    /// For recognising sockets, pipes, epoll instances.
    fn as_any(&self) -> &dyn Any;
}

/// lseek(2) arithmetic; `size` is `None` for files without a position.
pub fn seek_in(size: Option<u64>, cur: u64, off: i64, whence: i32) -> Result<u64> {
    let size = size.ok_or(ESPIPE)?;
    let base = match whence {
        libc::SEEK_SET => 0,
        libc::SEEK_CUR => cur,
        libc::SEEK_END => size,
        // Without knowledge of holes the whole file is data followed by one hole.
        libc::SEEK_DATA => {
            return if off >= 0 && (off as u64) < size { Ok(off as u64) } else { Err(ENXIO) };
        }
        libc::SEEK_HOLE => {
            return if off >= 0 && (off as u64) < size { Ok(size) } else { Err(ENXIO) };
        }
        _ => return Err(EINVAL),
    };
    let pos = i64::try_from(base).ok().and_then(|b| b.checked_add(off)).ok_or(EINVAL)?;
    u64::try_from(pos).map_err(|_| EINVAL)
}

/// Who gets SIGIO and SIGURG (fcntl(2) F_SETOWN, F_SETSIG).
#[derive(Clone, Debug, Default)]
pub struct Owner {
    /// F_OWNER_TID/PID/PGRP.
    pub kind: i32,
    pub id: i32,
    pub signo: i32,
    pub uid: u32,
    pub euid: u32,
    /// The domain of who set it, unless that is the owner itself (landlock(7), LANDLOCK_SCOPE_SIGNAL).
    pub landlock: Option<Arc<Domain>>,
}

/// Something that outlives an open file and wants to know when the last reference to it is gone
/// (epoll(7) drops its entry then).
pub trait CloseWatcher: Send + Sync {
    /// The file is being dropped.
    fn closed(&self);
}

static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Open file descriptions of the machine (/proc/sys/fs/file-nr).
pub fn open_count() -> usize {
    OPEN.load(Ordering::Relaxed)
}

/// An open file description.
pub struct File {
    pub ops: Box<dyn FileOps>,
    /// Where it was opened; anonymous objects (pipes, sockets, eventfds...) have a path on an
    /// internal mount whose name shows in /proc/<pid>/fd (`pipe:[ino]`).
    pub path: Path,
    /// open(2) flags: access mode, O_PATH, O_APPEND, O_NONBLOCK... Creation flags are not kept.
    flags: AtomicU32,
    pos: Mutex<u64>,
    /// The position as it was last left: read without the lock, which its user may hold for long.
    last_pos: AtomicU64,
    pub owner: Mutex<Owner>,
    /// Tells the owner while O_ASYNC is set.
    async_watch: Mutex<Option<Arc<async_notify::AsyncWatch>>>,
    /// Credentials at open time.
    pub cred: Arc<Cred>,
    /// Rights of landlock(7) that whoever opened it could not give it: TRUNCATE and IOCTL_DEV.
    lacks: u32,
    watchers: Mutex<Vec<Weak<dyn CloseWatcher>>>,
}

impl File {
    /// An open file description around `ops`.
    pub fn new(ops: Box<dyn FileOps>, path: Path, flags: u32, cred: Arc<Cred>) -> Arc<File> {
        File::lacking(ops, path, flags, cred, 0)
    }

    /// As [`File::new`], without the rights `lacks` ([`crate::landlock::fs`]).
    pub fn lacking(
        ops: Box<dyn FileOps>,
        path: Path,
        flags: u32,
        cred: Arc<Cred>,
        lacks: u32,
    ) -> Arc<File> {
        let creation =
            (libc::O_CREAT | libc::O_EXCL | libc::O_NOCTTY | libc::O_TRUNC | libc::O_CLOEXEC)
                as u32;
        let file = File {
            ops,
            path,
            flags: AtomicU32::new(flags & !creation),
            pos: Mutex::new(Rank::FILE, 0),
            last_pos: AtomicU64::new(0),
            owner: Mutex::new(Rank::LEAF, Owner::default()),
            cred,
            lacks,
            watchers: Mutex::new(Rank::LEAF, Vec::new()),
            async_watch: Mutex::new(Rank::LEAF, None),
        };
        OPEN.fetch_add(1, Ordering::Relaxed);
        if file.counts_as_writer() {
            open::count_writer(file.inode(), true);
        }
        Arc::new(file)
    }

    /// `EACCES` without the right ([`crate::landlock::fs`]), which its opener's domain kept from it.
    pub fn check_right(&self, right: u32) -> Result<()> {
        if self.lacks & right != 0 { Err(EACCES) } else { Ok(()) }
    }

    fn counts_as_writer(&self) -> bool {
        self.writable() && self.inode().file_type() == libc::S_IFREG
    }

    /// Tells `watcher` when the last reference to the file is gone.
    pub fn watch_close(&self, watcher: Weak<dyn CloseWatcher>) {
        let mut list = self.watchers.lock();
        list.retain(|w| w.strong_count() > 0);
        list.push(watcher);
    }

    /// Current flags.
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Changes the bits of [`SETFL_MASK`] (fcntl(2) F_SETFL).
    pub fn set_flags(&self, new: u32) -> Result<()> {
        self.ops.set_flags(new)?;
        let kept = self.flags() & !SETFL_MASK;
        self.flags.store(kept | (new & SETFL_MASK), Ordering::Relaxed);
        Ok(())
    }

    /// Opened with O_PATH: only usable as a location.
    pub fn is_path(&self) -> bool {
        self.flags() & libc::O_PATH as u32 != 0
    }

    /// Opened for reading.
    pub fn readable(&self) -> bool {
        let f = self.flags();
        // Access mode 3 is for ioctl only (open(2)).
        f & libc::O_PATH as u32 == 0
            && matches!((f & libc::O_ACCMODE as u32) as i32, libc::O_RDONLY | libc::O_RDWR)
    }

    /// Opened for writing.
    pub fn writable(&self) -> bool {
        let f = self.flags();
        f & libc::O_PATH as u32 == 0
            && matches!((f & libc::O_ACCMODE as u32) as i32, libc::O_WRONLY | libc::O_RDWR)
    }

    /// The circumstances of a call by `task` under the present flags.
    pub fn io<'a>(&'a self, task: &'a Task) -> Io<'a> {
        let f = self.flags() as i32;
        Io {
            task,
            opener: &self.cred,
            nonblock: f & libc::O_NONBLOCK != 0,
            nowait: false,
            append: f & libc::O_APPEND != 0,
            dsync: f & libc::O_DSYNC != 0,
            sync: f & libc::O_SYNC == libc::O_SYNC,
            direct: f & libc::O_DIRECT != 0,
        }
    }

    /// The inode it was opened from.
    pub fn inode(&self) -> &Arc<dyn Inode> {
        self.path.inode()
    }

    /// Bytes were read: access time and watches.
    fn accessed(&self) {
        watch::table().file(&self.path.dentry, watch::IN_ACCESS);
        let dir = match self.inode().file_type() {
            libc::S_IFREG => false,
            libc::S_IFDIR => true,
            _ => return,
        };
        if self.flags() & libc::O_NOATIME as u32 != 0 {
            return;
        }
        let mnt = &self.path.mnt;
        let f = mnt.flags();
        if f & MNT_NOATIME != 0 || (dir && f & MNT_NODIRATIME != 0) || mnt.read_only() {
            return;
        }
        self.inode().touch_atime(f & MNT_RELATIME != 0);
    }

    fn read_with(&self, io: &Io<'_>, off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        let n = self.ops.read(io, off, dst)?;
        io.task.io.read(n);
        if n != 0 {
            self.accessed();
        }
        Ok(n)
    }

    fn write_with(&self, io: &Io<'_>, off: &mut u64, src: &mut dyn Source) -> Result<usize> {
        let limit = io.task.rlimit(Resource::Fsize);
        let n = if limit != u64::MAX && self.inode().file_type() == libc::S_IFREG {
            let at = if io.append { self.ops.size() } else { *off };
            if at >= limit && src.remaining() != 0 {
                limit_signal(io.task);
                return Err(EFBIG);
            }
            let room = usize::try_from(limit - at.min(limit)).unwrap_or(usize::MAX);
            self.ops.write(io, off, &mut Limited { src, left: room })?
        } else {
            self.ops.write(io, off, src)?
        };
        io.task.io.wrote(n);
        if n != 0 {
            watch::table().file(&self.path.dentry, watch::IN_MODIFY);
        }
        Ok(n)
    }

    /// read(2) at the file's position.
    pub fn read(&self, task: &Task, dst: &mut dyn Sink) -> Result<usize> {
        self.read_io(&self.io(task), dst)
    }

    /// As [`File::read`] under changed circumstances (preadv2(2) with offset -1).
    pub fn read_io(&self, io: &Io<'_>, dst: &mut dyn Sink) -> Result<usize> {
        if !self.readable() {
            return Err(EBADF);
        }
        if !self.ops.seekable() {
            return self.read_with(io, &mut 0, dst);
        }
        self.read_with(io, &mut self.lock_pos(), dst)
    }

    /// write(2) at the file's position.
    pub fn write(&self, task: &Task, src: &mut dyn Source) -> Result<usize> {
        self.write_io(&self.io(task), src)
    }

    /// As [`File::write`] under changed circumstances (pwritev2(2) with offset -1).
    pub fn write_io(&self, io: &Io<'_>, src: &mut dyn Source) -> Result<usize> {
        if !self.writable() {
            return Err(EBADF);
        }
        if !self.ops.seekable() {
            return self.write_with(io, &mut 0, src);
        }
        self.write_with(io, &mut self.lock_pos(), src)
    }

    /// pread(2): `off` is the caller's.
    pub fn read_at(&self, task: &Task, off: u64, dst: &mut dyn Sink) -> Result<usize> {
        self.read_at_io(&self.io(task), off, dst)
    }

    /// As [`File::read_at`] under changed circumstances (preadv2(2)).
    pub fn read_at_io(&self, io: &Io<'_>, mut off: u64, dst: &mut dyn Sink) -> Result<usize> {
        if !self.readable() {
            return Err(EBADF);
        }
        if !self.ops.seekable() {
            return Err(ESPIPE);
        }
        check_range(off, dst.remaining())?;
        self.read_with(io, &mut off, dst)
    }

    /// pwrite(2).
    pub fn write_at(&self, task: &Task, off: u64, src: &mut dyn Source) -> Result<usize> {
        self.write_at_io(&self.io(task), off, src)
    }

    /// As [`File::write_at`] under changed circumstances (pwritev2(2)).
    pub fn write_at_io(&self, io: &Io<'_>, mut off: u64, src: &mut dyn Source) -> Result<usize> {
        if !self.writable() {
            return Err(EBADF);
        }
        if !self.ops.seekable() {
            return Err(ESPIPE);
        }
        check_range(off, src.remaining())?;
        self.write_with(io, &mut off, src)
    }

    /// getdents64(2) from the file's position.
    pub fn readdir(&self, task: &Task, out: &mut dyn DirEmit) -> Result<()> {
        let r = self.ops.readdir(task, &mut self.lock_pos(), out);
        if r.is_ok() {
            self.accessed();
        }
        r
    }

    /// A descriptor of `table` that refers to this file was closed (close(2)): flushes it and releases
    /// the process's record locks on the file (fcntl(2)).
    pub fn closed(&self, task: &Task, table: &fdtable::FdTable) {
        if !self.is_path() {
            self.ops.flush(task);
            locks::table().release_process(self.inode(), table);
        }
    }

    /// lseek(2).
    pub fn seek(&self, off: i64, whence: i32) -> Result<u64> {
        if self.is_path() {
            return Err(EBADF);
        }
        let mut pos = self.lock_pos();
        *pos = self.ops.seek(*pos, off, whence)?;
        Ok(*pos)
    }

    /// Position, for /proc/<pid>/fdinfo.
    pub fn pos(&self) -> u64 {
        self.last_pos.load(Ordering::Relaxed)
    }

    fn lock_pos(&self) -> PosGuard<'_> {
        PosGuard { pos: self.pos.lock(), last: &self.last_pos }
    }

    /// Runs `f` with the position locked (readdir, sendfile).
    pub fn with_pos<R>(&self, f: impl FnOnce(&mut u64) -> R) -> R {
        f(&mut self.lock_pos())
    }

    /// The behaviour as a concrete type.
    pub fn downcast<T: FileOps>(&self) -> Option<&T> {
        self.ops.as_any().downcast_ref::<T>()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let watchers = std::mem::take(&mut *self.watchers.lock());
        for w in watchers.iter().filter_map(Weak::upgrade) {
            w.closed();
        }
        self.stop_async();
        if self.is_path() {
            return;
        }
        if self.counts_as_writer() {
            open::count_writer(self.inode(), false);
        }
        locks::table().release_file(self.inode(), self);
        leases::table().release_file(self.inode(), self);
        let mask = if self.writable() { watch::IN_CLOSE_WRITE } else { watch::IN_CLOSE_NOWRITE };
        watch::table().file(&self.path.dentry, mask);
    }
}

/// The locked position; where it is left is published.
struct PosGuard<'a> {
    pos: MutexGuard<'a, u64>,
    last: &'a AtomicU64,
}

impl Deref for PosGuard<'_> {
    type Target = u64;
    fn deref(&self) -> &u64 {
        &self.pos
    }
}

impl DerefMut for PosGuard<'_> {
    fn deref_mut(&mut self) -> &mut u64 {
        &mut self.pos
    }
}

impl Drop for PosGuard<'_> {
    fn drop(&mut self) {
        self.last.store(*self.pos, Ordering::Relaxed);
    }
}

/// The first bytes of another source.
struct Limited<'a> {
    src: &'a mut dyn Source,
    left: usize,
}

impl Source for Limited<'_> {
    fn remaining(&self) -> usize {
        self.src.remaining().min(self.left)
    }

    fn take(&mut self, buf: &mut [u8]) -> Result<usize> {
        let n = buf.len().min(self.left);
        let got = self.src.take(&mut buf[..n])?;
        self.left -= got;
        Ok(got)
    }

    fn untake(&mut self, n: usize) {
        self.src.untake(n);
        self.left += n;
    }
}

/// `EINVAL` for transfers beyond the largest offset (pread(2)).
fn check_range(off: u64, len: usize) -> Result<()> {
    match off.checked_add(len as u64) {
        Some(end) if end <= i64::MAX as u64 => Ok(()),
        _ => Err(EINVAL),
    }
}

/// SIGXFSZ for exceeding RLIMIT_FSIZE (setrlimit(2)).
pub fn limit_signal(task: &Task) {
    crate::signal::send_to_task(task, SigInfo::kernel(libc::SIGXFSZ), false);
}
