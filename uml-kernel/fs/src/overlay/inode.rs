//! Inodes: which layers a file is on, lookup, attributes, names added and removed.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::file::{DirEmit, FileOps};
use uml_core::task::{Cred, Task};
use uml_core::vfs::modify::RENAME_EXCHANGE;
use uml_core::vfs::{
    Caching, Dev, DirOps, Inode, Metadata, NewNode, NodeKind, Perm, SetAttr, SuperBlock,
    SymlinkOps, XattrOps, inode_key,
};

use crate::overlay::file::{OvlDir, OvlFile};
use crate::overlay::{Shared, is_private, is_whiteout};

/// How an overlay inode is found again: by its upper file, or by its lower file and the name it has (hard
/// links on a lower layer are separate files, since one name of them is copied up at a time).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Upper(usize),
    Lower(usize, usize, Box<[u8]>),
}

pub(crate) struct Place {
    /// `None` for the root.
    pub parent: Option<Arc<OvlInode>>,
    pub name: Vec<u8>,
    /// Has no name any more.
    pub removed: bool,
}

/// A file of the overlay.
pub struct OvlInode {
    pub(crate) shared: Arc<Shared>,
    me: Weak<OvlInode>,
    file_type: u32,
    ino: u64,
    pub(crate) upper: OnceLock<Arc<dyn Inode>>,
    /// Directories to merge, or the one file below.
    pub(crate) lower: Vec<Arc<dyn Inode>>,
    pub(crate) place: Mutex<Place>,
    keys: Mutex<Vec<Key>>,
    /// Serialises copying up.
    pub(crate) copying: Mutex<()>,
    /// Serialises changes of the directory's names.
    pub(crate) change: Mutex<()>,
    /// Some files in the upper directory came from below: their inode numbers differ.
    pub(crate) impure: AtomicBool,
}

/// Makes something under a name in a directory of the upper layer.
type Make<'a> = dyn Fn(&dyn DirOps, &[u8]) -> Result<()> + 'a;

pub(crate) fn real_dev(i: &Arc<dyn Inode>) -> Dev {
    i.dev().unwrap_or_else(|| i.superblock().dev())
}

impl OvlInode {
    fn make(
        shared: &Arc<Shared>,
        upper: Option<Arc<dyn Inode>>,
        lower: Vec<Arc<dyn Inode>>,
        place: Place,
        keys: Vec<Key>,
    ) -> Result<Arc<OvlInode>> {
        let real = upper.as_ref().or(lower.first()).ok_or(EIO)?;
        let file_type = real.file_type();
        let is_dir = file_type == libc::S_IFDIR;
        let origin = match lower.first() {
            // Merged directories and copied files keep the number they had below.
            Some(l) if upper.is_none() || is_dir => l,
            _ => real,
        };
        let mut ino = shared.map_ino(real_dev(origin), origin.metadata()?.ino);
        if let (Some(u), false) = (&upper, is_dir)
            && let Some(kept) = kept_ino(shared, u)
        {
            ino = kept;
        }
        let impure = upper.as_ref().is_some_and(|u| is_dir && mark_set(shared, u, "impure"));
        Ok(Arc::new_cyclic(|me| OvlInode {
            shared: shared.clone(),
            me: me.clone(),
            file_type,
            ino,
            upper: upper.map_or_else(OnceLock::new, OnceLock::from),
            lower,
            place: Mutex::new(Rank::LEAF, place),
            keys: Mutex::new(Rank::LEAF, keys),
            copying: Mutex::new(Rank::STACKED, ()),
            change: Mutex::new(Rank::STACKED, ()),
            impure: AtomicBool::new(impure),
        }))
    }

    pub(crate) fn root(
        shared: &Arc<Shared>,
        upper: Option<Arc<dyn Inode>>,
        lower: Vec<Arc<dyn Inode>>,
    ) -> Result<Arc<OvlInode>> {
        let place = Place { parent: None, name: Vec::new(), removed: false };
        OvlInode::make(shared, upper, lower, place, Vec::new())
    }

    pub(crate) fn arc(&self) -> Result<Arc<OvlInode>> {
        self.me.upgrade().ok_or(ESTALE)
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.file_type == libc::S_IFDIR
    }

    /// The file that holds the present contents and attributes.
    pub(crate) fn real(&self) -> Result<&Arc<dyn Inode>> {
        self.upper.get().or(self.lower.first()).ok_or(EIO)
    }

    pub(crate) fn ino(&self) -> u64 {
        self.ino
    }

    /// Enters the inode under another key (it was copied up).
    pub(crate) fn add_key(&self, key: Key) {
        self.shared.inodes.lock().insert(key.clone(), self.me.clone());
        self.keys.lock().push(key);
    }

    pub(crate) fn own(inode: &Arc<dyn Inode>) -> Result<&OvlInode> {
        inode.as_any().downcast_ref::<OvlInode>().ok_or(EXDEV)
    }

    /// The inode for the given layers as `name` of this directory.
    fn child(
        &self,
        name: &[u8],
        upper: Option<Arc<dyn Inode>>,
        lower: Vec<Arc<dyn Inode>>,
    ) -> Result<Arc<OvlInode>> {
        let parent = self.arc()?;
        let key = match (&upper, lower.first()) {
            (Some(u), _) => Key::Upper(inode_key(u)),
            (None, Some(l)) => Key::Lower(inode_key(l), Arc::as_ptr(&parent) as usize, name.into()),
            (None, None) => return Err(ENOENT),
        };
        if let Some(i) = self.shared.inodes.lock().get(&key).and_then(Weak::upgrade) {
            return Ok(i);
        }
        let place = Place { parent: Some(parent), name: name.to_vec(), removed: false };
        let new = OvlInode::make(&self.shared, upper, lower, place, vec![key.clone()])?;
        let mut map = self.shared.inodes.lock();
        if let Some(i) = map.get(&key).and_then(Weak::upgrade) {
            drop(map);
            return Ok(i);
        }
        map.insert(key, Arc::downgrade(&new));
        Ok(new)
    }

    /// `name` as this directory's layers have it.
    pub(crate) fn find(&self, name: &[u8]) -> Result<Arc<OvlInode>> {
        let mut upper = None;
        let mut below = true;
        if let Some(up) = self.upper.get() {
            match up.dir().ok_or(ENOTDIR)?.lookup(name) {
                Ok(u) if is_whiteout(&u) => return Err(ENOENT),
                Ok(u) => {
                    below = u.dir().is_some() && !mark_set(&self.shared, &u, "opaque");
                    upper = Some(u);
                }
                Err(ENOENT) => {}
                Err(e) => return Err(e),
            }
        }
        let mut lower = Vec::new();
        if below {
            for l in &self.lower {
                let found = match l.dir().ok_or(ENOTDIR)?.lookup(name) {
                    Ok(f) => f,
                    Err(ENOENT) => continue,
                    Err(e) => return Err(e),
                };
                if is_whiteout(&found) {
                    break;
                }
                if found.dir().is_none() {
                    // A file below directories is hidden by them.
                    if upper.is_none() && lower.is_empty() {
                        lower.push(found);
                    }
                    break;
                }
                let opaque = is_opaque_below(&found);
                lower.push(found);
                if opaque {
                    break;
                }
            }
        }
        self.child(name, upper, lower)
    }

    /// Whether some lower layer shows `name`: removing it takes a whiteout.
    pub(crate) fn below_has(&self, name: &[u8]) -> Result<bool> {
        for l in &self.lower {
            match l.dir().ok_or(ENOTDIR)?.lookup(name) {
                Ok(f) => return Ok(!is_whiteout(&f)),
                Err(ENOENT) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }

    /// The upper directory, copied up when need be.
    pub(crate) fn upper_dir(&self) -> Result<Arc<dyn Inode>> {
        self.copy_up()?;
        self.upper.get().cloned().ok_or(EROFS)
    }

    /// The names of the directory as they appear, without `.` and `..`.
    pub(crate) fn entries(&self) -> Result<Vec<(Vec<u8>, u64, u8)>> {
        let mut seen: HashMap<Vec<u8>, usize> = HashMap::new();
        let mut out: Vec<Option<(Vec<u8>, u64, u8)>> = Vec::new();
        let layers = self.upper.get().into_iter().chain(&self.lower);
        let merged = self.upper.get().is_some() && !self.lower.is_empty();
        for (n, layer) in layers.enumerate() {
            let is_upper = n == 0 && self.upper.get().is_some();
            let dev = real_dev(layer);
            for (name, ino, kind) in list(layer)? {
                if let Some(&at) = seen.get(&name) {
                    // A directory with a part below has the number of that part.
                    if let Some(Some(e)) = out.get_mut(at)
                        && e.2 == libc::DT_DIR
                        && kind == libc::DT_DIR
                        && let Ok(i) = self.find(&name)
                    {
                        e.1 = i.ino;
                    }
                    continue;
                }
                seen.insert(name.clone(), out.len());
                let mut ino = self.shared.map_ino(dev, ino);
                if kind == libc::DT_CHR {
                    let i = layer.dir().ok_or(ENOTDIR)?.lookup(&name);
                    if i.is_ok_and(|i| is_whiteout(&i)) {
                        out.push(None);
                        continue;
                    }
                }
                if is_upper && merged && kind != libc::DT_DIR
                    || is_upper && self.impure.load(Ordering::Relaxed)
                {
                    match self.find(&name) {
                        Ok(i) => ino = i.ino,
                        Err(ENOENT) => continue,
                        Err(e) => return Err(e),
                    }
                }
                out.push(Some((name, ino, kind)));
            }
        }
        Ok(out.into_iter().flatten().collect())
    }

    /// Makes `name`, where nothing shows, with `make(dir, name)` in an upper directory. A whiteout in its
    /// place is replaced at once by what was made in the work directory.
    fn place_new(&self, name: &[u8], is_dir: bool, make: &Make<'_>) -> Result<Arc<dyn Inode>> {
        let up = self.upper_dir()?;
        let _lock = self.change.lock();
        let ops = up.dir().ok_or(ENOTDIR)?;
        let hidden = match ops.lookup(name) {
            Ok(i) if is_whiteout(&i) => true,
            Ok(_) => return Err(EEXIST),
            Err(ENOENT) => false,
            Err(e) => return Err(e),
        };
        if !hidden {
            make(ops, name)?;
            return ops.lookup(name);
        }
        let work = self.shared.work.clone().ok_or(EROFS)?;
        let wops = work.dir().ok_or(ENOTDIR)?;
        let temp = self.shared.temp_name();
        make(wops, &temp)?;
        let r = (|| {
            let made = wops.lookup(&temp)?;
            if is_dir {
                // What the whiteout hid stays hidden.
                set_mark(&self.shared, &made, "opaque", b"y")?;
                wops.rename(&temp, &up, name, RENAME_EXCHANGE)?;
                let gone = wops.lookup(&temp)?;
                wops.unlink(&temp, &gone)?;
            } else {
                wops.rename(&temp, &up, name, 0)?;
            }
            ops.lookup(name)
        })();
        if r.is_err()
            && let Ok(i) = wops.lookup(&temp)
        {
            let _ = if is_dir && i.dir().is_some() {
                wops.rmdir(&temp, &i)
            } else {
                wops.unlink(&temp, &i)
            };
        }
        r
    }

    /// Puts a whiteout at `name` of the upper directory `up`, in place of a file or of nothing. The change lock is
    /// held.
    pub(crate) fn whiteout(&self, up: &Arc<dyn Inode>, name: &[u8]) -> Result<()> {
        let work = self.shared.work.clone().ok_or(EROFS)?;
        let wops = work.dir().ok_or(ENOTDIR)?;
        let temp = self.shared.temp_name();
        let kind = NodeKind::CharDevice(Dev::default());
        wops.create(&temp, &NewNode { kind, mode: 0, uid: 0, gid: 0 })?;
        wops.rename(&temp, up, name, 0).inspect_err(|_| {
            if let Ok(i) = wops.lookup(&temp) {
                let _ = wops.unlink(&temp, &i);
            }
        })
    }

    /// The inode lost its name in the overlay.
    pub(crate) fn gone(&self) {
        let no_upper = self.upper.get().is_none();
        let mut p = self.place.lock();
        p.removed = no_upper || self.is_dir();
    }
}

/// The mark `what` is "y" on an upper file.
pub(crate) fn mark_set(shared: &Shared, inode: &Arc<dyn Inode>, what: &str) -> bool {
    match (shared.mark(what), inode.xattr()) {
        (Some(name), Some(x)) => x.get(&name).is_ok_and(|v| v == b"y"),
        _ => false,
    }
}

pub(crate) fn set_mark(
    shared: &Shared,
    inode: &Arc<dyn Inode>,
    what: &str,
    value: &[u8],
) -> Result<()> {
    let name = shared.mark(what).ok_or(EOPNOTSUPP)?;
    inode.xattr().ok_or(EOPNOTSUPP)?.set(&name, value, 0)
}

/// Lower layers may be former upper layers of either kind of mark.
fn is_opaque_below(inode: &Arc<dyn Inode>) -> bool {
    let Some(x) = inode.xattr() else { return false };
    [&b"trusted.overlay.opaque"[..], b"user.overlay.opaque"]
        .into_iter()
        .any(|n| x.get(n).is_ok_and(|v| v == b"y"))
}

/// The inode number a copied file had below.
fn kept_ino(shared: &Shared, upper: &Arc<dyn Inode>) -> Option<u64> {
    let v = upper.xattr()?.get(&shared.mark("uml.ino")?).ok()?;
    Some(u64::from_le_bytes(v.try_into().ok()?))
}

/// All names of one layer's directory.
fn list(dir: &Arc<dyn Inode>) -> Result<Vec<(Vec<u8>, u64, u8)>> {
    struct All(Vec<(Vec<u8>, u64, u8)>);
    impl DirEmit for All {
        fn emit(&mut self, name: &[u8], ino: u64, kind: u8, _: u64) -> bool {
            self.0.push((name.to_vec(), ino, kind));
            true
        }
    }
    let mut all = All(Vec::new());
    let mut off = 0;
    dir.dir().ok_or(ENOTDIR)?.readdir(&mut off, &mut all)?;
    Ok(all.0)
}

impl Drop for OvlInode {
    fn drop(&mut self) {
        {
            let keys = self.keys.lock();
            let mut map = self.shared.inodes.lock();
            for k in keys.iter() {
                if map.get(k).is_some_and(|w| w.strong_count() == 0) {
                    map.remove(k);
                }
            }
        }
        let mut next = self.place.lock().parent.take();
        while let Some(p) = next {
            next = Arc::into_inner(p).and_then(|i| i.place.lock().parent.take());
        }
    }
}

impl Inode for OvlInode {
    fn metadata(&self) -> Result<Metadata> {
        let mut m = self.real()?.metadata()?;
        m.ino = self.ino;
        if self.is_dir() && !self.lower.is_empty() && self.upper.get().is_some() {
            m.nlink = 1;
        }
        if self.place.lock().removed {
            m.nlink = 0;
        }
        Ok(m)
    }

    fn perm(&self) -> Result<Perm> {
        self.real()?.perm()
    }

    fn touch_atime(&self, relatime: bool) {
        if let Some(u) = self.upper.get() {
            u.touch_atime(relatime);
        }
    }

    fn set_attr(&self, attr: &SetAttr) -> Result<()> {
        if attr.size == Some(0) {
            self.copy_up_empty()?;
        } else {
            self.copy_up()?;
        }
        self.upper.get().ok_or(EROFS)?.set_attr(attr)
    }

    fn superblock(&self) -> Arc<dyn SuperBlock> {
        match self.shared.superblock() {
            Some(sb) => sb,
            // Only after the last unmount.
            None => match self.real() {
                Ok(r) => r.superblock(),
                Err(_) => unreachable!("an inode has an upper or a lower file"),
            },
        }
    }

    fn file_type(&self) -> u32 {
        self.file_type
    }

    fn dir(&self) -> Option<&dyn DirOps> {
        self.is_dir().then_some(self as &dyn DirOps)
    }

    fn symlink(&self) -> Option<&dyn SymlinkOps> {
        (self.file_type == libc::S_IFLNK).then_some(self as &dyn SymlinkOps)
    }

    fn xattr(&self) -> Option<&dyn XattrOps> {
        self.real().ok()?.xattr().map(|_| self as &dyn XattrOps)
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> Result<usize> {
        self.real()?.read_at(off, buf)
    }

    fn write_at(&self, off: u64, data: &[u8]) -> Result<()> {
        self.copy_up()?;
        self.upper.get().ok_or(EROFS)?.write_at(off, data)
    }

    fn open(&self, flags: u32) -> Result<Box<dyn FileOps>> {
        match self.file_type {
            libc::S_IFREG => Ok(Box::new(OvlFile::open(self.arc()?, flags)?)),
            libc::S_IFDIR => Ok(Box::new(OvlDir::new(self.arc()?))),
            _ => Err(ENXIO),
        }
    }

    fn permission(&self, cred: &Cred, mask: u32) -> Option<Result<()>> {
        // Writing will copy up: a lower layer need not allow it.
        let mask = if self.upper.get().is_none() { mask & !(libc::W_OK as u32) } else { mask };
        match self.real() {
            Ok(r) => r.permission(cred, mask),
            Err(e) => Some(Err(e)),
        }
    }

    fn caching(&self) -> Caching {
        self.shared.caching
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl DirOps for OvlInode {
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        Ok(self.find(name)?)
    }

    fn create(&self, name: &[u8], node: &NewNode) -> Result<Arc<dyn Inode>> {
        let is_dir = matches!(node.kind, NodeKind::Directory);
        let made = self.place_new(name, is_dir, &|dir, name| {
            let inode = dir.create(name, node)?;
            // Host-backed layers create as their own user.
            if inode.perm().is_ok_and(|p| p.uid != node.uid || p.gid != node.gid) {
                let _ = inode.set_attr(&SetAttr {
                    uid: Some(node.uid),
                    gid: Some(node.gid),
                    ..SetAttr::default()
                });
            }
            Ok(())
        })?;
        Ok(self.child(name, Some(made), Vec::new())?)
    }

    fn tmpfile(&self, node: &NewNode) -> Result<Arc<dyn Inode>> {
        let up = self.upper_dir()?;
        let made = up.dir().ok_or(ENOTDIR)?.tmpfile(node)?;
        Ok(self.child(b"", Some(made), Vec::new())?)
    }

    fn link(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<()> {
        let old = OvlInode::own(inode)?;
        old.copy_up()?;
        let real = old.upper.get().ok_or(EROFS)?.clone();
        self.place_new(name, false, &|dir, name| dir.link(name, &real))?;
        self.mark_impure();
        Ok(())
    }

    fn unlink(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<()> {
        let victim = OvlInode::own(inode)?;
        let up = self.upper_dir()?;
        let _lock = self.change.lock();
        if self.below_has(name)? {
            self.whiteout(&up, name)?;
        } else {
            let ops = up.dir().ok_or(ENOTDIR)?;
            let real = ops.lookup(name)?;
            ops.unlink(name, &real)?;
        }
        victim.gone();
        Ok(())
    }

    fn rmdir(&self, name: &[u8], inode: &Arc<dyn Inode>) -> Result<()> {
        let victim = OvlInode::own(inode)?;
        let up = self.upper_dir()?;
        if !victim.entries()?.is_empty() {
            return Err(ENOTEMPTY);
        }
        let _lock = self.change.lock();
        let hide = self.below_has(name)?;
        self.remove_dir(&up, name, victim, hide)?;
        victim.gone();
        Ok(())
    }

    fn rename(&self, old: &[u8], new_dir: &Arc<dyn Inode>, new: &[u8], flags: u32) -> Result<()> {
        self.rename_to(old, OvlInode::own(new_dir)?, new, flags)
    }

    fn readdir(&self, off: &mut u64, out: &mut dyn DirEmit) -> Result<()> {
        let entries = self.entries()?;
        let start = usize::try_from(off.saturating_sub(3)).unwrap_or(usize::MAX);
        for (i, (name, ino, kind)) in entries.iter().enumerate().skip(start) {
            let next = i as u64 + 4;
            if !out.emit(name, *ino, *kind, next) {
                break;
            }
            *off = next;
        }
        Ok(())
    }
}

impl SymlinkOps for OvlInode {
    fn readlink(&self, task: &Task) -> Result<Vec<u8>> {
        self.real()?.symlink().ok_or(EINVAL)?.readlink(task)
    }

    fn text(&self) -> Result<Vec<u8>> {
        self.real()?.symlink().ok_or(EINVAL)?.text()
    }
}

impl XattrOps for OvlInode {
    fn get(&self, name: &[u8]) -> Result<Vec<u8>> {
        if is_private(name) {
            return Err(EOPNOTSUPP);
        }
        self.real()?.xattr().ok_or(EOPNOTSUPP)?.get(name)
    }

    fn set(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        if is_private(name) {
            return Err(EOPNOTSUPP);
        }
        self.copy_up()?;
        self.upper.get().and_then(|u| u.xattr()).ok_or(EOPNOTSUPP)?.set(name, value, flags)
    }

    fn remove(&self, name: &[u8]) -> Result<()> {
        if is_private(name) {
            return Err(EOPNOTSUPP);
        }
        // What is not there needs no copy.
        XattrOps::get(self, name)?;
        self.copy_up()?;
        self.upper.get().and_then(|u| u.xattr()).ok_or(EOPNOTSUPP)?.remove(name)
    }

    fn list(&self) -> Result<Vec<Vec<u8>>> {
        let all = self.real()?.xattr().ok_or(EOPNOTSUPP)?.list()?;
        Ok(all.into_iter().filter(|n| !is_private(n)).collect())
    }
}
