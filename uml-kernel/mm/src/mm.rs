//! One guest address space.

mod arriving;
mod map;
mod unmap;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, MutexGuard, Rank};
use uml_platform::view::FileView;
use uml_platform::{Context, MemOp, Space};

use crate::mappable::{MapAccess, PAGE};
use crate::vma::*;

use arriving::{Arrivals, Arriving};
pub use map::{MapRequest, Placed};
pub use unmap::HostCall;

/// Layout facts execve(2) leaves for prctl(2) PR_SET_MM and /proc/<pid>/stat.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layout {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_stack: u64,
    pub start_brk: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    /// Top of the region mmap(2) places mappings in.
    pub mmap_base: u64,
    /// Address of the vDSO image.
    pub vdso: u64,
}

/// Everything the map lock protects.
pub struct Map {
    pub vmas: VmaSet,
    pub brk: u64,
    pub layout: Layout,
    /// Auxiliary vector as the program got it (/proc/<pid>/auxv).
    pub auxv: Vec<u8>,
    /// mlockall(2) MCL_FUTURE.
    pub lock_future: bool,
    /// The same without MCL_ONFAULT: new mappings are made present at once.
    pub fill_future: bool,
    /// Ranges that host calls still in flight will unmap: not to be reused yet. Keyed by the thread
    /// that makes the call; its next event ends the entry.
    leaving: Vec<(i32, u64, u64)>,
    /// Ranges in the map whose host call may not have been made yet, see [`arriving`].
    arriving: Vec<Arriving>,
}

/// Why an access failed (sigaction(2): SEGV_MAPERR, SEGV_ACCERR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The mapping was missing on the host only; retry the access.
    Resolved,
    NotMapped,
    Access,
}

/// Distance kept below a stack-like area (`stack_guard_gap` of the stock kernel: 256 pages).
pub(crate) const STACK_GUARD_GAP: u64 = 256 * PAGE;

/// Most areas one address space may have: the host's vm.max_map_count less what the stub uses.
pub const MAX_AREAS: usize = 65_530 - 128;

/// A guest address space: the vma set and the way to its bytes.
pub struct Mm {
    space: Arc<dyn Space>,
    user_min: u64,
    user_max: u64,
    map: Mutex<Map>,
    arrivals: Arrivals,
    shared: AtomicBool,
    /// There is or was an area of [`Purpose::Secret`].
    secrets: AtomicBool,
}

/// Protection bits for a host mmap of an area.
fn host_prot(flags: &VmaFlags) -> i32 {
    (flags.prot & PROT_ALL) as i32
}

impl Mm {
    /// An empty address space over `space` for addresses in `user_min..user_max`.
    pub fn new(space: Arc<dyn Space>, user_min: u64, user_max: u64) -> Mm {
        let map = Map {
            vmas: VmaSet::default(),
            brk: 0,
            layout: Layout { mmap_base: user_max, ..Layout::default() },
            auxv: Vec::new(),
            lock_future: false,
            fill_future: false,
            leaving: Vec::new(),
            arriving: Vec::new(),
        };
        let arrivals = Arrivals::default();
        let (map, shared) = (Mutex::new(Rank::MM, map), AtomicBool::new(false));
        let secrets = AtomicBool::new(false);
        Mm { space, user_min, user_max, map, arrivals, shared, secrets }
    }

    /// A second thread is about to use it: clone(2) with CLONE_VM.
    pub fn share(&self) {
        self.shared.store(true, Ordering::Relaxed);
    }

    /// Whether it ever had a second thread.
    pub fn was_shared(&self) -> bool {
        self.shared.load(Ordering::Relaxed)
    }

    /// The platform's side.
    pub fn space(&self) -> &Arc<dyn Space> {
        &self.space
    }

    /// First address the guest may not use.
    pub fn user_max(&self) -> u64 {
        self.user_max
    }

    /// Lowest address the guest may map.
    pub fn user_min(&self) -> u64 {
        self.user_min
    }

    /// The map, locked. Host mappings are not changed through it.
    pub fn map(&self) -> MutexGuard<'_, Map> {
        self.map.lock()
    }

    /// The map of a fork child over its own `space`: the same areas, without those marked
    /// MADV_DONTFORK (madvise(2) reaches the host too, whose own fork leaves them out and wipes those
    /// marked MADV_WIPEONFORK).
    pub fn fork_into(&self, space: Arc<dyn Space>) -> Mm {
        let parent = self.lock_settled(0, u64::MAX);
        let mut vmas = VmaSet::default();
        for v in parent.vmas.iter().filter(|v| !v.flags.dontfork) {
            let mut v = v.clone();
            v.flags.locked = false;
            if let Some(b) = &v.backing {
                b.object.mapped(1);
            }
            vmas.insert(v);
        }
        let map = Map {
            vmas,
            brk: parent.brk,
            layout: parent.layout,
            auxv: parent.auxv.clone(),
            lock_future: false,
            fill_future: false,
            leaving: Vec::new(),
            arriving: Vec::new(),
        };
        Mm {
            space,
            user_min: self.user_min,
            user_max: self.user_max,
            map: Mutex::new(Rank::MM, map),
            arrivals: Arrivals::default(),
            shared: AtomicBool::new(false),
            secrets: AtomicBool::new(self.secrets.load(Ordering::Relaxed)),
        }
    }

    fn clamp(&self, addr: u64, len: usize) -> usize {
        if addr >= self.user_max { 0 } else { len.min((self.user_max - addr) as usize) }
    }

    /// Copies guest memory at `addr` into `buf`; returns how many bytes came before the first
    /// inaccessible page.
    pub fn read_partial(&self, addr: u64, buf: &mut [u8]) -> usize {
        let n = self.clamp(addr, buf.len());
        if n == 0 { 0 } else { self.space.read(addr, &mut buf[..n]) }
    }

    /// Copies `buf` to guest memory at `addr`; returns how many bytes went before the first
    /// inaccessible page.
    pub fn write_partial(&self, addr: u64, buf: &[u8]) -> usize {
        let n = self.clamp(addr, buf.len());
        if n == 0 { 0 } else { self.space.write(addr, &buf[..n]) }
    }

    /// As [`Mm::write_partial`] with bytes `off..off + len` of a memory file. Fewer than `len` are copied where the file
    /// has no page, too.
    pub fn write_view(&self, addr: u64, view: &FileView, off: u64, len: usize) -> usize {
        let n = self.clamp(addr, len);
        if n == 0 { 0 } else { self.space.write_view(addr, view, off, n) }
    }

    /// How many of `len` bytes at `addr` come before the first that others than the program may not see
    /// (memfd_secret(2)).
    fn exposed(&self, addr: u64, len: usize) -> usize {
        if !self.secrets.load(Ordering::Relaxed) {
            return len;
        }
        let end = addr.saturating_add(len as u64);
        let map = self.map.lock();
        let secret = map.vmas.overlapping(addr, end).find(|v| v.flags.purpose == Purpose::Secret);
        secret.map_or(len, |v| v.start.saturating_sub(addr) as usize)
    }

    /// As [`Mm::read_partial`] for somebody else: a tracer, /proc, process_vm_readv(2).
    pub fn read_foreign(&self, addr: u64, buf: &mut [u8]) -> usize {
        let n = self.exposed(addr, buf.len());
        self.read_partial(addr, &mut buf[..n])
    }

    /// As [`Mm::write_partial`] for somebody else.
    pub fn write_foreign(&self, addr: u64, buf: &[u8]) -> usize {
        let n = self.exposed(addr, buf.len());
        self.write_partial(addr, &buf[..n])
    }

    /// As [`Mm::write_foreign`] for a tracer: pages that the program cannot write are written too, unless they are
    /// shared. What is not mapped stays so.
    pub fn poke(&self, addr: u64, buf: &[u8]) -> usize {
        let n = self.clamp(addr, self.exposed(addr, buf.len()));
        if n == 0 {
            return 0;
        }
        let done = self.space.write(addr, &buf[..n]);
        if done == n { n } else { done + self.space.poke(addr + done as u64, &buf[done..n]) }
    }

    /// As [`Mm::read_partial`], all or `EFAULT`.
    pub fn read(&self, addr: u64, buf: &mut [u8]) -> Result<()> {
        if self.read_partial(addr, buf) == buf.len() { Ok(()) } else { Err(EFAULT) }
    }

    /// As [`Mm::write_partial`], all or `EFAULT`.
    pub fn write(&self, addr: u64, buf: &[u8]) -> Result<()> {
        if self.write_partial(addr, buf) == buf.len() { Ok(()) } else { Err(EFAULT) }
    }

    /// Copies the guest's `ranges`, in order, into `buf`, with one host call; returns how many bytes came before the first
    /// inaccessible page.
    pub fn read_ranges(&self, ranges: &[(u64, usize)], buf: &mut [u8]) -> usize {
        let reach = self.reach(ranges).min(buf.len());
        if reach == 0 { 0 } else { self.space.read_vectored(ranges, &mut buf[..reach]) }
    }

    /// As [`Mm::read_ranges`], from `buf` to the ranges.
    pub fn write_ranges(&self, ranges: &[(u64, usize)], buf: &[u8]) -> usize {
        let reach = self.reach(ranges).min(buf.len());
        if reach == 0 { 0 } else { self.space.write_vectored(ranges, &buf[..reach]) }
    }

    /// Bytes of the ranges before the first that the guest cannot have.
    fn reach(&self, ranges: &[(u64, usize)]) -> usize {
        let mut all = 0;
        for &(addr, len) in ranges {
            let n = self.clamp(addr, len);
            all += n;
            if n < len {
                break;
            }
        }
        all
    }

    /// `start..end` rounded out to pages; `EINVAL` for a misaligned start, a zero length or
    /// addresses outside the guest's range.
    pub fn range(&self, addr: u64, len: u64) -> Result<(u64, u64)> {
        if addr & (PAGE - 1) != 0 || len == 0 {
            return Err(EINVAL);
        }
        let len = len.checked_next_multiple_of(PAGE).ok_or(EINVAL)?;
        let end = addr.checked_add(len).ok_or(EINVAL)?;
        if end > self.user_max { Err(EINVAL) } else { Ok((addr, end)) }
    }

    /// What identifies the 32-bit word at `addr` for shared futexes: the object and the
    /// offset in it for shared mappings, this address space and the address otherwise. `EFAULT` when
    /// nothing is mapped there.
    pub fn futex_key(&self, addr: u64, shared: bool) -> Result<(u64, u64)> {
        let own = std::ptr::from_ref(self) as u64;
        if !shared {
            return if addr < self.user_max { Ok((own, addr)) } else { Err(EFAULT) };
        }
        let map = self.map.lock();
        let v = map.vmas.find(addr).ok_or(EFAULT)?;
        match &v.backing {
            Some(b) if v.flags.shared => Ok((b.object.key(), b.off + (addr - v.start))),
            // An anonymous page that cannot be written never changes (futex(2): EFAULT).
            None if v.flags.prot & PROT_WRITE == 0 => Err(EFAULT),
            _ => Ok((own, addr)),
        }
    }

    /// Decides about a page fault at `addr`: makes a missing host mapping, or says why the access is
    /// wrong.
    pub fn fault(&self, cx: &mut dyn Context, addr: u64, write: bool, exec: bool) -> Fault {
        let mut map = self.map.lock();
        let Some(v) = map.vmas.find(addr).cloned() else {
            return Fault::NotMapped;
        };
        let need = if write {
            PROT_WRITE
        } else if exec {
            PROT_EXEC
        } else {
            PROT_READ
        };
        // x86 has no write-only or execute-only pages without protection keys.
        let allowed = match need {
            PROT_READ => v.flags.prot & PROT_ALL != 0,
            bit => v.flags.prot & bit != 0,
        };
        if !allowed {
            return Fault::Access;
        }
        if v.flags.hosted {
            // Another thread may have made the mapping since the fault; a fault that repeats with the
            // mapping in place means the object could not provide the page.
            return Fault::Access;
        }
        match self.host(cx, &mut map, &[v]) {
            Ok(()) => Fault::Resolved,
            Err(_) => Fault::Access,
        }
    }

    /// Makes the host mappings of the given areas, which are in the map.
    fn host(&self, cx: &mut dyn Context, map: &mut Map, areas: &[Vma]) -> Result<()> {
        let mut ops = Vec::with_capacity(areas.len());
        for v in areas.iter().filter(|v| !v.flags.hosted) {
            ops.push(map_op(v, fd_of(v)?));
        }
        cx.mem_ops(&ops).map_err(|(_, e)| e)?;
        for v in areas {
            map.vmas.update(v.start, v.end, |a| a.flags.hosted = true);
        }
        Ok(())
    }

    /// Makes sure that every area in `addr..addr+len` is mapped on the host, so that copies and
    /// host calls on the range work.
    pub fn ensure_hosted(&self, cx: &mut dyn Context, addr: u64, len: u64) -> Result<()> {
        let mut map = self.map.lock();
        let missing: Vec<Vma> = map
            .vmas
            .overlapping(addr, addr.saturating_add(len))
            .filter(|v| !v.flags.hosted)
            .cloned()
            .collect();
        if missing.is_empty() { Ok(()) } else { self.host(cx, &mut map, &missing) }
    }
}

/// The descriptor behind an area, filled for its range.
fn fd_of(v: &Vma) -> Result<i32> {
    match &v.backing {
        None => Ok(-1),
        Some(b) => {
            let access = MapAccess {
                shared: v.flags.shared,
                may_write: v.flags.shared && v.flags.may & PROT_WRITE != 0,
            };
            b.object.host_fd(b.off, v.len(), access)
        }
    }
}

/// The host call that makes an area's mapping.
fn map_op(v: &Vma, fd: i32) -> MemOp {
    let mut flags = if v.flags.shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    if fd < 0 {
        flags |= libc::MAP_ANONYMOUS;
    }
    // The guest's memory is accounted by the kernel, not by the host's commit limit.
    flags |= libc::MAP_NORESERVE;
    let off = v.backing.as_ref().map_or(0, |b| b.off);
    MemOp::Map { addr: v.start, len: v.len(), prot: host_prot(&v.flags), flags, fd, off }
}

impl Drop for Mm {
    fn drop(&mut self) {
        let map = self.map.lock();
        for v in map.vmas.iter() {
            if let Some(b) = &v.backing {
                b.object.mapped(-1);
            }
        }
    }
}
