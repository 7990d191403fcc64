//! Sequence numbers in 64 bits: the lower half is what is on the wire, so that comparisons are plain.

/// A position in a stream of sequence numbers.
pub type Seq = u64;

/// An initial position for the wire's number `s`, far enough from zero that differences never underflow.
pub fn initial(s: u32) -> Seq {
    (1 << 32) + u64::from(s)
}

/// The position nearest to `near` whose lower half is `s`.
pub fn unwrap(near: Seq, s: u32) -> Seq {
    let diff = s.wrapping_sub(near as u32) as i32;
    near.wrapping_add(i64::from(diff) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nearby_positions_come_back(start: u32, d in -0x4000_0000i64..0x4000_0000, laps in 0u64..5) {
            let near = initial(start) + (laps << 32);
            let other = near.wrapping_add(d as u64);
            prop_assert_eq!(unwrap(near, other as u32), other);
        }
    }
}
