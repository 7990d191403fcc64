//! Memory objects without a name: MAP_SHARED|MAP_ANONYMOUS, and files as mapped objects.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::ENOMEM;
use uml_base::{Mutex, Rank};
use uml_mm::{MapAccess, Mappable};

use crate::file::File;
use crate::vfs;

static NEXT_KEY: AtomicU64 = AtomicU64::new(1);

/// A number no other mappable object has (futex keys).
pub fn next_key() -> u64 {
    NEXT_KEY.fetch_add(1, Ordering::Relaxed)
}

/// Zero-filled memory without a name, in a memory file of the host.
pub struct Anonymous {
    fd: OwnedFd,
    key: u64,
    promised: AtomicU64,
}

/// Every object, for the machine's accounts.
static OBJECTS: Mutex<BTreeMap<u64, Weak<Anonymous>>> = Mutex::new(Rank::LEAF, BTreeMap::new());
static PROMISED: AtomicU64 = AtomicU64::new(0);

/// Bytes that objects without a name were made for.
pub fn promised() -> u64 {
    PROMISED.load(Ordering::Relaxed)
}

/// Bytes that they hold.
pub fn usage() -> u64 {
    let objects: Vec<_> = OBJECTS.lock().values().filter_map(Weak::upgrade).collect();
    let blocks = |o: &Arc<Anonymous>| {
        uml_host::fs::statx(o.fd.as_fd(), b"").map_or(0, |s| s.blocks.saturating_mul(512))
    };
    objects.iter().map(blocks).sum()
}

impl Drop for Anonymous {
    fn drop(&mut self) {
        PROMISED.fetch_sub(self.promised.load(Ordering::Relaxed), Ordering::Relaxed);
        OBJECTS.lock().remove(&self.key);
    }
}

/// Zero-filled shared memory of `len` bytes.
pub fn anonymous(len: u64) -> Result<Arc<dyn Mappable>> {
    let fd = uml_host::memfd::create("uml-shm", len)?;
    Ok(object(fd, len))
}

/// The same with a descriptor by which the kernel reads and writes it.
pub fn anonymous_file(len: u64) -> Result<(Arc<dyn Mappable>, OwnedFd)> {
    let fd = uml_host::memfd::create("uml-shm", len)?;
    let own = fd.try_clone().map_err(|_| ENOMEM)?;
    Ok((object(fd, len), own))
}

/// Memory whose size is set later, see [`Anonymous::set_len`].
pub fn growing() -> Result<Arc<Anonymous>> {
    Ok(object(uml_host::memfd::create("uml-shm", 0)?, 0))
}

impl Anonymous {
    /// Gives it `len` bytes, of which `promise` count as promised to the program. `EINVAL`, `EFBIG`, `ENOMEM` from the host.
    pub fn set_len(&self, len: u64, promise: u64) -> Result<()> {
        uml_host::memfd::set_len(&self.fd, len)?;
        let old = self.promised.swap(promise, Ordering::Relaxed);
        PROMISED.fetch_add(promise.wrapping_sub(old), Ordering::Relaxed);
        Ok(())
    }
}

fn object(fd: OwnedFd, len: u64) -> Arc<Anonymous> {
    let object = Arc::new(Anonymous { fd, key: next_key(), promised: AtomicU64::new(len) });
    PROMISED.fetch_add(len, Ordering::Relaxed);
    OBJECTS.lock().insert(object.key, Arc::downgrade(&object));
    object
}

impl Mappable for Anonymous {
    fn host_fd(&self, _: u64, _: u64, _: MapAccess) -> Result<RawFd> {
        Ok(self.fd.as_raw_fd())
    }

    fn identity(&self) -> (u64, u64) {
        (1, self.key)
    }

    fn name(&self) -> Vec<u8> {
        b"/dev/zero (deleted)".to_vec()
    }

    fn punch(&self, off: u64, len: u64) -> Result<()> {
        let mode = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u32;
        uml_host::fs::fallocate(self.fd.as_fd(), mode, off, len)
    }

    fn key(&self) -> u64 {
        self.key
    }
}

/// A mapped file: keeps the open file description alive and knows its name.
pub struct MappedFile {
    pub file: Arc<File>,
    object: Arc<dyn Mappable>,
}

impl MappedFile {
    /// `object` as mapped through `file`.
    pub fn wrap(file: Arc<File>, object: Arc<dyn Mappable>) -> Arc<dyn Mappable> {
        Arc::new(MappedFile { file, object })
    }
}

impl Mappable for MappedFile {
    fn host_fd(&self, off: u64, len: u64, access: MapAccess) -> Result<RawFd> {
        self.object.host_fd(off, len, access)
    }

    fn identity(&self) -> (u64, u64) {
        match self.file.path.metadata() {
            Ok(m) => (self.file.path.dev().encode(), m.ino),
            Err(_) => (0, 0),
        }
    }

    fn name(&self) -> Vec<u8> {
        vfs::path_name_global(&self.file.path)
    }

    fn mapped(&self, delta: i64) {
        self.object.mapped(delta);
    }

    fn sync(&self, off: u64, len: u64) -> Result<()> {
        self.object.sync(off, len)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn key(&self) -> u64 {
        self.object.key()
    }
}
