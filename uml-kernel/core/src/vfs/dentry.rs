//! Cached directory entries.
//!
//! A dentry is a name in a directory and the inode it leads to. It never changes its inode: names that
//! come to mean something else get a new dentry. What does not exist is remembered in the
//! directory's map, without a dentry.
//!
//! A directory's map holds its dentries strongly and a dentry holds its parent, so whatever is cached
//! has its ancestors cached. [`DentryCache`] bounds how many entries nobody uses stay.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, MutexGuard, Rank, RwLock};

use crate::vfs::{Caching, Inode};

/// Longest name of a directory entry (NAME_MAX).
pub const NAME_MAX: usize = 255;

/// Hashes names with one key per machine, which keeps an empty map small.
#[derive(Clone, Copy, Default)]
struct NameHash;

impl BuildHasher for NameHash {
    type Hasher = <RandomState as BuildHasher>::Hasher;
    fn build_hasher(&self) -> Self::Hasher {
        static KEYS: OnceLock<RandomState> = OnceLock::new();
        KEYS.get_or_init(RandomState::new).build_hasher()
    }
}

/// What a directory's map knows about a name.
#[derive(Clone)]
enum Entry {
    Present(Arc<Dentry>),
    Absent,
}

type Children = HashMap<Box<[u8]>, Entry, NameHash>;

struct Place {
    parent: Option<Arc<Dentry>>,
    name: Box<[u8]>,
}

/// A name in a directory and the inode it leads to.
pub struct Dentry {
    pub inode: Arc<dyn Inode>,
    place: RwLock<Place>,
    children: RwLock<Children>,
    /// Serialises changes of this directory.
    dir_lock: Mutex<()>,
    /// Mounts on top of it, in all namespaces.
    pub(crate) mounted: AtomicU32,
    /// Used since the cache last looked.
    referenced: AtomicBool,
    deleted: AtomicBool,
    /// May get a name although it has none (O_TMPFILE without O_EXCL).
    linkable: AtomicBool,
    /// Root of nothing: pipes, sockets and other objects without a place in a tree.
    anonymous: bool,
}

impl Dentry {
    fn make(inode: Arc<dyn Inode>, parent: Option<Arc<Dentry>>, name: &[u8], anon: bool) -> Dentry {
        Dentry {
            inode,
            place: RwLock::new(Rank::LEAF, Place { parent, name: name.into() }),
            children: RwLock::new(Rank::DENTRY, Children::default()),
            dir_lock: Mutex::new(Rank::INODE_DIR, ()),
            mounted: AtomicU32::new(0),
            referenced: AtomicBool::new(false),
            deleted: AtomicBool::new(false),
            linkable: AtomicBool::new(false),
            anonymous: anon,
        }
    }

    /// The root of a superblock.
    pub(crate) fn root(inode: Arc<dyn Inode>) -> Arc<Dentry> {
        Arc::new(Dentry::make(inode, None, b"", false))
    }

    /// An object without a place in a tree, shown by `name` (`pipe:[12]`).
    pub(crate) fn anonymous(inode: Arc<dyn Inode>, name: &[u8]) -> Arc<Dentry> {
        Arc::new(Dentry::make(inode, None, name, true))
    }

    /// An inode opened before it has a name (O_TMPFILE); it counts as deleted in `dir`.
    /// `linkable` says whether linkat(2) may name it.
    pub(crate) fn unnamed(
        inode: Arc<dyn Inode>,
        dir: &Arc<Dentry>,
        name: &[u8],
        linkable: bool,
    ) -> Arc<Dentry> {
        let mut d = Dentry::make(inode, Some(dir.clone()), name, false);
        d.linkable = AtomicBool::new(linkable);
        d.deleted.store(true, Ordering::Relaxed);
        Arc::new(d)
    }

    /// The directory it is in; `None` for roots and anonymous objects.
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.place.read().parent.clone()
    }

    /// Its name; empty for roots.
    pub fn name(&self) -> Vec<u8> {
        self.place.read().name.to_vec()
    }

    /// Parent and name, read together.
    pub fn place(&self) -> (Option<Arc<Dentry>>, Vec<u8>) {
        let p = self.place.read();
        (p.parent.clone(), p.name.to_vec())
    }

    /// True when it was unlinked (shown as ` (deleted)`).
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Relaxed)
    }

    /// True when linkat(2) may give a name to the file although it has none.
    pub fn is_linkable(&self) -> bool {
        self.linkable.load(Ordering::Relaxed)
    }

    /// True for pipes, sockets and the like.
    pub fn is_anonymous(&self) -> bool {
        self.anonymous
    }

    /// True when something is mounted on it in some namespace.
    pub fn is_mountpoint(&self) -> bool {
        self.mounted.load(Ordering::Acquire) != 0
    }

    /// True when `self` is `other` or lies below it.
    pub fn is_within(self: &Arc<Dentry>, other: &Arc<Dentry>) -> bool {
        let mut d = self.clone();
        loop {
            if Arc::ptr_eq(&d, other) {
                return true;
            }
            match d.parent() {
                Some(p) => d = p,
                None => return false,
            }
        }
    }

    /// Serialises changes of the directory; every create, unlink and rename holds it.
    pub fn lock_dir(&self) -> MutexGuard<'_, ()> {
        self.dir_lock.lock()
    }

    /// As [`Dentry::lock_dir`] while another directory is locked: ancestors before descendants,
    /// unrelated directories by address, under the rename lock.
    pub fn lock_dir_nested(&self) -> MutexGuard<'_, ()> {
        self.dir_lock.lock_nested()
    }

    fn cached(&self, name: &[u8]) -> Option<Entry> {
        self.children.read().get(name).cloned()
    }

    fn touch(&self) {
        // A plain store would bounce the cache line between CPUs on every walk.
        if !self.referenced.load(Ordering::Relaxed) {
            self.referenced.store(true, Ordering::Relaxed);
        }
    }

    /// Forgets `name`; the dentry lives on for those who hold it.
    pub(crate) fn forget(&self, name: &[u8]) {
        // Dropped after the lock: the last reference may run a filesystem's code.
        let old = self.children.write().remove(name);
        drop(old);
    }

    /// The child `name` was unlinked.
    pub(crate) fn detach_child(&self, name: &[u8], trusted: bool) {
        let old = {
            let mut c = self.children.write();
            if trusted { c.insert(name.into(), Entry::Absent) } else { c.remove(name) }
        };
        if let Some(Entry::Present(d)) = old {
            d.deleted.store(true, Ordering::Relaxed);
        }
    }

    /// Moves the cached dentry `child` of `self` to `new_name` of `new_dir` (rename(2)); what was cached
    /// there is deleted.
    pub(crate) fn move_child(
        self: &Arc<Dentry>,
        child: &Arc<Dentry>,
        new_dir: &Arc<Dentry>,
        new_name: &[u8],
    ) {
        let old_name = child.name();
        let removed = self.children.write().remove(&old_name[..]);
        {
            let mut place = child.place.write();
            place.name = new_name.into();
            if !Arc::ptr_eq(self, new_dir) {
                place.parent = Some(new_dir.clone());
            }
        }
        child.deleted.store(false, Ordering::Relaxed);
        let over = new_dir.children.write().insert(new_name.into(), Entry::Present(child.clone()));
        if let Some(Entry::Present(d)) = over
            && !Arc::ptr_eq(&d, child)
        {
            d.deleted.store(true, Ordering::Relaxed);
        }
        drop(removed);
    }

    /// Exchanges two cached dentries (RENAME_EXCHANGE).
    pub(crate) fn exchange(
        a_dir: &Arc<Dentry>,
        a: &Arc<Dentry>,
        b_dir: &Arc<Dentry>,
        b: &Arc<Dentry>,
    ) {
        let (an, bn) = (a.name(), b.name());
        *a.place.write() = Place { parent: Some(b_dir.clone()), name: bn.clone().into() };
        *b.place.write() = Place { parent: Some(a_dir.clone()), name: an.clone().into() };
        a_dir.children.write().insert(an.into(), Entry::Present(b.clone()));
        b_dir.children.write().insert(bn.into(), Entry::Present(a.clone()));
    }

    /// Marks an O_TMPFILE dentry as linked at a place, or a removed directory as such.
    pub(crate) fn set_deleted(&self, deleted: bool) {
        self.deleted.store(deleted, Ordering::Relaxed);
    }

    /// A cached dentry of `inode`, here or below. Looks at all that are cached: for rare calls.
    pub(crate) fn cached_of(self: &Arc<Dentry>, inode: &Arc<dyn Inode>) -> Option<Arc<Dentry>> {
        let key = crate::vfs::inode_key(inode);
        let mut todo = vec![self.clone()];
        while let Some(d) = todo.pop() {
            if crate::vfs::inode_key(&d.inode) == key {
                return Some(d);
            }
            todo.extend(d.children.read().values().filter_map(|e| match e {
                Entry::Present(c) => Some(c.clone()),
                Entry::Absent => None,
            }));
        }
        None
    }

    /// Drops every cached entry below, without recursion.
    pub(crate) fn shrink_all(&self) {
        let mut todo: Vec<Arc<Dentry>> = Vec::new();
        let take = |d: &Dentry, todo: &mut Vec<Arc<Dentry>>| {
            let map = std::mem::take(&mut *d.children.write());
            todo.extend(map.into_values().filter_map(|e| match e {
                Entry::Present(d) => Some(d),
                Entry::Absent => None,
            }));
        };
        take(self, &mut todo);
        while let Some(d) = todo.pop() {
            take(&d, &mut todo);
        }
    }
}

impl Drop for Dentry {
    fn drop(&mut self) {
        // A chain of removed directories must not recurse as deep as it is long.
        let mut next = self.place.write().parent.take();
        while let Some(p) = next {
            next = Arc::into_inner(p).and_then(|d| d.place.write().parent.take());
        }
    }
}

impl crate::vfs::Vfs {
    /// A filesystem changed `name` of `dir` by itself: what is cached about it no longer holds. Finds the
    /// directory's dentry by walking the cache of its instance, so this is for rare events.
    pub fn forget_name(&self, dir: &Arc<dyn Inode>, name: &[u8]) {
        for instance in self.instances() {
            let mut todo = vec![instance.root.clone()];
            while let Some(d) = todo.pop() {
                if Arc::ptr_eq(&d.inode, dir) {
                    d.forget(name);
                }
                let c = d.children.read();
                todo.extend(c.values().filter_map(|e| match e {
                    Entry::Present(x) if x.inode.dir().is_some() => Some(x.clone()),
                    _ => None,
                }));
            }
        }
    }
}

enum Queued {
    Present(Weak<Dentry>),
    Absent(Weak<Dentry>, Box<[u8]>),
}

/// Bounds the number of cached names: least recently used ones go first (second chance).
pub struct DentryCache {
    queue: Mutex<VecDeque<Queued>>,
    limit: AtomicUsize,
    len: AtomicUsize,
}

impl DentryCache {
    /// A cache of at most `limit` names that nobody uses.
    pub fn new(limit: usize) -> DentryCache {
        DentryCache {
            queue: Mutex::new(Rank::LEAF, VecDeque::new()),
            limit: AtomicUsize::new(limit.max(16)),
            len: AtomicUsize::new(0),
        }
    }

    /// Names that are queued for reuse (/proc/sys/fs/dentry-state).
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// True when nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The child `name` of `dir`, from the cache or the filesystem; `None` when it does not exist.
    pub fn lookup(&self, dir: &Arc<Dentry>, name: &[u8]) -> Result<Option<Arc<Dentry>>> {
        let trusted = dir.inode.caching() == Caching::Trusted;
        if trusted && let Some(e) = dir.cached(name) {
            return Ok(match e {
                Entry::Present(d) => {
                    d.touch();
                    Some(d)
                }
                Entry::Absent => None,
            });
        }
        let _guard = dir.lock_dir();
        self.lookup_locked(dir, name)
    }

    /// As [`DentryCache::lookup`] with the directory locked by the caller.
    pub fn lookup_locked(&self, dir: &Arc<Dentry>, name: &[u8]) -> Result<Option<Arc<Dentry>>> {
        let ops = dir.inode.dir().ok_or(ENOTDIR)?;
        let trusted = dir.inode.caching() == Caching::Trusted;
        let cached = dir.cached(name);
        match &cached {
            Some(Entry::Present(d)) if trusted => return Ok(Some(d.clone())),
            Some(Entry::Absent) if trusted => return Ok(None),
            _ => {}
        }
        if name.len() > NAME_MAX {
            return Err(ENAMETOOLONG);
        }
        if dir.is_deleted() {
            return Ok(None);
        }
        match ops.lookup(name) {
            Ok(inode) => {
                if let Some(Entry::Present(d)) = &cached
                    && (Arc::ptr_eq(&d.inode, &inode) || d.is_mountpoint())
                {
                    d.touch();
                    return Ok(Some(d.clone()));
                }
                Ok(Some(self.insert(dir, name, inode)))
            }
            Err(ENOENT) => {
                if trusted {
                    dir.children.write().insert(name.into(), Entry::Absent);
                    self.enqueue(Queued::Absent(Arc::downgrade(dir), name.into()));
                } else if let Some(Entry::Present(_)) = cached {
                    dir.detach_child(name, false);
                }
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Enters a name that was just created or found; the directory is locked by the caller.
    pub(crate) fn insert(
        &self,
        dir: &Arc<Dentry>,
        name: &[u8],
        inode: Arc<dyn Inode>,
    ) -> Arc<Dentry> {
        let d = Arc::new(Dentry::make(inode, Some(dir.clone()), name, false));
        let old = dir.children.write().insert(name.into(), Entry::Present(d.clone()));
        drop(old);
        self.enqueue(Queued::Present(Arc::downgrade(&d)));
        d
    }

    fn enqueue(&self, item: Queued) {
        let mut victims = Vec::new();
        {
            let mut q = self.queue.lock();
            q.push_back(item);
            let limit = self.limit.load(Ordering::Relaxed);
            // A few looks per insertion keep the queue near its limit without a long pause; when all are in
            // use it grows.
            for _ in 0..4 {
                if q.len() <= limit {
                    break;
                }
                match q.pop_front() {
                    Some(v) => victims.push(v),
                    None => break,
                }
            }
            self.len.store(q.len(), Ordering::Relaxed);
        }
        for v in victims {
            if let Some(back) = evict(v) {
                self.queue.lock().push_back(back);
            }
        }
    }
}

/// Drops what the queue item names from its directory's map; gives the item back when it is in use.
fn evict(item: Queued) -> Option<Queued> {
    match item {
        Queued::Absent(dir, name) => {
            let dir = dir.upgrade()?;
            let mut c = dir.children.write();
            if matches!(c.get(&name), Some(Entry::Absent)) {
                c.remove(&name);
            }
            None
        }
        Queued::Present(weak) => {
            let d = weak.upgrade()?;
            let (Some(parent), name) = d.place() else { return None };
            if d.referenced.swap(false, Ordering::Relaxed) {
                return Some(Queued::Present(weak));
            }
            let dead = {
                let mut c = parent.children.write();
                match c.get(&name[..]) {
                    // Ours and the map's; with the map locked nobody can gain a reference through it.
                    Some(Entry::Present(x)) if Arc::ptr_eq(x, &d) => {
                        if Arc::strong_count(&d) > 2 || d.is_mountpoint() {
                            return Some(Queued::Present(weak));
                        }
                        c.remove(&name[..])
                    }
                    _ => None,
                }
            };
            drop(dead);
            None
        }
    }
}
