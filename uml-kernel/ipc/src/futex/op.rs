//! FUTEX_WAKE_OP: an atomic operation on one word, then wake-ups on two.

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;

use super::{BITSET_ANY, Pair, Woken, Word, take};

/// The operation and comparison of FUTEX_WAKE_OP, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WakeOp {
    op: u32,
    arg: i32,
    cmp: u32,
    cmp_arg: i32,
}

/// Sign-extends a 12-bit field.
fn field12(v: u32) -> i32 {
    ((v << 20) as i32) >> 20
}

impl WakeOp {
    /// From `val3`; `ENOSYS` for operations that do not exist. A comparison that does not exist is found only
    /// after the operation was done, as on Linux.
    pub fn decode(v: u32) -> Result<WakeOp> {
        let mut arg = field12(v >> 12);
        if v & 0x8000_0000 != 0 {
            arg = 1i32.wrapping_shl(arg as u32);
        }
        let (op, cmp) = ((v >> 28) & 7, (v >> 24) & 15);
        if op > 4 {
            return Err(ENOSYS);
        }
        Ok(WakeOp { op, arg, cmp, cmp_arg: field12(v) })
    }

    fn apply(self, old: i32) -> i32 {
        match self.op {
            0 => self.arg,
            1 => old.wrapping_add(self.arg),
            2 => old | self.arg,
            3 => old & !self.arg,
            _ => old ^ self.arg,
        }
    }

    fn holds(self, old: i32) -> Result<bool> {
        Ok(match self.cmp {
            0 => old == self.cmp_arg,
            1 => old != self.cmp_arg,
            2 => old < self.cmp_arg,
            3 => old <= self.cmp_arg,
            4 => old > self.cmp_arg,
            5 => old >= self.cmp_arg,
            _ => return Err(ENOSYS),
        })
    }
}

/// Changes `word2`, wakes up to `n1` waiters of `word1` and, if the former value compares, up to `n2`
/// of `word2`.
pub fn wake_op(
    cx: &mut Ctx<'_>,
    word1: Word,
    n1: i32,
    word2: Word,
    n2: i32,
    op: WakeOp,
) -> Result<i32> {
    let task = cx.task.clone();
    let mut old = word2.read(&task)?;
    loop {
        let new = op.apply(old as i32) as u32;
        let found = word2.cmpxchg(cx, old, new)?;
        if found == old {
            break;
        }
        old = found;
        if task.fatal_signal_pending() {
            return Err(EINTR);
        }
    }
    let also_second = op.holds(old as i32)?;
    let mut woken = Woken::default();
    let mut pair = Pair::lock(word1.key, word2.key);
    let mut n = take(pair.a(), word1.key, n1, BITSET_ANY, &mut woken);
    if also_second {
        n += take(pair.b(), word2.key, n2, BITSET_ANY, &mut woken);
    }
    drop(pair);
    woken.wake();
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_decode_as_the_manual_says() {
        let enc = |op: u32, cmp: u32, a: i32, c: i32| {
            op << 28 | cmp << 24 | (a as u32 & 0xfff) << 12 | (c as u32 & 0xfff)
        };
        let w = WakeOp::decode(enc(1, 4, -1, 1)).unwrap();
        assert_eq!(w.apply(5), 4);
        assert_eq!((w.holds(2), w.holds(1)), (Ok(true), Ok(false)));
        let w = WakeOp::decode(enc(2 | 8, 0, 5, -7)).unwrap();
        assert_eq!(w.apply(1), 33);
        assert_eq!(w.holds(-7), Ok(true));
        assert_eq!(WakeOp::decode(enc(3, 1, 6, 0)).unwrap().apply(7), 1);
        assert_eq!(WakeOp::decode(enc(4, 1, 6, 0)).unwrap().apply(7), 1);
        assert_eq!(WakeOp::decode(enc(5, 0, 0, 0)), Err(ENOSYS));
        assert_eq!(WakeOp::decode(enc(0, 6, 0, 0)).and_then(|w| w.holds(0)), Err(ENOSYS));
    }
}
