//! devtmpfs: a tmpfs in which nodes appear as drivers announce them. One instance serves every mount.

use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::pr_err;
use uml_core::kernel::Kernel;
use uml_core::registry::{DeviceListener, DeviceNode};
use uml_core::task::Task;
use uml_core::vfs::{FsType, Inode, NewNode, NodeKind, SetAttr, SuperBlock};

use crate::tmpfs::{Options, TmpFs};

/// The type devtmpfs with its instance.
pub struct DevTmpFsType {
    fs: Arc<TmpFs>,
}

impl DevTmpFsType {
    /// Makes the instance and fills it with what has been announced.
    pub fn new(kernel: &Arc<Kernel>) -> Result<DevTmpFsType> {
        let options = Options { mode: Some(0o755), ..Options::default() };
        let fs = TmpFs::new(&kernel.vfs, "devtmpfs", options);
        // As udev and every init make them; shells count on them also when there is no such program.
        let root = fs.root();
        let dir = root.dir().ok_or(ENOTDIR)?;
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
        ] {
            let kind = NodeKind::Symlink(target.into());
            let node = NewNode { kind, mode: 0o777, uid: 0, gid: 0 };
            match dir.create(name.as_bytes(), &node) {
                Ok(_) | Err(EEXIST) => {}
                Err(e) => return Err(e),
            }
        }
        let nodes = Nodes { fs: Arc::downgrade(&fs), kernel: Arc::downgrade(kernel) };
        kernel.vfs.registry.add_listener(Arc::new(nodes));
        Ok(DevTmpFsType { fs })
    }

    /// The instance, for mounting it at boot.
    pub fn instance(&self) -> Arc<TmpFs> {
        self.fs.clone()
    }
}

impl FsType for DevTmpFsType {
    fn name(&self) -> &'static str {
        "devtmpfs"
    }

    fn mount(&self, _: &Task, _: &[u8], _: u64, data: &[u8]) -> Result<Arc<dyn SuperBlock>> {
        let sb: Arc<dyn SuperBlock> = self.fs.clone();
        if !data.is_empty() {
            sb.remount(false, data)?;
        }
        Ok(sb)
    }
}

struct Nodes {
    fs: Weak<TmpFs>,
    kernel: Weak<Kernel>,
}

impl Nodes {
    /// The directory of the node and its last component; directories on the way are made.
    fn directory(&self, fs: &Arc<TmpFs>, name: &str) -> Result<(Arc<dyn Inode>, Vec<u8>)> {
        let mut dir = fs.root();
        let mut parts = name.split('/').peekable();
        while let Some(part) = parts.next() {
            if part.is_empty() || part == "." || part == ".." || part.len() > 255 {
                return Err(EINVAL);
            }
            if parts.peek().is_none() {
                return Ok((dir, part.as_bytes().to_vec()));
            }
            let ops = dir.dir().ok_or(ENOTDIR)?;
            let next = match ops.lookup(part.as_bytes()) {
                Err(ENOENT) => {
                    let kind = NodeKind::Directory;
                    let node = NewNode { kind, mode: 0o755, uid: 0, gid: 0 };
                    let made = ops.create(part.as_bytes(), &node)?;
                    self.forget(&dir, part.as_bytes());
                    made
                }
                other => other?,
            };
            dir = next;
        }
        Err(EINVAL)
    }

    /// The VFS may remember that the name did not (or did) exist.
    fn forget(&self, dir: &Arc<dyn Inode>, name: &[u8]) {
        if let Some(k) = self.kernel.upgrade() {
            k.vfs.forget_name(dir, name);
        }
    }

    fn add(&self, fs: &Arc<TmpFs>, node: &DeviceNode) -> Result<()> {
        let (dir, name) = self.directory(fs, &node.name)?;
        let ops = dir.dir().ok_or(ENOTDIR)?;
        let kind = match node.kind {
            libc::S_IFBLK => NodeKind::BlockDevice(node.dev),
            _ => NodeKind::CharDevice(node.dev),
        };
        let new = NewNode { kind, mode: node.mode, uid: node.uid, gid: node.gid };
        match ops.create(&name, &new) {
            Ok(_) => {
                self.forget(&dir, &name);
                Ok(())
            }
            // udev or the user made it first: the node stays, with the driver's permissions.
            Err(EEXIST) => ops.lookup(&name)?.set_attr(&SetAttr {
                mode: Some(node.mode),
                uid: Some(node.uid),
                gid: Some(node.gid),
                ..SetAttr::default()
            }),
            Err(e) => Err(e),
        }
    }
}

impl DeviceListener for Nodes {
    fn added(&self, node: &DeviceNode) {
        let Some(fs) = self.fs.upgrade() else { return };
        if let Err(e) = self.add(&fs, node) {
            pr_err!("devtmpfs: cannot make {}: {e}", node.name);
        }
    }

    fn removed(&self, node: &DeviceNode) {
        let Some(fs) = self.fs.upgrade() else { return };
        let Ok((dir, name)) = self.directory(&fs, &node.name) else { return };
        let Some(ops) = dir.dir() else { return };
        // Only the driver's own node goes, not what a user put in its place.
        if let Ok(inode) = ops.lookup(&name)
            && inode.metadata().is_ok_and(|m| m.rdev == node.dev && m.kind() == node.kind)
            && ops.unlink(&name, &inode).is_ok()
        {
            self.forget(&dir, &name);
        }
    }
}
