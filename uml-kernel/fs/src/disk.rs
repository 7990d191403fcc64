//! Guest disks under filesystems.

use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::kernel::Kernel;
use uml_core::registry::{BlockDevice, BlockHolder};
use uml_core::task::Task;
use uml_core::vfs::walk::{self, DirFd};
use uml_core::vfs::{Dev, perm};
use uml_ext4::BlockStore;

/// A guest disk as engines see it.
pub(crate) struct Disk(pub Arc<dyn BlockDevice>);

impl BlockStore for Disk {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read(off, buf)
    }
    fn read_at_once(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read_at_once(off, buf)
    }
    fn write_at(&self, off: u64, buf: &[u8]) -> Result<()> {
        self.0.write(off, buf)
    }
    fn flush(&self) -> Result<()> {
        self.0.flush()
    }
    fn discard(&self, off: u64, len: u64) -> Result<()> {
        self.0.discard(off, len)
    }
    fn writable(&self) -> bool {
        !self.0.read_only()
    }
}

/// The device that `source` names: a node, or `major:minor`.
pub(crate) fn device_number(task: &Task, source: &[u8]) -> Result<Dev> {
    let text = std::str::from_utf8(source).unwrap_or("");
    if let Some((a, b)) = text.split_once(':')
        && let (Ok(major), Ok(minor)) = (a.parse(), b.parse())
    {
        return Ok(Dev::new(major, minor));
    }
    let p = walk::lookup(task, &DirFd::Cwd, source, walk::FOLLOW)?;
    let m = p.metadata()?;
    if m.kind() != libc::S_IFBLK {
        return Err(ENOTBLK);
    }
    perm::check_nodev(&p)?;
    Ok(m.rdev)
}

/// Enters the filesystem on `dev` as its holder; what is returned takes it out again, at the unmount.
pub(crate) fn hold(
    kernel: &Arc<Kernel>,
    dev: Dev,
    holder: Weak<dyn BlockHolder>,
) -> Box<dyn Fn() + Send + Sync> {
    kernel.vfs.registry.hold_block(dev, holder);
    let kernel = Arc::downgrade(kernel);
    Box::new(move || {
        if let Some(k) = kernel.upgrade() {
            k.vfs.registry.release_block(dev);
        }
    })
}
