//! Mappings whose host call the guest's thread makes on its way back to guest code.
//!
//! The map has them already. Until the thread is heard of again, nobody else can tell whether the call
//! was made, so whoever wants to change such a range, or copy the address space, interrupts the thread
//! and waits for it. Programs whose threads use addresses only after mmap(2) returned them notice
//! nothing; what touches a range earlier may find it missing, as on any Linux.

use std::sync::{Condvar, Mutex as StdMutex, PoisonError};

use uml_abi::Errno;
use uml_platform::Kick;

use super::*;

/// A range being mapped.
pub(super) struct Arriving {
    pub tid: i32,
    pub start: u64,
    pub end: u64,
    /// The break before, when it is the heap that grows.
    pub brk: Option<u64>,
    /// The descriptor that the call names stays open as long as this.
    pub _object: Option<Arc<dyn crate::Mappable>>,
    pub kick: Arc<dyn Kick>,
}

/// Who waits for arrivals.
#[derive(Default)]
pub(super) struct Arrivals {
    /// Number of times something arrived.
    count: StdMutex<u64>,
    changed: Condvar,
}

impl Mm {
    /// The map, locked, once no mapping of another thread is on its way into `start..end`. The
    /// caller's own are not: they arrived with the event it serves.
    pub(super) fn lock_settled(&self, start: u64, end: u64) -> MutexGuard<'_, Map> {
        loop {
            let map = self.map.lock();
            let near = map.arriving.iter().find(|a| a.start < end && start < a.end);
            let Some(kick) = near.map(|a| a.kick.clone()) else { return map };
            let seen = *self.arrivals.count.lock().unwrap_or_else(PoisonError::into_inner);
            drop(map);
            kick.kick();
            let count = self.arrivals.count.lock().unwrap_or_else(PoisonError::into_inner);
            let same = |c: &mut u64| *c == seen;
            drop(self.arrivals.changed.wait_while(count, same));
        }
    }

    /// The thread `tid` made a further event: the host calls it had in flight are done.
    pub fn settled(&self, tid: i32) {
        let mut map = self.map.lock();
        map.leaving.retain(|(t, ..)| *t != tid);
        self.arrived(&mut map, tid);
    }

    fn arrived(&self, map: &mut Map, tid: i32) -> Vec<Arriving> {
        let gone: Vec<Arriving> = map.arriving.extract_if(.., |a| a.tid == tid).collect();
        if !gone.is_empty() {
            *self.arrivals.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            self.arrivals.changed.notify_all();
        }
        gone
    }

    /// The host refused, with `error`, the call that thread `tid` was to make last. Takes the mapping
    /// back and returns what the system call returns.
    pub fn undo(&self, cx: &mut dyn Context, tid: i32, error: Errno) -> i64 {
        let mut map = self.map.lock();
        let mut value = error.to_ret();
        for a in self.arrived(&mut map, tid) {
            // What was there before is gone, as it may be when mmap(2) fails with MAP_FIXED.
            let _ = cx.mem_ops(&[MemOp::Unmap { addr: a.start, len: a.end - a.start }]);
            for gone in map.vmas.remove(a.start, a.end) {
                if let Some(b) = &gone.backing {
                    b.object.mapped(-1);
                }
            }
            if let Some(brk) = a.brk {
                map.brk = brk;
                value = brk as i64;
            }
        }
        value
    }

    /// Where the free range that contains `addr` ends, for mappings to come; 0 when that is no place for them.
    pub fn room_end(&self, addr: u64) -> u64 {
        let map = self.map.lock();
        let base = map.layout.mmap_base;
        match map.vmas.find(addr) {
            None if addr < base => map.vmas.room_above(addr).map_or(base, |end| end.min(base)),
            _ => 0,
        }
    }
}
