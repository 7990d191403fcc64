//! UDP headers (RFC 768).

use super::{Malformed, Parsed, be16};

/// Bytes of the header.
pub const HEADER: usize = 8;

/// A UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    pub src: u16,
    pub dst: u16,
    /// Header and data.
    pub len: usize,
    pub checksum: u16,
}

impl Udp {
    /// Parses; `whole` is the number of bytes after the IP header. A length of zero means all of them
    /// (offloaded super-packets).
    pub fn parse(b: &[u8], whole: usize) -> Parsed<Udp> {
        let len = match usize::from(be16(b, 4)?) {
            0 => whole,
            n => n,
        };
        if len < HEADER || len > whole || b.len() < HEADER {
            return Err(Malformed);
        }
        Ok(Udp { src: be16(b, 0)?, dst: be16(b, 2)?, len, checksum: be16(b, 6)? })
    }

    /// The header as bytes.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut b = [0; HEADER];
        b[..2].copy_from_slice(&self.src.to_be_bytes());
        b[2..4].copy_from_slice(&self.dst.to_be_bytes());
        b[4..6].copy_from_slice(&(self.len as u16).to_be_bytes());
        b[6..].copy_from_slice(&self.checksum.to_be_bytes());
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_survive_a_round_trip(src: u16, dst: u16, len in 8usize..65536, checksum: u16) {
            let h = Udp { src, dst, len, checksum };
            prop_assert_eq!(Udp::parse(&h.bytes(), len), Ok(h));
            prop_assert_eq!(Udp::parse(&h.bytes(), len - 1), Err(Malformed));
        }
    }
}
