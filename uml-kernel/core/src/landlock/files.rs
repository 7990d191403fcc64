//! What a domain says about files: where they are opened, and where names come, go and move.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;

use super::{Domain, fs};
use crate::task::Cred;
use crate::vfs::{Dentry, Path, inode_key};

/// For each right, the layers (bit n for layer n) that still refuse it.
#[derive(Clone, Copy)]
struct Refused([u16; fs::COUNT]);

fn rights(mask: u32) -> impl Iterator<Item = usize> {
    (0..fs::COUNT).filter(move |r| mask & (1 << r) != 0)
}

impl Refused {
    /// None of `mask` is refused.
    fn none_of(&self, mask: u32) -> bool {
        rights(mask).all(|r| self.0[r] == 0)
    }

    /// The rights of `mask` that nobody refuses.
    fn granted(&self, mask: u32) -> u32 {
        rights(mask).filter(|r| self.0[*r] == 0).map(|r| 1 << r).sum()
    }
}

impl Domain {
    /// What is refused of `mask` before any rule was looked at.
    fn refused(&self, mask: u32) -> Refused {
        let mut out = Refused([0; fs::COUNT]);
        for (n, l) in self.layers.iter().enumerate() {
            for r in rights(l.refuses() & mask) {
                out.0[r] |= 1 << n;
            }
        }
        out
    }

    /// Takes away what rules about the file of `dentry` itself grant, as far as `mask` goes.
    fn apply(&self, dentry: &Dentry, mask: u32, refused: &mut Refused) {
        let key = inode_key(&dentry.inode);
        for (n, l) in self.layers.iter().enumerate() {
            if let Some(rule) = l.rules.files.get(&key) {
                for r in rights(rule.access & mask) {
                    refused.0[r] &= !(1 << n);
                }
            }
        }
    }

    /// The rights of `mask` that the file at `place` has: those that each layer grants for it or for a directory above it.
    fn granted(&self, place: &Path, mask: u32) -> u32 {
        let mut refused = self.refused(mask);
        if place.dentry.is_anonymous() {
            return mask;
        }
        let mut at = place.clone();
        loop {
            if refused.none_of(mask) {
                return mask;
            }
            self.apply(&at.dentry, mask, &mut refused);
            if !ascend(&mut at) {
                return refused.granted(mask);
            }
        }
    }
}

/// To the directory above, across mounts; what mounts hide is not looked at. False at the top.
fn ascend(at: &mut Path) -> bool {
    while at.is_mount_root() {
        if !at.leave_mount() {
            return false;
        }
    }
    at.dentry = match at.dentry.parent() {
        Some(d) => d,
        // It was moved out of what the mount shows: the mount is above it all the same.
        None => at.mnt.root.clone(),
    };
    true
}

/// The domain of `cred` if it is about files.
fn domain(cred: &Cred) -> Option<&Arc<Domain>> {
    cred.landlock.as_ref().filter(|d| d.restricts_files())
}

/// `EPERM` for those who must not change mounts: everybody with a domain that is about files.
pub fn may_mount(cred: &Cred) -> Result<()> {
    if domain(cred).is_some() { Err(EPERM) } else { Ok(()) }
}

/// `EACCES` unless `place` has the right, one of [`fs`]: [`fs::TRUNCATE`], and of a directory that gains or loses a name.
pub fn check(cred: &Cred, place: &Path, right: u32) -> Result<()> {
    match domain(cred) {
        Some(d) if d.granted(place, right) != right => Err(EACCES),
        _ => Ok(()),
    }
}

/// The right to make a file of type `kind` (S_IF*).
pub fn make(kind: u32) -> u32 {
    match kind {
        libc::S_IFDIR => fs::MAKE_DIR,
        libc::S_IFLNK => fs::MAKE_SYM,
        libc::S_IFCHR => fs::MAKE_CHAR,
        libc::S_IFBLK => fs::MAKE_BLOCK,
        libc::S_IFIFO => fs::MAKE_FIFO,
        libc::S_IFSOCK => fs::MAKE_SOCK,
        _ => fs::MAKE_REG,
    }
}

/// Whether the file at `place` may be opened with `flags` (open(2)), as a program if `exec`: `EACCES`. Gives the rights
/// of [`fs::TRUNCATE`] and [`fs::IOCTL_DEV`] that the open file will lack, whoever has it then.
pub fn check_open(cred: &Cred, place: &Path, flags: u32, exec: bool) -> Result<u32> {
    let Some(d) = domain(cred) else { return Ok(0) };
    let kind = place.inode().file_type();
    let mode = flags as i32 & libc::O_ACCMODE;
    let mut wanted = 0;
    if matches!(mode, libc::O_RDONLY | libc::O_RDWR) {
        wanted |= if kind == libc::S_IFDIR { fs::READ_DIR } else { fs::READ_FILE };
    }
    if matches!(mode, libc::O_WRONLY | libc::O_RDWR) {
        wanted |= fs::WRITE_FILE;
    }
    if exec {
        wanted |= fs::EXECUTE;
    }
    let device = matches!(kind, libc::S_IFCHR | libc::S_IFBLK);
    let later = fs::TRUNCATE | if device { fs::IOCTL_DEV } else { 0 };
    let granted = d.granted(place, wanted | later);
    if wanted & !granted != 0 { Err(EACCES) } else { Ok(later & !granted) }
}

/// As [`check_open`] for what lies on an internal mount, which no rule can name (mq_open(2)).
pub fn check_open_internal(cred: &Cred, flags: u32) -> Result<()> {
    let Some(d) = domain(cred) else { return Ok(()) };
    let wanted = match flags as i32 & libc::O_ACCMODE {
        libc::O_RDONLY => fs::READ_FILE,
        libc::O_WRONLY => fs::WRITE_FILE,
        _ => fs::READ_FILE | fs::WRITE_FILE,
    };
    if d.refused(wanted).none_of(wanted) { Ok(()) } else { Err(EACCES) }
}

/// A file that gets a name in another directory, or another name.
pub struct Move<'a> {
    /// The directory that has it, and where it is in that.
    pub old_dir: &'a Arc<Dentry>,
    pub old: &'a Arc<Dentry>,
    pub new_dir: &'a Path,
    /// What has the new name now.
    pub target: Option<&'a Arc<Dentry>>,
    /// It loses the old name (rename(2)), else it keeps it (link(2)).
    pub removes: bool,
    /// RENAME_EXCHANGE.
    pub exchange: bool,
}

/// Whether the domain of `cred` allows it. `EACCES` for a right that a directory lacks; `EXDEV` where only moving between
/// the two directories is refused, because nobody granted [`fs::REFER`] or because the file would gain rights.
pub fn check_move(cred: &Cred, m: &Move<'_>) -> Result<()> {
    let Some(d) = domain(cred) else { return Ok(()) };
    let made = |x: &Arc<Dentry>| make(x.inode.file_type());
    let removed = |x: &Arc<Dentry>| {
        if x.inode.dir().is_some() { fs::REMOVE_DIR } else { fs::REMOVE_FILE }
    };
    let other = m.target.filter(|_| m.exchange);
    // What happens to the old directory, and to the new one.
    let mut there = other.map_or(0, made);
    let mut here = made(m.old);
    if m.removes {
        there |= removed(m.old);
        here |= m.target.map_or(0, removed);
    }
    if Arc::ptr_eq(m.old_dir, &m.new_dir.dentry) {
        return check_all(d, m.new_dir, there | here);
    }
    there |= fs::REFER;
    here |= fs::REFER;

    let top = &m.new_dir.mnt.root;
    let old_parent = if Arc::ptr_eq(m.old, top) { m.old } else { m.old_dir };
    let mut old_side = below(d, old_parent, top);
    let mut new_side = below(d, &m.new_dir.dentry, top);
    let child = |x: &Arc<Dentry>| {
        let mut r = d.refused(fs::ALL);
        d.apply(x, fs::ALL, &mut r);
        let meaning = if x.inode.dir().is_some() { fs::ALL } else { fs::OF_FILES };
        (r, meaning)
    };
    let old_child = child(m.old);
    let new_child = other.map(child);

    // Up from the mount both are in; what is granted there is granted to both sides.
    let mut at = m.new_dir.mnt.root_path();
    let mut narrowed = false;
    loop {
        if !narrowed {
            narrowed = no_gain(&old_side, &old_child, &new_side)
                && new_child.as_ref().is_none_or(|c| no_gain(&new_side, c, &old_side));
        }
        let (of_old, of_new) = if narrowed { (there, here) } else { (fs::ALL, fs::ALL) };
        if old_side.none_of(of_old) && new_side.none_of(of_new) {
            return Ok(());
        }
        d.apply(&at.dentry, fs::ALL, &mut old_side);
        d.apply(&at.dentry, fs::ALL, &mut new_side);
        if old_side.none_of(of_old) && new_side.none_of(of_new) {
            return Ok(());
        }
        if !ascend(&mut at) {
            break;
        }
    }
    let lacks = |side: &Refused, mask: u32| !side.none_of(mask & !fs::REFER);
    if lacks(&old_side, there) || lacks(&new_side, here) { Err(EACCES) } else { Err(EXDEV) }
}

fn check_all(d: &Domain, place: &Path, mask: u32) -> Result<()> {
    if d.granted(place, mask) == mask { Ok(()) } else { Err(EACCES) }
}

/// What is refused in `dir` by the rules from there up to `top`.
fn below(d: &Domain, dir: &Arc<Dentry>, top: &Arc<Dentry>) -> Refused {
    let mut refused = d.refused(fs::ALL);
    let mut at = dir.clone();
    loop {
        if at.is_anonymous() {
            return Refused([0; fs::COUNT]);
        }
        d.apply(&at, fs::ALL, &mut refused);
        if Arc::ptr_eq(&at, top) {
            return refused;
        }
        match at.parent() {
            Some(p) => at = p,
            None => return refused,
        }
    }
}

/// A file with rules of its own (`child`: what those leave refused, and the rights that mean something for it) has no
/// right in `to` that it lacks in `from`.
fn no_gain(from: &Refused, child: &(Refused, u32), to: &Refused) -> bool {
    rights(child.1).all(|r| from.0[r] & child.0.0[r] & !to.0[r] == 0)
}
