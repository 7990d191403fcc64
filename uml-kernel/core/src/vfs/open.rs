//! open(2), openat2(2).

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, OnceLock, PoisonError};

use uml_abi::Result;
use uml_abi::errno::*;

use crate::file::{DirEmit, File, FileOps, leases};
use crate::landlock::{self, files::check_open};
use crate::registry::{NodeOpen, Opened};
use crate::task::Task;
use crate::vfs::perm::{
    APPEND_ONLY, MAY_EXEC, MAY_READ, MAY_WRITE, check_nodev, inode_permission, is_owner,
    path_permission,
};
use crate::vfs::walk::{DIRECTORY, DirFd, EMPTY, FOLLOW, Last, Walker};
use crate::vfs::{Dentry, Inode, NodeKind, Path, attr, inode_key, modify, watch};

/// Arguments of openat2(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenHow {
    /// O_* flags.
    pub flags: u32,
    /// Permission bits of a created file.
    pub mode: u32,
    /// Walk flags ([`crate::vfs::walk`]) from RESOLVE_*.
    pub resolve: u32,
}

const O_TMPFILE_BIT: u32 = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;

impl OpenHow {
    /// Plain flags.
    pub fn new(flags: i32, mode: u32) -> OpenHow {
        OpenHow { flags: flags as u32, mode, resolve: 0 }
    }

    fn has(&self, bit: i32) -> bool {
        self.flags & bit as u32 != 0
    }

    /// MAY_* mask of the access mode.
    fn access(&self) -> u32 {
        let m = match self.flags as i32 & libc::O_ACCMODE {
            libc::O_RDONLY => MAY_READ,
            libc::O_WRONLY => MAY_WRITE,
            // 3 is the historic "check for both, use for ioctl only".
            _ => MAY_READ | MAY_WRITE,
        };
        if self.has(libc::O_TRUNC) { m | MAY_WRITE } else { m }
    }
}

/// Opens `path` as open(2) says.
pub fn open(task: &Task, start: &DirFd, path: &[u8], how: &OpenHow) -> Result<Arc<File>> {
    if how.flags & O_TMPFILE_BIT != 0 {
        return open_tmpfile(task, start, path, how);
    }
    if how.has(libc::O_CREAT) && how.has(libc::O_DIRECTORY) && !how.has(libc::O_PATH) {
        return Err(EINVAL);
    }
    let mut flags = how.resolve;
    if how.has(libc::O_DIRECTORY) {
        flags |= DIRECTORY;
    }
    if !how.has(libc::O_NOFOLLOW) {
        flags |= FOLLOW;
    }
    let mut w = Walker::new(task, start, path, flags)?;
    if how.has(libc::O_PATH) {
        let place = w.to_end()?;
        let keep = (libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW) as u32;
        return Ok(File::new(Box::new(Location), place, how.flags & keep, task.cred()));
    }
    if !how.has(libc::O_CREAT) {
        let place = w.to_end()?;
        return open_path(task, place, how.flags);
    }
    let (place, created) = open_create(task, &mut w, how)?;
    finish(task, place, how, created)
}

/// Opens a place that is already known, with permission checks (open by /proc/self/fd, execve).
pub fn open_path(task: &Task, place: Path, flags: u32) -> Result<Arc<File>> {
    finish(task, place, &OpenHow { flags, mode: 0, resolve: 0 }, false)
}

/// Walks to the last component and creates it when it is not there.
fn open_create(task: &Task, w: &mut Walker<'_>, how: &OpenHow) -> Result<(Path, bool)> {
    let kernel = task.kernel();
    loop {
        let name = match w.to_parent()? {
            Last::Name(n) => n,
            _ => return Err(EISDIR),
        };
        if w.trailing {
            return Err(EISDIR);
        }
        if w.at.inode().dir().is_none() {
            return Err(ENOTDIR);
        }
        let dir = w.at.clone();
        let found = {
            // The common case, an existing file, needs no lock.
            match kernel.vfs.dcache.lookup(&dir.dentry, &name)? {
                Some(d) => Some(d),
                None => {
                    let _guard = dir.dentry.lock_dir();
                    match kernel.vfs.dcache.lookup_locked(&dir.dentry, &name)? {
                        Some(d) => Some(d),
                        None => {
                            dir.mnt.want_write()?;
                            landlock::files::check(&w.cred, &dir, landlock::fs::MAKE_REG)?;
                            let umask = task.fs().umask();
                            let mode = how.mode;
                            let node = modify::new_node(
                                &dir.dentry,
                                &w.cred,
                                NodeKind::Regular,
                                mode,
                                umask,
                            )?;
                            let d = kernel.vfs.create_locked(&dir, &name, &node, &w.cred)?;
                            drop(_guard);
                            watch::table().entry(&dir.dentry, watch::IN_CREATE, &name, false, 0);
                            return Ok((Path { mnt: dir.mnt, dentry: d }, true));
                        }
                    }
                }
            }
        };
        let Some(child) = found else { continue };
        if how.has(libc::O_EXCL) {
            return Err(EEXIST);
        }
        if !w.enter(child, !how.has(libc::O_NOFOLLOW))? {
            check_sticky_create(task, &dir, &w.at)?;
            return Ok((w.at.clone(), false));
        }
    }
}

/// /proc/sys/fs/protected_fifos and protected_regular (proc(5)): O_CREAT on somebody else's file in a
/// sticky directory.
fn check_sticky_create(task: &Task, dir: &Path, file: &Path) -> Result<()> {
    use std::sync::atomic::Ordering;
    let kernel = task.kernel();
    let level = match file.inode().file_type() {
        libc::S_IFIFO => kernel.vfs.protection.fifos.load(Ordering::Relaxed),
        libc::S_IFREG => kernel.vfs.protection.regular.load(Ordering::Relaxed),
        _ => 0,
    };
    if level == 0 {
        return Ok(());
    }
    let d = dir.inode().perm()?;
    let f = file.inode().perm()?;
    if d.mode & libc::S_ISVTX == 0 || f.uid == d.uid || f.uid == task.cred().fsuid {
        return Ok(());
    }
    if d.mode & libc::S_IWOTH != 0 || (level >= 2 && d.mode & libc::S_IWGRP != 0) {
        return Err(EACCES);
    }
    Ok(())
}

fn open_tmpfile(task: &Task, start: &DirFd, path: &[u8], how: &OpenHow) -> Result<Arc<File>> {
    if !how.has(libc::O_DIRECTORY) || how.access() & MAY_WRITE == 0 || how.has(libc::O_CREAT) {
        return Err(EINVAL);
    }
    let dir = Walker::new(task, start, path, how.resolve | FOLLOW | DIRECTORY)?.to_end()?;
    dir.mnt.want_write()?;
    let cred = task.cred();
    inode_permission(dir.inode(), &cred, MAY_WRITE | MAY_EXEC)?;
    let umask = task.fs().umask();
    let node = modify::new_node(&dir.dentry, &cred, NodeKind::Regular, how.mode, umask)?;
    let ops = dir.inode().dir().ok_or(ENOTDIR)?;
    let inode = ops.tmpfile(&node)?;
    let ino = inode.metadata()?.ino;
    let file = inode.open(how.flags)?;
    let dentry =
        Dentry::unnamed(inode, &dir.dentry, format!("#{ino}").as_bytes(), !how.has(libc::O_EXCL));
    let place = Path { mnt: dir.mnt, dentry };
    let lacks = check_open(&cred, &place, how.flags, false)?;
    Ok(File::lacking(file, place, how.flags, cred, lacks))
}

/// Permission checks, truncation and the filesystem's or driver's own open.
fn finish(task: &Task, place: Path, how: &OpenHow, created: bool) -> Result<Arc<File>> {
    let inode = place.inode().clone();
    let kind = inode.file_type();
    let cred = task.cred();
    let writes = how.access() & MAY_WRITE != 0;
    match kind {
        libc::S_IFLNK => return Err(ELOOP),
        libc::S_IFDIR if writes || how.has(libc::O_CREAT) => return Err(EISDIR),
        _ => {}
    }
    if how.has(libc::O_DIRECTORY) && inode.dir().is_none() {
        return Err(ENOTDIR);
    }
    check_nodev(&place)?;
    if !created {
        path_permission(&place, &cred, how.access())?;
    }
    if inode.restrictions() & APPEND_ONLY != 0
        && !created
        && (how.has(libc::O_TRUNC) || (writes && !how.has(libc::O_APPEND)))
    {
        return Err(EPERM);
    }
    if how.has(libc::O_NOATIME) && !is_owner(&cred, &inode.perm()?) {
        return Err(EPERM);
    }
    if writes && kind == libc::S_IFREG {
        check_not_executed(&inode)?;
    }
    let lacks = check_open(&cred, &place, how.flags, false)?;
    let opened: Opened = match kind {
        libc::S_IFREG => {
            let nonblock = how.has(libc::O_NONBLOCK);
            leases::table().break_for(task, &inode, writes, nonblock)?;
            if how.has(libc::O_TRUNC) && !created {
                if lacks & landlock::fs::TRUNCATE != 0 {
                    return Err(EACCES);
                }
                attr::set_size(task, &place, 0)?;
            }
            let ops = inode.open(how.flags)?;
            ops.opened_by(task);
            ops.into()
        }
        libc::S_IFDIR => {
            let inner = match inode.open(how.flags) {
                Ok(ops) => Some(ops),
                Err(EISDIR) => None,
                Err(e) => return Err(e),
            };
            let ops: Box<dyn FileOps> = Box::new(DirFile { place: place.clone(), inner });
            ops.into()
        }
        libc::S_IFCHR | libc::S_IFBLK | libc::S_IFIFO => {
            let dev = inode.metadata()?.rdev;
            let req = NodeOpen { task, dev, path: &place, flags: how.flags };
            let kernel = task.kernel();
            let reg = &kernel.vfs.registry;
            match kind {
                libc::S_IFCHR => reg.char_driver(dev)?.open(&req)?,
                libc::S_IFBLK => reg.block_driver(dev.major)?.open(&req)?,
                _ => reg.fifo()?.open(&req)?.into(),
            }
        }
        _ => return Err(ENXIO),
    };
    let place = opened.path.unwrap_or(place);
    watch::table().file(&place.dentry, watch::IN_OPEN);
    Ok(File::lacking(opened.ops, place, how.flags, cred, lacks))
}

/// An O_PATH file: only a place.
pub struct Location;

impl FileOps for Location {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open directory: adds `.` and `..` to what the filesystem lists.
pub struct DirFile {
    place: Path,
    inner: Option<Box<dyn FileOps>>,
}

/// Shifts nothing, but keeps a filesystem from using the positions of the dot entries.
struct AfterDots<'a> {
    out: &'a mut dyn DirEmit,
}

impl DirEmit for AfterDots<'_> {
    fn emit(&mut self, name: &[u8], ino: u64, kind: u8, next: u64) -> bool {
        debug_assert!(next > 2, "directory positions 0 to 2 belong to the VFS");
        self.out.emit(name, ino, kind, next)
    }
}

impl FileOps for DirFile {
    fn ioctl(
        &self,
        cx: &mut crate::ctx::Ctx<'_>,
        file: &Arc<File>,
        cmd: u32,
        arg: u64,
    ) -> Result<u64> {
        self.inner.as_ref().map_or(Err(ENOTTY), |i| i.ioctl(cx, file, cmd, arg))
    }

    fn read(
        &self,
        _: &crate::file::Io<'_>,
        _: &mut u64,
        _: &mut dyn crate::io::Sink,
    ) -> Result<usize> {
        Err(EISDIR)
    }

    fn readdir(&self, task: &Task, off: &mut u64, out: &mut dyn DirEmit) -> Result<()> {
        if self.place.dentry.is_deleted() {
            return Err(ENOENT);
        }
        let dir = libc::S_IFDIR >> 12;
        if *off == 0 {
            if !out.emit(b".", self.place.inode().metadata()?.ino, dir as u8, 1) {
                return Ok(());
            }
            *off = 1;
        }
        if *off == 1 {
            let up = self.place.dentry.parent().unwrap_or_else(|| self.place.dentry.clone());
            if !out.emit(b"..", up.inode.metadata()?.ino, dir as u8, 2) {
                return Ok(());
            }
            *off = 2;
        }
        let mut pos = if *off <= 2 { 0 } else { *off };
        let mut after = AfterDots { out };
        let r = match &self.inner {
            Some(ops) => ops.readdir(task, &mut pos, &mut after),
            None => {
                let ops = self.place.inode().dir().ok_or(ENOTDIR)?;
                ops.readdir(&mut pos, &mut after)
            }
        };
        *off = pos.max(2);
        r
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, cur: u64, off: i64, whence: i32) -> Result<u64> {
        match whence {
            libc::SEEK_SET | libc::SEEK_CUR => {
                crate::file::seek_in(Some(u64::MAX >> 1), cur, off, whence)
            }
            libc::SEEK_END => crate::file::seek_in(Some(i64::MAX as u64), cur, off.min(0), whence),
            _ => Err(EINVAL),
        }
    }

    fn fsync(&self, task: &Task, data_only: bool) -> Result<()> {
        match &self.inner {
            Some(ops) => ops.fsync(task, data_only),
            None => self.place.mnt.sb.sync(),
        }
    }

    fn flush(&self, task: &Task) {
        if let Some(ops) = &self.inner {
            ops.flush(task);
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Opens a program for execve(2): a regular file on a mount that allows execution, with execute
/// permission; read permission is not needed.
pub fn open_exec(task: &Arc<Task>, path: &[u8]) -> Result<Arc<File>> {
    open_exec_at(task, libc::AT_FDCWD, path, 0)
}

/// execveat(2): `flags` are AT_EMPTY_PATH and AT_SYMLINK_NOFOLLOW (`ELOOP` for a link).
pub fn open_exec_at(task: &Arc<Task>, dirfd: i32, path: &[u8], flags: i32) -> Result<Arc<File>> {
    if flags & !(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(EINVAL);
    }
    let mut walk = if flags & libc::AT_SYMLINK_NOFOLLOW != 0 { 0 } else { FOLLOW };
    if flags & libc::AT_EMPTY_PATH != 0 {
        walk |= EMPTY;
    }
    let place = Walker::new(task, &DirFd::from_raw(dirfd), path, walk)?.to_end()?;
    let inode = place.inode().clone();
    match inode.file_type() {
        libc::S_IFREG => {}
        libc::S_IFLNK => return Err(ELOOP),
        _ => return Err(EACCES),
    }
    let cred = task.cred();
    path_permission(&place, &cred, MAY_EXEC)?;
    if usage(&inode).writers != 0 {
        return Err(ETXTBSY);
    }
    check_open(&cred, &place, libc::O_RDONLY as u32, true)?;
    let ops = inode.open(libc::O_RDONLY as u32)?;
    watch::table().file(&place.dentry, watch::IN_OPEN);
    Ok(File::new(ops, place, libc::O_RDONLY as u32, cred))
}

/// Who writes and who executes a file (open(2), execve(2): ETXTBSY).
#[derive(Clone, Copy, Default)]
struct Usage {
    writers: usize,
    executions: usize,
}

type UsageTable = HashMap<usize, Usage>;

fn usage_table() -> &'static StdMutex<UsageTable> {
    static T: OnceLock<StdMutex<UsageTable>> = OnceLock::new();
    T.get_or_init(Default::default)
}

fn usage(inode: &Arc<dyn Inode>) -> Usage {
    let t = usage_table().lock().unwrap_or_else(PoisonError::into_inner);
    t.get(&inode_key(inode)).copied().unwrap_or_default()
}

fn change_usage(inode: &Arc<dyn Inode>, f: impl FnOnce(&mut Usage)) {
    let mut t = usage_table().lock().unwrap_or_else(PoisonError::into_inner);
    let key = inode_key(inode);
    let u = t.entry(key).or_default();
    f(u);
    if u.writers == 0 && u.executions == 0 {
        t.remove(&key);
    }
}

/// A regular file was opened for writing, or such a file was closed. Called by [`File`] alone; the file keeps the
/// inode, and with it the identity.
pub(crate) fn count_writer(inode: &Arc<dyn Inode>, open: bool) {
    change_usage(inode, |u| {
        u.writers = if open { u.writers + 1 } else { u.writers.saturating_sub(1) };
    });
}

/// Files open for writing (leases: fcntl(2) F_SETLEASE).
pub fn writers(inode: &Arc<dyn Inode>) -> usize {
    usage(inode).writers
}

/// Keeps a file from being written while it is executed.
pub struct ExecGuard {
    inode: Arc<dyn Inode>,
}

impl ExecGuard {
    /// Marks `inode` as executed as long as the guard lives.
    pub fn new(inode: &Arc<dyn Inode>) -> ExecGuard {
        change_usage(inode, |u| u.executions += 1);
        ExecGuard { inode: inode.clone() }
    }
}

impl Drop for ExecGuard {
    fn drop(&mut self) {
        change_usage(&self.inode, |u| u.executions = u.executions.saturating_sub(1));
    }
}

/// `ETXTBSY` when a process executes the file.
pub fn check_not_executed(inode: &Arc<dyn Inode>) -> Result<()> {
    if usage(inode).executions != 0 { Err(ETXTBSY) } else { Ok(()) }
}
