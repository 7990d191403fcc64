//! An image file as a guest's disk.

use std::any::Any;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uml_abi::Result;
use uml_core::registry::BlockDevice;
use uml_core::vfs::Dev;

pub struct Image {
    file: File,
    size: u64,
    /// Flushes asked for.
    pub flushes: AtomicU64,
}

impl Image {
    pub fn of(file: File) -> Arc<Image> {
        let size = file.metadata().unwrap().len();
        Arc::new(Image { file, size, flushes: AtomicU64::new(0) })
    }
}

impl BlockDevice for Image {
    fn dev(&self) -> Dev {
        Dev::new(98, 0)
    }
    fn name(&self) -> String {
        "ubda".into()
    }
    fn size(&self) -> u64 {
        self.size
    }
    fn block_size(&self) -> u32 {
        512
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buf, off).map_err(Into::into)
    }
    fn write(&self, off: u64, data: &[u8]) -> Result<()> {
        self.file.write_all_at(data, off).map_err(Into::into)
    }
    fn flush(&self) -> Result<()> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
