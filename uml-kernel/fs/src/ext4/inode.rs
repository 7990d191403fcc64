//! Inodes and directories.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank, RwLock, pr_err};
use uml_core::file::{DirEmit, FileOps};
use uml_core::shm::next_key;
use uml_core::task::{Cred, Task};
use uml_core::vfs::acl::{self, Acl};
use uml_core::vfs::modify::{RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT};
use uml_core::vfs::{
    Dev, DirOps, Inode, Metadata, NewNode, NodeKind, Perm, SetAttr, SuperBlock, SymlinkOps,
    Timespec, XattrOps, now, now_coarse, perm, relatime_due,
};
use uml_ext4::{
    Attr, DIR_END, FileType, NewInode, ROOT_INO, RenameMode, SetAttr as EngineAttr, Timestamp,
    Unlinked, XattrMode,
};
use uml_pagecache::{CachedFile, PAGE, Readahead};

use crate::ext4::Shared;
use crate::ext4::dir::Ext4Dir;
use crate::ext4::file::Ext4File;

/// A file of the filesystem.
pub struct Ext4Inode {
    pub(crate) shared: Arc<Shared>,
    me: Weak<Ext4Inode>,
    pub(crate) ino: u32,
    pub(crate) key: u64,
    pub(crate) file_type: u32,
    attr: Mutex<Attributes>,
    /// Counts changes, so that attributes read before one are not kept.
    changes: AtomicU64,
    /// Contents of a regular file, once they were asked for.
    pub(crate) data: OnceLock<Arc<CachedFile>>,
    /// Orders writers and changes of the size; shared by direct writes that change nothing but contents.
    pub(crate) write_lock: RwLock<()>,
    max_size: OnceLock<u64>,
    /// Was cut to nothing and not opened since.
    truncated: AtomicBool,
    /// As last read; `None` after a change.
    acls: Mutex<Option<Arc<Acls>>>,
}

/// Access control lists of an inode.
#[derive(Default)]
struct Acls {
    access: Option<Acl>,
    default: Option<Acl>,
}

/// Attributes in memory.
#[derive(Default)]
struct Attributes {
    /// As the engine has them; `None` after a change.
    read: Option<Attr>,
    /// Times the engine has not been told of: they go there with the next commit.
    times: Times,
}

/// Times set by reading and writing.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Times {
    atime: Option<Timestamp>,
    mtime: Option<Timestamp>,
    ctime: Option<Timestamp>,
}

impl Times {
    fn is_empty(&self) -> bool {
        *self == Times::default()
    }

    /// Takes away what is the same in `told`.
    fn settle(&mut self, told: &Times) {
        let rest = |mine: &mut Option<Timestamp>, t: Option<Timestamp>| {
            if *mine == t {
                *mine = None;
            }
        };
        rest(&mut self.atime, told.atime);
        rest(&mut self.mtime, told.mtime);
        rest(&mut self.ctime, told.ctime);
    }

    fn show(&self, a: &mut Attr) {
        a.atime = self.atime.unwrap_or(a.atime);
        a.mtime = self.mtime.unwrap_or(a.mtime);
        a.ctime = self.ctime.unwrap_or(a.ctime);
    }
}

/// The times that inodes of a filesystem are given: of the last tick, as on Linux, unless somebody has looked at any
/// inode's times since a finer one was given. What is given then is later than everything that was seen, and so is all
/// that is given afterwards, to whichever inode.
#[derive(Default)]
pub(crate) struct Stamps {
    looked: AtomicBool,
}

impl Stamps {
    /// Somebody looks at times.
    fn look(&self) {
        if !self.looked.load(Ordering::SeqCst) {
            self.looked.store(true, Ordering::SeqCst);
        }
    }

    /// The time of a change that happens now.
    pub(crate) fn time(&self) -> Timestamp {
        let looked =
            self.looked.load(Ordering::SeqCst) && self.looked.swap(false, Ordering::SeqCst);
        from_time(if looked { now() } else { now_coarse() })
    }
}

pub(crate) fn to_time(t: Timestamp) -> Timespec {
    Timespec { sec: t.sec, nsec: t.nsec }
}

fn from_time(t: Timespec) -> Timestamp {
    Timestamp { sec: t.sec, nsec: t.nsec }
}

impl Ext4Inode {
    pub(crate) fn new(shared: &Arc<Shared>, attr: &Attr) -> Arc<Ext4Inode> {
        Ext4Inode::make(shared, attr.ino, u32::from(attr.mode) & libc::S_IFMT, Some(*attr))
    }

    fn make(shared: &Arc<Shared>, ino: u32, file_type: u32, attr: Option<Attr>) -> Arc<Ext4Inode> {
        Arc::new_cyclic(|me| Ext4Inode {
            shared: shared.clone(),
            me: me.clone(),
            ino,
            key: next_key(),
            file_type,
            attr: Mutex::new(Rank::LEAF, Attributes { read: attr, times: Times::default() }),
            changes: AtomicU64::new(0),
            data: OnceLock::new(),
            write_lock: RwLock::new(Rank::INODE, ()),
            max_size: OnceLock::new(),
            truncated: AtomicBool::new(false),
            acls: Mutex::new(Rank::LEAF, None),
        })
    }

    /// A root directory whose inode cannot be read.
    pub(crate) fn broken_root(shared: &Arc<Shared>) -> Arc<Ext4Inode> {
        Ext4Inode::make(shared, ROOT_INO, libc::S_IFDIR, None)
    }

    fn arc(&self) -> Result<Arc<Ext4Inode>> {
        self.me.upgrade().ok_or(ESTALE)
    }

    pub(crate) fn attr(&self) -> Result<Attr> {
        // Asked first: without cached data the engine knows the size, from now on.
        let data = match self.file_type {
            libc::S_IFREG => self.data.get().cloned().or_else(|| self.shared.known_file(self.ino)),
            _ => None,
        };
        let mut a = self.attr_on_disk()?;
        if let Some(d) = data {
            a.size = d.size();
            // As Linux counts delayed blocks.
            a.sectors += d.delayed_pages() * (PAGE / 512);
        }
        Ok(a)
    }

    /// Attributes without what the page cache knows better: the size and the space. Takes none of its locks.
    pub(crate) fn attr_on_disk(&self) -> Result<Attr> {
        let seen = self.changes.load(Ordering::SeqCst);
        let known = {
            let a = self.attr.lock();
            a.read.map(|r| (r, a.times))
        };
        let (mut a, times) = match known {
            Some(k) => k,
            None => {
                let a = self.shared.engine.attr(self.ino)?;
                let mut kept = self.attr.lock();
                if self.changes.load(Ordering::SeqCst) == seen {
                    kept.read = Some(a);
                }
                (a, kept.times)
            }
        };
        times.show(&mut a);
        Ok(a)
    }

    pub(crate) fn size(&self) -> Result<u64> {
        match self.data.get() {
            Some(d) => Ok(d.size()),
            None => Ok(self.attr()?.size),
        }
    }

    /// Largest size the file can have.
    pub(crate) fn max_size(&self) -> Result<u64> {
        if let Some(n) = self.max_size.get() {
            return Ok(*n);
        }
        let n = self.shared.engine.max_size(self.ino)?;
        Ok(*self.max_size.get_or_init(|| n))
    }

    /// The attributes are to be read again.
    pub(crate) fn outdated(&self) {
        let mut kept = self.attr.lock();
        self.changes.fetch_add(1, Ordering::SeqCst);
        kept.read = None;
    }

    /// The inode changed: its attributes are read again, and the change is committed in time.
    pub(crate) fn changed(&self) {
        self.outdated();
        self.shared.volume().touch();
    }

    /// Contents were changed now; the engine hears of the times with the next commit. Often they are the ones it has
    /// (see [`Stamps`]), so that an fsync(2) has no inode to commit.
    pub(crate) fn stamp(&self) {
        let t = self.shared.stamps.time();
        if self.attr_on_disk().is_ok_and(|a| a.mtime == t && a.ctime == t) {
            return;
        }
        self.set_times(|x| (x.mtime, x.ctime) = (Some(t), Some(t)));
    }

    fn set_times(&self, f: impl FnOnce(&mut Times)) {
        let first = {
            let mut a = self.attr.lock();
            let first = a.times.is_empty();
            f(&mut a.times);
            first
        };
        if first {
            self.shared.timed.lock().push(self.me.clone());
            self.shared.volume().touch();
        }
    }

    /// Tells the engine of times that are only in memory.
    pub(crate) fn flush_times(&self) -> Result<()> {
        let told = self.attr.lock().times;
        if told.is_empty() {
            return Ok(());
        }
        let set = EngineAttr {
            atime: told.atime,
            mtime: told.mtime,
            ctime: told.ctime,
            ..EngineAttr::default()
        };
        let r = self.shared.engine.setattr(self.ino, &set);
        let mut a = self.attr.lock();
        self.changes.fetch_add(1, Ordering::SeqCst);
        a.read = None;
        a.times.settle(&told);
        r
    }

    /// Permission bits change because of a write.
    pub(crate) fn set_mode(&self, mode: u32) -> Result<()> {
        let set = EngineAttr {
            mode: Some(mode as u16 & 0o7777),
            ctime: Some(self.shared.stamps.time()),
            ..EngineAttr::default()
        };
        let r = self.shared.engine.setattr(self.ino, &set);
        self.changed();
        r
    }

    /// Whether the file was cut to nothing since the last call.
    pub(crate) fn take_truncated(&self) -> bool {
        self.truncated.swap(false, Ordering::AcqRel)
    }

    fn own(inode: &Arc<dyn Inode>) -> Result<&Ext4Inode> {
        inode.as_any().downcast_ref::<Ext4Inode>().ok_or(EXDEV)
    }

    /// A name of `gone` was removed: an inode that nobody holds and that has no name left is deleted.
    fn removed(&self, gone: Unlinked) {
        self.changed();
        let held = self.shared.inodes.lock().get(&gone.ino).and_then(Weak::upgrade);
        match held {
            Some(i) => i.changed(),
            None if gone.links == 0 => {
                self.shared.discard_file(gone.ino);
                self.shared.forget(gone.ino);
            }
            None => {}
        }
    }
}

impl Shared {
    /// Frees an inode without names and users.
    fn forget(&self, ino: u32) {
        match self.engine.forget(ino) {
            // Read-only: the orphan list keeps it for the next mount.
            Ok(()) | Err(EROFS) => {}
            Err(e) => pr_err!("EXT4-fs: inode {ino} could not be freed: {e}"),
        }
    }
}

impl Drop for Ext4Inode {
    fn drop(&mut self) {
        {
            let mut map = self.shared.inodes.lock();
            if map.get(&self.ino).is_some_and(|w| w.strong_count() == 0) {
                map.remove(&self.ino);
            }
        }
        let links = self.shared.engine.attr(self.ino).map(|a| a.links);
        if links == Ok(0) {
            self.shared.discard_file(self.ino);
            self.shared.forget(self.ino);
        } else if let Err(e) = self.flush_times()
            && !matches!(e, EROFS | ESTALE)
        {
            pr_err!("EXT4-fs: times of inode {} could not be written: {e}", self.ino);
        }
        // Somebody may have looked it up meanwhile and read the old times.
        if let Some(i) = self.shared.live(self.ino) {
            i.outdated();
        }
    }
}

impl Inode for Ext4Inode {
    fn metadata(&self) -> Result<Metadata> {
        // Before and after: a stamp in between differs from the last one, and so does the next.
        self.shared.stamps.look();
        let a = self.attr()?;
        self.shared.stamps.look();
        let no_btime = a.btime == Timestamp { sec: 0, nsec: 0 };
        Ok(Metadata {
            ino: a.ino.into(),
            mode: a.mode.into(),
            nlink: a.links,
            uid: a.uid,
            gid: a.gid,
            rdev: Dev::new(a.rdev.0, a.rdev.1),
            size: a.size,
            blocks: a.sectors,
            blksize: 4096,
            atime: to_time(a.atime),
            mtime: to_time(a.mtime),
            ctime: to_time(a.ctime),
            btime: (!no_btime).then(|| to_time(a.btime)),
            // The bits of FS_IOC_GETFLAGS and STATX_ATTR_* are the same numbers.
            attributes: u64::from(a.flags) & 0x74,
            attributes_mask: 0x74,
        })
    }

    fn perm(&self) -> Result<Perm> {
        let a = self.attr()?;
        Ok(Perm { mode: a.mode.into(), uid: a.uid, gid: a.gid })
    }

    fn touch_atime(&self, relatime: bool) {
        let Ok(a) = self.attr() else { return };
        let t = now_coarse();
        let due = relatime_due(to_time(a.atime), to_time(a.mtime), to_time(a.ctime), t);
        if relatime && !due {
            return;
        }
        if !self.shared.engine.is_read_only() {
            self.set_times(|x| x.atime = Some(from_time(t)));
        }
    }

    fn set_attr(&self, attr: &SetAttr) -> Result<()> {
        let _running = self.shared.gate.change();
        let _one = attr.size.is_some().then(|| self.write_lock.write());
        if let Some(size) = attr.size {
            let old = self.size()?;
            self.truncate_data(size)?;
            if size == 0 && old != 0 {
                self.truncated.store(true, Ordering::Release);
            }
        }
        // Times that were only in memory go along, unless they are set anew.
        let told = self.attr.lock().times;
        let set = EngineAttr {
            mode: attr.mode.map(|m| m as u16 & 0o7777),
            uid: attr.uid,
            gid: attr.gid,
            atime: attr.atime.map(from_time).or(told.atime),
            mtime: attr.mtime.map(from_time).or(told.mtime),
            ctime: attr.ctime.map(from_time).or(told.ctime),
            ..EngineAttr::default()
        };
        if let Some(m) = attr.mode
            && let Some(list) = &self.acls()?.access
        {
            let mut list = list.clone();
            list.chmod(m);
            let value = list.to_value();
            self.shared.engine.setxattr(self.ino, acl::ACCESS, &value, XattrMode::Any)?;
            self.forget_acls();
        }
        let r = self.shared.engine.setattr(self.ino, &set);
        if r.is_ok() {
            let mut a = self.attr.lock();
            self.changes.fetch_add(1, Ordering::SeqCst);
            a.read = None;
            a.times.settle(&told);
        }
        self.changed();
        r
    }

    fn superblock(&self) -> Arc<dyn SuperBlock> {
        self.shared.superblock()
    }

    fn permission(&self, cred: &Cred, mask: u32) -> Option<Result<()>> {
        let p = match self.perm() {
            Ok(p) => p,
            Err(e) => return Some(Err(e)),
        };
        // Without bits for the group there is nothing a list could allow to others than the owner.
        if p.uid == cred.fsuid || p.mode & 0o070 == 0 {
            return None;
        }
        match self.acls() {
            Ok(a) => a.access.as_ref().map(|list| {
                if list.allows(cred, p.uid, p.gid, mask) {
                    Ok(())
                } else {
                    perm::check_capabilities(cred, &p, mask)
                }
            }),
            Err(e) => Some(Err(e)),
        }
    }

    fn restrictions(&self) -> u64 {
        self.attr_on_disk()
            .map_or(0, |a| u64::from(a.flags) & (perm::IMMUTABLE | perm::APPEND_ONLY))
    }

    fn umask_applies(&self) -> bool {
        self.acls().map_or(true, |a| a.default.is_none())
    }

    fn gives_group(&self) -> bool {
        self.shared.bsd_groups.load(Ordering::Relaxed)
    }

    fn file_type(&self) -> u32 {
        self.file_type
    }

    fn dir(&self) -> Option<&dyn DirOps> {
        (self.file_type == libc::S_IFDIR).then_some(self as &dyn DirOps)
    }

    fn symlink(&self) -> Option<&dyn SymlinkOps> {
        (self.file_type == libc::S_IFLNK).then_some(self as &dyn SymlinkOps)
    }

    fn xattr(&self) -> Option<&dyn XattrOps> {
        Some(self)
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> Result<usize> {
        self.data()?.read(off, buf, &Readahead::new())
    }

    fn write_at(&self, off: u64, data: &[u8]) -> Result<()> {
        let _running = self.shared.gate.change();
        let _one = self.write_lock.write();
        if self.shared.engine.is_read_only() {
            return Err(EROFS);
        }
        let mut done = 0;
        while done < data.len() {
            match self.data()?.write(off + done as u64, &data[done..], true)? {
                0 => return Err(ENOSPC),
                n => done += n,
            }
        }
        self.stamp();
        Ok(())
    }

    fn open(&self, _: u32) -> Result<Box<dyn FileOps>> {
        match self.file_type {
            libc::S_IFREG => Ok(Box::new(Ext4File::new(self.arc()?)?)),
            libc::S_IFDIR => Ok(Box::new(Ext4Dir::new(self.arc()?))),
            _ => Err(ENXIO),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn dirent_type(t: FileType) -> u8 {
    match t {
        FileType::Regular => libc::DT_REG,
        FileType::Directory => libc::DT_DIR,
        FileType::Char => libc::DT_CHR,
        FileType::Block => libc::DT_BLK,
        FileType::Fifo => libc::DT_FIFO,
        FileType::Socket => libc::DT_SOCK,
        FileType::Symlink => libc::DT_LNK,
        FileType::Unknown => libc::DT_UNKNOWN,
    }
}

impl DirOps for Ext4Inode {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let ino = self.shared.engine.lookup(self.ino, name)?;
        Ok(self.shared.get(ino)?)
    }

    fn create(&self, name: &[u8], node: &NewNode) -> Result<Arc<dyn Inode>> {
        let _running = self.shared.gate.change();
        let e = &self.shared.engine;
        let mut new = self.inherited(node)?;
        let ino = match &node.kind {
            NodeKind::Directory => e.mkdir(self.ino, name, &new)?,
            NodeKind::Symlink(t) => e.symlink(self.ino, name, t, &new)?,
            NodeKind::CharDevice(d) | NodeKind::BlockDevice(d) => {
                new.rdev = (d.major, d.minor);
                e.create(self.ino, name, &new)?
            }
            _ => e.create(self.ino, name, &new)?,
        };
        self.changed();
        Ok(self.shared.get(ino)?)
    }

    fn tmpfile(&self, node: &NewNode) -> Result<Arc<dyn Inode>> {
        let _running = self.shared.gate.change();
        let new = self.inherited(node)?;
        let ino = self.shared.engine.create_unnamed(self.ino, &new)?;
        self.shared.volume().touch();
        Ok(self.shared.get(ino)?)
    }

    fn link(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<()> {
        let _running = self.shared.gate.change();
        let old = Ext4Inode::own(inode)?;
        if !Arc::ptr_eq(&old.shared, &self.shared) {
            return Err(EXDEV);
        }
        self.shared.engine.link(old.ino, self.ino, name)?;
        old.changed();
        self.changed();
        Ok(())
    }

    fn unlink(&self, name: &[u8], _: &Arc<dyn Inode>) -> Result<()> {
        let _running = self.shared.gate.change();
        let gone = self.shared.engine.unlink(self.ino, name)?;
        self.removed(gone);
        Ok(())
    }

    fn rmdir(&self, name: &[u8], _: &Arc<dyn Inode>) -> Result<()> {
        let _running = self.shared.gate.change();
        let gone = self.shared.engine.rmdir(self.ino, name)?;
        self.removed(gone);
        Ok(())
    }

    fn rename(&self, old: &[u8], new_dir: &Arc<dyn Inode>, new: &[u8], flags: u32) -> Result<()> {
        let _running = self.shared.gate.change();
        let to = Ext4Inode::own(new_dir)?;
        if !Arc::ptr_eq(&to.shared, &self.shared) {
            return Err(EXDEV);
        }
        let mode = match flags & (RENAME_EXCHANGE | RENAME_NOREPLACE) {
            0 => RenameMode::Replace,
            RENAME_NOREPLACE => RenameMode::NoReplace,
            RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return Err(EINVAL),
        };
        if flags & RENAME_WHITEOUT != 0 {
            return Err(EINVAL);
        }
        let e = &self.shared.engine;
        let source = e.lookup(self.ino, old)?;
        let target = e.lookup(to.ino, new).ok();
        if mode == RenameMode::Replace && target.is_some() {
            // Programs replace files this way without fsync(2): the new contents go first, so that a
            // crash leaves either file whole (ext4(5) auto_da_alloc).
            self.shared.write_back_file(source)?;
        }
        let gone = e.rename(self.ino, old, to.ino, new, mode)?;
        self.changed();
        to.changed();
        for ino in [Some(source), target].into_iter().flatten() {
            let held = self.shared.inodes.lock().get(&ino).and_then(Weak::upgrade);
            if let Some(i) = held {
                i.changed();
            }
        }
        if let Some(g) = gone {
            self.removed(g);
        }
        Ok(())
    }

    fn readdir(&self, off: &mut u64, out: &mut dyn DirEmit) -> Result<()> {
        // The engine's positions 0 to 2 are those before the first real entry.
        const SHIFT: u64 = 3;
        let cookie = match *off {
            o if o >= DIR_END => return Ok(()),
            o => o.saturating_sub(SHIFT),
        };
        let mut at = *off;
        self.shared.engine.readdir(self.ino, cookie, &mut |e| {
            let next = e.next.saturating_add(SHIFT).min(DIR_END);
            if e.name != b"." && e.name != b".." {
                let kind = dirent_type(e.file_type);
                if !out.emit(e.name, e.ino.into(), kind, next) {
                    return false;
                }
            }
            at = next;
            true
        })?;
        *off = at;
        Ok(())
    }
}

impl SymlinkOps for Ext4Inode {
    fn readlink(&self, _: &Task) -> Result<Vec<u8>> {
        self.text()
    }

    fn text(&self) -> Result<Vec<u8>> {
        self.shared.engine.readlink(self.ino)
    }
}

/// The only attributes in `system.` are ACLs.
fn offered(shared: &Shared, name: &[u8]) -> Result<()> {
    let acl = matches!(name, acl::ACCESS | acl::DEFAULT) && shared.acls.load(Ordering::Relaxed);
    if name.starts_with(b"system.") && !acl { Err(EOPNOTSUPP) } else { Ok(()) }
}

impl Ext4Inode {
    /// An ACL as stored; `None` without one.
    fn stored_acl(&self, name: &[u8]) -> Result<Option<Acl>> {
        match self.shared.engine.getxattr(self.ino, name) {
            Ok(v) => Acl::parse(&v).map(Some).map_err(|_| EIO),
            Err(ENODATA | EOPNOTSUPP) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The inode's access and default ACL.
    fn acls(&self) -> Result<Arc<Acls>> {
        if !self.shared.acls.load(Ordering::Relaxed) {
            return Ok(Arc::default());
        }
        if let Some(a) = self.acls.lock().clone() {
            return Ok(a);
        }
        let seen = self.changes.load(Ordering::SeqCst);
        let dir = self.file_type == libc::S_IFDIR;
        let a = Arc::new(Acls {
            access: self.stored_acl(acl::ACCESS)?,
            default: if dir { self.stored_acl(acl::DEFAULT)? } else { None },
        });
        let mut kept = self.acls.lock();
        if self.changes.load(Ordering::SeqCst) == seen {
            *kept = Some(a.clone());
        }
        Ok(a)
    }

    fn forget_acls(&self) {
        self.changed();
        *self.acls.lock() = None;
    }

    fn store_acl(&self, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        if self.file_type == libc::S_IFLNK {
            return Err(EOPNOTSUPP);
        }
        let list = Acl::parse(value)?;
        if name == acl::DEFAULT {
            if self.file_type != libc::S_IFDIR {
                return Err(EACCES);
            }
            return self.shared.engine.setxattr(self.ino, name, value, mode);
        }
        // The permission bits follow; a list that says no more than they do is not stored.
        let bits = self.attr()?.mode & 0o7000 | list.mode() as u16;
        let set = EngineAttr { mode: Some(bits), ..EngineAttr::default() };
        self.shared.engine.setattr(self.ino, &set)?;
        if !list.is_minimal() {
            return self.shared.engine.setxattr(self.ino, name, value, mode);
        }
        match self.shared.engine.removexattr(self.ino, name) {
            Err(e) if e != ENODATA => Err(e),
            _ => Ok(()),
        }
    }

    /// Permission bits and attributes of a new inode in this directory (acl(5), "Object creation and default ACLs").
    fn inherited(&self, node: &NewNode) -> Result<NewInode> {
        let kind = node.kind.file_type();
        let mut mode = node.mode & 0o7777;
        let mut xattrs = Vec::new();
        if kind != libc::S_IFLNK
            && let Some(default) = &self.acls()?.default
        {
            let (bits, access) = default.inherit(mode);
            mode = mode & 0o7000 | bits;
            xattrs.extend(access.map(|a| (acl::ACCESS.to_vec(), a.to_value())));
            if kind == libc::S_IFDIR {
                xattrs.push((acl::DEFAULT.to_vec(), default.to_value()));
            }
        }
        let mut new = NewInode::new((kind | mode) as u16, node.uid, node.gid);
        new.xattrs = xattrs;
        Ok(new)
    }
}

impl XattrOps for Ext4Inode {
    fn get(&self, name: &[u8]) -> Result<Vec<u8>> {
        offered(&self.shared, name)?;
        self.shared.engine.getxattr(self.ino, name)
    }

    fn set(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        offered(&self.shared, name)?;
        let _running = self.shared.gate.change();
        let mode = match flags as i32 & (libc::XATTR_CREATE | libc::XATTR_REPLACE) {
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => XattrMode::Any,
        };
        if matches!(name, acl::ACCESS | acl::DEFAULT) {
            let r = self.store_acl(name, value, mode);
            self.forget_acls();
            return r;
        }
        let r = self.shared.engine.setxattr(self.ino, name, value, mode);
        self.changed();
        r
    }

    fn remove(&self, name: &[u8]) -> Result<()> {
        offered(&self.shared, name)?;
        let _running = self.shared.gate.change();
        let r = self.shared.engine.removexattr(self.ino, name);
        if matches!(name, acl::ACCESS | acl::DEFAULT) {
            self.forget_acls();
            // setfacl(1) removes lists without looking.
            return if r == Err(ENODATA) { Ok(()) } else { r };
        }
        self.changed();
        r
    }

    fn list(&self) -> Result<Vec<Vec<u8>>> {
        let all = self.shared.engine.listxattr(self.ino)?;
        Ok(all.into_iter().filter(|n| offered(&self.shared, n).is_ok()).collect())
    }
}
