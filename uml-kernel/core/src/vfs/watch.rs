//! Who watches which inode: the hooks of inotify(7).
//!
//! The table is keyed by inode identity; entries keep their inode alive. With no watch at all a hook
//! costs one load.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use uml_base::{Mutex, Rank};

use crate::vfs::{Dentry, Inode, inode_key};

/// Event bits of inotify(7).
pub const IN_ACCESS: u32 = 0x1;
pub const IN_MODIFY: u32 = 0x2;
pub const IN_ATTRIB: u32 = 0x4;
pub const IN_CLOSE_WRITE: u32 = 0x8;
pub const IN_CLOSE_NOWRITE: u32 = 0x10;
pub const IN_OPEN: u32 = 0x20;
pub const IN_MOVED_FROM: u32 = 0x40;
pub const IN_MOVED_TO: u32 = 0x80;
pub const IN_CREATE: u32 = 0x100;
pub const IN_DELETE: u32 = 0x200;
pub const IN_DELETE_SELF: u32 = 0x400;
pub const IN_MOVE_SELF: u32 = 0x800;
pub const IN_UNMOUNT: u32 = 0x2000;
pub const IN_Q_OVERFLOW: u32 = 0x4000;
pub const IN_IGNORED: u32 = 0x8000;
pub const IN_EXCL_UNLINK: u32 = 0x0400_0000;
pub const IN_ISDIR: u32 = 0x4000_0000;

/// Receives the events of the inodes it watches. Called with no lock of the VFS held but possibly
/// directory locks: it must not walk paths.
pub trait Watcher: Send + Sync {
    /// `mask` is one event bit, perhaps with IN_ISDIR; `name` is the entry in a watched
    /// directory, empty for the watched inode itself; `unlinked` says that the entry has no name any more.
    fn event(&self, inode: usize, mask: u32, cookie: u32, name: &[u8], unlinked: bool);
}

struct Watched {
    inode: Arc<dyn Inode>,
    watchers: Vec<Arc<dyn Watcher>>,
}

/// The machine's watches.
pub struct WatchTable {
    count: AtomicUsize,
    map: Mutex<HashMap<usize, Watched>>,
    cookie: AtomicU32,
}

/// The table. Inodes are identified by address, so one serves every machine of the process.
pub fn table() -> &'static WatchTable {
    static TABLE: OnceLock<WatchTable> = OnceLock::new();
    TABLE.get_or_init(|| WatchTable {
        count: AtomicUsize::new(0),
        map: Mutex::new(Rank::LEAF, HashMap::new()),
        cookie: AtomicU32::new(1),
    })
}

fn same(a: &Arc<dyn Watcher>, b: &Arc<dyn Watcher>) -> bool {
    Arc::as_ptr(a) as *const () == Arc::as_ptr(b) as *const ()
}

impl WatchTable {
    /// Adds a watch; a second one of the same watcher changes nothing.
    pub fn add(&self, inode: &Arc<dyn Inode>, w: Arc<dyn Watcher>) {
        let mut m = self.map.lock();
        let e = m
            .entry(inode_key(inode))
            .or_insert_with(|| Watched { inode: inode.clone(), watchers: Vec::new() });
        if !e.watchers.iter().any(|x| same(x, &w)) {
            e.watchers.push(w);
        }
        self.count.store(m.len(), Ordering::SeqCst);
    }

    /// Removes a watch.
    pub fn remove(&self, inode: usize, w: &Arc<dyn Watcher>) {
        let mut dropped = None;
        let mut m = self.map.lock();
        if let Some(e) = m.get_mut(&inode) {
            e.watchers.retain(|x| !same(x, w));
            if e.watchers.is_empty() {
                dropped = m.remove(&inode);
            }
        }
        self.count.store(m.len(), Ordering::SeqCst);
        drop(m);
        drop(dropped.map(|d| d.inode));
    }

    fn watchers(&self, inode: usize) -> Vec<Arc<dyn Watcher>> {
        self.map.lock().get(&inode).map(|e| e.watchers.clone()).unwrap_or_default()
    }

    fn send(&self, inode: &Arc<dyn Inode>, mask: u32, cookie: u32, name: &[u8], unlinked: bool) {
        let key = inode_key(inode);
        for w in self.watchers(key) {
            w.event(key, mask, cookie, name, unlinked);
        }
    }

    fn idle(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Something happened to the file at `dentry`: told to its own watchers and those of its directory.
    pub fn file(&self, dentry: &Arc<Dentry>, mask: u32) {
        if self.idle() || dentry.is_anonymous() {
            return;
        }
        let dir = if dentry.inode.dir().is_some() { IN_ISDIR } else { 0 };
        if let (Some(parent), name) = dentry.place() {
            self.send(&parent.inode, mask | dir, 0, &name, dentry.is_deleted());
        }
        self.send(&dentry.inode, mask | dir, 0, b"", false);
    }

    /// Something happened to the inode itself (IN_DELETE_SELF, IN_MOVE_SELF).
    pub fn inode(&self, inode: &Arc<dyn Inode>, mask: u32) {
        if !self.idle() {
            self.send(inode, mask, 0, b"", false);
        }
    }

    /// An entry of a directory came or went.
    pub fn entry(&self, dir: &Arc<Dentry>, mask: u32, name: &[u8], is_dir: bool, cookie: u32) {
        if !self.idle() {
            let isdir = if is_dir { IN_ISDIR } else { 0 };
            self.send(&dir.inode, mask | isdir, cookie, name, false);
        }
    }

    /// A number that joins the two events of a rename.
    pub fn next_cookie(&self) -> u32 {
        self.cookie.fetch_add(1, Ordering::Relaxed)
    }
}
