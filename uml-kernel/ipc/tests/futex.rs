//! futex(2) on a fake address space: tasks share a byte array as their memory.

mod common;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{kernel, start, task};
use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::kernel::Kernel;
use uml_core::task::Task;
use uml_ipc::futex::{self, BITSET_ANY, OWNER_DIED, TID_MASK, WAITERS, WaitvItem, WakeOp, Word};
use uml_mm::Mm;
use uml_platform::{Context, DebugRegs, Kick, MemOp, Regs, Runner, Space};

/// 4 KiB of words at address 0x1000.
struct Words(Vec<AtomicU32>);
const BASE: u64 = 0x1000;

impl Words {
    fn word(&self, addr: u64) -> Option<&AtomicU32> {
        self.0.get(usize::try_from(addr.checked_sub(BASE)?).ok()? / 4)
    }
}

impl Space for Words {
    fn write_view(&self, _: u64, _: &uml_platform::view::FileView, _: u64, _: usize) -> usize {
        0
    }
    fn read(&self, addr: u64, buf: &mut [u8]) -> usize {
        for (i, chunk) in buf.chunks_mut(4).enumerate() {
            let Some(w) = self.word(addr + 4 * i as u64) else { return 4 * i };
            let b = w.load(Ordering::SeqCst).to_le_bytes();
            chunk.copy_from_slice(&b[..chunk.len()]);
        }
        buf.len()
    }
    fn poke(&self, addr: u64, buf: &[u8]) -> usize {
        self.write(addr, buf)
    }

    fn write(&self, addr: u64, buf: &[u8]) -> usize {
        for (i, c) in buf.chunks_exact(4).enumerate() {
            let Some(w) = self.word(addr + 4 * i as u64) else { return 4 * i };
            w.store(u32::from_le_bytes([c[0], c[1], c[2], c[3]]), Ordering::SeqCst);
        }
        buf.len()
    }
    fn read_vectored(&self, _: &[(u64, usize)], _: &mut [u8]) -> usize {
        0
    }
    fn write_vectored(&self, _: &[(u64, usize)], _: &[u8]) -> usize {
        0
    }
    fn kill(&self) {}
    fn host_pid(&self) -> i32 {
        0
    }
}

struct Hw(Arc<Words>, Arc<dyn Space>);

impl Context for Hw {
    fn space(&self) -> &Arc<dyn Space> {
        &self.1
    }
    fn kick_handle(&self) -> Arc<dyn Kick> {
        unimplemented!()
    }
    fn set_debug_registers(&mut self, _: &DebugRegs) -> Result<()> {
        unimplemented!()
    }
    fn debug_status(&mut self) -> Result<u64> {
        unimplemented!()
    }
    fn set_return(&mut self, _: i64) {}
    fn pass_through(&mut self) {}
    fn complete(&mut self) -> Result<i64> {
        unimplemented!()
    }

    fn set_call(&mut self, _: uml_platform::Syscall) {
        unimplemented!()
    }

    fn regs(&mut self) -> Result<Regs> {
        Err(ESRCH)
    }
    fn set_regs(&mut self, _: &Regs) -> Result<()> {
        Err(ESRCH)
    }
    fn xstate(&mut self) -> Result<Vec<u8>> {
        Err(ESRCH)
    }
    fn set_xstate(&mut self, _: Option<&[u8]>) -> Result<()> {
        Err(ESRCH)
    }
    fn mem_ops(&mut self, _: &[MemOp]) -> std::result::Result<(), (usize, Errno)> {
        Err((0, EINVAL))
    }
    fn cmpxchg32(&mut self, addr: u64, old: u32, new: u32) -> Result<u32> {
        let w = self.0.word(addr).ok_or(EFAULT)?;
        Ok(w.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).unwrap_or_else(|v| v))
    }
    fn spawn_thread(&mut self, _: Arc<dyn Runner>, _: &Regs) -> Result<()> {
        Err(EINVAL)
    }
    fn fork(
        &mut self,
        _: &Regs,
        _: &mut dyn FnMut(Arc<dyn Space>) -> Arc<dyn Runner>,
    ) -> Result<()> {
        Err(EINVAL)
    }
}

struct Machine {
    kernel: Arc<Kernel>,
    words: Arc<Words>,
    mm: Arc<Mm>,
}

impl Machine {
    fn new() -> Machine {
        let words = Arc::new(Words((0..1024).map(|_| AtomicU32::new(0)).collect()));
        let mm = Arc::new(Mm::new(words.clone(), 0x1000, 0x10000));
        Machine { kernel: kernel(), words, mm }
    }
    fn task(&self) -> Arc<Task> {
        let t = task(&self.kernel);
        t.set_mm(Some(self.mm.clone()));
        t
    }
    fn at(&self, addr: u64) -> &AtomicU32 {
        self.words.word(addr).unwrap()
    }
    /// Runs `f` with a context of `t`.
    fn with<T>(&self, t: &Arc<Task>, f: impl FnOnce(&mut Ctx<'_>) -> T) -> T {
        let mut hw = Hw(self.words.clone(), self.words.clone());
        f(&mut Ctx::new(t.clone(), &mut hw))
    }
}

fn word(t: &Task, addr: u64) -> Word {
    Word::new(t, addr, false).unwrap()
}

const A: u64 = BASE;
const B: u64 = BASE + 64;

#[test]
fn wait_checks_the_value_and_wake_ends_it() {
    let m = Machine::new();
    let t = m.task();
    assert_eq!(futex::wait(&t, word(&t, A), 1, BITSET_ANY, None), Err(EAGAIN));
    assert!(matches!(Word::new(&t, A + 2, false), Err(EINVAL)));
    assert!(matches!(Word::new(&t, 0x10000, false), Err(EFAULT)));
    let soon = Some(Instant::now() + Duration::from_millis(2));
    assert_eq!(futex::wait(&t, word(&t, A), 0, BITSET_ANY, soon), Err(ETIMEDOUT));
    assert_eq!(futex::wake(word(&t, A).key, 1, BITSET_ANY), 0);
    let hs: Vec<_> = (0..3)
        .map(|_| start(&m.task(), |t| futex::wait(t, word(t, A), 0, BITSET_ANY, None)))
        .collect();
    assert_eq!(futex::wake(word(&t, B).key, 9, BITSET_ANY), 0);
    assert_eq!(futex::wake(word(&t, A).key, 2, BITSET_ANY), 2);
    assert_eq!(futex::wake(word(&t, A).key, 2, BITSET_ANY), 1);
    for h in hs {
        assert_eq!(h.join().unwrap(), Ok(()));
    }
}

#[test]
fn bitsets_select_waiters() {
    let m = Machine::new();
    let t = m.task();
    let one = start(&m.task(), |t| futex::wait(t, word(t, A), 0, 1, None));
    let two = start(&m.task(), |t| futex::wait(t, word(t, A), 0, 2, None));
    assert_eq!(futex::wake(word(&t, A).key, 9, 4), 0);
    assert_eq!(futex::wake(word(&t, A).key, 9, 2), 1);
    assert_eq!(two.join().unwrap(), Ok(()));
    assert!(!one.is_finished());
    assert_eq!(futex::wake(word(&t, A).key, 9, 3), 1);
    assert_eq!(one.join().unwrap(), Ok(()));
}

#[test]
fn requeue_moves_waiters() {
    let m = Machine::new();
    let t = m.task();
    let hs: Vec<_> = (0..4)
        .map(|_| start(&m.task(), |t| futex::wait(t, word(t, A), 0, BITSET_ANY, None)))
        .collect();
    let (a, b) = (word(&t, A), word(&t, B));
    assert_eq!(futex::requeue(&t, a, b, 1, 9, Some(7)), Err(EAGAIN));
    assert_eq!(futex::requeue(&t, a, b, -1, 9, None), Err(EINVAL));
    assert_eq!(futex::requeue(&t, a, b, 1, 2, Some(0)), Ok(3));
    assert_eq!(futex::wake(a.key, 9, BITSET_ANY), 1);
    assert_eq!(futex::wake(b.key, 9, BITSET_ANY), 2);
    for h in hs {
        assert_eq!(h.join().unwrap(), Ok(()));
    }
}

#[test]
fn wake_op_changes_one_word_and_wakes_on_two() {
    let m = Machine::new();
    let t = m.task();
    m.at(B).store(5, Ordering::SeqCst);
    let ha = start(&m.task(), |t| futex::wait(t, word(t, A), 0, BITSET_ANY, None));
    let hb = start(&m.task(), |t| futex::wait(t, word(t, B), 5, BITSET_ANY, None));
    // B += 3; wake B too if it was 5.
    let op = WakeOp::decode(1 << 28 | 3 << 12 | 5).unwrap();
    let (a, b) = (word(&t, A), word(&t, B));
    assert_eq!(m.with(&t, |cx| futex::wake_op(cx, a, 1, b, 1, op)), Ok(2));
    assert_eq!(m.at(B).load(Ordering::SeqCst), 8);
    assert_eq!((ha.join().unwrap(), hb.join().unwrap()), (Ok(()), Ok(())));
}

#[test]
fn waitv_returns_the_index_that_was_woken() {
    let m = Machine::new();
    let t = m.task();
    let h = start(&m.task(), |t| {
        let items = [A, B, B + 4].map(|a| WaitvItem { word: word(t, a), expected: 0 });
        futex::waitv(t, &items, None)
    });
    assert_eq!(futex::wake(word(&t, B).key, 1, BITSET_ANY), 1);
    assert_eq!(h.join().unwrap(), Ok(1));
    assert_eq!(futex::wake(word(&t, A).key, 1, BITSET_ANY), 0);
}

#[test]
fn pi_futexes_are_handed_over() {
    let m = Arc::new(Machine::new());
    let t = m.task();
    let w = word(&t, A);
    m.with(&t, |cx| {
        assert_eq!(futex::lock_pi(cx, w, None, false), Ok(()));
        assert_eq!(futex::lock_pi(cx, w, None, false), Err(EDEADLK));
    });
    assert_eq!(m.at(A).load(Ordering::SeqCst), t.tid as u32);
    let other = m.task();
    assert_eq!(m.with(&other, |cx| futex::lock_pi(cx, w, None, true)), Err(EAGAIN));
    assert_eq!(m.with(&other, |cx| futex::unlock_pi(cx, w)), Err(EPERM));
    let m2 = m.clone();
    let h = start(&other, move |t| m2.with(t, |cx| futex::lock_pi(cx, w, None, false)));
    assert_eq!(m.at(A).load(Ordering::SeqCst), t.tid as u32 | WAITERS);
    assert_eq!(m.with(&t, |cx| futex::unlock_pi(cx, w)), Ok(()));
    assert_eq!(h.join().unwrap(), Ok(()));
    assert_eq!(m.at(A).load(Ordering::SeqCst) & TID_MASK, other.tid as u32);
    // A lock that waits for the present owner, who waits for us, is a deadlock.
    let wb = word(&t, B);
    assert_eq!(m.with(&t, |cx| futex::lock_pi(cx, wb, None, false)), Ok(()));
    let m2 = m.clone();
    let h = start(&other, move |t| m2.with(t, |cx| futex::lock_pi(cx, wb, None, false)));
    assert_eq!(m.with(&t, |cx| futex::lock_pi(cx, w, None, false)), Err(EDEADLK));
    assert_eq!(m.with(&t, |cx| futex::unlock_pi(cx, wb)), Ok(()));
    assert_eq!(h.join().unwrap(), Ok(()));
    m.at(A).store(29999, Ordering::SeqCst);
    assert_eq!(m.with(&t, |cx| futex::lock_pi(cx, w, None, false)), Err(ESRCH));
}

#[test]
fn requeue_pi_passes_a_condition_to_a_mutex() {
    let m = Arc::new(Machine::new());
    let t = m.task();
    let (cond, mutex) = (word(&t, A), word(&t, B));
    assert_eq!(m.with(&t, |cx| futex::lock_pi(cx, mutex, None, false)), Ok(()));
    let waiters: Vec<_> = (0..2).map(|_| m.task()).collect();
    let hs: Vec<_> = waiters
        .iter()
        .map(|w| {
            let m = m.clone();
            start(w, move |t| {
                m.with(t, |cx| {
                    futex::wait_requeue_pi(cx, cond, 0, None, mutex)?;
                    futex::unlock_pi(cx, mutex)
                })
            })
        })
        .collect();
    assert_eq!(m.with(&t, |cx| futex::requeue_pi(cx, cond, mutex, 1, 9, 1)), Err(EAGAIN));
    assert_eq!(m.with(&t, |cx| futex::requeue_pi(cx, cond, mutex, 1, 9, 0)), Ok(2));
    assert_eq!(m.with(&t, |cx| futex::unlock_pi(cx, mutex)), Ok(()));
    for h in hs {
        assert_eq!(h.join().unwrap(), Ok(()));
    }
    assert_eq!(m.at(B).load(Ordering::SeqCst), 0);
}

#[test]
fn exit_walks_the_robust_list_and_clears_the_tid() {
    let m = Machine::new();
    let dying = m.task();
    let tid = dying.tid as u32;
    // Head at 0x1100: next = node 0x1200, offset 8, no pending operation. The node leads back.
    let put64 = |addr: u64, v: u64| {
        m.at(addr).store(v as u32, Ordering::SeqCst);
        m.at(addr + 4).store((v >> 32) as u32, Ordering::SeqCst);
    };
    put64(0x1100, 0x1200);
    put64(0x1108, 8);
    put64(0x1110, 0);
    put64(0x1200, 0x1100);
    m.at(0x1208).store(tid | WAITERS, Ordering::SeqCst);
    m.at(0x1300).store(tid, Ordering::SeqCst);
    {
        let mut p = dying.personal.lock();
        p.robust_list = 0x1100;
        p.clear_child_tid = 0x1300;
    }
    let locker =
        start(&m.task(), move |t| futex::wait(t, word(t, 0x1208), tid | WAITERS, BITSET_ANY, None));
    let joiner = start(&m.task(), move |t| futex::wait(t, word(t, 0x1300), tid, BITSET_ANY, None));
    m.with(&dying, futex::exit_memory);
    assert_eq!(m.at(0x1208).load(Ordering::SeqCst), OWNER_DIED | WAITERS);
    assert_eq!(m.at(0x1300).load(Ordering::SeqCst), 0);
    assert_eq!((locker.join().unwrap(), joiner.join().unwrap()), (Ok(()), Ok(())));
    // A list that is a loop ends too.
    put64(0x1200, 0x1200);
    dying.personal.lock().robust_list = 0x1100;
    m.with(&dying, futex::exit_memory);
}

#[test]
fn a_mutex_built_on_it_excludes() {
    let m = Arc::new(Machine::new());
    let total = Arc::new(Mutex::new(0));
    let hs: Vec<_> = (0..4)
        .map(|_| {
            let (m, t, total) = (m.clone(), m.task(), total.clone());
            std::thread::spawn(move || {
                let w = word(&t, A);
                for _ in 0..2000 {
                    // The three-state mutex of "Futexes Are Tricky".
                    let lock = m.at(A);
                    if lock.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                        while lock.swap(2, Ordering::SeqCst) != 0 {
                            let _ = futex::wait(&t, w, 2, BITSET_ANY, None);
                        }
                    }
                    *total.try_lock().expect("excluded") += 1;
                    if lock.swap(0, Ordering::SeqCst) == 2 {
                        futex::wake(w.key, 1, BITSET_ANY);
                    }
                }
            })
        })
        .collect();
    for h in hs {
        h.join().unwrap();
    }
    assert_eq!(*total.lock().unwrap(), 8000);
}
