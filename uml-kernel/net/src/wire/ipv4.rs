//! IPv4 headers (RFC 791).

use std::net::Ipv4Addr;

use super::checksum::checksum;
use super::{Malformed, Parsed, array, be16};

/// Bytes of a header without options.
pub const HEADER: usize = 20;
/// Most bytes of options.
pub const OPTIONS_MAX: usize = 40;

/// Bits of the flags field.
pub const DF: u16 = 0x4000;
pub const MF: u16 = 0x2000;

/// An IPv4 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub proto: u8,
    pub ttl: u8,
    pub tos: u8,
    pub id: u16,
    pub df: bool,
    pub mf: bool,
    /// Offset of a fragment in bytes.
    pub frag_off: u16,
    /// Header with options, bytes.
    pub header_len: usize,
    /// Whole packet, bytes.
    pub total_len: usize,
}

impl Ipv4 {
    /// A header without options around `payload` bytes. `EMSGSIZE` is the caller's: a length beyond
    /// 65535 is cut here, and offloaded packets say so to their device.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, ttl: u8, payload: usize) -> Ipv4 {
        Ipv4 {
            src,
            dst,
            proto,
            ttl,
            tos: 0,
            id: 0,
            df: false,
            mf: false,
            frag_off: 0,
            header_len: HEADER,
            total_len: HEADER + payload,
        }
    }

    /// Parses and checks a header; `whole` is the number of bytes of the packet that are there, which may
    /// be more than it says (padding) but not less. The header checksum is verified.
    pub fn parse(b: &[u8], whole: usize) -> Parsed<Ipv4> {
        let first = *b.first().ok_or(Malformed)?;
        let header_len = usize::from(first & 15) * 4;
        if first >> 4 != 4 || header_len < HEADER || b.len() < header_len {
            return Err(Malformed);
        }
        let total_len = usize::from(be16(b, 2)?);
        if total_len < header_len || total_len > whole || checksum(&b[..header_len]) != 0 {
            return Err(Malformed);
        }
        Ipv4::fields(b, header_len, total_len)
    }

    /// As [`Ipv4::parse`] for a header quoted in an ICMP error: the packet is cut and the checksum may have
    /// been made for another time to live.
    pub fn parse_quoted(b: &[u8]) -> Parsed<Ipv4> {
        let first = *b.first().ok_or(Malformed)?;
        let header_len = usize::from(first & 15) * 4;
        if first >> 4 != 4 || header_len < HEADER || b.len() < header_len {
            return Err(Malformed);
        }
        Ipv4::fields(b, header_len, usize::from(be16(b, 2)?))
    }

    fn fields(b: &[u8], header_len: usize, total_len: usize) -> Parsed<Ipv4> {
        let flags = be16(b, 6)?;
        Ok(Ipv4 {
            src: Ipv4Addr::from(array::<4>(b, 12)?),
            dst: Ipv4Addr::from(array::<4>(b, 16)?),
            proto: b[9],
            ttl: b[8],
            tos: b[1],
            id: be16(b, 4)?,
            df: flags & DF != 0,
            mf: flags & MF != 0,
            frag_off: (flags & 0x1fff) * 8,
            header_len,
            total_len,
        })
    }

    /// The header as bytes with its checksum; `options` are padded to whole words by the caller.
    pub fn write(&self, options: &[u8], out: &mut Vec<u8>) {
        let at = out.len();
        let words = (HEADER + options.len()) / 4;
        let mut flags = self.frag_off / 8;
        if self.df {
            flags |= DF;
        }
        if self.mf {
            flags |= MF;
        }
        out.push(0x40 | words as u8);
        out.push(self.tos);
        out.extend_from_slice(&(self.total_len as u16).to_be_bytes());
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&[self.ttl, self.proto, 0, 0]);
        out.extend_from_slice(&self.src.octets());
        out.extend_from_slice(&self.dst.octets());
        out.extend_from_slice(options);
        let sum = checksum(&out[at..]);
        out[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
    }

    /// True for a piece of a larger packet.
    pub fn is_fragment(&self) -> bool {
        self.mf || self.frag_off != 0
    }
}

/// One option in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opt<'a> {
    pub kind: u8,
    /// Place of its first byte in the options.
    pub at: usize,
    pub data: &'a [u8],
}

/// Options of a header: no-operations are skipped, the list ends at end-of-options.
/// An option whose length is impossible ends the list with an error (RFC 791 3.1).
pub fn options(b: &[u8]) -> impl Iterator<Item = Parsed<Opt<'_>>> {
    let mut at = 0;
    let mut over = false;
    std::iter::from_fn(move || {
        while !over {
            match *b.get(at)? {
                0 => return None,
                1 => at += 1,
                kind => {
                    let len = usize::from(*b.get(at + 1).unwrap_or(&0));
                    if len < 2 || at + len > b.len() {
                        over = true;
                        return Some(Err(Malformed));
                    }
                    let o = Opt { kind, at, data: &b[at + 2..at + len] };
                    at += len;
                    return Some(Ok(o));
                }
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn written_headers_parse(
            src: u32, dst: u32, proto: u8, ttl: u8, tos: u8, id: u16, df: bool, mf: bool, off in 0u16..8192,
            payload in 0usize..1000, words in 0usize..10,
        ) {
            let mut h = Ipv4::new(src.into(), dst.into(), proto, ttl, payload);
            (h.tos, h.id, h.df, h.mf, h.frag_off) = (tos, id, df, mf, off * 8);
            h.header_len = HEADER + words * 4;
            h.total_len = h.header_len + payload;
            let mut b = Vec::new();
            h.write(&vec![1; words * 4], &mut b);
            prop_assert_eq!(Ipv4::parse(&b, h.total_len), Ok(h));
            prop_assert_eq!(Ipv4::parse(&b, h.total_len - 1), Err(Malformed));
            b[8] ^= 0x55;
            prop_assert_eq!(Ipv4::parse(&b, h.total_len), Err(Malformed));
        }

        #[test]
        fn any_bytes_are_survived(mut b in proptest::collection::vec(any::<u8>(), 0..80), fix: bool) {
            if fix && !b.is_empty() {
                b[0] = 0x40 | (b[0] & 15);
            }
            let _ = Ipv4::parse(&b, b.len());
            let _ = Ipv4::parse_quoted(&b);
            let n = options(&b).count();
            prop_assert!(n <= b.len());
        }
    }
}
