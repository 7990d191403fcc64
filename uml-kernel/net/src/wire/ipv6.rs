//! IPv6 headers and extension headers (RFC 8200).

use std::net::Ipv6Addr;

use super::{Malformed, Parsed, array, be16, be32, proto};

/// Bytes of the fixed header.
pub const HEADER: usize = 40;

/// The fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6 {
    pub src: Ipv6Addr,
    pub dst: Ipv6Addr,
    pub next: u8,
    pub hop_limit: u8,
    pub class: u8,
    pub flow: u32,
    /// Bytes after the header.
    pub payload_len: usize,
}

impl Ipv6 {
    /// A header in front of `payload_len` bytes.
    pub fn new(src: Ipv6Addr, dst: Ipv6Addr, next: u8, hop_limit: u8, payload_len: usize) -> Ipv6 {
        Ipv6 { src, dst, next, hop_limit, class: 0, flow: 0, payload_len }
    }

    /// Parses; `whole` is the number of bytes of the packet that are there.
    pub fn parse(b: &[u8], whole: usize) -> Parsed<Ipv6> {
        let h = Ipv6::parse_quoted(b)?;
        if HEADER + h.payload_len > whole { Err(Malformed) } else { Ok(h) }
    }

    /// As [`Ipv6::parse`] for a packet cut short in an ICMPv6 error.
    pub fn parse_quoted(b: &[u8]) -> Parsed<Ipv6> {
        let first = be32(b, 0)?;
        if first >> 28 != 6 || b.len() < HEADER {
            return Err(Malformed);
        }
        Ok(Ipv6 {
            src: Ipv6Addr::from(array::<16>(b, 8)?),
            dst: Ipv6Addr::from(array::<16>(b, 24)?),
            next: b[6],
            hop_limit: b[7],
            class: (first >> 20) as u8,
            flow: first & 0xf_ffff,
            payload_len: usize::from(be16(b, 4)?),
        })
    }

    /// The header as bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        let first = 6 << 28 | u32::from(self.class) << 20 | (self.flow & 0xf_ffff);
        out.extend_from_slice(&first.to_be_bytes());
        out.extend_from_slice(&(self.payload_len as u16).to_be_bytes());
        out.extend_from_slice(&[self.next, self.hop_limit]);
        out.extend_from_slice(&self.src.octets());
        out.extend_from_slice(&self.dst.octets());
    }
}

/// A fragment header (RFC 8200 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub next: u8,
    /// Offset in bytes.
    pub offset: usize,
    pub more: bool,
    pub id: u32,
}

impl Fragment {
    pub const LEN: usize = 8;

    /// Parses eight bytes.
    pub fn parse(b: &[u8]) -> Parsed<Fragment> {
        let w = be16(b, 2)?;
        Ok(Fragment {
            next: *b.first().ok_or(Malformed)?,
            offset: usize::from(w & 0xfff8),
            more: w & 1 != 0,
            id: be32(b, 4)?,
        })
    }

    /// The header as bytes.
    pub fn bytes(&self) -> [u8; 8] {
        let w = (self.offset as u16 & 0xfff8) | u16::from(self.more);
        let mut b = [0; 8];
        b[0] = self.next;
        b[2..4].copy_from_slice(&w.to_be_bytes());
        b[4..].copy_from_slice(&self.id.to_be_bytes());
        b
    }
}

/// What stands between the fixed header and the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Protocol of the payload, or [`proto::FRAGMENT`] when a fragment header comes next.
    pub proto: u8,
    /// Bytes of extension headers before it.
    pub len: usize,
    /// Place of the next-header field that names `proto`, from the start of the packet.
    pub next_at: usize,
    /// A routing header with segments left is in it.
    pub routed: bool,
    /// An unknown option says that the packet is to be discarded: its place from the start of the
    /// packet, and whether an ICMPv6 error is to be sent.
    pub refuse: Option<(usize, bool)>,
}

/// Length of the extension header `next` at the start of `b`; `None` when it is no extension header.
pub fn extension_len(next: u8, b: &[u8]) -> Parsed<Option<usize>> {
    match next {
        proto::HOPOPT | proto::ROUTING | proto::DSTOPTS => {
            let len = (usize::from(*b.get(1).ok_or(Malformed)?) + 1) * 8;
            if b.len() < len { Err(Malformed) } else { Ok(Some(len)) }
        }
        _ => Ok(None),
    }
}

/// Walks the extension headers that follow the fixed header in `b`, a packet from its first byte.
pub fn chain(b: &[u8], first: u8) -> Parsed<Chain> {
    let mut c = Chain { proto: first, len: 0, next_at: 6, routed: false, refuse: None };
    loop {
        let at = HEADER + c.len;
        let rest = b.get(at..).ok_or(Malformed)?;
        // Hop-by-hop options are only valid first.
        if c.proto == proto::HOPOPT && c.len != 0 {
            return Ok(c);
        }
        let Some(len) = extension_len(c.proto, rest)? else { return Ok(c) };
        if c.proto == proto::ROUTING {
            c.routed |= rest[3] != 0;
        } else if c.refuse.is_none() {
            c.refuse = unknown_option(&rest[2..len]).map(|(o, tell)| (at + 2 + o, tell));
        }
        c.next_at = at;
        c.proto = rest[0];
        c.len += len;
    }
}

/// The first option that a node which does not know it must refuse (RFC 8200 4.2).
fn unknown_option(mut b: &[u8]) -> Option<(usize, bool)> {
    let whole = b.len();
    let mut padding = 0;
    while let Some(&kind) = b.first() {
        // More padding than alignment can need is a hidden channel (RFC 4942 2.1.9.5).
        padding += match (kind, b.get(1)) {
            (0, _) => 1,
            (1, Some(n)) => 2 + usize::from(*n),
            _ => {
                padding = 0;
                0
            }
        };
        if padding > 7 {
            return Some((whole - b.len(), false));
        }
        if kind == 0 {
            b = &b[1..];
            continue;
        }
        let Some(&n) = b.get(1) else { return Some((whole - b.len(), true)) };
        let len = 2 + usize::from(n);
        if kind == 1 && b.get(2..len).is_some_and(|p| p.iter().any(|b| *b != 0)) {
            return Some((whole - b.len(), false));
        }
        // Padding, router alert and jumbo payloads are known; jumbograms do not arrive here.
        if !matches!(kind, 1 | 5) {
            match kind >> 6 {
                0 => {}
                1 => return Some((whole - b.len(), false)),
                _ => return Some((whole - b.len(), true)),
            }
        }
        match b.get(len..) {
            Some(rest) => b = rest,
            None => return Some((whole - b.len(), true)),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn written_headers_parse(src: u128, dst: u128, next: u8, hop: u8, class: u8, flow in 0u32..1 << 20, n in 0usize..65536) {
            let mut h = Ipv6::new(src.into(), dst.into(), next, hop, n);
            (h.class, h.flow) = (class, flow);
            let mut b = Vec::new();
            h.write(&mut b);
            prop_assert_eq!(Ipv6::parse(&b, HEADER + n), Ok(h));
            prop_assert_eq!(Ipv6::parse(&b, HEADER + n - 1), Err(Malformed));
        }

        #[test]
        fn any_bytes_are_survived(mut b in proptest::collection::vec(any::<u8>(), 0..200), fix: bool, first in 0u8..64) {
            if fix && !b.is_empty() {
                b[0] = 0x60 | (b[0] & 15);
            }
            let _ = Ipv6::parse(&b, b.len());
            if let Ok(c) = chain(&b, first) {
                prop_assert!(HEADER + c.len <= b.len());
            }
            if let Ok(f) = Fragment::parse(&b) {
                prop_assert_eq!(Fragment::parse(&f.bytes()), Ok(f));
            }
        }
    }
}
