//! munmap(2), mprotect(2), madvise(2) and friends.
//!
//! Calls whose host counterpart does exactly the same to the same range are only entered in the map
//! here; the caller lets the guest's own thread make the host call ([`HostCall::PassThrough`]).

use super::*;

/// What is left to do after the map was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostCall {
    /// Nothing of the range exists on the host.
    Nothing,
    /// Let the guest's own call reach the host as it is.
    PassThrough,
}

impl Mm {
    /// munmap(2) by thread `tid`.
    pub fn munmap(&self, tid: i32, addr: u64, len: u64) -> Result<HostCall> {
        let (start, end) = self.range(addr, len)?;
        let mut map = self.lock_settled(start, end);
        if map.vmas.count() + 1 > MAX_AREAS {
            return Err(ENOMEM);
        }
        let mut hosted = false;
        for gone in map.vmas.remove(start, end) {
            hosted |= gone.flags.hosted;
            if let Some(b) = &gone.backing {
                b.object.mapped(-1);
            }
        }
        if !hosted {
            return Ok(HostCall::Nothing);
        }
        map.leaving.push((tid, start, end));
        Ok(HostCall::PassThrough)
    }

    /// Unmaps a range with a host call made here.
    pub(super) fn unmap_now(&self, cx: &mut dyn Context, addr: u64, len: u64) -> Result<()> {
        let (start, end) = self.range(addr, len)?;
        let mut map = self.lock_settled(start, end);
        if map.vmas.overlapping(start, end).any(|v| v.flags.hosted) {
            cx.mem_ops(&[MemOp::Unmap { addr: start, len: end - start }]).map_err(|(_, e)| e)?;
        }
        for gone in map.vmas.remove(start, end) {
            if let Some(b) = &gone.backing {
                b.object.mapped(-1);
            }
        }
        Ok(())
    }

    /// Unmaps a range on behalf of a call that is not munmap(2) (shmdt(2)).
    pub fn unmap(&self, cx: &mut dyn Context, addr: u64, len: u64) -> Result<()> {
        self.unmap_now(cx, addr, len)
    }

    /// mprotect(2): `ENOMEM` when part of the range is not mapped, `EACCES` when an area may not get
    /// the access. Areas without a host mapping keep having none.
    pub fn mprotect(
        &self,
        cx: &mut dyn Context,
        addr: u64,
        len: u64,
        prot: u32,
    ) -> Result<HostCall> {
        if len == 0 && addr & (PAGE - 1) == 0 {
            return Ok(HostCall::Nothing);
        }
        let (start, end) = self
            .range(addr, len)
            .map_err(|e| if len == 0 || addr & (PAGE - 1) != 0 { e } else { ENOMEM })?;
        let mut map = self.lock_settled(start, end);
        if map.vmas.count() + 2 > MAX_AREAS {
            return Err(ENOMEM);
        }
        // Areas are changed in order up to the first that is missing or may not get the access.
        let (mut at, mut failed) = (start, None);
        for v in map.vmas.overlapping(start, end) {
            if v.start > at {
                break;
            }
            if prot & !v.flags.may & PROT_ALL != 0 {
                failed = Some(EACCES);
                break;
            }
            at = v.end.min(end);
        }
        if at < end {
            let error = failed.unwrap_or(ENOMEM);
            self.protect_now(cx, &mut map, start, at, prot)?;
            return Err(error);
        }
        let hosted = map.vmas.overlapping(start, end).any(|v| v.flags.hosted);
        map.vmas.update(start, end, |v| v.flags.prot = prot);
        if prot & PROT_ALL != 0 {
            // What becomes accessible is mapped at once, so that only areas without access
            // are ever missing on the host and copies by the kernel need not look.
            let missing: Vec<Vma> =
                map.vmas.overlapping(start, end).filter(|v| !v.flags.hosted).cloned().collect();
            if !missing.is_empty() {
                let pieces: Vec<Vma> =
                    missing.iter().map(|v| v.part(v.start.max(start), v.end.min(end))).collect();
                self.host(cx, &mut map, &pieces)?;
            }
        }
        Ok(if hosted { HostCall::PassThrough } else { HostCall::Nothing })
    }

    /// Protects a range, which has no holes, with host calls made here.
    fn protect_now(
        &self,
        cx: &mut dyn Context,
        map: &mut Map,
        start: u64,
        end: u64,
        prot: u32,
    ) -> Result<()> {
        let mut ops = Vec::new();
        for v in map.vmas.overlapping(start, end).filter(|v| v.flags.hosted) {
            let (a, b) = (v.start.max(start), v.end.min(end));
            ops.push(MemOp::Protect { addr: a, len: b - a, prot: (prot & PROT_ALL) as i32 });
        }
        cx.mem_ops(&ops).map_err(|(_, e)| e)?;
        map.vmas.update(start, end, |v| v.flags.prot = prot);
        if prot & PROT_ALL == 0 {
            return Ok(());
        }
        let missing: Vec<Vma> = map
            .vmas
            .overlapping(start, end)
            .filter(|v| !v.flags.hosted)
            .map(|v| v.part(v.start.max(start), v.end.min(end)))
            .collect();
        if missing.is_empty() { Ok(()) } else { self.host(cx, map, &missing) }
    }

    /// Where mprotect(2) with PROT_GROWSDOWN starts: at the bottom of the area that contains
    /// `addr`. `EINVAL` when that is no stack, `ENOMEM` when nothing is there.
    pub fn stack_bottom(&self, addr: u64, len: u64) -> Result<u64> {
        let (start, end) = self.range(addr, len)?;
        let map = self.map.lock();
        let v = map.vmas.find_from(start).filter(|v| v.start < end).ok_or(ENOMEM)?;
        if v.flags.growsdown || v.flags.purpose == Purpose::Stack {
            Ok(v.start)
        } else {
            Err(EINVAL)
        }
    }

    /// Extends the stack-like area (MAP_GROWSDOWN) above `addr` down to the page of `addr`. False
    /// when there is none, another mapping is nearer than the guard gap, or a limit
    /// (RLIMIT_STACK, RLIMIT_AS, in bytes) is in the way.
    pub fn grow_down(
        &self,
        cx: &mut dyn Context,
        addr: u64,
        stack_limit: u64,
        space_limit: u64,
    ) -> bool {
        let page = addr & !(PAGE - 1);
        let mut map = self.map.lock();
        if page < self.user_min || map.vmas.find(page).is_some() {
            return false;
        }
        let Some(top) = map.vmas.find_from(page).filter(|v| v.flags.growsdown).cloned() else {
            return false;
        };
        let below = map.vmas.overlapping(0, page).last();
        if below.is_some_and(|v| {
            !v.flags.growsdown && v.flags.prot & PROT_ALL != 0 && page - v.end < STACK_GUARD_GAP
        }) {
            return false;
        }
        let more = top.start - page;
        if top.end - page > stack_limit
            || map.vmas.total(|_| true).saturating_add(more) > space_limit
        {
            return false;
        }
        let mut grown = top.part(top.start, top.end);
        grown.start = page;
        grown.end = top.start;
        grown.flags.hosted = false;
        if let Some(b) = &mut grown.backing {
            match b.off.checked_sub(more) {
                Some(off) => b.off = off,
                None => return false,
            }
        }
        let Ok(fd) = fd_of(&grown) else { return false };
        if cx.mem_ops(&[map_op(&grown, fd)]).is_err() {
            return false;
        }
        grown.flags.hosted = true;
        if let Some(b) = &grown.backing {
            b.object.mapped(1);
        }
        map.vmas.insert(grown);
        true
    }

    /// True when every page of the range is mapped on the host (madvise and mincore may pass then);
    /// `ENOMEM` when part of it is not mapped at all.
    pub fn check_mapped(&self, addr: u64, len: u64) -> Result<bool> {
        let (start, end) = self.range(addr, len)?;
        let map = self.map.lock();
        if !map.vmas.covers(start, end) {
            return Err(ENOMEM);
        }
        Ok(map.vmas.overlapping(start, end).all(|v| v.flags.hosted))
    }

    /// The areas of `addr..addr+len` in order, cut to it, and whether something is missing between
    /// them.
    pub fn pieces(&self, addr: u64, len: u64) -> Result<(Vec<Vma>, bool)> {
        let (start, end) = self.range(addr, len)?;
        let map = self.map.lock();
        let pieces = map
            .vmas
            .overlapping(start, end)
            .map(|v| v.part(v.start.max(start), v.end.min(end)))
            .collect();
        Ok((pieces, !map.vmas.covers(start, end)))
    }

    /// Changes area attributes (madvise(2) MADV_DONTFORK and the like, mlock(2)).
    pub fn update_flags(&self, addr: u64, len: u64, f: impl Fn(&mut VmaFlags)) -> Result<()> {
        let (start, end) = self.range(addr, len)?;
        let mut map = self.map.lock();
        let covered = map.vmas.covers(start, end);
        map.vmas.update(start, end, |v| f(&mut v.flags));
        if covered { Ok(()) } else { Err(ENOMEM) }
    }
}
