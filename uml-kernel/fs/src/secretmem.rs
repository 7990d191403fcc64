//! The files of memfd_secret(2): memory that is seen through mappings alone.

use std::any::Any;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::file::{File, FileOps};
use uml_core::shm::{self, Anonymous};
use uml_core::task::Task;
use uml_core::vfs::mount::MNT_NOEXEC;
use uml_core::vfs::{Dev, Inode, Metadata, SetAttr, StatFs, SuperBlock, now};
use uml_mm::{MapAccess, Mappable};

/// SECRETMEM_MAGIC.
const MAGIC: u64 = 0x5345_434d;

/// The internal filesystem of one file: nothing else refers to it.
struct SecretFs {
    dev: Dev,
    inode: Weak<SecretInode>,
    most: u64,
}

impl SuperBlock for SecretFs {
    fn fs_type(&self) -> &'static str {
        "secretmem"
    }

    fn root(&self) -> Arc<dyn Inode> {
        match self.inode.upgrade() {
            Some(i) => i,
            None => unreachable!("the file's inode holds its filesystem"),
        }
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { magic: MAGIC, block_size: 4096, name_max: 255, ..StatFs::default() })
    }

    fn dev(&self) -> Dev {
        self.dev
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct SecretInode {
    fs: Arc<SecretFs>,
    attr: Mutex<Metadata>,
    memory: Arc<Anonymous>,
}

impl Inode for SecretInode {
    fn metadata(&self) -> Result<Metadata> {
        Ok(self.attr.lock().clone())
    }

    fn set_attr(&self, attr: &SetAttr) -> Result<()> {
        let mut a = self.attr.lock();
        if let Some(size) = attr.size {
            // Pages that were given out could not be taken back.
            if a.size != 0 {
                return Err(EINVAL);
            }
            self.memory.set_len(size, size.min(self.fs.most))?;
        }
        a.apply(attr);
        Ok(())
    }

    fn superblock(&self) -> Arc<dyn SuperBlock> {
        self.fs.clone()
    }

    fn file_type(&self) -> u32 {
        libc::S_IFREG
    }

    fn open(&self, _: u32) -> Result<Box<dyn FileOps>> {
        Err(ENXIO)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The memory as it is mapped.
struct SecretMemory(Arc<Anonymous>);

impl Mappable for SecretMemory {
    fn host_fd(&self, off: u64, len: u64, access: MapAccess) -> Result<RawFd> {
        self.0.host_fd(off, len, access)
    }

    fn sync(&self, _: u64, _: u64) -> Result<()> {
        // As fsync(2) of the file.
        Err(EINVAL)
    }

    fn key(&self) -> u64 {
        self.0.key()
    }
}

/// The open file: everything but mmap(2) and what the inode does is refused.
pub struct SecretFile(Arc<SecretMemory>);

impl FileOps for SecretFile {
    fn mappable(&self) -> Result<Arc<dyn Mappable>> {
        Ok(self.0.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A file of secret memory without a size yet, for `task`. `ENOMEM` where the host has no descriptor left.
pub fn create(task: &Task) -> Result<Arc<File>> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let kernel = task.kernel();
    let cred = task.cred();
    let ino = NEXT.fetch_add(1, Ordering::Relaxed);
    let t = now();
    let attr = Metadata {
        ino,
        mode: libc::S_IFREG | 0o600,
        nlink: 1,
        uid: cred.fsuid,
        gid: cred.fsgid,
        blksize: 4096,
        atime: t,
        mtime: t,
        ctime: t,
        ..Metadata::default()
    };
    let memory = shm::growing()?;
    let ops = SecretFile(Arc::new(SecretMemory(memory.clone())));
    // Minor numbers below 32 are those of internal filesystems; see `AnonKind`.
    let dev = Dev::new(0, 15);
    let inode = Arc::new_cyclic(|me| SecretInode {
        fs: Arc::new(SecretFs { dev, inode: me.clone(), most: kernel.mem_bytes }),
        attr: Mutex::new(Rank::LEAF, attr),
        memory,
    });
    let place = kernel.vfs.unnamed_path(inode, b"/secretmem");
    place.mnt.set_flags(MNT_NOEXEC);
    let flags = (libc::O_RDWR | libc::O_LARGEFILE) as u32;
    Ok(File::new(Box::new(ops), place, flags, cred))
}
