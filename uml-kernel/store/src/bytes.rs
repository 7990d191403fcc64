//! Reading and writing integers in on-disk structures.
//!
//! Readers return zero past the end of the slice instead of panicking: block
//! sizes are checked when the filesystem is opened, so an out-of-range offset
//! can only come from damaged metadata, and zero is then rejected by the
//! structure's own checks.

/// Little-endian `u16` at `off`.
pub fn rd16(b: &[u8], off: usize) -> u16 {
    b.get(off..).and_then(|s| s.first_chunk()).map_or(0, |c| u16::from_le_bytes(*c))
}

/// Little-endian `u32` at `off`.
pub fn rd32(b: &[u8], off: usize) -> u32 {
    b.get(off..).and_then(|s| s.first_chunk()).map_or(0, |c| u32::from_le_bytes(*c))
}

/// Little-endian `u64` at `off`.
pub fn rd64(b: &[u8], off: usize) -> u64 {
    b.get(off..).and_then(|s| s.first_chunk()).map_or(0, |c| u64::from_le_bytes(*c))
}

/// Byte at `off`.
pub fn rd8(b: &[u8], off: usize) -> u8 {
    b.get(off).copied().unwrap_or(0)
}

/// Big-endian `u32` at `off` (jbd2 is big-endian).
pub fn rdbe32(b: &[u8], off: usize) -> u32 {
    b.get(off..).and_then(|s| s.first_chunk()).map_or(0, |c| u32::from_be_bytes(*c))
}

/// Big-endian `u16` at `off`.
pub fn rdbe16(b: &[u8], off: usize) -> u16 {
    b.get(off..).and_then(|s| s.first_chunk()).map_or(0, |c| u16::from_be_bytes(*c))
}

fn put(b: &mut [u8], off: usize, v: &[u8]) {
    match b.get_mut(off..off.saturating_add(v.len())) {
        Some(s) => s.copy_from_slice(v),
        None => debug_assert!(false, "write past the end of a block"),
    }
}

/// Stores a little-endian `u16`.
pub fn wr16(b: &mut [u8], off: usize, v: u16) {
    put(b, off, &v.to_le_bytes());
}

/// Stores a little-endian `u32`.
pub fn wr32(b: &mut [u8], off: usize, v: u32) {
    put(b, off, &v.to_le_bytes());
}

/// Stores a little-endian `u64`.
pub fn wr64(b: &mut [u8], off: usize, v: u64) {
    put(b, off, &v.to_le_bytes());
}

/// Stores a big-endian `u32`.
pub fn wrbe32(b: &mut [u8], off: usize, v: u32) {
    put(b, off, &v.to_be_bytes());
}

/// Stores a big-endian `u16`.
pub fn wrbe16(b: &mut [u8], off: usize, v: u16) {
    put(b, off, &v.to_be_bytes());
}

/// `n` bytes at `off`, or an empty slice when they are not all there.
pub fn slice(b: &[u8], off: usize, n: usize) -> &[u8] {
    off.checked_add(n).and_then(|end| b.get(off..end)).unwrap_or(&[])
}
