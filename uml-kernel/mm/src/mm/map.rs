//! mmap(2), brk(2) and mremap(2).

use super::*;

/// What mmap(2) is asked for.
#[derive(Clone)]
pub struct MapRequest {
    /// Wanted address (0: anywhere).
    pub addr: u64,
    pub len: u64,
    pub prot: u32,
    /// Access mprotect may later give (less than all for files opened read-only and shared).
    pub may: u32,
    pub shared: bool,
    /// MAP_FIXED: replace what is there.
    pub fixed: bool,
    /// MAP_FIXED_NOREPLACE: fail with `EEXIST` when something is there.
    pub noreplace: bool,
    pub growsdown: bool,
    pub noreserve: bool,
    pub locked: bool,
    /// MAP_32BIT.
    pub low: bool,
    pub populate: bool,
    pub purpose: Purpose,
    /// `None` for private anonymous memory.
    pub backing: Option<Backing>,
}

impl MapRequest {
    /// Private anonymous memory anywhere.
    pub fn anonymous(len: u64, prot: u32) -> MapRequest {
        MapRequest {
            addr: 0,
            len,
            prot,
            may: PROT_ALL,
            shared: false,
            fixed: false,
            noreplace: false,
            growsdown: false,
            noreserve: false,
            locked: false,
            low: false,
            populate: false,
            purpose: Purpose::Normal,
            backing: None,
        }
    }

    /// The same at a fixed address.
    pub fn at(mut self, addr: u64) -> MapRequest {
        self.addr = addr;
        self.fixed = true;
        self
    }

    fn vma(&self, start: u64, end: u64) -> Vma {
        Vma {
            start,
            end,
            flags: VmaFlags {
                prot: self.prot,
                may: self.may,
                shared: self.shared,
                locked: self.locked,
                noreserve: self.noreserve,
                growsdown: self.growsdown,
                dontfork: false,
                wipeonfork: false,
                dontdump: false,
                purpose: self.purpose,
                hosted: false,
            },
            backing: self.backing.clone(),
            name: None,
        }
    }
}

/// A mapping that was made.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    pub addr: u64,
    /// The thread makes the host call last of all: [`Mm::settled`] or [`Mm::undo`] follows.
    pub last: bool,
}

/// Who asks for a mapping that may be made last: the thread, and the break to go back to.
struct Late {
    tid: i32,
    brk: Option<u64>,
}

/// Where 32-bit mappings go.
const LOW_FLOOR: u64 = 0x4000_0000;
const LOW_CEILING: u64 = 0x8000_0000;

impl Map {
    /// Picks a place for `len` bytes; ranges whose unmapping is still in flight are avoided.
    fn place(&self, mm: &Mm, addr: u64, len: u64, low: bool) -> Result<u64> {
        let free = |start: u64| {
            self.vmas.overlapping(start, start + len).next().is_none()
                && !self.leaving.iter().any(|&(_, s, e)| start < e && s < start + len)
        };
        let hint = addr.checked_next_multiple_of(PAGE).unwrap_or(0);
        if hint >= mm.user_min
            && hint.checked_add(len).is_some_and(|e| e <= mm.user_max)
            && free(hint)
        {
            return Ok(hint);
        }
        let (floor, mut ceiling) =
            if low { (LOW_FLOOR, LOW_CEILING) } else { (mm.user_min, self.layout.mmap_base) };
        loop {
            let Some(start) = self.vmas.gap_below(len, floor, ceiling) else {
                // Above the base there may be room left beside the stack.
                let top = if low { LOW_CEILING } else { mm.user_max };
                return self
                    .vmas
                    .gap_above(len, self.layout.mmap_base.min(top), top)
                    .filter(|s| free(*s))
                    .ok_or(ENOMEM);
            };
            if free(start) {
                return Ok(start);
            }
            // Step below the range that is about to leave.
            ceiling = self
                .leaving
                .iter()
                .filter(|&&(_, s, e)| start < e && s < start + len)
                .map(|&(_, s, _)| s)
                .min()
                .ok_or(ENOMEM)?;
        }
    }
}

impl Mm {
    /// mmap(2): returns the address. `ENOMEM` without room, `EINVAL` for bad ranges, `EEXIST` for
    /// MAP_FIXED_NOREPLACE over something.
    pub fn mmap(&self, cx: &mut dyn Context, req: &MapRequest) -> Result<u64> {
        self.map_range(cx, req, None).map(|p| p.addr)
    }

    /// The same as the last thing before the guest's thread `tid` goes on.
    pub fn mmap_last(&self, cx: &mut dyn Context, tid: i32, req: &MapRequest) -> Result<Placed> {
        self.map_range(cx, req, Some(Late { tid, brk: None }))
    }

    fn map_range(
        &self,
        cx: &mut dyn Context,
        req: &MapRequest,
        late: Option<Late>,
    ) -> Result<Placed> {
        if req.len == 0 {
            return Err(EINVAL);
        }
        let len = req.len.checked_next_multiple_of(PAGE).ok_or(ENOMEM)?;
        if len > self.user_max {
            return Err(ENOMEM);
        }
        let fixed = req.fixed || req.noreplace;
        let mut map = match req.addr.checked_add(len) {
            Some(end) if fixed => self.lock_settled(req.addr, end),
            _ => self.map.lock(),
        };
        let start = if fixed {
            if req.addr & (PAGE - 1) != 0 {
                return Err(EINVAL);
            }
            if req.addr.checked_add(len).is_none_or(|e| e > self.user_max) {
                return Err(ENOMEM);
            }
            if req.addr < self.user_min {
                return Err(EPERM);
            }
            if req.noreplace && map.vmas.overlapping(req.addr, req.addr + len).next().is_some() {
                return Err(EEXIST);
            }
            req.addr
        } else {
            map.place(self, req.addr, len, req.low)?
        };
        if map.vmas.count() + 2 > MAX_AREAS {
            return Err(ENOMEM);
        }
        let end = start + len;
        let mut vma = req.vma(start, end);
        if map.lock_future {
            vma.flags.locked = true;
        }
        if vma.flags.purpose == Purpose::Secret {
            vma.flags.dontdump = true;
            self.secrets.store(true, Ordering::Relaxed);
        }
        let old_hosted = map.vmas.overlapping(start, end).any(|v| v.flags.hosted);
        // Private anonymous memory without access needs no host mapping before it gets some, unless
        // something has to be covered, or it is cheap because the thread makes it last: with a mapping in
        // place, later calls on the range pass through.
        let lazy = req.backing.is_none() && req.prot == 0 && !old_hosted && late.is_none();
        let mut last = false;
        if !lazy {
            let fd = fd_of(&vma)?;
            let mut ops = vec![map_op(&vma, fd)];
            if req.populate && req.prot & PROT_READ != 0 {
                ops.push(MemOp::Advise {
                    addr: start,
                    len,
                    advice: if req.prot & PROT_WRITE != 0 && !req.shared {
                        libc::MADV_POPULATE_WRITE
                    } else {
                        libc::MADV_POPULATE_READ
                    },
                });
            }
            let late = late.filter(|_| ops.len() == 1);
            let made = match &late {
                None => cx.mem_ops(&ops),
                Some(_) => cx.mem_op_last(&ops[0]).map(|l| last = l).map_err(|e| (0, e)),
            };
            match made {
                // Populating is best effort (mmap(2) MAP_POPULATE).
                Ok(()) | Err((1, _)) => {}
                Err((_, e)) => return Err(e),
            }
            vma.flags.hosted = true;
            if let Some(Late { tid, brk }) = late.filter(|_| last) {
                let (kick, object) = (cx.kick_handle(), vma.backing.as_ref());
                let _object = object.map(|b| b.object.clone());
                map.arriving.push(Arriving { tid, start, end, brk, _object, kick });
            }
        }
        for gone in map.vmas.remove(start, end) {
            if let Some(b) = &gone.backing {
                b.object.mapped(-1);
            }
        }
        if let Some(b) = &vma.backing {
            b.object.mapped(1);
        }
        map.vmas.insert(vma);
        Ok(Placed { addr: start, last })
    }

    /// brk(2): sets the program break and returns the break in force afterwards, as the system
    /// call does, as the last thing before the guest's thread `late` goes on, if that is given.
    /// `data_limit` is RLIMIT_DATA in bytes.
    pub fn brk(
        &self,
        cx: &mut dyn Context,
        late: Option<i32>,
        want: u64,
        data_limit: u64,
    ) -> Placed {
        let (cur, start) = {
            let map = self.map.lock();
            (map.brk, map.layout.start_brk)
        };
        if want < start || want > self.user_max || want - start > data_limit {
            return Placed { addr: cur, last: false };
        }
        let mut last = false;
        let old_end = cur.next_multiple_of(PAGE);
        let new_end = want.next_multiple_of(PAGE);
        let done = match new_end.cmp(&old_end) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => self.unmap_now(cx, new_end, old_end - new_end),
            std::cmp::Ordering::Greater => {
                let mut req = MapRequest::anonymous(new_end - old_end, PROT_READ | PROT_WRITE);
                req.addr = old_end;
                req.noreplace = true;
                req.purpose = Purpose::Heap;
                let late = late.map(|tid| Late { tid, brk: Some(cur) });
                self.map_range(cx, &req, late).map(|p| last = p.last)
            }
        };
        if done.is_err() {
            return Placed { addr: cur, last: false };
        }
        self.map.lock().brk = want;
        Placed { addr: want, last }
    }

    /// mremap(2).
    pub fn mremap(
        &self,
        cx: &mut dyn Context,
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: i32,
        new_addr: u64,
    ) -> Result<u64> {
        let may_move = flags & libc::MREMAP_MAYMOVE != 0;
        let fixed = flags & libc::MREMAP_FIXED != 0;
        let dontunmap = flags & libc::MREMAP_DONTUNMAP != 0;
        let known = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        if flags & !known != 0
            || (fixed || dontunmap) && !may_move
            || dontunmap && old_len != new_len
            || old & (PAGE - 1) != 0
        {
            return Err(EINVAL);
        }
        let old_len = old_len.checked_next_multiple_of(PAGE).ok_or(EINVAL)?;
        let new_len = new_len.checked_next_multiple_of(PAGE).ok_or(EINVAL)?;
        if new_len == 0 || new_len > self.user_max {
            return Err(EINVAL);
        }
        if fixed {
            let end = new_addr.checked_add(new_len).ok_or(EINVAL)?;
            let overlap = new_addr < old.saturating_add(old_len) && old < end;
            if new_addr & (PAGE - 1) != 0 || end > self.user_max || overlap {
                return Err(EINVAL);
            }
        }
        if !fixed && !dontunmap && new_len < old_len {
            self.unmap_now(cx, old + new_len, old_len - new_len)?;
            return Ok(old);
        }
        self.ensure_hosted(cx, old, old_len.max(PAGE))?;
        // Both places at once: a whole address space is settled at least as soon.
        let mut map = self.lock_settled(0, u64::MAX);
        let v = map.vmas.find(old).cloned().ok_or(EFAULT)?;
        if v.end - old < old_len {
            // The range crosses areas (EFAULT in the manual).
            return Err(EFAULT);
        }
        if old_len == 0 && !v.flags.shared {
            return Err(EINVAL);
        }
        if new_len == old_len && !fixed && !dontunmap {
            return Ok(old);
        }
        let off = v.backing.as_ref().map(|b| b.off + (old - v.start));
        let mut grown = v.clone();
        if let (Some(b), Some(off)) = (&mut grown.backing, off) {
            b.off = off;
        }
        // In place, when the area ends at the range's end and nothing follows.
        let in_place = !fixed
            && !dontunmap
            && old_len != 0
            && v.end == old + old_len
            && old.checked_add(new_len).is_some_and(|e| e <= self.user_max)
            && map.vmas.overlapping(v.end, old + new_len).next().is_none();
        grown.start = old;
        grown.end = old + new_len;
        if in_place {
            fd_of(&grown)?;
            let op = MemOp::Remap { old, old_len, new: old, new_len, dontunmap: false };
            if cx.mem_ops(&[op]).is_ok() {
                map.vmas.update(old, v.end, |_| {});
                let piece = map.vmas.remove(old, v.end);
                drop(piece);
                map.vmas.insert(grown);
                return Ok(old);
            }
        }
        if !may_move {
            return Err(ENOMEM);
        }
        let new = if fixed { new_addr } else { map.place(self, new_addr, new_len, false)? };
        grown.start = new;
        grown.end = new + new_len;
        fd_of(&grown)?;
        if fixed {
            let gone = map.vmas.remove(new, new + new_len);
            for g in gone {
                if let Some(b) = &g.backing {
                    b.object.mapped(-1);
                }
            }
        }
        // The tail of a shrinking move goes first.
        let moved = old_len.min(new_len);
        let mut ops = Vec::new();
        if old_len > new_len {
            ops.push(MemOp::Unmap { addr: old + new_len, len: old_len - new_len });
        }
        ops.push(MemOp::Remap {
            old,
            old_len: if old_len == 0 { 0 } else { moved },
            new,
            new_len,
            dontunmap,
        });
        cx.mem_ops(&ops).map_err(|(_, e)| e)?;
        if let Some(b) = &grown.backing {
            b.object.mapped(1);
        }
        if old_len != 0 && !dontunmap {
            for g in map.vmas.remove(old, old + old_len) {
                if let Some(b) = &g.backing {
                    b.object.mapped(-1);
                }
            }
        }
        map.vmas.insert(grown);
        Ok(new)
    }
}
