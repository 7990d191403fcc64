//! Writing the vDSO's ELF image: headers, dynamic symbol table with versions, code.
//!
//! Layout: page 0 holds headers and tables, the code starts at 0x1000, so that the data page two pages
//! before the code is the page before the image (elf(5); the symbol version LINUX_2.6 is what vdso(7)
//! documents).

/// Offset of the code in the image.
const CODE: usize = 0x1000;
const VERSION: &str = "LINUX_2.6";
const SONAME: &str = "linux-vdso.so.1";

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;

/// The System V ABI's hash of a symbol name.
fn elf_hash(name: &str) -> u32 {
    let mut h: u32 = 0;
    for b in name.bytes() {
        h = (h << 4).wrapping_add(u32::from(b));
        let g = h & 0xf000_0000;
        h = (h ^ (g >> 24)) & !g;
    }
    h
}

struct Out {
    bytes: Vec<u8>,
}

impl Out {
    fn align(&mut self, n: usize) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(n), 0);
        self.bytes.len() as u64
    }

    fn u16(&mut self, v: u16) {
        self.bytes.extend_from_slice(&v.to_le_bytes());
    }

    fn u32(&mut self, v: u32) {
        self.bytes.extend_from_slice(&v.to_le_bytes());
    }

    fn u64(&mut self, v: u64) {
        self.bytes.extend_from_slice(&v.to_le_bytes());
    }
}

/// The whole image around `code`, whose `functions` are exported under their names.
pub fn build(code: &[u8], functions: &[(&str, usize)]) -> Vec<u8> {
    let mut strings = vec![0u8];
    let mut intern = |s: &str| {
        let at = strings.len() as u32;
        strings.extend_from_slice(s.as_bytes());
        strings.push(0);
        at
    };
    let names: Vec<u32> = functions.iter().map(|f| intern(f.0)).collect();
    let version = intern(VERSION);
    let soname = intern(SONAME);

    let headers = 64 + 2 * 56;
    let mut o = Out { bytes: vec![0; headers] };
    let dynsym = o.align(8);
    o.bytes.extend_from_slice(&[0; 24]);
    for (i, (name, at)) in names.iter().zip(functions.iter().map(|f| f.1)).enumerate() {
        let end = functions.get(i + 1).map_or(code.len(), |f| f.1);
        o.u32(*name);
        // Global function.
        o.bytes.push(0x12);
        o.bytes.push(0);
        // Any defined section.
        o.u16(1);
        o.u64((CODE + at) as u64);
        o.u64((end - at) as u64);
    }
    // Right after the symbols: readers without a hash table take its start for their end.
    let dynstr = o.bytes.len() as u64;
    o.bytes.extend_from_slice(&strings);

    let hash = o.align(8);
    // One bucket: a chain through all symbols.
    o.u32(1);
    o.u32(functions.len() as u32 + 1);
    o.u32(1);
    o.u32(0);
    for i in 1..=functions.len() as u32 {
        o.u32(if i as usize == functions.len() { 0 } else { i + 1 });
    }

    let versym = o.align(8);
    o.u16(0);
    for _ in functions {
        o.u16(2);
    }

    let verdef = o.align(8);
    // The base definition, then LINUX_2.6; each with one name.
    for (index, flags, name, text, next) in
        [(1u16, 1u16, soname, SONAME, 28u32), (2, 0, version, VERSION, 0)]
    {
        o.u16(1);
        o.u16(flags);
        o.u16(index);
        o.u16(1);
        o.u32(elf_hash(text));
        o.u32(20);
        o.u32(next);
        o.u32(name);
        o.u32(0);
    }

    let dynamic = o.align(8);
    let entries = [
        (14, u64::from(soname)),
        (4, hash),
        (5, dynstr),
        (6, dynsym),
        (10, strings.len() as u64),
        (11, 24),
        (0x6fff_fffc, verdef),
        (0x6fff_fffd, 2),
        (0x6fff_fff0, versym),
        (0, 0),
    ];
    for (tag, value) in entries {
        o.u64(tag);
        o.u64(value);
    }
    let dynamic_len = entries.len() as u64 * 16;

    debug_assert!(o.bytes.len() <= CODE);
    o.bytes.resize(CODE, 0);
    o.bytes.extend_from_slice(code);
    let total = o.bytes.len() as u64;

    let mut h = Out { bytes: Vec::with_capacity(headers) };
    h.bytes.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    h.u16(3);
    h.u16(62);
    h.u32(1);
    h.u64(CODE as u64);
    h.u64(64);
    h.u64(0);
    h.u32(0);
    h.u16(64);
    h.u16(56);
    h.u16(2);
    h.u16(64);
    h.u16(0);
    h.u16(0);
    for (kind, flags, off, len, align) in
        [(PT_LOAD, 5u32, 0u64, total, 0x1000u64), (PT_DYNAMIC, 4, dynamic, dynamic_len, 8)]
    {
        h.u32(kind);
        h.u32(flags);
        h.u64(off);
        h.u64(off);
        h.u64(off);
        h.u64(len);
        h.u64(len);
        h.u64(align);
    }
    o.bytes[..headers].copy_from_slice(&h.bytes);
    o.bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_values_are_those_of_the_abi() {
        // Values from the version definitions of a real vDSO.
        assert_eq!(elf_hash("LINUX_2.6"), 0x03ae_75f6);
    }

    #[test]
    fn tables_fit_before_the_code() {
        let image = build(&[0xc3; 64], &[("__vdso_time", 0), ("__vdso_getcpu", 32)]);
        assert_eq!(&image[..4], b"\x7fELF");
        assert_eq!(image.len(), CODE + 64);
        assert_eq!(image[CODE], 0xc3);
    }
}
