//! rename(2) and renameat2(2).

use uml_abi::Result;
use uml_abi::errno::{EBUSY, EEXIST, EINVAL, EISDIR, ENOTDIR, ENOTEMPTY, EXDEV};

use super::create::{add_subdir, drop_subdir, stamp, target_dir};
use super::unlink::Unlinked;
use crate::dir::{self, Found, insert, remove};
use crate::features::ro_compat;
use crate::fs::Ext4;
use crate::inode::{Inode, ROOT_INO, flags};
use crate::meta::MetaRead;
use crate::orphan;
use crate::txn::Txn;

/// The flags of renameat2(2) that concern the filesystem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace what the new name refers to.
    #[default]
    Replace,
    /// `RENAME_NOREPLACE`: fail with `EEXIST` instead.
    NoReplace,
    /// `RENAME_EXCHANGE`: both names must exist and swap.
    Exchange,
}

/// Longest chain of parents followed; deeper is damage (a cycle).
const MAX_DEPTH: u32 = 1 << 20;

/// True when `dir` is `ancestor` or below it.
fn is_below(tx: &Txn<'_>, dir: u32, ancestor: u32) -> Result<bool> {
    let mut at = dir;
    for _ in 0..MAX_DEPTH {
        if at == ancestor {
            return Ok(true);
        }
        if at == ROOT_INO {
            return Ok(false);
        }
        at = dir::parent(tx, &Inode::live(tx, at)?)?;
    }
    Err(tx.corrupt("directories form a cycle", dir, 0))
}

/// Both directories of a rename; one object when they are the same.
struct Dirs {
    old: Inode,
    new: Option<Inode>,
}

impl Dirs {
    fn target(&mut self) -> &mut Inode {
        self.new.as_mut().unwrap_or(&mut self.old)
    }

    fn target_ref(&self) -> &Inode {
        self.new.as_ref().unwrap_or(&self.old)
    }
}

fn project_ok(tx: &Txn<'_>, dir: &Inode, inode: &Inode) -> bool {
    !(dir.has(flags::PROJINHERIT)
        && tx.lay().features.ro_compat(ro_compat::PROJECT)
        && dir.projid != inode.projid)
}

/// Points a moved directory's `..` at its new parent.
fn set_parent(tx: &mut Txn<'_>, inode: &mut Inode, parent: u32) -> Result<()> {
    let at = dir::lookup(tx, inode, b"..")?;
    let t = dir::type_byte(tx.lay(), crate::inode::S_IFDIR);
    remove::replace(tx, inode, at, parent, t)
}

impl Ext4 {
    /// Renames `old_name` in `old_dir` to `new_name` in `new_dir`. Returns the
    /// inode that lost its name, if one was replaced.
    ///
    /// `EINVAL` when a directory would move below itself, `ENOTEMPTY`,
    /// `EISDIR`, `ENOTDIR`, `EEXIST` as rename(2) says.
    pub fn rename(
        &self,
        old_dir: u32,
        old_name: &[u8],
        new_dir: u32,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<Option<Unlinked>> {
        dir::check_name(new_name)?;
        let dots = |n: &[u8]| matches!(n, b"." | b"..");
        if dots(old_name) || dots(new_name) {
            return Err(EBUSY);
        }
        self.transact(false, |tx| {
            let old = target_dir(tx, old_dir)?;
            let new = if new_dir == old_dir { None } else { Some(target_dir(tx, new_dir)?) };
            let mut dirs = Dirs { old, new };
            let from = dir::lookup(tx, &dirs.old, old_name)?;
            let target = dir::find(tx, dirs.target_ref(), new_name)?;
            let inode = Inode::live(tx, from.ino)?;
            if inode.is_dir() && is_below(tx, new_dir, inode.ino)? {
                return Err(EINVAL);
            }
            if !project_ok(tx, dirs.target_ref(), &inode) {
                return Err(EXDEV);
            }
            match (mode, target) {
                (RenameMode::NoReplace, Some(_)) => Err(EEXIST),
                (RenameMode::Exchange, None) => Err(uml_abi::errno::ENOENT),
                (_, Some(t)) if t.ino == from.ino => Ok(None),
                (RenameMode::Exchange, Some(t)) => {
                    exchange(tx, &mut dirs, from, t, inode).map(|()| None)
                }
                (_, t) => replace(tx, &mut dirs, (from, old_name), (t, new_name), inode),
            }
        })
    }
}

fn replace(
    tx: &mut Txn<'_>,
    dirs: &mut Dirs,
    (from, old_name): (Found, &[u8]),
    (target, new_name): (Option<Found>, &[u8]),
    mut inode: Inode,
) -> Result<Option<Unlinked>> {
    let moved_dir = inode.is_dir();
    let across = dirs.new.is_some();
    let mut gone = None;
    if let Some(t) = target {
        let mut victim = Inode::live(tx, t.ino)?;
        match (moved_dir, victim.is_dir()) {
            (true, false) => return Err(ENOTDIR),
            (false, true) => return Err(EISDIR),
            _ => {}
        }
        if victim.is_dir() {
            if is_below(tx, dirs.old.ino, victim.ino)? || !dir::is_empty(tx, &victim)? {
                return Err(ENOTEMPTY);
            }
            victim.links = 0;
            drop_subdir(dirs.target());
        } else {
            victim.links = victim.links.saturating_sub(1);
        }
        victim.ctime = tx.now;
        let kind = dir::type_byte(tx.lay(), inode.mode);
        remove::replace(tx, dirs.target(), t, inode.ino, kind)?;
        if victim.links == 0 {
            orphan::add(tx, &mut victim)?;
        } else {
            tx.put_inode(&victim)?;
        }
        gone = Some(Unlinked { ino: victim.ino, links: victim.links.into() });
    }
    // Found again: the entry may have moved if the directory was inline.
    let at = if target.is_some() { dir::lookup(tx, &dirs.old, old_name)? } else { from };
    remove::remove(tx, &mut dirs.old, at)?;
    if target.is_none() {
        let kind = dir::type_byte(tx.lay(), inode.mode);
        insert::add(tx, dirs.target(), new_name, inode.ino, kind)?;
    }
    if moved_dir && across {
        set_parent(tx, &mut inode, dirs.target().ino)?;
        drop_subdir(&mut dirs.old);
        add_subdir(tx, dirs.target())?;
    }
    inode.ctime = tx.now;
    tx.put_inode(&inode)?;
    finish(tx, dirs)?;
    Ok(gone)
}

fn finish(tx: &mut Txn<'_>, dirs: &mut Dirs) -> Result<()> {
    stamp(tx, &mut dirs.old);
    tx.put_inode(&dirs.old)?;
    if let Some(n) = &mut dirs.new {
        stamp(tx, n);
        tx.put_inode(n)?;
    }
    Ok(())
}

fn exchange(
    tx: &mut Txn<'_>,
    dirs: &mut Dirs,
    from: Found,
    target: Found,
    mut a: Inode,
) -> Result<()> {
    let mut b = Inode::live(tx, target.ino)?;
    if b.is_dir() && is_below(tx, dirs.old.ino, b.ino)? {
        return Err(EINVAL);
    }
    if !project_ok(tx, &dirs.old, &b) {
        return Err(EXDEV);
    }
    let (ta, tb) = (dir::type_byte(tx.lay(), a.mode), dir::type_byte(tx.lay(), b.mode));
    remove::replace(tx, &mut dirs.old, from, b.ino, tb)?;
    remove::replace(tx, dirs.target(), target, a.ino, ta)?;
    if dirs.new.is_some() {
        let (old_ino, new_ino) = (dirs.old.ino, dirs.target().ino);
        if a.is_dir() {
            set_parent(tx, &mut a, new_ino)?;
        }
        if b.is_dir() {
            set_parent(tx, &mut b, old_ino)?;
        }
        match (a.is_dir(), b.is_dir()) {
            (true, false) => {
                drop_subdir(&mut dirs.old);
                add_subdir(tx, dirs.target())?;
            }
            (false, true) => {
                drop_subdir(dirs.target());
                add_subdir(tx, &mut dirs.old)?;
            }
            _ => {}
        }
    }
    for i in [&mut a, &mut b] {
        i.ctime = tx.now;
        tx.put_inode(i)?;
    }
    finish(tx, dirs)
}
