//! Copying a file to the upper layer before its first change.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::pr_err;
use uml_core::file::DirEmit;
use uml_core::vfs::{Inode, NewNode, NodeKind, SetAttr, inode_key};

use crate::overlay::inode::{Key, OvlInode, set_mark};
use crate::overlay::{Shared, is_private};

/// Bytes copied at a time.
const STEP: usize = 256 << 10;

/// Names in a layer's directory.
pub(crate) fn names(dir: &Arc<dyn Inode>) -> Result<Vec<Vec<u8>>> {
    struct Names(Vec<Vec<u8>>);
    impl DirEmit for Names {
        fn emit(&mut self, name: &[u8], _: u64, _: u8, _: u64) -> bool {
            self.0.push(name.to_vec());
            true
        }
    }
    let mut n = Names(Vec::new());
    dir.dir().ok_or(ENOTDIR)?.readdir(&mut 0, &mut n)?;
    Ok(n.0)
}

/// Removes what an earlier mount left in the work directory.
pub(crate) fn clean_work(shared: &Shared) {
    let Some(work) = &shared.work else { return };
    let Some(ops) = work.dir() else { return };
    for name in names(work).unwrap_or_default() {
        let Ok(i) = ops.lookup(&name) else { continue };
        let r = match i.dir() {
            None => ops.unlink(&name, &i),
            Some(sub) => {
                for n in names(&i).unwrap_or_default() {
                    if let Ok(c) = sub.lookup(&n) {
                        let _ = sub.unlink(&n, &c);
                    }
                }
                ops.rmdir(&name, &i)
            }
        };
        if let Err(e) = r {
            pr_err!(
                "overlayfs: cleanup of work directory failed at {}: {e}",
                String::from_utf8_lossy(&name)
            );
        }
    }
}

/// Copies the data; holes stay holes.
fn copy_data(from: &Arc<dyn Inode>, to: &Arc<dyn Inode>, size: u64) -> Result<()> {
    let src = from.open(libc::O_RDONLY as u32)?;
    let mut buf = vec![0; STEP.min(usize::try_from(size).unwrap_or(STEP).max(1))];
    let mut off = 0;
    while off < size {
        // A filesystem that knows no holes answers the position itself.
        let data = match src.seek(off, off as i64, libc::SEEK_DATA) {
            Ok(d) => d,
            Err(ENXIO) => break,
            Err(_) => off,
        };
        off = data.max(off);
        let n = from.read_at(off, &mut buf)?;
        if n == 0 {
            break;
        }
        to.write_at(off, &buf[..n])?;
        off += n as u64;
    }
    // A hole at the end.
    if to.metadata()?.size < size {
        to.set_attr(&SetAttr { size: Some(size), ..SetAttr::default() })?;
    }
    Ok(())
}

fn copy_xattrs(from: &Arc<dyn Inode>, to: &Arc<dyn Inode>) -> Result<()> {
    let (Some(src), Some(dst)) = (from.xattr(), to.xattr()) else { return Ok(()) };
    for name in src.list()? {
        if is_private(&name) {
            continue;
        }
        match dst.set(&name, &src.get(&name)?, 0) {
            Ok(()) | Err(EOPNOTSUPP) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

impl OvlInode {
    /// Makes sure that the file is on the upper layer, with all directories above it.
    pub(crate) fn copy_up(&self) -> Result<()> {
        self.copy_up_with(true)
    }

    /// As [`OvlInode::copy_up`] for a file that is about to be truncated to nothing.
    pub(crate) fn copy_up_empty(&self) -> Result<()> {
        self.copy_up_with(false)
    }

    fn copy_up_with(&self, data: bool) -> Result<()> {
        if self.upper.get().is_some() {
            return Ok(());
        }
        if self.shared.work.is_none() {
            return Err(EROFS);
        }
        // From the topmost directory that is missing downwards.
        let mut chain = Vec::new();
        let mut at = self.place.lock().parent.clone();
        while let Some(p) = at {
            if p.upper.get().is_some() {
                break;
            }
            at = p.place.lock().parent.clone();
            chain.push(p);
        }
        for dir in chain.into_iter().rev() {
            dir.copy_one(true)?;
        }
        self.copy_one(data)
    }

    /// Copies a file whose directory is on the upper layer.
    fn copy_one(&self, data: bool) -> Result<()> {
        let _copying = self.copying.lock();
        if self.upper.get().is_some() {
            return Ok(());
        }
        let lower = self.lower.first().ok_or(EIO)?.clone();
        let work = self.shared.work.clone().ok_or(EROFS)?;
        let wops = work.dir().ok_or(ENOTDIR)?;
        let temp = self.shared.temp_name();
        let made = self.make_copy(&lower, &work, &temp, data);
        let upper = match made {
            Ok(u) => u,
            Err(e) => {
                if let Ok(i) = wops.lookup(&temp) {
                    let _ = if i.dir().is_some() {
                        wops.rmdir(&temp, &i)
                    } else {
                        wops.unlink(&temp, &i)
                    };
                }
                return Err(e);
            }
        };
        let (parent, name, removed) = {
            let p = self.place.lock();
            (p.parent.clone(), p.name.clone(), p.removed)
        };
        if removed {
            // Open but unlinked: the copy has no name either.
            wops.unlink(&temp, &upper)?;
        } else {
            let parent = parent.ok_or(EIO)?;
            // After the copy lock, as everywhere.
            let _change = parent.change.lock_nested();
            let dir = parent.upper.get().ok_or(EIO)?;
            let times = dir.metadata()?;
            wops.rename(&temp, dir, &name, 0)?;
            // The directory did not change as far as anybody can see.
            dir.set_attr(&SetAttr {
                atime: Some(times.atime),
                mtime: Some(times.mtime),
                ..SetAttr::default()
            })?;
            parent.mark_impure();
        }
        self.add_key(Key::Upper(inode_key(&upper)));
        let _ = self.upper.set(upper);
        Ok(())
    }

    /// The copy, in the work directory under `temp`.
    fn make_copy(
        &self,
        lower: &Arc<dyn Inode>,
        work: &Arc<dyn Inode>,
        temp: &[u8],
        data: bool,
    ) -> Result<Arc<dyn Inode>> {
        let m = lower.metadata()?;
        let kind = match m.kind() {
            libc::S_IFREG => NodeKind::Regular,
            libc::S_IFDIR => NodeKind::Directory,
            libc::S_IFLNK => NodeKind::Symlink(lower.symlink().ok_or(EIO)?.text()?),
            libc::S_IFCHR => NodeKind::CharDevice(m.rdev),
            libc::S_IFBLK => NodeKind::BlockDevice(m.rdev),
            libc::S_IFIFO => NodeKind::Fifo,
            _ => NodeKind::Socket,
        };
        let is_link = matches!(kind, NodeKind::Symlink(_));
        let node = NewNode { kind, mode: m.mode & 0o7777, uid: m.uid, gid: m.gid };
        let up = work.dir().ok_or(ENOTDIR)?.create(temp, &node)?;
        if m.kind() == libc::S_IFREG && data {
            copy_data(lower, &up, m.size)?;
        }
        copy_xattrs(lower, &up)?;
        if !self.is_dir() {
            // Without marks the number changes at the next mount.
            let _ = set_mark(&self.shared, &up, "uml.ino", &self.ino().to_le_bytes());
        }
        // Owner first: changing it clears set-id bits.
        let own = up.perm()?;
        if (own.uid, own.gid) != (m.uid, m.gid) {
            let ids = SetAttr { uid: Some(m.uid), gid: Some(m.gid), ..SetAttr::default() };
            up.set_attr(&ids)?;
        }
        up.set_attr(&SetAttr {
            mode: (!is_link).then_some(m.mode & 0o7777),
            atime: Some(m.atime),
            mtime: Some(m.mtime),
            ..SetAttr::default()
        })?;
        Ok(up)
    }
}
