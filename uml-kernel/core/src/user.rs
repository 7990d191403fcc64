//! Access to the memory of guest programs.
//!
//! Every access goes through the address space and copies; nothing here yields a reference to
//! guest memory. Validation happens at first touch: a zero-length access with a bad
//! pointer succeeds, as on Linux.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_mm::Mm;
use uml_platform::view::FileView;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::io::{Sink, Source};
use crate::task::Task;

/// IOV_MAX of readv(2).
pub const IOV_MAX: usize = 1024;
/// Most bytes one read or write moves (read(2) NOTES).
pub const MAX_RW_COUNT: usize = 0x7fff_f000;

/// `struct iovec`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct IoVec {
    pub base: u64,
    pub len: u64,
}

/// Reads a plain structure at `addr`.
pub fn read_obj<T: FromBytes + IntoBytes>(task: &Task, addr: u64) -> Result<T> {
    let mut v = T::new_zeroed();
    task.mm()?.read(addr, v.as_mut_bytes())?;
    Ok(v)
}

/// Writes a plain structure to `addr`.
pub fn write_obj<T: IntoBytes + Immutable>(task: &Task, addr: u64, v: &T) -> Result<()> {
    task.mm()?.write(addr, v.as_bytes())
}

/// Reads `n` structures of an array.
pub fn read_array<T: FromBytes + IntoBytes + Clone>(
    task: &Task,
    addr: u64,
    n: usize,
) -> Result<Vec<T>> {
    let mut v = Vec::new();
    v.try_reserve_exact(n).map_err(|_| ENOMEM)?;
    v.resize_with(n, T::new_zeroed);
    if n != 0 {
        task.mm()?.read(addr, v.as_mut_slice().as_mut_bytes())?;
    }
    Ok(v)
}

/// Writes an array.
pub fn write_array<T: IntoBytes + Immutable>(task: &Task, addr: u64, v: &[T]) -> Result<()> {
    if v.is_empty() {
        return Ok(());
    }
    task.mm()?.write(addr, v.as_bytes())
}

/// Reads words from several places with one copy; `EFAULT` when one of them is not there. Lengths are in words.
pub fn read_words(task: &Task, places: &[(u64, usize)]) -> Result<Vec<u64>> {
    let ranges: Vec<(u64, usize)> = places.iter().map(|&(at, n)| (at, n * 8)).collect();
    let mut v = vec![0u64; places.iter().map(|p| p.1).sum()];
    let buf = v.as_mut_slice().as_mut_bytes();
    if task.mm()?.read_ranges(&ranges, buf) == buf.len() { Ok(v) } else { Err(EFAULT) }
}

/// Writes words to several places with one copy; returns how many bytes went before a place that is not there.
pub fn write_words(task: &Task, places: &[(u64, usize)], v: &[u64]) -> Result<usize> {
    let ranges: Vec<(u64, usize)> = places.iter().map(|&(at, n)| (at, n * 8)).collect();
    Ok(task.mm()?.write_ranges(&ranges, v.as_bytes()))
}

/// Reads `len` bytes.
pub fn read_bytes(task: &Task, addr: u64, len: usize) -> Result<Vec<u8>> {
    read_array::<u8>(task, addr, len)
}

/// Writes bytes.
pub fn write_bytes(task: &Task, addr: u64, data: &[u8]) -> Result<()> {
    write_array(task, addr, data)
}

/// Reads a NUL-terminated string of less than `max` bytes; `over` when it is longer
/// (`ENAMETOOLONG` for paths, `E2BIG` for arguments), `EFAULT` when it runs into a bad page.
pub fn read_cstr(task: &Task, addr: u64, max: usize, over: Errno) -> Result<Vec<u8>> {
    let mm = task.mm()?;
    let mut out = Vec::new();
    let mut at = addr;
    // Most strings are short: the first copy stays small, later ones go page by page.
    let mut step = 256 - (at as usize & 63);
    while out.len() < max {
        let to_page_end = 4096 - (at as usize & 4095);
        let want = step.min(to_page_end).min(max - out.len());
        let mut buf = [0u8; 4096];
        let got = mm.read_partial(at, &mut buf[..want]);
        if let Some(n) = buf[..got].iter().position(|b| *b == 0) {
            out.extend_from_slice(&buf[..n]);
            return Ok(out);
        }
        out.extend_from_slice(&buf[..got]);
        if got < want {
            return Err(EFAULT);
        }
        at = at.wrapping_add(got as u64);
        step = 4096;
    }
    Err(over)
}

/// Reads a string of at most `max` bytes, cut there (prctl(2) PR_SET_NAME).
pub fn read_cstr_cut(task: &Task, addr: u64, max: usize) -> Result<Vec<u8>> {
    let mut buf = vec![0; max];
    let n = task.mm()?.read_partial(addr, &mut buf);
    match buf[..n].iter().position(|b| *b == 0) {
        Some(end) => buf.truncate(end),
        None if n < max => return Err(EFAULT),
        None => {}
    }
    Ok(buf)
}

/// Reads a path argument (PATH_MAX bytes with the NUL).
pub fn read_path(task: &Task, addr: u64) -> Result<Vec<u8>> {
    read_cstr(task, addr, libc::PATH_MAX as usize, ENAMETOOLONG)
}

/// `EFAULT` for a range that wraps around or ends beyond the addresses a program can have; what is mapped
/// there shows at first touch.
fn check_range(addr: u64, len: u64) -> Result<()> {
    const TASK_SIZE: u64 = 0x7fff_ffff_f000;
    match addr.checked_add(len) {
        Some(end) if end <= TASK_SIZE => Ok(()),
        _ => Err(EFAULT),
    }
}

/// Guest memory as an I/O sink or source: ranges that are filled or drained in order.
pub struct UserIo {
    mm: Arc<Mm>,
    ranges: Vec<(u64, usize)>,
    /// Index of the current range and position in it.
    index: usize,
    pos: usize,
    left: usize,
}

impl UserIo {
    /// One buffer.
    pub fn new(task: &Task, addr: u64, len: usize) -> Result<UserIo> {
        check_range(addr, len as u64)?;
        let len = len.min(MAX_RW_COUNT);
        Ok(UserIo { mm: task.mm()?, ranges: vec![(addr, len)], index: 0, pos: 0, left: len })
    }

    /// The buffers of readv(2)/writev(2): `EINVAL` for more than IOV_MAX vectors or lengths whose sum
    /// overflows.
    pub fn from_iovec(task: &Task, addr: u64, count: usize) -> Result<UserIo> {
        if count > IOV_MAX {
            return Err(EINVAL);
        }
        let iov: Vec<IoVec> = read_array(task, addr, count)?;
        let mut ranges = Vec::with_capacity(count);
        let mut total = 0usize;
        for v in iov {
            if v.len > isize::MAX as u64 {
                return Err(EINVAL);
            }
            check_range(v.base, v.len)?;
            let len = (v.len as usize).min(MAX_RW_COUNT - total);
            total += len;
            ranges.push((v.base, len));
        }
        Ok(UserIo { mm: task.mm()?, ranges, index: 0, pos: 0, left: total })
    }

    /// Bytes still to move.
    pub fn len(&self) -> usize {
        self.left
    }

    /// True when nothing is left.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Limits what is left to `n` bytes.
    pub fn truncate(&mut self, n: usize) {
        self.left = self.left.min(n);
    }

    fn advance(&mut self, n: usize) {
        self.pos += n;
        self.left -= n;
    }

    /// The present range with at least one byte, or none.
    fn current(&mut self) -> Option<(u64, usize)> {
        while let Some(&(base, len)) = self.ranges.get(self.index) {
            if self.pos < len && self.left > 0 {
                return Some((base.wrapping_add(self.pos as u64), (len - self.pos).min(self.left)));
            }
            if self.left == 0 {
                return None;
            }
            self.index += 1;
            self.pos = 0;
        }
        None
    }
}

impl Sink for UserIo {
    fn remaining(&self) -> usize {
        self.left
    }

    fn put(&mut self, data: &[u8]) -> Result<usize> {
        let mut done = 0;
        while done < data.len() {
            let Some((addr, room)) = self.current() else { break };
            let n = room.min(data.len() - done);
            let got = self.mm.write_partial(addr, &data[done..done + n]);
            self.advance(got);
            done += got;
            if got < n {
                return if done == 0 { Err(EFAULT) } else { Ok(done) };
            }
        }
        Ok(done)
    }

    fn put_view(&mut self, view: &FileView, off: u64, len: usize) -> Result<usize> {
        let mut done = 0;
        while done < len {
            let Some((addr, room)) = self.current() else { break };
            let n = room.min(len - done);
            let got = self.mm.write_view(addr, view, off + done as u64, n);
            self.advance(got);
            done += got;
            if got < n {
                return if done == 0 { Err(EFAULT) } else { Ok(done) };
            }
        }
        Ok(done)
    }
}

impl Source for UserIo {
    fn remaining(&self) -> usize {
        self.left
    }

    fn take(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let Some((addr, room)) = self.current() else { break };
            let n = room.min(buf.len() - done);
            let got = self.mm.read_partial(addr, &mut buf[done..done + n]);
            self.advance(got);
            done += got;
            if got < n {
                return if done == 0 { Err(EFAULT) } else { Ok(done) };
            }
        }
        Ok(done)
    }

    fn untake(&mut self, n: usize) {
        let mut n = n;
        self.left += n;
        while n > self.pos {
            n -= self.pos;
            if self.index == 0 {
                self.pos = 0;
                return;
            }
            self.index -= 1;
            self.pos = self.ranges[self.index].1;
        }
        self.pos -= n;
    }
}
