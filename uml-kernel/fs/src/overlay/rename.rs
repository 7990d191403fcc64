//! Rename, and removal of directories.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::vfs::modify::{RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT};
use uml_core::vfs::{DirOps, Inode};

use crate::overlay::inode::{OvlInode, set_mark};
use crate::overlay::is_whiteout;

/// Removes `name` and, when it is a directory, the whiteouts in it.
fn discard(dir: &dyn DirOps, name: &[u8]) -> Result<()> {
    let inode = dir.lookup(name)?;
    let Some(ops) = inode.dir() else { return dir.unlink(name, &inode) };
    for n in crate::overlay::copy_up::names(&inode)? {
        let i = ops.lookup(&n)?;
        if !is_whiteout(&i) {
            return Err(ENOTEMPTY);
        }
        ops.unlink(&n, &i)?;
    }
    dir.rmdir(name, &inode)
}

impl OvlInode {
    /// Removes the empty directory `victim`, which is `name` of the upper directory `up` if it has an upper
    /// part; with `hide` a whiteout takes its place. The change lock is held.
    pub(crate) fn remove_dir(
        &self,
        up: &Arc<dyn Inode>,
        name: &[u8],
        victim: &OvlInode,
        hide: bool,
    ) -> Result<()> {
        if victim.upper.get().is_none() {
            return if hide { self.whiteout(up, name) } else { Ok(()) };
        }
        // Out of sight first: whiteouts in it would otherwise show what they hide.
        let work = self.shared.work.clone().ok_or(EROFS)?;
        let temp = self.shared.temp_name();
        let ops = up.dir().ok_or(ENOTDIR)?;
        let wops = work.dir().ok_or(ENOTDIR)?;
        ops.rename(name, &work, &temp, 0)?;
        if hide && let Err(e) = self.whiteout(up, name) {
            let _ = wops.rename(&temp, up, name, 0);
            return Err(e);
        }
        discard(wops, &temp)
    }

    /// A directory of which nothing lies on a lower layer.
    fn is_pure(&self) -> bool {
        !self.is_dir() || (self.upper.get().is_some() && self.lower.is_empty())
    }

    /// A file with the number it had below came into the directory.
    pub(crate) fn mark_impure(&self) {
        if !self.impure.swap(true, Ordering::Relaxed)
            && let Some(u) = self.upper.get()
        {
            // Without it only d_ino of the directory's listing is less exact after a remount.
            let _ = set_mark(&self.shared, u, "impure", b"y");
        }
    }

    pub(crate) fn rename_to(
        &self,
        old: &[u8],
        to: &OvlInode,
        new: &[u8],
        flags: u32,
    ) -> Result<()> {
        if flags & RENAME_WHITEOUT != 0 {
            // For overlays on overlays; those keep their upper layer elsewhere.
            return Err(EINVAL);
        }
        let exchange = flags & RENAME_EXCHANGE != 0;
        let source = self.find(old)?;
        let target = match to.find(new) {
            Ok(t) => Some(t),
            Err(ENOENT) => None,
            Err(e) => return Err(e),
        };
        if target.is_some() && flags & RENAME_NOREPLACE != 0 {
            return Err(EEXIST);
        }
        if !source.is_pure() || (exchange && target.as_ref().is_some_and(|t| !t.is_pure())) {
            return Err(EXDEV);
        }
        if let Some(t) = &target
            && !exchange
        {
            match (source.is_dir(), t.is_dir()) {
                (true, false) => return Err(ENOTDIR),
                (false, true) => return Err(EISDIR),
                (true, true) if !t.entries()?.is_empty() => return Err(ENOTEMPTY),
                _ => {}
            }
        }
        source.copy_up()?;
        if let Some(t) = target.as_ref().filter(|_| exchange) {
            t.copy_up()?;
        }
        let (from_up, to_up) = (self.upper_dir()?, to.upper_dir()?);
        let same = std::ptr::eq(self, to);
        // Two directories: by address.
        let (first, second) = if std::ptr::from_ref(self) <= std::ptr::from_ref(to) {
            (self, to)
        } else {
            (to, self)
        };
        let _g1 = first.change.lock();
        let _g2 = if same { None } else { Some(second.change.lock_nested()) };
        let from_ops = from_up.dir().ok_or(ENOTDIR)?;
        let to_ops = to_up.dir().ok_or(ENOTDIR)?;
        if exchange {
            let target = target.ok_or(ENOENT)?;
            for (i, hides) in [(&source, to.below_has(new)?), (&target, self.below_has(old)?)] {
                if i.is_dir() && hides {
                    set_mark(&self.shared, i.upper.get().ok_or(EIO)?, "opaque", b"y")?;
                }
            }
            from_ops.rename(old, &to_up, new, RENAME_EXCHANGE)?;
            move_place(&target, self.arc()?, old);
            move_place(&source, to.arc()?, new);
            self.mark_impure();
            to.mark_impure();
            return Ok(());
        }
        let hide_old = self.below_has(old)?;
        if source.is_dir() {
            // What lies below the new name must not show through.
            if to.below_has(new)? {
                set_mark(&self.shared, source.upper.get().ok_or(EIO)?, "opaque", b"y")?;
            }
            if let Some(t) = &target {
                to.remove_dir(&to_up, new, t, false)?;
            } else if to_ops.lookup(new).is_ok() {
                // A whiteout: a directory cannot replace it.
                discard(to_ops, new)?;
            }
        }
        from_ops.rename(old, &to_up, new, 0)?;
        if hide_old {
            self.whiteout(&from_up, old)?;
        }
        move_place(&source, to.arc()?, new);
        to.mark_impure();
        if let Some(t) = target {
            t.gone();
        }
        Ok(())
    }
}

fn move_place(inode: &OvlInode, parent: Arc<OvlInode>, name: &[u8]) {
    let old = {
        let mut p = inode.place.lock();
        p.name = name.to_vec();
        p.parent.replace(parent)
    };
    drop(old);
}
