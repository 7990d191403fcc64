//! Filesystems of the kernel, a module each, and the memory devices.
//!
//! [`tmpfs`] (files in memory), [`devtmpfs`] (device nodes), [`hostfs`] (directories of the host),
//! [`ext4`] (ext2, ext3 and ext4 on block devices), [`rofs`] (squashfs, vfat and iso9660 on block devices), [`overlay`]
//! (layers joined to one tree), [`initramfs`] (unpacking cpio archives), [`devices`] (`/dev/null` and its kin). [`register`] enters them in a kernel.
//!
//! Neighbours: `uml-core` declares what a filesystem is, `uml-host` makes the host's calls; above is the
//! binary, which mounts. What processes look like as files (proc, sys, devpts) belongs to other modules
//! of this layer.
//!
//! Lock order: overlay's locks (rank STACKED) before those of the layers (INODE, SUPER).
#![forbid(unsafe_code)]

pub(crate) mod cached;
pub mod devices;
pub mod devtmpfs;
pub(crate) mod disk;
pub mod ext4;
pub mod hostfs;
pub mod initramfs;
pub(crate) mod mapping;
pub mod overlay;
pub mod rofs;
pub mod secretmem;
pub mod tmpfs;
pub(crate) mod transfer;

use std::sync::Arc;

use uml_abi::Result;
use uml_core::kernel::{CachedMemory, Kernel};
use uml_core::memory::Cache;
use uml_pagecache::Pool;

/// Enters the filesystem types and memory devices. `host_root` confines hostfs mounts (`hostfs=`).
pub fn register(kernel: &Arc<Kernel>, host: hostfs::Config) -> Result<()> {
    let reg = &kernel.vfs.registry;
    reg.add_fs(Arc::new(tmpfs::TmpFsType::new("tmpfs")));
    reg.add_fs(Arc::new(tmpfs::TmpFsType::new("ramfs")));
    reg.add_fs(Arc::new(hostfs::HostFsType::new(host)));
    reg.add_fs(Arc::new(overlay::OverlayType));
    let pool = Pool::new(kernel.mem_bytes);
    for kind in ext4::types(&pool) {
        reg.add_fs(Arc::new(kind));
    }
    // In the order in which Linux tries them for a root without a type.
    for kind in rofs::types(&pool) {
        reg.add_fs(Arc::new(kind));
    }
    reg.add_fs(Arc::new(devtmpfs::DevTmpFsType::new(kernel)?));
    kernel.memory.add_cache(Arc::new(tmpfs::Usage));
    kernel.memory.add_cache(Arc::new(PageCache(pool)));
    kernel.hooks.on_drop_caches.add(|kernel, pages, _| {
        if pages {
            kernel.memory.shrink(u64::MAX);
        }
    });
    devices::register(kernel)
}

/// File data of block filesystems, as part of the machine's memory.
struct PageCache(Arc<Pool>);

impl Cache for PageCache {
    fn usage(&self) -> CachedMemory {
        let s = self.0.stats();
        CachedMemory { cached: s.used, shmem: 0, dirty: s.dirty }
    }

    fn shrink(&self, bytes: u64) -> u64 {
        self.0.shrink(bytes)
    }
}
