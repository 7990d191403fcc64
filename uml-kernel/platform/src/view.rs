//! Memory files as the source of copies into guests, without a stop in the kernel's own memory.
//!
//! A read of cached data that goes through a buffer copies every byte twice. The host can copy from one address space
//! into another, so a file that is mapped here once is copied once: 34 us instead of 62 us for 256 KiB, 0.9 instead of
//! 1.3 us for a page. A mapping made for one read alone gains nothing (53 us), so it stays.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most mappings; the host grants a process 65,530 by default (vm.max_map_count).
const MOST: usize = 8192;
/// Mappings grow in such steps, so that a growing file is not mapped anew by every read.
const STEP: u64 = 2 << 20;

static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A shared, read-only mapping of a memory file. Its bytes change and vanish at any time, so there is no way to look at
/// them from here: only the host copies from it, and fails where nothing is.
pub struct FileView {
    file: Arc<OwnedFd>,
    addr: *mut u8,
    len: usize,
}

// SAFETY: the address is only handed to the host, which may read the mapping for any number of threads.
unsafe impl Send for FileView {}
// SAFETY: as for Send.
unsafe impl Sync for FileView {}

impl FileView {
    /// Shortest file that is worth a mapping, in bytes.
    pub const LEAST: u64 = 128 << 10;

    /// Maps `file`, which is `size` bytes long, and some way beyond; `None` for a short file, when there are many views
    /// already, or when the host refuses.
    pub fn map(file: &Arc<OwnedFd>, size: u64) -> Option<FileView> {
        if size < Self::LEAST {
            return None;
        }
        // A quarter more, so that appending does not map every time.
        let len =
            usize::try_from(size.checked_add(size / 4)?.checked_next_multiple_of(STEP)?).ok()?;
        if COUNT.fetch_add(1, Ordering::Relaxed) >= MOST {
            COUNT.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        // SAFETY: a new mapping at an address of the host's choice.
        let addr = unsafe {
            libc::mmap(ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if addr == libc::MAP_FAILED {
            COUNT.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        // SAFETY: the range is the new mapping. No child process of the kernel is to have it; an error changes nothing
        // for this process.
        unsafe { libc::madvise(addr, len, libc::MADV_DONTFORK) };
        Some(FileView { file: file.clone(), addr: addr.cast(), len })
    }

    /// True for the file it was made of, up to byte `end`.
    pub fn shows(&self, file: &Arc<OwnedFd>, end: u64) -> bool {
        Arc::ptr_eq(&self.file, file) && end <= self.len as u64
    }

    /// The file.
    pub fn file(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.file.as_fd()
    }

    /// Address of bytes `off..off + len`; `None` beyond the mapping.
    pub(crate) fn bytes(&self, off: u64, len: usize) -> Option<*mut u8> {
        let off = usize::try_from(off).ok()?;
        (off.checked_add(len)? <= self.len).then(|| self.addr.wrapping_add(off))
    }
}

impl Drop for FileView {
    fn drop(&mut self) {
        // SAFETY: the mapping is this view's alone, and nobody has its address any more.
        unsafe { libc::munmap(self.addr.cast(), self.len) };
        COUNT.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The view of a file that grows, made when it is first asked for.
#[derive(Default)]
pub struct ViewSlot(Option<Arc<FileView>>);

impl ViewSlot {
    /// A slot without a view.
    pub const fn empty() -> ViewSlot {
        ViewSlot(None)
    }

    /// The view of `file`, which is `size` bytes long; `None` when none can be had ([`FileView::map`]).
    pub fn get(&mut self, file: &Arc<OwnedFd>, size: u64) -> Option<Arc<FileView>> {
        if !self.0.as_ref().is_some_and(|v| v.shows(file, size)) {
            self.0 = FileView::map(file, size).map(Arc::new);
        }
        self.0.clone()
    }

    /// Forgets the view: the file is another one now.
    pub fn clear(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    fn file(size: u64) -> (File, Arc<OwnedFd>) {
        let f = tempfile();
        f.set_len(size).unwrap();
        (f.try_clone().unwrap(), Arc::new(f.into()))
    }

    fn tempfile() -> File {
        // SAFETY: the name is a C string; the descriptor is new.
        unsafe {
            use std::os::fd::FromRawFd;
            File::from_raw_fd(libc::memfd_create(c"view".as_ptr(), libc::MFD_CLOEXEC))
        }
    }

    /// Copies from a view into this very process, as into a guest.
    fn copy(v: &FileView, off: u64, buf: &mut [u8]) -> usize {
        let me = crate::process::HostProcess::new(std::process::id() as i32);
        me.write_view(&[(buf.as_mut_ptr() as u64, buf.len())], v, off, buf.len())
    }

    #[test]
    fn a_view_follows_its_file() {
        let (f, fd) = file(FileView::LEAST);
        let mut slot = ViewSlot::empty();
        assert!(slot.get(&fd, FileView::LEAST - 1).is_none(), "a short file");
        let v = slot.get(&fd, FileView::LEAST).unwrap();
        f.write_all_at(b"hello", 4096).unwrap();
        let mut buf = [0; 5];
        assert_eq!(copy(&v, 4096, &mut buf), 5);
        assert_eq!(&buf, b"hello");
        assert_eq!(
            copy(&v, FileView::LEAST, &mut buf),
            0,
            "nothing is past the end, and that is no fault"
        );
        f.set_len(8 << 20).unwrap();
        f.write_all_at(b"there", 7 << 20).unwrap();
        assert_eq!(copy(&v, 7 << 20, &mut buf), 0, "beyond the mapping");
        let v = slot.get(&fd, 8 << 20).unwrap();
        assert_eq!(copy(&v, 7 << 20, &mut buf), 5);
        assert_eq!(&buf, b"there");
        f.set_len(0).unwrap();
        assert_eq!(copy(&v, 7 << 20, &mut buf), 0, "the bytes are gone");
    }

    #[test]
    fn another_file_gets_another_view() {
        let (_a, a) = file(FileView::LEAST);
        let (_b, b) = file(FileView::LEAST);
        let mut slot = ViewSlot::empty();
        let v = slot.get(&a, FileView::LEAST).unwrap();
        assert!(v.shows(&a, FileView::LEAST) && !v.shows(&b, FileView::LEAST));
        assert!(slot.get(&b, FileView::LEAST).unwrap().shows(&b, FileView::LEAST));
    }
}
