//! Inodes, directories and open files.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::file::{DirEmit, FileOps, Io};
use uml_core::io::{BufSink, BufSource, Sink, Source};
use uml_core::task::{Cap, Task};
use uml_core::vfs::modify::{RENAME_EXCHANGE, RENAME_WHITEOUT};
use uml_core::vfs::perm::strip_set_ids;
use uml_core::vfs::{
    Dev, DirOps, Inode, Metadata, NewNode, NodeKind, Perm, SetAttr, SuperBlock, SymlinkOps,
    XattrOps, dirent_kind, now, relatime_due,
};
use uml_mm::Mappable;

use crate::tmpfs::data::{FileData, SEAL_EXEC, SEAL_FUTURE_WRITE, SEAL_WRITE};
use crate::tmpfs::{Shared, Xattrs, new_inode};

/// Most bytes of extended attributes one inode keeps.
const XATTR_SPACE: usize = 256 << 10;
/// What each entry adds to a directory's size, as tmpfs reckons.
const DIRENT_SIZE: u64 = 20;

/// Names of one directory. Positions are handed out upwards and never reused, so a reader that
/// comes back finds its place.
#[derive(Default)]
pub(crate) struct Directory {
    names: HashMap<Box<[u8]>, u64>,
    order: BTreeMap<u64, (Box<[u8]>, Arc<TmpInode>)>,
    next: u64,
    /// Removed: nothing may be created.
    dead: bool,
}

impl Directory {
    fn get(&self, name: &[u8]) -> Option<&Arc<TmpInode>> {
        self.names.get(name).and_then(|p| self.order.get(p)).map(|(_, i)| i)
    }

    fn insert(&mut self, name: &[u8], inode: Arc<TmpInode>) -> Option<Arc<TmpInode>> {
        let old = self.remove(name);
        let pos = self.next.max(3);
        self.next = pos + 1;
        self.names.insert(name.into(), pos);
        self.order.insert(pos, (name.into(), inode));
        old
    }

    fn remove(&mut self, name: &[u8]) -> Option<Arc<TmpInode>> {
        let pos = self.names.remove(name)?;
        self.order.remove(&pos).map(|(_, i)| i)
    }
}

pub(crate) enum Body {
    File(Arc<FileData>),
    Directory(Mutex<Directory>),
    Symlink(Vec<u8>),
    Special(Dev),
}

impl Body {
    pub(crate) fn directory() -> Body {
        Body::Directory(Mutex::new(Rank::INODE, Directory::default()))
    }
}

/// A file, directory, link or node in memory.
pub struct TmpInode {
    shared: Arc<Shared>,
    me: Weak<TmpInode>,
    file_type: u32,
    attr: Mutex<Metadata>,
    pub(crate) body: Body,
    xattrs: Mutex<Xattrs>,
    /// It has a file handle.
    handle: AtomicBool,
}

impl TmpInode {
    pub(crate) fn new(shared: &Arc<Shared>, ino: u64, node: &NewNode, body: Body) -> Arc<TmpInode> {
        let t = now();
        let file_type = node.kind.file_type();
        let attr = Metadata {
            ino,
            mode: file_type | node.mode & 0o7777,
            nlink: if file_type == libc::S_IFDIR { 2 } else { 1 },
            uid: node.uid,
            gid: node.gid,
            rdev: if let Body::Special(d) = &body { *d } else { Dev::default() },
            size: if let Body::Symlink(t) = &body { t.len() as u64 } else { 0 },
            blksize: 4096,
            atime: t,
            mtime: t,
            ctime: t,
            btime: Some(t),
            ..Metadata::default()
        };
        Arc::new_cyclic(|me| TmpInode {
            shared: shared.clone(),
            me: me.clone(),
            file_type,
            attr: Mutex::new(Rank::LEAF, attr),
            body,
            xattrs: Mutex::new(Rank::LEAF, Xattrs::new()),
            handle: AtomicBool::new(false),
        })
    }

    /// Makes it known by its number, for as long as it lives; the number.
    pub(crate) fn remember_handle(&self) -> u64 {
        let ino = self.attr.lock().ino;
        if !self.handle.swap(true, Ordering::Relaxed) {
            self.shared.handles.lock().insert(ino, self.me.clone());
        }
        ino
    }

    /// The directories in this one.
    pub(crate) fn directories(&self) -> Vec<Arc<TmpInode>> {
        let Ok(d) = self.directory() else { return Vec::new() };
        let d = d.lock();
        let all = d.order.values().map(|(_, i)| i);
        all.filter(|i| i.file_type == libc::S_IFDIR).cloned().collect()
    }

    fn directory(&self) -> Result<&Mutex<Directory>> {
        match &self.body {
            Body::Directory(d) => Ok(d),
            _ => Err(ENOTDIR),
        }
    }

    pub(crate) fn data(&self) -> Option<&Arc<FileData>> {
        match &self.body {
            Body::File(d) => Some(d),
            _ => None,
        }
    }

    pub(crate) fn set_links(&self, n: u32) {
        self.attr.lock().nlink = n;
    }

    fn change_links(&self, delta: i32) {
        let mut a = self.attr.lock();
        a.nlink = a.nlink.saturating_add_signed(delta);
        a.ctime = now();
    }

    /// The directory's contents changed.
    fn dir_changed(&self, entries: i64) {
        let mut a = self.attr.lock();
        let t = now();
        a.mtime = t;
        a.ctime = t;
        a.size = a.size.saturating_add_signed(entries * DIRENT_SIZE as i64);
    }

    /// Contents were written.
    fn modified(&self, io: &Io<'_>) {
        let t = now();
        let set_ids = {
            let mut a = self.attr.lock();
            a.mtime = t;
            a.ctime = t;
            a.mode & (libc::S_ISUID | libc::S_ISGID) != 0
        };
        // The credentials' lock comes before that of the attributes.
        if set_ids && !io.task.cred().capable(Cap::Fsetid) {
            let mut a = self.attr.lock();
            if let Some(m) = strip_set_ids(a.mode) {
                a.mode = m;
            }
        }
    }

    fn is_dir(&self) -> bool {
        matches!(self.body, Body::Directory(_))
    }

    fn is_empty_dir(&self) -> bool {
        match &self.body {
            Body::Directory(d) => d.lock_nested().names.is_empty(),
            _ => true,
        }
    }

    /// Empties the tree below, without recursion.
    pub(crate) fn clear(&self) {
        let mut todo = Vec::new();
        let take = |d: &Mutex<Directory>, todo: &mut Vec<Arc<TmpInode>>| {
            let mut d = d.lock();
            d.names.clear();
            todo.extend(std::mem::take(&mut d.order).into_values().map(|(_, i)| i));
        };
        if let Body::Directory(d) = &self.body {
            take(d, &mut todo);
        }
        while let Some(i) = todo.pop() {
            if let Body::Directory(d) = &i.body {
                take(d, &mut todo);
            }
        }
    }

    fn own(inode: &Arc<dyn Inode>) -> Result<&TmpInode> {
        inode.as_any().downcast_ref::<TmpInode>().ok_or(EXDEV)
    }

    fn arc(&self) -> Result<Arc<TmpInode>> {
        self.me.upgrade().ok_or(EIO)
    }

    /// Forgets one name of the inode.
    fn unlinked(&self) {
        self.change_links(if self.is_dir() { -2 } else { -1 });
        if let Body::Directory(d) = &self.body {
            d.lock_nested().dead = true;
        }
    }

    /// Seals of a file; `EINVAL` for others.
    pub fn seals(&self) -> Result<u32> {
        self.data().map(|d| d.seals()).ok_or(EINVAL)
    }

    /// fcntl(2) F_ADD_SEALS.
    pub fn add_seals(&self, seals: u32) -> Result<()> {
        self.data().ok_or(EINVAL)?.add_seals(seals)
    }

    /// memfd_create(2) MFD_ALLOW_SEALING.
    pub fn allow_sealing(&self) {
        if let Some(d) = self.data() {
            d.allow_sealing();
        }
    }
}

impl Drop for TmpInode {
    fn drop(&mut self) {
        if self.handle.load(Ordering::Relaxed) {
            let ino = self.attr.lock().ino;
            self.shared.handles.lock().remove(&ino);
        }
        self.clear();
        self.shared.inode_gone();
    }
}

impl Inode for TmpInode {
    fn metadata(&self) -> Result<Metadata> {
        let mut m = self.attr.lock().clone();
        if let Body::File(d) = &self.body {
            m.size = d.size();
            m.blocks = d.blocks();
        }
        Ok(m)
    }

    fn perm(&self) -> Result<Perm> {
        Ok(self.attr.lock().perm())
    }

    fn touch_atime(&self, relatime: bool) {
        let t = now();
        let mut a = self.attr.lock();
        if !relatime || relatime_due(a.atime, a.mtime, a.ctime, t) {
            a.atime = t;
        }
    }

    fn set_attr(&self, attr: &SetAttr) -> Result<()> {
        if let Some(size) = attr.size {
            self.data().ok_or(EINVAL)?.set_size(size)?;
        }
        if let Some(mode) = attr.mode
            && let Some(d) = self.data()
            && d.seals() & SEAL_EXEC != 0
            && (mode ^ self.attr.lock().mode) & 0o111 != 0
        {
            // memfd_create(2) MFD_NOEXEC_SEAL: execute permission stays as it is.
            return Err(EPERM);
        }
        self.attr.lock().apply(&SetAttr { size: None, ..attr.clone() });
        Ok(())
    }

    fn superblock(&self) -> Arc<dyn SuperBlock> {
        self.shared.superblock()
    }

    fn file_type(&self) -> u32 {
        self.file_type
    }

    fn dir(&self) -> Option<&dyn DirOps> {
        self.is_dir().then_some(self as &dyn DirOps)
    }

    fn symlink(&self) -> Option<&dyn SymlinkOps> {
        matches!(self.body, Body::Symlink(_)).then_some(self as &dyn SymlinkOps)
    }

    fn xattr(&self) -> Option<&dyn XattrOps> {
        Some(self)
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> Result<usize> {
        let mut off = off;
        self.data().ok_or(EINVAL)?.read(&mut off, &mut BufSink::new(buf))
    }

    fn write_at(&self, off: u64, data: &[u8]) -> Result<()> {
        let mut at = off;
        let file = self.data().ok_or(EINVAL)?;
        let mut src = BufSource::new(data);
        while src.remaining() != 0 {
            if file.write(&mut at, &mut src, false)? == 0 {
                return Err(ENOSPC);
            }
        }
        Ok(())
    }

    fn open(&self, _: u32) -> Result<Box<dyn FileOps>> {
        match &self.body {
            Body::File(_) => Ok(Box::new(TmpFile { inode: self.arc()? })),
            Body::Directory(_) => Err(EISDIR),
            _ => Err(ENXIO),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl DirOps for TmpInode {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let d = self.directory()?.lock();
        Ok(d.get(name).ok_or(ENOENT)?.clone())
    }

    fn create(&self, name: &[u8], node: &NewNode) -> Result<Arc<dyn Inode>> {
        let inode = new_inode(&self.shared, node)?;
        {
            let mut d = self.directory()?.lock();
            if d.dead {
                return Err(ENOENT);
            }
            if d.get(name).is_some() {
                return Err(EEXIST);
            }
            d.insert(name, inode.clone());
        }
        self.dir_changed(1);
        if inode.is_dir() {
            self.change_links(1);
        }
        Ok(inode)
    }

    fn tmpfile(&self, node: &NewNode) -> Result<Arc<dyn Inode>> {
        let inode = new_inode(&self.shared, node)?;
        inode.set_links(0);
        Ok(inode)
    }

    fn link(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<()> {
        let inode = TmpInode::own(inode)?;
        if !Arc::ptr_eq(&inode.shared, &self.shared) {
            return Err(EXDEV);
        }
        let arc = inode.arc()?;
        {
            let mut d = self.directory()?.lock();
            if d.dead {
                return Err(ENOENT);
            }
            if d.get(name).is_some() {
                return Err(EEXIST);
            }
            d.insert(name, arc);
        }
        inode.change_links(1);
        self.dir_changed(1);
        Ok(())
    }

    fn unlink(&self, name: &[u8], _: &Arc<dyn Inode>) -> Result<()> {
        let gone = {
            let mut d = self.directory()?.lock();
            if d.get(name).ok_or(ENOENT)?.is_dir() {
                return Err(EISDIR);
            }
            d.remove(name)
        };
        if let Some(i) = gone {
            i.unlinked();
        }
        self.dir_changed(-1);
        Ok(())
    }

    fn rmdir(&self, name: &[u8], _: &Arc<dyn Inode>) -> Result<()> {
        let gone = {
            let mut d = self.directory()?.lock();
            let victim = d.get(name).ok_or(ENOENT)?;
            if !victim.is_dir() {
                return Err(ENOTDIR);
            }
            // Parent before child.
            if !victim.is_empty_dir() {
                return Err(ENOTEMPTY);
            }
            d.remove(name)
        };
        if let Some(i) = gone {
            i.unlinked();
        }
        self.change_links(-1);
        self.dir_changed(-1);
        Ok(())
    }

    fn rename(&self, old: &[u8], new_dir: &Arc<dyn Inode>, new: &[u8], flags: u32) -> Result<()> {
        let to = TmpInode::own(new_dir)?;
        if !Arc::ptr_eq(&to.shared, &self.shared) {
            return Err(EXDEV);
        }
        let same = std::ptr::eq(self, to);
        let whiteout = if flags & RENAME_WHITEOUT != 0 {
            let kind = NodeKind::CharDevice(Dev::default());
            Some(new_inode(&self.shared, &NewNode { kind, mode: 0, uid: 0, gid: 0 })?)
        } else {
            None
        };
        let (source, replaced);
        {
            // Two directories: by address.
            let (first, second) = if std::ptr::from_ref(self) <= std::ptr::from_ref(to) {
                (self, to)
            } else {
                (to, self)
            };
            let mut g1 = first.directory()?.lock();
            let mut g2 = if same { None } else { Some(second.directory()?.lock_nested()) };
            let first_is_self = std::ptr::eq(first, self);
            source = {
                let from = if first_is_self { &g1 } else { g2.as_ref().unwrap_or(&g1) };
                from.get(old).ok_or(ENOENT)?.clone()
            };
            let target = {
                let into = if first_is_self { g2.as_ref().unwrap_or(&g1) } else { &g1 };
                if into.dead {
                    return Err(ENOENT);
                }
                into.get(new).cloned()
            };
            if flags & RENAME_EXCHANGE != 0 {
                let target = target.ok_or(ENOENT)?;
                let from = if first_is_self { &mut g1 } else { g2.as_mut().unwrap_or(&mut g1) };
                from.insert(old, target.clone());
                let into = if first_is_self { g2.as_mut().unwrap_or(&mut g1) } else { &mut g1 };
                into.insert(new, source.clone());
                replaced = Some(target);
            } else {
                if let Some(t) = &target {
                    match (source.is_dir(), t.is_dir()) {
                        (true, false) => return Err(ENOTDIR),
                        (false, true) => return Err(EISDIR),
                        _ => {}
                    }
                    if !t.is_empty_dir() {
                        return Err(ENOTEMPTY);
                    }
                }
                {
                    let from = if first_is_self { &mut g1 } else { g2.as_mut().unwrap_or(&mut g1) };
                    from.remove(old);
                    if let Some(w) = whiteout {
                        from.insert(old, w);
                    }
                }
                let into = if first_is_self { g2.as_mut().unwrap_or(&mut g1) } else { &mut g1 };
                replaced = into.insert(new, source.clone());
            }
        }
        let exchange = flags & RENAME_EXCHANGE != 0;
        let kept = flags & RENAME_WHITEOUT != 0;
        self.dir_changed(if exchange || kept { 0 } else { -1 });
        to.dir_changed(if exchange || replaced.is_some() { 0 } else { 1 });
        source.attr.lock().ctime = now();
        if let Some(r) = &replaced {
            if exchange {
                r.attr.lock().ctime = now();
                if !same {
                    let delta = i32::from(r.is_dir()) - i32::from(source.is_dir());
                    self.change_links(delta);
                    to.change_links(-delta);
                }
                return Ok(());
            }
            r.unlinked();
            if r.is_dir() {
                to.change_links(-1);
            }
        }
        if source.is_dir() && !same {
            self.change_links(-1);
            to.change_links(1);
        }
        Ok(())
    }

    fn readdir(&self, off: &mut u64, out: &mut dyn DirEmit) -> Result<()> {
        loop {
            // The receiver may touch guest memory: entries are copied out a few at a time.
            let batch: Vec<_> = {
                let d = self.directory()?.lock();
                let from = (*off).max(3);
                d.order
                    .range(from..)
                    .take(32)
                    .map(|(p, (n, i))| (*p, n.clone(), i.attr.lock().ino, i.file_type))
                    .collect()
            };
            if batch.is_empty() {
                return Ok(());
            }
            for (pos, name, ino, kind) in batch {
                if !out.emit(&name, ino, dirent_kind(kind), pos + 1) {
                    return Ok(());
                }
                *off = pos + 1;
            }
        }
    }
}

impl SymlinkOps for TmpInode {
    fn readlink(&self, _: &Task) -> Result<Vec<u8>> {
        self.text()
    }

    fn text(&self) -> Result<Vec<u8>> {
        match &self.body {
            Body::Symlink(t) => Ok(t.clone()),
            _ => Err(EINVAL),
        }
    }
}

impl XattrOps for TmpInode {
    fn get(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.xattrs.lock().get(name).cloned().ok_or(ENODATA)
    }

    fn set(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        if !name.starts_with(b"user.")
            && !name.starts_with(b"trusted.")
            && !name.starts_with(b"security.")
        {
            return Err(EOPNOTSUPP);
        }
        let mut x = self.xattrs.lock();
        let exists = x.contains_key(name);
        if exists && flags & libc::XATTR_CREATE as u32 != 0 {
            return Err(EEXIST);
        }
        if !exists && flags & libc::XATTR_REPLACE as u32 != 0 {
            return Err(ENODATA);
        }
        let used: usize =
            x.iter().filter(|(k, _)| k[..] != *name).map(|(k, v)| k.len() + v.len()).sum();
        if used + name.len() + value.len() > XATTR_SPACE {
            return Err(ENOSPC);
        }
        x.insert(name.to_vec(), value.to_vec());
        drop(x);
        self.attr.lock().ctime = now();
        Ok(())
    }

    fn remove(&self, name: &[u8]) -> Result<()> {
        self.xattrs.lock().remove(name).ok_or(ENODATA)?;
        self.attr.lock().ctime = now();
        Ok(())
    }

    fn list(&self) -> Result<Vec<Vec<u8>>> {
        Ok(self.xattrs.lock().keys().cloned().collect())
    }
}

/// An open regular file.
pub struct TmpFile {
    inode: Arc<TmpInode>,
}

impl TmpFile {
    /// The file itself.
    pub fn inode(&self) -> &Arc<TmpInode> {
        &self.inode
    }

    fn data(&self) -> Result<&Arc<FileData>> {
        self.inode.data().ok_or(EINVAL)
    }
}

impl FileOps for TmpFile {
    fn read(&self, _: &Io<'_>, off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        self.data()?.read(off, dst)
    }

    fn write(&self, io: &Io<'_>, off: &mut u64, src: &mut dyn Source) -> Result<usize> {
        let n = self.data()?.write(off, src, io.append)?;
        if n != 0 {
            self.inode.modified(io);
        }
        Ok(n)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, cur: u64, off: i64, whence: i32) -> Result<u64> {
        match whence {
            libc::SEEK_DATA | libc::SEEK_HOLE => {
                let off = u64::try_from(off).map_err(|_| ENXIO)?;
                self.data()?.seek_data(off, whence)
            }
            _ => uml_core::file::seek_in(Some(self.size()), cur, off, whence),
        }
    }

    fn size(&self) -> u64 {
        self.inode.data().map_or(0, |d| d.size())
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>> {
        Ok(self.data()?.clone())
    }

    fn may_map_writable(&self) -> bool {
        self.inode.data().is_none_or(|d| d.seals() & (SEAL_WRITE | SEAL_FUTURE_WRITE) == 0)
    }

    fn fsync(&self, _: &Task, _: bool) -> Result<()> {
        Ok(())
    }

    fn fallocate(&self, _: &Task, mode: u32, off: u64, len: u64) -> Result<()> {
        self.data()?.fallocate(mode, off, len)?;
        let t = now();
        let mut a = self.inode.attr.lock();
        a.mtime = t;
        a.ctime = t;
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
