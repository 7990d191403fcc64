//! File data: the engine's files under the page cache.

use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_pagecache::{Backing, CachedFile, Identity, PAGE, Space, VolumeOps};

use crate::ext4::Shared;
use crate::ext4::inode::Ext4Inode;

/// One file of the engine, as the page cache reads and writes it. It outlives the inode while there is
/// something to write back.
struct EngineFile {
    shared: Arc<Shared>,
    ino: u32,
}

impl EngineFile {
    /// Blocks that a page without any may take.
    fn blocks(&self, pages: u64) -> u64 {
        pages * (PAGE / u64::from(self.shared.block_size)).max(1)
    }
}

impl Backing for EngineFile {
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        let n = self.shared.engine.read(self.ino, off, buf)?;
        buf[n..].fill(0);
        Ok(())
    }

    fn read_at_once(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        let n = self.shared.engine.read_at_once(self.ino, off, buf)?;
        buf[n..].fill(0);
        Ok(())
    }

    fn write(&self, off: u64, data: &[u8], space: Space) -> Result<()> {
        let _running = self.shared.gate.write_back();
        let e = &self.shared.engine;
        match space {
            Space::Promised => e.write_back(self.ino, off, data)?,
            other => e.write(self.ino, off, data, other == Space::Reserved)?,
        }
        if let Some(i) = self.shared.live(self.ino) {
            i.outdated();
        }
        self.shared.volume().touch();
        Ok(())
    }

    fn holes(&self, first: u64, end: u64) -> Result<Vec<(u64, u64)>> {
        let bs = u64::from(self.shared.block_size);
        let (mut at, last) = (first * PAGE / bs, (end * PAGE).div_ceil(bs));
        let mut out: Vec<(u64, u64)> = Vec::new();
        while at < last {
            let m = self.shared.engine.map(self.ino, at, last - at)?;
            let next = m.logical + m.len;
            if m.physical.is_none() {
                let a = (at * bs / PAGE).max(first);
                let b = (next * bs).div_ceil(PAGE).min(end);
                match out.last_mut() {
                    Some(p) if p.1 >= a => p.1 = b,
                    _ => out.push((a, b)),
                }
            }
            at = next.max(at + 1);
        }
        Ok(out)
    }

    fn reserve(&self, pages: u64, privileged: bool) -> Result<()> {
        self.shared.engine.reserve(self.blocks(pages), privileged)
    }

    fn unreserve(&self, pages: u64) {
        self.shared.engine.unreserve(self.blocks(pages));
    }

    fn commit(&self, data_only: bool) -> Result<()> {
        let e = &self.shared.engine;
        if data_only {
            return e.fdatasync(self.ino);
        }
        if let Some(i) = self.shared.live(self.ino) {
            i.flush_times()?;
        }
        e.fsync(self.ino)
    }

    fn mapping_wrote(&self) {
        if let Some(i) = self.shared.live(self.ino) {
            i.stamp();
        }
    }
}

impl VolumeOps for Shared {
    fn commit(&self) {
        if self.gate.frozen() {
            return;
        }
        let times = self.flush_times();
        if let Err(e) = times.and(self.engine.commit())
            && !self.engine.is_read_only()
        {
            uml_base::pr_err!("EXT4-fs: periodic commit failed: {e}");
        }
        self.files.lock().retain(|_, f| f.strong_count() > 0);
    }
}

impl Shared {
    /// The cached data of a regular file, if any of it is in memory.
    pub(crate) fn known_file(&self, ino: u32) -> Option<Arc<CachedFile>> {
        self.files.lock().get(&ino).and_then(Weak::upgrade)
    }

    /// The data of `inode`, a regular file. Only its inode makes it, so it cannot come and go meanwhile.
    pub(crate) fn file(self: &Arc<Shared>, inode: &Ext4Inode) -> Result<Arc<CachedFile>> {
        if let Some(f) = self.known_file(inode.ino) {
            return Ok(f);
        }
        // Without cached data, the engine's size is the file's.
        let size = self.engine.attr(inode.ino)?.size;
        let identity = Identity { dev: self.dev.encode(), ino: inode.ino.into(), key: inode.key };
        let backing = EngineFile { shared: self.clone(), ino: inode.ino };
        let mut files = self.files.lock();
        if let Some(f) = files.get(&inode.ino).and_then(Weak::upgrade) {
            return Ok(f);
        }
        let f = CachedFile::new(self.volume(), Box::new(backing), identity, size);
        files.insert(inode.ino, Arc::downgrade(&f));
        Ok(f)
    }

    /// Drops what is cached of a file that is about to be deleted.
    pub(crate) fn discard_file(&self, ino: u32) {
        let f = self.files.lock().remove(&ino).and_then(|w| w.upgrade());
        if let Some(f) = f {
            f.discard();
        }
    }
}

impl Ext4Inode {
    /// The file's data; `EINVAL` for other inodes.
    pub(crate) fn data(&self) -> Result<&Arc<CachedFile>> {
        if let Some(d) = self.data.get() {
            return Ok(d);
        }
        if self.file_type != libc::S_IFREG {
            return Err(EINVAL);
        }
        let f = self.shared.file(self)?;
        Ok(self.data.get_or_init(|| f))
    }

    /// Sets the size of the file. The write lock is held.
    pub(crate) fn truncate_data(&self, size: u64) -> Result<()> {
        let e = &self.shared.engine;
        let r = self.data()?.set_size(size, || e.truncate(self.ino, size));
        self.outdated();
        r
    }
}
