//! TCP headers and options (RFC 9293, RFC 7323, RFC 2018).

use super::{Malformed, Parsed, be16, be32};

/// Bytes of a header without options.
pub const HEADER: usize = 20;
/// Most bytes of options.
pub const OPTIONS_MAX: usize = 40;

/// Control bits.
pub mod flags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
    pub const ECE: u8 = 0x40;
    pub const CWR: u8 = 0x80;
}

/// A range of sequence numbers that arrived out of order; `end` is exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBlock {
    pub start: u32,
    pub end: u32,
}

/// Options of a segment. Unknown ones are ignored (RFC 9293 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub mss: Option<u16>,
    /// Window shift.
    pub wscale: Option<u8>,
    pub sack_permitted: bool,
    /// TSval and TSecr.
    pub timestamp: Option<(u32, u32)>,
    pub sack: [SackBlock; 4],
    pub sack_len: usize,
}

impl Options {
    /// SACK blocks.
    pub fn sacks(&self) -> &[SackBlock] {
        &self.sack[..self.sack_len.min(4)]
    }

    /// Parses the bytes between header and data. An impossible length ends the list: what came before
    /// counts, as Linux has it.
    pub fn parse(mut b: &[u8], syn: bool) -> Options {
        let mut o = Options::default();
        while let Some(&kind) = b.first() {
            match kind {
                0 => break,
                1 => {
                    b = &b[1..];
                    continue;
                }
                _ => {}
            }
            let len = usize::from(*b.get(1).unwrap_or(&0));
            if len < 2 || len > b.len() {
                break;
            }
            let d = &b[2..len];
            match (kind, d.len()) {
                (2, 2) if syn => o.mss = be16(d, 0).ok(),
                (3, 1) if syn => o.wscale = Some(d[0].min(14)),
                (4, 0) if syn => o.sack_permitted = true,
                (8, 8) => o.timestamp = be32(d, 0).ok().zip(be32(d, 4).ok()),
                (5, n) if n % 8 == 0 => {
                    for c in d.chunks_exact(8).take(4) {
                        if let (Ok(start), Ok(end)) = (be32(c, 0), be32(c, 4)) {
                            o.sack[o.sack_len] = SackBlock { start, end };
                            o.sack_len = (o.sack_len + 1).min(4);
                        }
                        if o.sack_len == 4 {
                            break;
                        }
                    }
                }
                _ => {}
            }
            b = &b[len..];
        }
        o
    }

    /// Appends the options, padded to whole words, in the order that Linux uses. As many SACK blocks
    /// as fit are written.
    pub fn write(&self, out: &mut Vec<u8>) {
        let at = out.len();
        if let Some(m) = self.mss {
            out.extend_from_slice(&[2, 4]);
            out.extend_from_slice(&m.to_be_bytes());
        }
        if let Some((val, ecr)) = self.timestamp {
            if self.sack_permitted {
                out.extend_from_slice(&[4, 2, 8, 10]);
            } else {
                out.extend_from_slice(&[1, 1, 8, 10]);
            }
            out.extend_from_slice(&val.to_be_bytes());
            out.extend_from_slice(&ecr.to_be_bytes());
        } else if self.sack_permitted {
            out.extend_from_slice(&[1, 1, 4, 2]);
        }
        if let Some(w) = self.wscale {
            out.extend_from_slice(&[1, 3, 3, w]);
        }
        let room = OPTIONS_MAX.saturating_sub(out.len() - at + 4) / 8;
        let n = self.sacks().len().min(room);
        if n > 0 {
            out.extend_from_slice(&[1, 1, 5, (2 + n * 8) as u8]);
            for s in &self.sacks()[..n] {
                out.extend_from_slice(&s.start.to_be_bytes());
                out.extend_from_slice(&s.end.to_be_bytes());
            }
        }
    }
}

/// A TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    pub src: u16,
    pub dst: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub checksum: u16,
    pub urgent: u16,
    /// Header with options, bytes.
    pub header_len: usize,
    pub options: Options,
}

impl Tcp {
    /// True when the control bit is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Parses a header with its options; `b` holds at least the header.
    pub fn parse(b: &[u8]) -> Parsed<Tcp> {
        let header_len = usize::from(*b.get(12).ok_or(Malformed)? >> 4) * 4;
        if header_len < HEADER || b.len() < header_len {
            return Err(Malformed);
        }
        let flags = b[13];
        let syn = flags & flags::SYN != 0;
        Ok(Tcp {
            src: be16(b, 0)?,
            dst: be16(b, 2)?,
            seq: be32(b, 4)?,
            ack: be32(b, 8)?,
            flags,
            window: be16(b, 14)?,
            checksum: be16(b, 16)?,
            urgent: be16(b, 18)?,
            header_len,
            options: Options::parse(&b[HEADER..header_len], syn),
        })
    }

    /// Header length that the first 13 bytes announce.
    pub fn header_len(b: &[u8]) -> Parsed<usize> {
        Ok(usize::from(*b.get(12).ok_or(Malformed)? >> 4) * 4)
    }

    /// Appends header and options; `checksum` is stored as it is.
    pub fn write(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&self.src.to_be_bytes());
        out.extend_from_slice(&self.dst.to_be_bytes());
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.ack.to_be_bytes());
        out.extend_from_slice(&[0, self.flags]);
        out.extend_from_slice(&self.window.to_be_bytes());
        out.extend_from_slice(&self.checksum.to_be_bytes());
        out.extend_from_slice(&self.urgent.to_be_bytes());
        self.options.write(out);
        out[at + 12] = (((out.len() - at) / 4) << 4) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn written_segments_parse(
            ports: (u16, u16), seq: u32, ack: u32, flags: u8, window: u16, sum: u16, urgent: u16,
            mss: Option<u16>, wscale in proptest::option::of(0u8..15), sackok: bool,
            ts: Option<(u32, u32)>, blocks in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..5),
        ) {
            let syn = flags & flags::SYN != 0;
            let mut o = Options { timestamp: ts, ..Options::default() };
            if syn {
                (o.mss, o.wscale, o.sack_permitted) = (mss, wscale, sackok);
            } else {
                for (i, b) in blocks.iter().take(if ts.is_some() { 3 } else { 4 }).enumerate() {
                    o.sack[i] = SackBlock { start: b.0, end: b.1 };
                    o.sack_len = i + 1;
                }
            }
            let mut h = Tcp { src: ports.0, dst: ports.1, seq, ack, flags, window, checksum: sum, urgent, header_len: 0, options: o };
            let mut b = Vec::new();
            h.write(&mut b);
            h.header_len = b.len();
            prop_assert_eq!(Tcp::parse(&b), Ok(h));
        }

        #[test]
        fn any_bytes_are_survived(b in proptest::collection::vec(any::<u8>(), 0..100), syn: bool) {
            let _ = Tcp::parse(&b);
            let _ = Tcp::header_len(&b);
            let o = Options::parse(&b, syn);
            prop_assert!(o.sack_len <= 4);
        }
    }
}
