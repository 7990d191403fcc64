//! The Internet checksum (RFC 1071).

use std::net::IpAddr;

/// A running one's complement sum. Pieces may have any length; their place in the whole (odd or even) is
/// kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    acc: u64,
    odd: bool,
}

fn sum_even(data: &[u8]) -> u64 {
    // Native-endian words: one's complement sums are byte-order independent up to a final swap.
    let mut acc: u64 = 0;
    let mut words = data.chunks_exact(8);
    for w in &mut words {
        let v = u64::from_ne_bytes([w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]]);
        acc += (v & 0xffff_ffff) + (v >> 32);
    }
    let mut rest = words.remainder().chunks_exact(2);
    for w in &mut rest {
        acc += u64::from(u16::from_ne_bytes([w[0], w[1]]));
    }
    if let [last] = rest.remainder() {
        acc += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    acc
}

fn fold(mut acc: u64) -> u16 {
    acc = (acc & 0xffff_ffff) + (acc >> 32);
    acc = (acc & 0xffff_ffff) + (acc >> 32);
    acc = (acc & 0xffff) + (acc >> 16);
    acc = (acc & 0xffff) + (acc >> 16);
    acc = (acc & 0xffff) + (acc >> 16);
    acc as u16
}

impl Sum {
    /// An empty sum.
    pub fn new() -> Sum {
        Sum::default()
    }

    /// Adds bytes that follow those added before.
    pub fn add(&mut self, data: &[u8]) {
        let s = fold(sum_even(data));
        self.acc += u64::from(if self.odd { s.swap_bytes() } else { s });
        self.odd ^= data.len() % 2 == 1;
    }

    /// Adds one 16-bit number.
    pub fn add_u16(&mut self, v: u16) {
        self.add(&v.to_be_bytes());
    }

    /// The pseudo header of TCP, UDP and ICMPv6 (RFC 9293 3.1, RFC 8200 8.1).
    pub fn pseudo(src: IpAddr, dst: IpAddr, proto: u8, len: usize) -> Sum {
        let mut s = Sum::new();
        match (src, dst) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                s.add(&a.octets());
                s.add(&b.octets());
            }
            (a, b) => {
                for x in [a, b] {
                    match x {
                        IpAddr::V4(x) => s.add(&x.to_ipv6_mapped().octets()),
                        IpAddr::V6(x) => s.add(&x.octets()),
                    }
                }
            }
        }
        s.add(&(len as u32).to_be_bytes());
        s.add(&[0, proto]);
        s
    }

    /// The sum, not complemented, as a big-endian field.
    pub fn folded(self) -> u16 {
        u16::from_be(fold(self.acc))
    }

    /// The checksum to store: the complement.
    pub fn finish(self) -> u16 {
        !self.folded()
    }
}

/// Checksum of one piece of data.
pub fn checksum(data: &[u8]) -> u16 {
    let mut s = Sum::new();
    s.add(data);
    s.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slow(data: &[u8]) -> u16 {
        let mut acc = 0u32;
        for c in data.chunks(2) {
            let w = u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)]);
            acc += u32::from(w);
            acc = (acc & 0xffff) + (acc >> 16);
        }
        !(acc as u16)
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let mut s = Sum::new();
        s.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(s.folded(), 0xddf2);
    }

    proptest! {
        #[test]
        fn pieces_of_any_length_sum_like_the_whole(
            data in proptest::collection::vec(any::<u8>(), 0..300),
            cuts in proptest::collection::vec(0usize..300, 0..5),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(data.len())).collect();
            cuts.sort_unstable();
            let mut s = Sum::new();
            let mut at = 0;
            for c in cuts {
                s.add(&data[at..c]);
                at = c;
            }
            s.add(&data[at..]);
            // 0 and 0xffff are both zero in one's complement.
            let (a, b) = (s.finish(), slow(&data));
            prop_assert!(a == b || (a ^ b == 0xffff && (a == 0 || b == 0)));
            prop_assert_eq!(a, checksum(&data));
        }
    }
}
