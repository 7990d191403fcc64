//! The name hashes of htree directories.

use crate::layout::Layout;

/// Hash versions as stored in an index root.
pub(crate) const LEGACY: u8 = 0;
pub(crate) const HALF_MD4: u8 = 1;
pub(crate) const TEA: u8 = 2;
const LEGACY_UNSIGNED: u8 = 3;
const HALF_MD4_UNSIGNED: u8 = 4;
const TEA_UNSIGNED: u8 = 5;

/// A name's hash: `major` orders the index (its lowest bit is always clear),
/// `minor` breaks ties when listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hash {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

/// The version to use for a stored one: on filesystems marked as unsigned the
/// signed numbers mean their unsigned twins.
pub(crate) fn effective(lay: &Layout, stored: u8) -> Option<u8> {
    match stored {
        LEGACY..=TEA => Some(if lay.hash_unsigned { stored + 3 } else { stored }),
        LEGACY_UNSIGNED..=TEA_UNSIGNED => Some(stored),
        _ => None,
    }
}

fn widen(c: u8, unsigned: bool) -> u32 {
    if unsigned { u32::from(c) } else { c as i8 as u32 }
}

fn legacy(name: &[u8], unsigned: bool) -> u32 {
    let (mut h0, mut h1) = (0x12a3_fe2du32, 0x37ab_e8f9u32);
    for &c in name {
        let mut h = h1.wrapping_add(h0 ^ widen(c, unsigned).wrapping_mul(7_152_373));
        if h & 0x8000_0000 != 0 {
            h = h.wrapping_sub(0x7fff_ffff);
        }
        h1 = h0;
        h0 = h;
    }
    h0 << 1
}

/// Packs up to `out.len() * 4` bytes of a name, padded with its length.
fn pack(name: &[u8], out: &mut [u32], unsigned: bool) {
    let n = name.len() as u32;
    let mut pad = n | n << 8;
    pad |= pad << 16;
    let used = &name[..name.len().min(out.len() * 4)];
    let mut words = out.iter_mut();
    let mut chunks = used.chunks_exact(4);
    let fold = |c: &[u8], start: u32| {
        c.iter().fold(start, |v, &b| widen(b, unsigned).wrapping_add(v << 8))
    };
    for (c, w) in (&mut chunks).zip(&mut words) {
        *w = fold(c, pad);
    }
    // The incomplete word (or a whole padding word) follows, then padding.
    if let Some(w) = words.next() {
        *w = fold(chunks.remainder(), pad);
    }
    for w in words {
        *w = pad;
    }
}

fn tea(buf: &mut [u32; 4], key: &[u32]) {
    let (mut b0, mut b1, mut sum) = (buf[0], buf[1], 0u32);
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9e37_79b9);
        let f = |v: u32, x: u32, y: u32| {
            (v << 4).wrapping_add(x) ^ v.wrapping_add(sum) ^ (v >> 5).wrapping_add(y)
        };
        b0 = b0.wrapping_add(f(b1, key[0], key[1]));
        b1 = b1.wrapping_add(f(b0, key[2], key[3]));
    }
    buf[0] = buf[0].wrapping_add(b0);
    buf[1] = buf[1].wrapping_add(b1);
}

fn half_md4(buf: &mut [u32; 4], x: &[u32]) {
    let [mut a, mut b, mut c, mut d] = *buf;
    type F = fn(u32, u32, u32) -> u32;
    let rounds: [(F, u32, [usize; 8], [u32; 4]); 3] = [
        (|x, y, z| z ^ (x & (y ^ z)), 0, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]),
        (
            |x, y, z| (x & y).wrapping_add((x ^ y) & z),
            0x5a82_7999,
            [1, 3, 5, 7, 0, 2, 4, 6],
            [3, 5, 9, 13],
        ),
        (|x, y, z| x ^ y ^ z, 0x6ed9_eba1, [3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15]),
    ];
    for (f, k, order, shifts) in rounds {
        for (i, &w) in order.iter().enumerate() {
            let v = a.wrapping_add(f(b, c, d)).wrapping_add(x[w].wrapping_add(k));
            let new = v.rotate_left(shifts[i % 4]);
            (a, b, c, d) = (d, new, b, c);
        }
    }
    for (s, v) in buf.iter_mut().zip([a, b, c, d]) {
        *s = s.wrapping_add(v);
    }
}

/// Hashes `name`; `None` for a version this engine does not know.
pub(crate) fn hash(lay: &Layout, version: u8, name: &[u8]) -> Option<Hash> {
    let mut buf = lay.hash_seed.unwrap_or([0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476]);
    let unsigned = (LEGACY_UNSIGNED..=TEA_UNSIGNED).contains(&version);
    let (major, minor) = match version {
        LEGACY | LEGACY_UNSIGNED => (legacy(name, unsigned), 0),
        HALF_MD4 | HALF_MD4_UNSIGNED => {
            let mut rest = name;
            while !rest.is_empty() {
                let mut words = [0u32; 8];
                pack(rest, &mut words, unsigned);
                half_md4(&mut buf, &words);
                rest = rest.get(32..).unwrap_or(&[]);
            }
            (buf[1], buf[2])
        }
        TEA | TEA_UNSIGNED => {
            let mut rest = name;
            while !rest.is_empty() {
                let mut words = [0u32; 4];
                pack(rest, &mut words, unsigned);
                tea(&mut buf, &words);
                rest = rest.get(16..).unwrap_or(&[]);
            }
            (buf[0], buf[1])
        }
        _ => return None,
    };
    let mut major = major & !1;
    // The largest value is reserved for the end of the directory.
    if major == 0xffff_fffe {
        major = 0xffff_fffc;
    }
    Some(Hash { major, minor })
}
