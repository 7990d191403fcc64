//! File handles (open_by_handle_at(2)): bytes that name a file of a filesystem whatever its path is, and the way back.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;

use super::{Dentry, Inode, Mount, Path, Vfs};
use crate::file::DirEmit;
use crate::task::Task;

/// Most bytes a handle has (MAX_HANDLE_SZ).
pub const MAX_HANDLE: usize = 128;
/// Deeper directories than this are not looked for.
const DEEPEST: usize = 4096;

/// What names a file: a kind and bytes, both the filesystem's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handle {
    pub kind: i32,
    pub bytes: Vec<u8>,
}

/// A filesystem whose files have handles.
pub trait Export {
    /// The handle of one of its inodes.
    fn encode(&self, inode: &Arc<dyn Inode>) -> Result<Handle>;

    /// The inode behind a handle; `ESTALE` when there is none any more.
    fn decode(&self, task: &Task, handle: &Handle) -> Result<Arc<dyn Inode>>;

    /// The directory that the directory `dir`, which is not the root, is in.
    fn parent(&self, dir: &Arc<dyn Inode>) -> Result<Arc<dyn Inode>>;
}

fn same(a: &Arc<dyn Inode>, b: &Arc<dyn Inode>) -> bool {
    super::inode_key(a) == super::inode_key(b)
}

/// Looks for the name of an inode number in a listing.
struct Find {
    ino: u64,
    name: Option<Vec<u8>>,
}

impl DirEmit for Find {
    fn emit(&mut self, name: &[u8], ino: u64, _: u8, _: u64) -> bool {
        if ino == self.ino {
            self.name = Some(name.to_vec());
        }
        self.name.is_none()
    }
}

/// Lists a directory until `out` has enough.
pub fn list(task: &Task, dir: &Arc<dyn Inode>, out: &mut dyn DirEmit) -> Result<()> {
    // Some filesystems list through an open file, the others through the directory itself.
    let open = match dir.open((libc::O_RDONLY | libc::O_DIRECTORY) as u32) {
        Ok(ops) => Some(ops),
        Err(EISDIR) => None,
        Err(e) => return Err(e),
    };
    let ops = dir.dir().ok_or(ENOTDIR)?;
    let mut off = 0;
    loop {
        let before = off;
        let mut enough = Enough { out, reached: false };
        match &open {
            Some(o) => o.readdir(task, &mut off, &mut enough)?,
            None => ops.readdir(&mut off, &mut enough)?,
        }
        if enough.reached || off == before {
            return Ok(());
        }
    }
}

/// Notes that the receiver wants no more.
struct Enough<'a> {
    out: &'a mut dyn DirEmit,
    reached: bool,
}

impl DirEmit for Enough<'_> {
    fn emit(&mut self, name: &[u8], ino: u64, kind: u8, next: u64) -> bool {
        let more = self.out.emit(name, ino, kind, next);
        self.reached |= !more;
        more
    }
}

impl Vfs {
    /// The place on `mnt` of the file that `handle` names; `ESTALE` when there is none.
    pub fn place_of(&self, task: &Task, mnt: &Arc<Mount>, handle: &Handle) -> Result<Path> {
        let export = mnt.sb.export().ok_or(ESTALE)?;
        let inode = export.decode(task, handle)?;
        let root = &mnt.instance.root;
        let dentry = match root.cached_of(&inode) {
            Some(d) => d,
            None if inode.dir().is_some() => self.connect(task, root, export, &inode)?,
            // Which of its names was meant nobody can tell: it is open without one.
            None => Dentry::anonymous(inode, b"/"),
        };
        Ok(Path { mnt: mnt.clone(), dentry })
    }

    /// The dentry of a directory that is not cached: up to one that is, and down again by name.
    fn connect(
        &self,
        task: &Task,
        root: &Arc<Dentry>,
        export: &dyn Export,
        dir: &Arc<dyn Inode>,
    ) -> Result<Arc<Dentry>> {
        let mut below = vec![dir.clone()];
        let mut at = loop {
            let last = below.last().ok_or(ESTALE)?;
            let parent = export.parent(last)?;
            if let Some(d) = root.cached_of(&parent) {
                break d;
            }
            if below.len() >= DEEPEST {
                return Err(ESTALE);
            }
            below.push(parent);
        };
        while let Some(inode) = below.pop() {
            let mut find = Find { ino: inode.metadata()?.ino, name: None };
            list(task, &at.inode, &mut find)?;
            let name = find.name.ok_or(ESTALE)?;
            let child = self.dcache.lookup(&at, &name)?.ok_or(ESTALE)?;
            if !same(&child.inode, &inode) {
                return Err(ESTALE);
            }
            at = child;
        }
        Ok(at)
    }
}
