//! Where the bytes of a cached file are.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_host::fs as host;

use crate::PAGE;

/// Files up to this size stay in the heap until they are mapped.
pub(crate) const HEAP_MAX: u64 = 32 << 10;

const PUNCH: u32 = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u32;

/// Bytes that were never stored read as zeros.
pub(crate) enum Store {
    Heap(Vec<u8>),
    /// A sparse memory file as long as the cached file.
    Memory(Arc<OwnedFd>),
}

impl Store {
    pub(crate) const fn empty() -> Store {
        Store::Heap(Vec::new())
    }

    pub(crate) fn fd(&self) -> Option<&Arc<OwnedFd>> {
        match self {
            Store::Memory(fd) => Some(fd),
            Store::Heap(_) => None,
        }
    }

    /// Moves the bytes to a memory file of `size` bytes; true when they were not in one.
    pub(crate) fn move_to_memory(&mut self, size: u64) -> Result<bool> {
        let Store::Heap(v) = self else { return Ok(false) };
        let fd = uml_host::memfd::create("uml-page-cache", size)?;
        let keep = usize::try_from(size).map_or(v.len(), |s| s.min(v.len()));
        write_all(&fd, 0, &v[..keep])?;
        *self = Store::Memory(Arc::new(fd));
        Ok(true)
    }

    pub(crate) fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        match self {
            Store::Heap(v) => {
                let start = usize::try_from(off).map_or(v.len(), |o| o.min(v.len()));
                let n = (v.len() - start).min(buf.len());
                buf[..n].copy_from_slice(&v[start..start + n]);
                buf[n..].fill(0);
                Ok(())
            }
            Store::Memory(fd) => read_all(fd, off, buf),
        }
    }

    /// Stores bytes. A heap store must have been checked to suffice ([`HEAP_MAX`]).
    pub(crate) fn write(&mut self, off: u64, data: &[u8]) -> Result<()> {
        match self {
            Store::Heap(v) => {
                let start = usize::try_from(off).map_err(|_| EFBIG)?;
                let end = start.checked_add(data.len()).ok_or(EFBIG)?;
                if v.len() < end {
                    v.reserve_exact(end - v.len());
                    v.resize(end, 0);
                }
                v[start..end].copy_from_slice(data);
                Ok(())
            }
            Store::Memory(fd) => write_all(fd, off, data),
        }
    }

    /// As [`Store::write`] of whole pages that hold nothing yet: pages of zeros take no memory.
    pub(crate) fn install(&mut self, off: u64, data: &[u8]) -> Result<()> {
        if matches!(self, Store::Heap(_)) {
            return self.write(off, data);
        }
        let mut at = 0;
        while at < data.len() {
            let zeros = page_run(&data[at..], true);
            at += zeros;
            let n = page_run(&data[at..], false);
            if n > 0 {
                self.write(off + at as u64, &data[at..at + n])?;
            }
            at += n;
        }
        Ok(())
    }

    /// Makes a range read as zeros and gives its whole pages back.
    pub(crate) fn punch(&mut self, off: u64, len: u64) -> Result<()> {
        match self {
            Store::Heap(v) => {
                let clip = |n: u64| usize::try_from(n).map_or(v.len(), |n| n.min(v.len()));
                let (s, e) = (clip(off), clip(off.saturating_add(len)));
                v[s..e].fill(0);
                Ok(())
            }
            Store::Memory(fd) if len > 0 => host::fallocate(fd.as_fd(), PUNCH, off, len),
            Store::Memory(_) => Ok(()),
        }
    }

    /// The file has `size` bytes now; what was beyond is gone.
    pub(crate) fn set_len(&mut self, size: u64) -> Result<()> {
        match self {
            Store::Heap(v) => {
                if let Ok(n) = usize::try_from(size) {
                    v.truncate(n);
                }
                Ok(())
            }
            Store::Memory(fd) => host::truncate(fd.as_fd(), size),
        }
    }
}

/// Length of the run of pages at the start of `data` that are (not) all zero.
fn page_run(data: &[u8], zero: bool) -> usize {
    let mut n = 0;
    for p in data.chunks(PAGE as usize) {
        if is_zero(p) != zero {
            break;
        }
        n += p.len();
    }
    n
}

/// True when every byte is zero.
pub(crate) fn is_zero(p: &[u8]) -> bool {
    // The first bytes decide almost always; the comparison with itself is a memcmp.
    match p.split_at_checked(16) {
        Some((head, rest)) => head.iter().all(|b| *b == 0) && rest == &p[..rest.len()],
        None => p.iter().all(|b| *b == 0),
    }
}

pub(crate) fn read_all(fd: &OwnedFd, off: u64, buf: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match host::pread(fd.as_fd(), off + done as u64, &mut buf[done..])? {
            0 => {
                buf[done..].fill(0);
                break;
            }
            n => done += n,
        }
    }
    Ok(())
}

fn write_all(fd: &OwnedFd, off: u64, data: &[u8]) -> Result<()> {
    let mut done = 0;
    while done < data.len() {
        match host::pwrite(fd.as_fd(), off + done as u64, &data[done..])? {
            0 => return Err(EIO),
            n => done += n,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_pages_are_recognised() {
        assert!(is_zero(&[0; 4096]));
        assert!(is_zero(&[]));
        assert!(is_zero(&[0; 3]));
        for at in [0, 15, 16, 17, 31, 32, 4095] {
            let mut p = [0; 4096];
            p[at] = 1;
            assert!(!is_zero(&p), "{at}");
        }
    }

    #[test]
    fn pages_of_zeros_stay_holes() {
        let mut s = Store::empty();
        s.move_to_memory(16 * PAGE).unwrap();
        let mut data = vec![0; 8 * PAGE as usize];
        data[3 * PAGE as usize] = 1;
        s.install(4 * PAGE, &data).unwrap();
        let blocks = host::statx(s.fd().unwrap().as_fd(), b"").unwrap().blocks;
        assert_eq!(blocks, PAGE / 512);
        let mut back = vec![9; 8 * PAGE as usize];
        s.read(4 * PAGE, &mut back).unwrap();
        assert_eq!(back, data);
    }
}
