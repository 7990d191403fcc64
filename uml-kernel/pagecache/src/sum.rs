//! Hashes of pages, to see what shared mappings changed.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

fn seeds() -> &'static [u64; 8] {
    static SEEDS: OnceLock<[u64; 8]> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let s = RandomState::new();
        // Odd, so that multiplying by them loses nothing.
        [0u64, 1, 2, 3, 4, 5, 6, 7].map(|i| s.hash_one(i) | 1)
    })
}

fn mix(a: u64, b: u64) -> u64 {
    let m = u128::from(a) * u128::from(b);
    m as u64 ^ (m >> 64) as u64
}

/// A 64-bit hash of at most a page, keyed with numbers only this process knows.
pub(crate) fn page(data: &[u8]) -> u64 {
    let k = seeds();
    let mut lanes = [k[4], k[5], k[6], k[7]];
    let mut words = data.chunks_exact(64);
    for w in &mut words {
        for (i, lane) in lanes.iter_mut().enumerate() {
            let at = |n: usize| {
                let mut b = [0; 8];
                b.copy_from_slice(&w[n..n + 8]);
                u64::from_le_bytes(b)
            };
            *lane = mix(at(i * 16) ^ k[i], at(i * 16 + 8) ^ *lane);
        }
    }
    let mut h = lanes.iter().fold(data.len() as u64, |h, l| mix(h ^ k[0], l ^ k[1]));
    for &b in words.remainder() {
        h = mix(h ^ k[2], u64::from(b) ^ k[3]);
    }
    h
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_single_bit_counts() {
        let mut p = vec![0u8; 4096];
        let mut seen = std::collections::HashSet::from([super::page(&p)]);
        for bit in 0..4096 * 8 {
            p[bit / 8] ^= 1 << (bit % 8);
            assert!(seen.insert(super::page(&p)), "bit {bit}");
            p[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(seen.insert(super::page(&p[..4095])));
    }
}
