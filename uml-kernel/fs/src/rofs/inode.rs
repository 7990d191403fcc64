//! Inodes and directories.

use std::any::Any;
use std::sync::{Arc, OnceLock, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::file::{DirEmit, FileOps};
use uml_core::shm::next_key;
use uml_core::task::Task;
use uml_core::vfs::{
    Dev, DirOps, Inode, Metadata, Perm, SetAttr, SuperBlock, SymlinkOps, Timespec, XattrOps,
    dirent_kind,
};
use uml_pagecache::{Backing, CachedFile, Identity, Readahead, Space};
use uml_rofs::{Attr, Timestamp};

use crate::rofs::file::RoFile;
use crate::rofs::{Format, Shared};

/// A file of the filesystem.
pub struct RoInode {
    shared: Arc<Shared>,
    me: Weak<RoInode>,
    node: u64,
    pub(crate) key: u64,
    attr: Attr,
    /// Contents of a regular file, once they were asked for.
    data: OnceLock<Arc<CachedFile>>,
}

/// One file of the engine, as the page cache reads it.
struct Contents {
    shared: Arc<Shared>,
    node: u64,
}

impl Backing for Contents {
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        let n = self.shared.tree.read(self.node, off, buf)?;
        buf[n..].fill(0);
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8], _: Space) -> Result<()> {
        Err(EROFS)
    }

    fn holes(&self, _: u64, _: u64) -> Result<Vec<(u64, u64)>> {
        Ok(Vec::new())
    }

    fn reserve(&self, _: u64, _: bool) -> Result<()> {
        Err(EROFS)
    }

    fn unreserve(&self, _: u64) {}

    fn commit(&self, _: bool) -> Result<()> {
        Ok(())
    }
}

fn time(t: Timestamp) -> Timespec {
    Timespec { sec: t.sec, nsec: t.nsec }
}

impl RoInode {
    pub(crate) fn new(shared: &Arc<Shared>, node: u64, attr: Attr) -> Arc<RoInode> {
        Arc::new_cyclic(|me| RoInode {
            shared: shared.clone(),
            me: me.clone(),
            node,
            key: next_key(),
            attr,
            data: OnceLock::new(),
        })
    }

    /// The file's data; `EINVAL` for other inodes.
    pub(crate) fn data(&self) -> Result<&Arc<CachedFile>> {
        if self.file_type() != libc::S_IFREG {
            return Err(EINVAL);
        }
        Ok(self.data.get_or_init(|| {
            let s = &self.shared;
            let identity = Identity { dev: s.dev.encode(), ino: self.attr.ino, key: self.key };
            let contents = Contents { shared: s.clone(), node: self.node };
            CachedFile::new(&s.volume, Box::new(contents), identity, self.attr.size)
        }))
    }

    pub(crate) fn size(&self) -> u64 {
        self.attr.size
    }
}

impl Drop for RoInode {
    fn drop(&mut self) {
        let mut map = self.shared.inodes.lock();
        if map.get(&self.node).is_some_and(|w| w.strong_count() == 0) {
            map.remove(&self.node);
        }
    }
}

impl Inode for RoInode {
    fn metadata(&self) -> Result<Metadata> {
        let a = &self.attr;
        Ok(Metadata {
            ino: a.ino,
            mode: a.mode,
            nlink: a.links,
            uid: a.uid,
            gid: a.gid,
            rdev: Dev::new(a.rdev.0, a.rdev.1),
            size: a.size,
            blocks: a.sectors,
            blksize: a.io_size,
            atime: time(a.atime),
            mtime: time(a.mtime),
            ctime: time(a.ctime),
            btime: a.btime.map(time),
            attributes: 0,
            attributes_mask: 0,
        })
    }

    fn perm(&self) -> Result<Perm> {
        Ok(Perm { mode: self.attr.mode, uid: self.attr.uid, gid: self.attr.gid })
    }

    fn set_attr(&self, _: &SetAttr) -> Result<()> {
        Err(EROFS)
    }

    fn superblock(&self) -> Arc<dyn SuperBlock> {
        self.shared.superblock()
    }

    fn file_type(&self) -> u32 {
        self.attr.mode & libc::S_IFMT
    }

    fn dir(&self) -> Option<&dyn DirOps> {
        (self.file_type() == libc::S_IFDIR).then_some(self as &dyn DirOps)
    }

    fn symlink(&self) -> Option<&dyn SymlinkOps> {
        (self.file_type() == libc::S_IFLNK).then_some(self as &dyn SymlinkOps)
    }

    fn xattr(&self) -> Option<&dyn XattrOps> {
        (self.shared.format == Format::Squashfs).then_some(self as &dyn XattrOps)
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> Result<usize> {
        self.data()?.read(off, buf, &Readahead::new())
    }

    fn open(&self, _: u32) -> Result<Box<dyn FileOps>> {
        match self.file_type() {
            libc::S_IFREG => Ok(Box::new(RoFile::new(self.me.upgrade().ok_or(ESTALE)?))),
            libc::S_IFDIR => Err(EISDIR),
            _ => Err(ENXIO),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl DirOps for RoInode {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let node = self.shared.tree.lookup(self.node, name)?;
        Ok(self.shared.get(node)?)
    }

    fn readdir(&self, off: &mut u64, out: &mut dyn DirEmit) -> Result<()> {
        // The engine's positions are behind those of the dots, which are the VFS's.
        const SHIFT: u64 = 3;
        let mut at = *off;
        self.shared.tree.readdir(self.node, at.saturating_sub(SHIFT), &mut |e| {
            let next = e.next + SHIFT;
            let more = out.emit(e.name, e.ino, dirent_kind(e.kind), next);
            if more {
                at = next;
            }
            more
        })?;
        *off = at;
        Ok(())
    }
}

impl SymlinkOps for RoInode {
    fn readlink(&self, _: &Task) -> Result<Vec<u8>> {
        self.text()
    }

    fn text(&self) -> Result<Vec<u8>> {
        self.shared.tree.readlink(self.node)
    }
}

impl XattrOps for RoInode {
    fn get(&self, name: &[u8]) -> Result<Vec<u8>> {
        // ACLs and the like no image has.
        if name.starts_with(b"system.") {
            return Err(EOPNOTSUPP);
        }
        self.shared.tree.getxattr(self.node, name)
    }

    fn set(&self, _: &[u8], _: &[u8], _: u32) -> Result<()> {
        Err(EROFS)
    }

    fn remove(&self, _: &[u8]) -> Result<()> {
        Err(EROFS)
    }

    fn list(&self) -> Result<Vec<Vec<u8>>> {
        self.shared.tree.listxattr(self.node)
    }
}
