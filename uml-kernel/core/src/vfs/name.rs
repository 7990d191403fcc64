//! From places back to names (getcwd(2), /proc/<pid>/fd, /proc/<pid>/maps).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::vfs::{Path, Vfs};

/// The name of a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathName {
    /// Absolute path as seen from the root it was asked for; the bare name of anonymous objects.
    pub bytes: Vec<u8>,
    /// False when the place cannot be reached from that root.
    pub reachable: bool,
    /// The file was unlinked.
    pub deleted: bool,
}

impl PathName {
    /// As symbolic links in /proc show it.
    pub fn display(mut self) -> Vec<u8> {
        if self.deleted {
            self.bytes.extend_from_slice(b" (deleted)");
        }
        self.bytes
    }
}

impl Vfs {
    /// The name of `path` as seen from `root`.
    pub fn path_name(&self, path: &Path, root: &Path) -> PathName {
        // Names may change while they are read; after a few tries the mixture is as good as any answer.
        for _ in 0..3 {
            let seq = self.rename_seq.load(Ordering::Acquire);
            let name = path_name_once(path, root);
            if self.rename_seq.load(Ordering::Acquire) == seq {
                return name;
            }
        }
        path_name_once(path, root)
    }
}

/// The name of `path` from the top of its mount tree, with ` (deleted)` where that holds: what
/// /proc/<pid>/maps shows.
pub fn path_name_global(path: &Path) -> Vec<u8> {
    let mut top = path.mnt.clone();
    while let Some(p) = top.parent() {
        top = p.mnt;
    }
    path_name_once(path, &top.root_path()).display()
}

fn path_name_once(path: &Path, root: &Path) -> PathName {
    let deleted = path.dentry.is_deleted();
    if path.dentry.is_anonymous() {
        return PathName { bytes: path.dentry.name(), reachable: true, deleted };
    }
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let mut at = path.clone();
    let reachable = loop {
        if at.same(root) {
            break true;
        }
        if Arc::ptr_eq(&at.dentry, &at.mnt.root) {
            if !at.leave_mount() {
                break false;
            }
            continue;
        }
        let (parent, name) = at.dentry.place();
        match parent {
            Some(p) => {
                parts.push(name);
                at.dentry = p;
            }
            None => break false,
        }
    };
    let mut bytes = Vec::new();
    for p in parts.iter().rev() {
        bytes.push(b'/');
        bytes.extend_from_slice(p);
    }
    if bytes.is_empty() {
        bytes.push(b'/');
    }
    PathName { bytes, reachable, deleted }
}
