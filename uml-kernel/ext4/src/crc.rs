//! The two checksums ext4 uses, and the one of jbd2's first checksum format.
//!
//! None of these functions inverts the result: ext4 chains them by passing one
//! result as the next call's start value.

const fn reflected_table(poly: u32) -> [[u32; 256]; 8] {
    let mut t = [[0u32; 256]; 8];
    let mut i = 0;
    while i < 256 {
        let mut c = i as u32;
        let mut k = 0;
        while k < 8 {
            c = if c & 1 != 0 { (c >> 1) ^ poly } else { c >> 1 };
            k += 1;
        }
        t[0][i] = c;
        i += 1;
    }
    let mut s = 1;
    while s < 8 {
        let mut i = 0;
        while i < 256 {
            let p = t[s - 1][i];
            t[s][i] = (p >> 8) ^ t[0][(p & 0xff) as usize];
            i += 1;
        }
        s += 1;
    }
    t
}

const fn forward_table(poly: u32) -> [u32; 256] {
    let mut t = [0u32; 256];
    let mut i = 0;
    while i < 256 {
        let mut c = (i as u32) << 24;
        let mut k = 0;
        while k < 8 {
            c = if c & 0x8000_0000 != 0 { (c << 1) ^ poly } else { c << 1 };
            k += 1;
        }
        t[i] = c;
        i += 1;
    }
    t
}

const fn crc16_table() -> [u16; 256] {
    let mut t = [0u16; 256];
    let mut i = 0;
    while i < 256 {
        let mut c = i as u16;
        let mut k = 0;
        while k < 8 {
            c = if c & 1 != 0 { (c >> 1) ^ 0xa001 } else { c >> 1 };
            k += 1;
        }
        t[i] = c;
        i += 1;
    }
    t
}

static CASTAGNOLI: [[u32; 256]; 8] = reflected_table(0x82f6_3b78);
static BE: [u32; 256] = forward_table(0x04c1_1db7);
static CRC16: [u16; 256] = crc16_table();

/// CRC-32C (Castagnoli), eight bytes per step, no final inversion.
pub fn crc32c(crc: u32, data: &[u8]) -> u32 {
    let t = &CASTAGNOLI;
    let mut crc = crc;
    let mut chunks = data.chunks_exact(8);
    for c in &mut chunks {
        let lo = crc ^ u32::from_le_bytes([c[0], c[1], c[2], c[3]]);
        crc = t[7][(lo & 0xff) as usize]
            ^ t[6][((lo >> 8) & 0xff) as usize]
            ^ t[5][((lo >> 16) & 0xff) as usize]
            ^ t[4][(lo >> 24) as usize]
            ^ t[3][c[4] as usize]
            ^ t[2][c[5] as usize]
            ^ t[1][c[6] as usize]
            ^ t[0][c[7] as usize];
    }
    for &b in chunks.remainder() {
        crc = (crc >> 8) ^ t[0][((crc ^ u32::from(b)) & 0xff) as usize];
    }
    crc
}

/// CRC-16 (polynomial 0x8005, reflected), used by `uninit_bg` descriptors.
pub fn crc16(crc: u16, data: &[u8]) -> u16 {
    data.iter().fold(crc, |c, &b| (c >> 8) ^ CRC16[((c ^ u16::from(b)) & 0xff) as usize])
}

/// Big-endian CRC-32, used by jbd2's first checksum format.
pub fn crc32_be(crc: u32, data: &[u8]) -> u32 {
    data.iter().fold(crc, |c, &b| (c << 8) ^ BE[((c >> 24) as u8 ^ b) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_values() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
        // CRC-32/MPEG-2 is the same algorithm.
        assert_eq!(crc32_be(!0, b"123456789"), 0x0376_e6e7);
    }

    #[test]
    fn chaining_equals_one_pass() {
        let data: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        for cut in [0, 1, 7, 8, 9, 500, 1000] {
            let (a, b) = data.split_at(cut);
            assert_eq!(crc32c(crc32c(!0, a), b), crc32c(!0, &data));
        }
    }
}
