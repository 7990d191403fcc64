//! Directories.

use std::any::Any;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::cgroup::Cgroup;
use uml_core::file::{DirEmit, FileOps};
use uml_core::task::{Process, Task};
use uml_core::vfs::{NewNode, dirent_kind};

use super::{Body, Node, Spec, child_ino};

/// One entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Vec<u8>,
    /// S_IF* bits.
    pub kind: u32,
    /// As [`Spec::ino`].
    pub ino: Option<u64>,
}

impl Entry {
    /// An entry with a derived inode number.
    pub fn new(name: impl Into<Vec<u8>>, kind: u32) -> Entry {
        Entry { name: name.into(), kind, ino: None }
    }
}

/// The contents of a directory.
pub trait Directory: Send + Sync {
    /// The entry `name`; `ENOENT` when absent.
    fn lookup(&self, name: &[u8]) -> Result<Spec>;

    /// Every entry that `reader` may see.
    fn list(&self, reader: &Task) -> Result<Vec<Entry>>;

    /// True when a node that was handed out for `name` is still right.
    fn keeps(&self, name: &[u8]) -> bool {
        let _ = name;
        true
    }

    /// `st_nlink`.
    fn links(&self) -> u32 {
        2
    }

    /// The process that the directory stands for, `ESRCH` once it was waited for; `None` when it is no process's.
    fn process(&self) -> Option<Result<Arc<Process>>> {
        None
    }

    /// The control group that the directory is, when `task` may start a process in it.
    fn cgroup_for(&self, task: &Task) -> Option<Result<Arc<Cgroup>>> {
        let _ = task;
        None
    }

    /// The control group that the directory is.
    fn cgroup(&self) -> Option<&Arc<Cgroup>> {
        None
    }

    /// mkdir(2); a lookup of the name follows.
    fn mkdir(&self, name: &[u8], node: &NewNode) -> Result<()> {
        let _ = (name, node);
        Err(EPERM)
    }

    /// rmdir(2).
    fn rmdir(&self, name: &[u8]) -> Result<()> {
        let _ = name;
        Err(EPERM)
    }
}

/// An open directory: lists what was there when it was read from the start.
pub(super) struct DirFile {
    node: Arc<Node>,
    listing: Mutex<Option<Arc<Vec<Entry>>>>,
}

/// Positions 0 to 2 are the VFS's.
const FIRST: u64 = 3;

impl DirFile {
    pub(super) fn new(node: Arc<Node>) -> DirFile {
        DirFile { node, listing: Mutex::new(Rank::LEAF, None) }
    }

    fn listing(&self, task: &Task, restart: bool) -> Result<Arc<Vec<Entry>>> {
        let old = self.listing.lock().clone();
        if let Some(l) = old
            && !restart
        {
            return Ok(l);
        }
        let Body::Dir(d) = self.node.body() else { return Err(ENOTDIR) };
        let made = Arc::new(d.list(task)?);
        *self.listing.lock() = Some(made.clone());
        Ok(made)
    }
}

impl FileOps for DirFile {
    fn readdir(&self, task: &Task, off: &mut u64, out: &mut dyn DirEmit) -> Result<()> {
        let list = self.listing(task, *off < FIRST)?;
        let start = off.saturating_sub(FIRST) as usize;
        for (i, e) in list.iter().enumerate().skip(start) {
            let ino = e.ino.unwrap_or_else(|| child_ino(self.node.ino(), &e.name));
            let next = i as u64 + FIRST + 1;
            if !out.emit(&e.name, ino, dirent_kind(e.kind), next) {
                break;
            }
            *off = next;
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
