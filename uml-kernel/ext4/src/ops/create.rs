//! Making inodes and names.

use uml_abi::Result;
use uml_abi::errno::{EEXIST, EINVAL, EMLINK, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM};

use crate::alloc::inode::new_inode;
use crate::dir::{self, insert};
use crate::features::{incompat, ro_compat};
use crate::fs::Ext4;
use crate::inode::{
    Inode, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, flags,
};
use crate::meta::MetaRead;
use crate::txn::Txn;
use crate::{extent, map, orphan, xattr};

/// Most names an inode can have.
pub(crate) const LINK_MAX: u16 = 65000;

/// What a new inode starts with. Set-group-ID inheritance and the umask are
/// the caller's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewInode {
    /// Type and permissions.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Major and minor number, for device nodes.
    pub rdev: (u32, u32),
    /// May use the blocks reserved for the superuser.
    pub use_reserved: bool,
    /// Attributes set in the same transaction (default ACLs, labels).
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl NewInode {
    /// An inode of this mode owned by `uid` and `gid`.
    pub fn new(mode: u16, uid: u32, gid: u32) -> NewInode {
        NewInode { mode, uid, gid, rdev: (0, 0), use_reserved: false, xattrs: Vec::new() }
    }
}

/// Reads a directory that names are to be added to.
pub(crate) fn target_dir(tx: &Txn<'_>, ino: u32) -> Result<Inode> {
    let d = Inode::live(tx, ino)?;
    if !d.is_dir() {
        return Err(ENOTDIR);
    }
    if d.links == 0 {
        return Err(ENOENT);
    }
    Ok(d)
}

/// Stamps a changed directory.
pub(crate) fn stamp(tx: &Txn<'_>, inode: &mut Inode) {
    inode.mtime = tx.now;
    inode.ctime = tx.now;
}

/// One more subdirectory.
pub(crate) fn add_subdir(tx: &Txn<'_>, parent: &mut Inode) -> Result<()> {
    let many = tx.lay().features.ro_compat(ro_compat::DIR_NLINK) && parent.has(flags::INDEX);
    if parent.links == 1 && many {
        return Ok(());
    }
    if parent.links >= LINK_MAX {
        if !many {
            return Err(EMLINK);
        }
        // "Unknown": more than the field can say.
        parent.links = 1;
    } else {
        parent.links += 1;
    }
    Ok(())
}

/// One subdirectory less.
pub(crate) fn drop_subdir(parent: &mut Inode) {
    if parent.links > 2 {
        parent.links -= 1;
    }
}

fn make(tx: &mut Txn<'_>, parent: &Inode, new: &NewInode) -> Result<Inode> {
    let lay = tx.lay().clone();
    let mut i = new_inode(tx, parent.ino, new.mode)?;
    i.uid = new.uid;
    i.gid = new.gid;
    i.flags = parent.flags & flags::INHERITED;
    if !i.is_dir() {
        i.flags &= !(flags::DIRSYNC | flags::TOPDIR | flags::PROJINHERIT);
        if !i.is_reg() {
            i.flags &= flags::NODUMP | flags::NOATIME;
        }
    }
    if parent.has(flags::PROJINHERIT) {
        i.projid = parent.projid;
    }
    match new.mode & S_IFMT {
        S_IFREG | S_IFDIR | S_IFLNK => {
            if lay.extents() {
                extent::init_root(&mut i);
            }
        }
        S_IFCHR | S_IFBLK => i.set_rdev(new.rdev.0, new.rdev.1),
        S_IFIFO | S_IFSOCK => {}
        _ => return Err(EINVAL),
    }
    if !new.xattrs.is_empty() {
        let old = xattr::Set::default();
        let mut set = xattr::Set::default();
        for (name, value) in &new.xattrs {
            set.body.push(super::xattrs::to_attribute(name, value)?);
        }
        xattr::save(tx, &mut i, &old, set)?;
    }
    Ok(i)
}

impl Ext4 {
    fn enter(
        &self,
        dir: u32,
        name: &[u8],
        new: &NewInode,
        mut fill: impl FnMut(&mut Txn<'_>, &mut Inode, &mut Inode) -> Result<()>,
    ) -> Result<u32> {
        dir::check_name(name)?;
        if matches!(name, b"." | b"..") {
            return Err(EEXIST);
        }
        self.transact(new.use_reserved, |tx| {
            let mut parent = target_dir(tx, dir)?;
            if dir::find(tx, &parent, name)?.is_some() {
                return Err(EEXIST);
            }
            let mut inode = make(tx, &parent, new)?;
            inode.links = 1;
            fill(tx, &mut parent, &mut inode)?;
            tx.put_inode(&inode)?;
            let t = dir::type_byte(tx.lay(), inode.mode);
            insert::add(tx, &mut parent, name, inode.ino, t)?;
            stamp(tx, &mut parent);
            tx.put_inode(&parent)?;
            Ok(inode.ino)
        })
    }

    /// Creates a regular file, device node, fifo or socket (open(2), mknod(2)).
    pub fn create(&self, dir: u32, name: &[u8], new: &NewInode) -> Result<u32> {
        match new.mode & S_IFMT {
            S_IFREG | S_IFCHR | S_IFBLK | S_IFIFO | S_IFSOCK => {}
            _ => return Err(EINVAL),
        }
        self.enter(dir, name, new, |_, _, _| Ok(()))
    }

    /// Creates a regular file without a name (`O_TMPFILE`). It vanishes when
    /// [`Ext4::forget`] is called, or at the next mount, unless linked.
    pub fn create_unnamed(&self, dir: u32, new: &NewInode) -> Result<u32> {
        if new.mode & S_IFMT != S_IFREG {
            return Err(EINVAL);
        }
        self.transact(new.use_reserved, |tx| {
            let parent = target_dir(tx, dir)?;
            let mut inode = make(tx, &parent, new)?;
            inode.links = 0;
            orphan::add(tx, &mut inode)?;
            Ok(inode.ino)
        })
    }

    /// Creates a directory. `EMLINK` when the parent has too many.
    pub fn mkdir(&self, dir: u32, name: &[u8], new: &NewInode) -> Result<u32> {
        let new = NewInode { mode: new.mode & !S_IFMT | S_IFDIR, ..new.clone() };
        self.enter(dir, name, &new, |tx, parent, inode| {
            let lay = tx.lay().clone();
            add_subdir(tx, parent)?;
            inode.links = 2;
            let (_, nr) = insert::append(tx, inode)?;
            let mut b = vec![0; lay.bs()];
            insert::init_dots(tx, &mut b, inode.ino, parent.ino);
            insert::write_block(tx, inode, nr, &b)
        })
    }

    /// Creates a symbolic link. `ENAMETOOLONG` for targets of 4096 bytes or a
    /// block and more.
    pub fn symlink(&self, dir: u32, name: &[u8], target: &[u8], new: &NewInode) -> Result<u32> {
        if target.is_empty() {
            return Err(ENOENT);
        }
        if target.len() > 4095 || target.len() >= self.core.lay.bs() {
            return Err(ENAMETOOLONG);
        }
        let new = NewInode { mode: S_IFLNK | 0o777, ..new.clone() };
        self.enter(dir, name, &new, |tx, _, inode| {
            inode.size = target.len() as u64;
            if target.len() < 60 {
                inode.flags &= !flags::EXTENTS;
                inode.block = [0; 60];
                inode.block[..target.len()].copy_from_slice(target);
                return Ok(());
            }
            let goal = tx.goal_for(inode);
            let nr = tx.alloc_meta(inode, goal)?;
            tx.create(nr)[..target.len()].copy_from_slice(target);
            map::insert(tx, inode, 0, nr, 1, false)
        })
    }

    /// Gives an inode one more name. `EPERM` for directories, `EMLINK` at the
    /// limit. An unnamed file becomes a named one.
    pub fn link(&self, ino: u32, dir: u32, name: &[u8]) -> Result<()> {
        dir::check_name(name)?;
        self.transact(false, |tx| {
            let mut inode = Inode::live(tx, ino)?;
            if inode.is_dir() {
                return Err(EPERM);
            }
            if inode.links >= LINK_MAX {
                return Err(EMLINK);
            }
            let mut parent = target_dir(tx, dir)?;
            if matches!(name, b"." | b"..") || dir::find(tx, &parent, name)?.is_some() {
                return Err(EEXIST);
            }
            if parent.has(flags::PROJINHERIT)
                && tx.lay().features.ro_compat(ro_compat::PROJECT)
                && parent.projid != inode.projid
            {
                return Err(uml_abi::errno::EXDEV);
            }
            if inode.links == 0 {
                orphan::remove(tx, &mut inode)?;
            }
            inode.links += 1;
            inode.ctime = tx.now;
            tx.put_inode(&inode)?;
            let t = dir::type_byte(tx.lay(), inode.mode);
            insert::add(tx, &mut parent, name, ino, t)?;
            stamp(tx, &mut parent);
            tx.put_inode(&parent)
        })
    }

    /// Whether new small files may be stored in their inodes.
    pub fn has_inline_data(&self) -> bool {
        self.core.lay.features.incompat(incompat::INLINE_DATA)
    }
}
