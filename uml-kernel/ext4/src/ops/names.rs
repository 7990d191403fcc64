//! Looking up and listing names.

use uml_abi::Result;

use crate::dir::readdir::{self, DirEntry};
use crate::dir::{self};
use crate::fs::Ext4;
use crate::inode::Inode;

impl Ext4 {
    /// The inode a name refers to. `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`.
    pub fn lookup(&self, dir: u32, name: &[u8]) -> Result<u32> {
        self.view(|v| Ok(dir::lookup(v, &Inode::live(v, dir)?, name)?.ino))
    }

    /// The parent of a directory.
    pub fn parent(&self, dir: u32) -> Result<u32> {
        self.view(|v| dir::parent(v, &Inode::live(v, dir)?))
    }

    /// Lists a directory from `cookie` (0 for the start) until `emit` returns
    /// false. Cookies stay valid while names come and go: a name that exists
    /// throughout is listed exactly once. `emit` is called with internal locks
    /// held and must not call back into the filesystem.
    pub fn readdir(
        &self,
        dir: u32,
        cookie: u64,
        emit: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        self.view(|v| readdir::readdir(v, &Inode::live(v, dir)?, cookie, emit))
    }
}
