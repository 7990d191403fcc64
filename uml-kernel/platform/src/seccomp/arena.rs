//! The arena of context slots: one sparse memory file, mapped whole by the kernel and
//! slot by slot by guest processes.
//!
//! What a guest may write is read here with single volatile loads and never twice.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use uml_abi::{Result, errno};
use uml_stub::slot;

use crate::sys::{self, Mapping};

/// Contexts the machine may have.
const SLOTS: usize = 64 * 1024;
/// Freed slots whose memory is kept.
const WARM: usize = 256;

struct Free {
    list: Vec<u32>,
    next: u32,
}

pub struct Arena {
    fd: OwnedFd,
    map: Mapping,
    /// Bytes at the top of a signal stack that the host's frames can reach.
    frames: usize,
    free: Mutex<Free>,
}

impl Arena {
    /// Reserves the memory file. `ENOSYS` when this CPU's signal frames are larger than a
    /// slot was made for.
    pub fn new() -> Result<Arc<Arena>> {
        // SAFETY: reads the auxiliary vector only. Hosts before Linux 5.14 lack the entry.
        let frame = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
        // Two frames, one for an event and one for a fault in compare-and-exchange.
        let frames = (frame.max(4096) * 2 + 1024).next_multiple_of(4096);
        if frames > slot::SIZE - slot::STACK {
            return Err(errno::ENOSYS);
        }
        let len = SLOTS * slot::SIZE;
        let fd = sys::memfd(c"uml-slots", len as u64)?;
        let map = Mapping::shared(fd.as_raw_fd(), len)?;
        Ok(Arc::new(Arena {
            fd,
            map,
            frames,
            free: Mutex::new(Free { list: Vec::new(), next: 0 }),
        }))
    }

    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// A free slot with a cleared header; `EAGAIN` when there is none.
    pub fn alloc(self: &Arc<Arena>) -> Result<Slot> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match free.list.pop() {
            Some(i) => i,
            None if (free.next as usize) < SLOTS => {
                free.next += 1;
                free.next - 1
            }
            None => return Err(errno::EAGAIN),
        };
        drop(free);
        let s = Slot { arena: self.clone(), index };
        // Nothing of the slot's last thread may be seen by its next one: the header page and
        // the part of the signal stack that frames reach.
        for part in [0..slot::STACK, slot::SIZE - self.frames..slot::SIZE] {
            let p = s.ptr(part.start, part.len());
            // SAFETY: in bounds of the mapping; no guest process has the slot mapped.
            unsafe { p.write_bytes(0, part.len()) };
        }
        Ok(s)
    }
}

/// One slot, given back on drop. The holder makes sure that no guest process has it
/// mapped any more by then.
pub struct Slot {
    arena: Arc<Arena>,
    index: u32,
}

impl Slot {
    /// Offset in the arena.
    pub fn offset(&self) -> u64 {
        self.index as u64 * slot::SIZE as u64
    }

    fn ptr(&self, off: usize, len: usize) -> *mut u8 {
        assert!(off.checked_add(len).is_some_and(|end| end <= slot::SIZE));
        self.arena.map.as_ptr().wrapping_add(self.offset() as usize + off)
    }

    pub fn get(&self, off: usize) -> u64 {
        let p = self.ptr(off, 8).cast::<u64>();
        assert!(p.is_aligned());
        // SAFETY: in bounds of the mapping and aligned, both checked above.
        unsafe { p.read_volatile() }
    }

    pub fn put(&self, off: usize, value: u64) {
        let p = self.ptr(off, 8).cast::<u64>();
        assert!(p.is_aligned());
        // SAFETY: in bounds of the mapping and aligned, both checked above.
        unsafe { p.write_volatile(value) }
    }

    /// Address of a 32-bit word, for futex calls.
    pub fn word(&self, off: usize) -> *const std::sync::atomic::AtomicU32 {
        self.ptr(off, 4).cast()
    }

    /// Copies out `buf.len()` bytes from an aligned offset.
    pub fn read(&self, off: usize, buf: &mut [u8]) {
        let p = self.ptr(off, buf.len().next_multiple_of(8)).cast::<u64>();
        assert!(p.is_aligned());
        for (i, w) in buf.chunks_mut(8).enumerate() {
            // SAFETY: in bounds of the mapping and aligned, both checked above for all words.
            let word = unsafe { p.add(i).read_volatile() }.to_ne_bytes();
            w.copy_from_slice(&word[..w.len()]);
        }
    }

    /// Copies in `buf` to an aligned offset; a last incomplete word is padded with zeros.
    pub fn write(&self, off: usize, buf: &[u8]) {
        let p = self.ptr(off, buf.len().next_multiple_of(8)).cast::<u64>();
        assert!(p.is_aligned());
        for (i, w) in buf.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..w.len()].copy_from_slice(w);
            // SAFETY: in bounds of the mapping and aligned, both checked above for all words.
            unsafe { p.add(i).write_volatile(u64::from_ne_bytes(word)) };
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut free = self.arena.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.list.len() >= WARM {
            let (off, len) = (self.offset() as libc::off_t, slot::SIZE as libc::off_t);
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            // SAFETY: only the contents of this unused slot change. Failure costs memory only.
            unsafe { libc::fallocate(self.arena.fd(), mode, off, len) };
        }
        free.list.push(self.index);
    }
}
