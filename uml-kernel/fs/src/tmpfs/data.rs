//! Contents of a regular file.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::io::{Sink, Source};
use uml_core::shm::next_key;
use uml_host::fs as host;
use uml_mm::{MapAccess, Mappable};
use uml_pagecache::PageSet;
use uml_platform::view::{FileView, ViewSlot};

use crate::tmpfs::Shared;
use crate::transfer;

const PAGE: u64 = uml_mm::PAGE;
/// Files up to this size stay in the heap until they are mapped.
const INLINE_MAX: u64 = 32 << 10;

/// Seals of memfd_create(2), as fcntl(2) F_ADD_SEALS numbers them.
pub const SEAL_SEAL: u32 = 1;
pub const SEAL_SHRINK: u32 = 2;
pub const SEAL_GROW: u32 = 4;
pub const SEAL_WRITE: u32 = 8;
pub const SEAL_FUTURE_WRITE: u32 = 16;
pub const SEAL_EXEC: u32 = 32;

enum Store {
    Heap(Vec<u8>),
    Memory(Arc<OwnedFd>),
}

struct State {
    store: Store,
    /// For long reads.
    view: ViewSlot,
    size: u64,
    pages: PageSet,
    seals: u32,
    /// Mappings that exist, and whether one of them may write to the file (F_SEAL_WRITE is EBUSY then).
    maps: i64,
    map_writes: bool,
}

/// The bytes of one file.
pub(crate) struct FileData {
    shared: Arc<Shared>,
    state: Mutex<State>,
    /// Ever mapped: the host may have allocated pages behind our back.
    mapped: AtomicBool,
    key: u64,
    me: Weak<FileData>,
}

/// Files that were ever mapped.
static MAPPED: Mutex<BTreeMap<u64, Weak<FileData>>> = Mutex::new(Rank::LEAF, BTreeMap::new());

/// Bytes that programs made files of all instances hold through mappings, which no instance was charged for.
pub(crate) fn uncharged() -> u64 {
    let files: Vec<_> = MAPPED.lock().values().filter_map(Weak::upgrade).collect();
    let more = |f: &Arc<FileData>| {
        let charged = f.state.lock().pages.count() * PAGE;
        (f.blocks() * 512).saturating_sub(charged)
    };
    files.iter().map(more).sum()
}

fn page_range(off: u64, len: u64) -> (u64, u64) {
    (off / PAGE, (off + len).div_ceil(PAGE))
}

impl FileData {
    pub(crate) fn new(shared: Arc<Shared>) -> Arc<FileData> {
        let state = State {
            store: Store::Heap(Vec::new()),
            view: ViewSlot::empty(),
            size: 0,
            pages: PageSet::default(),
            seals: SEAL_SEAL,
            maps: 0,
            map_writes: false,
        };
        Arc::new_cyclic(|me| FileData {
            me: me.clone(),
            shared,
            state: Mutex::new(Rank::PAGES, state),
            mapped: AtomicBool::new(false),
            key: next_key(),
        })
    }

    pub(crate) fn size(&self) -> u64 {
        self.state.lock().size
    }

    /// Allocated blocks of 512 bytes.
    pub(crate) fn blocks(&self) -> u64 {
        let s = self.state.lock();
        if self.mapped.load(Ordering::Relaxed)
            && let Store::Memory(fd) = &s.store
            && let Ok(st) = host::statx(fd.as_fd(), b"")
        {
            return st.blocks;
        }
        s.pages.count() * (PAGE / 512)
    }

    fn to_memory(s: &mut State) -> Result<Arc<OwnedFd>> {
        match &s.store {
            Store::Memory(fd) => Ok(fd.clone()),
            Store::Heap(v) => {
                let fd = uml_host::memfd::create("uml-tmpfs", s.size)?;
                let mut done = 0;
                while done < v.len() {
                    let n = host::pwrite(fd.as_fd(), done as u64, &v[done..])?;
                    if n == 0 {
                        return Err(EIO);
                    }
                    done += n;
                }
                let fd = Arc::new(fd);
                s.store = Store::Memory(fd.clone());
                Ok(fd)
            }
        }
    }

    /// read(2).
    pub(crate) fn read(&self, off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        let through = |off: u64, len: usize, dst: &mut dyn Sink| {
            let (view, n) = {
                let mut s = self.state.lock();
                let s = &mut *s;
                let n = s.size.saturating_sub(off).min(len as u64);
                let (a, b) = page_range(off, n);
                // A hole would get pages by being looked at.
                if n < PAGE || s.size < FileView::LEAST || !s.pages.covers(a, b) {
                    return None;
                }
                let Store::Memory(fd) = &s.store else { return None };
                (s.view.get(fd, s.size)?, n as usize)
            };
            // A file that got shorter meanwhile fails like a bad address; the other way finds out which it is.
            dst.put_view(&view, off, n).ok().map(Ok)
        };
        transfer::read_through(off, dst, through, |off, buf| {
            let (fd, n) = {
                let s = self.state.lock();
                let n = s.size.saturating_sub(off).min(buf.len() as u64) as usize;
                match &s.store {
                    Store::Heap(v) => {
                        let have = v.len().saturating_sub(off as usize).min(n);
                        if have != 0 {
                            buf[..have].copy_from_slice(&v[off as usize..off as usize + have]);
                        }
                        buf[have..n].fill(0);
                        return Ok(n);
                    }
                    Store::Memory(fd) => (fd.clone(), n),
                }
            };
            if n == 0 { Ok(0) } else { host::pread(fd.as_fd(), off, &mut buf[..n]) }
        })
    }

    /// write(2); at the end with `append`.
    pub(crate) fn write(&self, off: &mut u64, src: &mut dyn Source, append: bool) -> Result<usize> {
        let mut first = true;
        transfer::write_from(src, |buf| {
            let mut s = self.state.lock();
            if append && first {
                *off = s.size;
            }
            first = false;
            if s.seals & (SEAL_WRITE | SEAL_FUTURE_WRITE) != 0 {
                return Err(EPERM);
            }
            let room = (i64::MAX as u64).saturating_sub(*off);
            if room == 0 && !buf.is_empty() {
                return Err(EFBIG);
            }
            let mut buf = &buf[..buf.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
            if s.seals & SEAL_GROW != 0 && *off + buf.len() as u64 > s.size {
                let keep = s.size.saturating_sub(*off) as usize;
                if keep == 0 {
                    return Err(EPERM);
                }
                buf = &buf[..keep];
            }
            let n = self.store(&mut s, *off, buf)?;
            *off += n as u64;
            Ok(n)
        })
    }

    /// Puts `data` at `off`, as much as the limit allows.
    fn store(&self, s: &mut State, off: u64, data: &[u8]) -> Result<usize> {
        if data.is_empty() {
            return Ok(0);
        }
        let mut data = data;
        let (a, mut b) = page_range(off, data.len() as u64);
        let mut need = s.pages.missing(a, b);
        if need != 0 && self.shared.charge(need).is_err() {
            // Page by page up to the limit: a short write.
            b = a;
            need = 0;
            let (_, end) = page_range(off, data.len() as u64);
            while b < end {
                let m = s.pages.missing(b, b + 1);
                if m != 0 && self.shared.charge(m).is_err() {
                    break;
                }
                need += m;
                b += 1;
            }
            let fits = (b * PAGE).saturating_sub(off) as usize;
            if fits == 0 {
                return Err(ENOSPC);
            }
            data = &data[..fits.min(data.len())];
        }
        let end = off + data.len() as u64;
        let r = match &mut s.store {
            Store::Heap(v) if end <= INLINE_MAX => {
                let end = end as usize;
                if v.len() < end {
                    v.resize(end, 0);
                }
                v[off as usize..end].copy_from_slice(data);
                Ok(data.len())
            }
            _ => FileData::to_memory(s).and_then(|fd| {
                let n = host::pwrite(fd.as_fd(), off, data)?;
                if n == 0 { Err(ENOSPC) } else { Ok(n) }
            }),
        };
        match r {
            Ok(n) => {
                s.pages.add(a, b);
                s.size = s.size.max(off + n as u64);
                Ok(n)
            }
            Err(e) => {
                self.shared.uncharge(need);
                Err(if e == EMFILE || e == ENFILE { ENOSPC } else { e })
            }
        }
    }

    /// truncate(2).
    pub(crate) fn set_size(&self, size: u64) -> Result<()> {
        let mut s = self.state.lock();
        if size > i64::MAX as u64 {
            return Err(EFBIG);
        }
        if (size < s.size && s.seals & SEAL_SHRINK != 0)
            || (size > s.size && s.seals & SEAL_GROW != 0)
        {
            return Err(EPERM);
        }
        match &mut s.store {
            // Bytes past the end of the vector read as zeros.
            Store::Heap(v) => {
                if (size as usize as u64) == size {
                    v.truncate(size as usize);
                }
            }
            Store::Memory(fd) => host::truncate(fd.as_fd(), size)?,
        }
        let first = size.div_ceil(PAGE);
        let gone = s.pages.covered(first, u64::MAX);
        s.pages.remove(first, u64::MAX);
        self.shared.uncharge(gone);
        s.size = size;
        Ok(())
    }

    /// fallocate(2): allocation, and the modes PUNCH_HOLE and ZERO_RANGE.
    pub(crate) fn fallocate(&self, mode: u32, off: u64, len: u64) -> Result<()> {
        const KEEP: u32 = libc::FALLOC_FL_KEEP_SIZE as u32;
        const PUNCH: u32 = libc::FALLOC_FL_PUNCH_HOLE as u32;
        let end = off.checked_add(len).filter(|e| *e <= i64::MAX as u64).ok_or(EFBIG)?;
        let mut s = self.state.lock();
        match mode {
            m if m == PUNCH | KEEP => {
                if s.seals & (SEAL_WRITE | SEAL_FUTURE_WRITE) != 0 {
                    return Err(EPERM);
                }
                match &mut s.store {
                    Store::Heap(v) => {
                        let top = (v.len() as u64).min(end) as usize;
                        if (off as usize) < top {
                            v[off as usize..top].fill(0);
                        }
                    }
                    Store::Memory(fd) => host::fallocate(fd.as_fd(), mode, off, len)?,
                }
                let (a, b) = (off.div_ceil(PAGE), end / PAGE);
                if a < b {
                    let gone = s.pages.covered(a, b);
                    s.pages.remove(a, b);
                    self.shared.uncharge(gone);
                }
                Ok(())
            }
            0 | KEEP => {
                if mode == 0 && end > s.size && s.seals & SEAL_GROW != 0 {
                    return Err(EPERM);
                }
                let (a, b) = page_range(off, len);
                let need = s.pages.missing(a, b);
                self.shared.charge(need)?;
                if end > INLINE_MAX || matches!(s.store, Store::Memory(_)) {
                    let fd = FileData::to_memory(&mut s)?;
                    if let Err(e) = host::fallocate(fd.as_fd(), mode, off, len) {
                        self.shared.uncharge(need);
                        return Err(e);
                    }
                }
                s.pages.add(a, b);
                if mode == 0 {
                    s.size = s.size.max(end);
                }
                Ok(())
            }
            _ => Err(EOPNOTSUPP),
        }
    }

    /// lseek(2) SEEK_DATA and SEEK_HOLE.
    pub(crate) fn seek_data(&self, off: u64, whence: i32) -> Result<u64> {
        let s = self.state.lock();
        if off >= s.size {
            return Err(ENXIO);
        }
        match &s.store {
            Store::Memory(fd) => host::lseek(fd.as_fd(), off as i64, whence),
            Store::Heap(_) => {
                let page = off / PAGE;
                let here = s.pages.covered(page, page + 1) != 0;
                if whence == libc::SEEK_DATA {
                    if here {
                        return Ok(off);
                    }
                    match s.pages.runs(page, s.size.div_ceil(PAGE)).next() {
                        Some((p, _)) => Ok(p * PAGE),
                        None => Err(ENXIO),
                    }
                } else if here {
                    let end = s.pages.run_of(page).map_or(page, |(_, e)| e);
                    Ok((end * PAGE).min(s.size))
                } else {
                    Ok(off)
                }
            }
        }
    }

    /// Present seals (fcntl(2) F_GET_SEALS).
    pub(crate) fn seals(&self) -> u32 {
        self.state.lock().seals
    }

    /// Seals may be set from now on (MFD_ALLOW_SEALING).
    pub(crate) fn allow_sealing(&self) {
        self.state.lock().seals &= !SEAL_SEAL;
    }

    /// fcntl(2) F_ADD_SEALS.
    pub(crate) fn add_seals(&self, seals: u32) -> Result<()> {
        let all = SEAL_SEAL | SEAL_SHRINK | SEAL_GROW | SEAL_WRITE | SEAL_FUTURE_WRITE | SEAL_EXEC;
        if seals & !all != 0 {
            return Err(EINVAL);
        }
        let mut s = self.state.lock();
        if s.seals & SEAL_SEAL != 0 {
            return Err(EPERM);
        }
        if seals & SEAL_WRITE != 0 && s.seals & SEAL_WRITE == 0 && s.maps > 0 && s.map_writes {
            return Err(EBUSY);
        }
        s.seals |= seals;
        Ok(())
    }
}

impl Mappable for FileData {
    fn host_fd(&self, _: u64, _: u64, access: MapAccess) -> Result<RawFd> {
        let mut s = self.state.lock();
        if access.shared && access.may_write && s.seals & (SEAL_WRITE | SEAL_FUTURE_WRITE) != 0 {
            return Err(EPERM);
        }
        s.map_writes |= access.shared && access.may_write;
        let fd = FileData::to_memory(&mut s)?;
        if !self.mapped.swap(true, Ordering::Relaxed)
            && let Some(me) = self.me.upgrade()
        {
            MAPPED.lock().insert(self.key, Arc::downgrade(&me));
        }
        // The file lives as long as `self` does: a file never goes back to the heap.
        Ok(fd.as_raw_fd())
    }

    fn mapped(&self, delta: i64) {
        let mut s = self.state.lock();
        s.maps = s.maps.saturating_add(delta).max(0);
        if s.maps == 0 {
            s.map_writes = false;
        }
    }

    fn key(&self) -> u64 {
        self.key
    }
}

impl Drop for FileData {
    fn drop(&mut self) {
        let n = self.state.lock().pages.count();
        self.shared.uncharge(n);
        if self.mapped.load(Ordering::Relaxed) {
            MAPPED.lock().remove(&self.key);
        }
    }
}
