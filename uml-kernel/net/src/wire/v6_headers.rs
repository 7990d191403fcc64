//! Extension headers of options that programs send with IPv6 packets (RFC 3542 8, 9, RFC 8200 4.3, 4.6).

use super::ipv6::{self, extension_len};
use super::proto;

/// The headers of a socket or of one message: each whole, as the program gave it, or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Hop-by-hop options.
    pub hop: Vec<u8>,
    /// Destination options for the hosts of a routing header, which there is none of: they are kept and not sent.
    pub first: Vec<u8>,
    /// Destination options.
    pub dst: Vec<u8>,
}

impl Headers {
    /// The header that a program's bytes begin with: `None` when they are shorter than it says.
    pub fn of_program(b: &[u8]) -> Option<Vec<u8>> {
        let len = extension_len(proto::DSTOPTS, b).ok()??;
        b.get(..len).map(<[u8]>::to_vec)
    }

    /// Bytes of all that are sent.
    pub fn len(&self) -> usize {
        self.hop.len() + self.dst.len()
    }

    /// True when nothing is sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The headers in front of a payload of `proto`, each naming the next, and the protocol number of the first.
    pub fn chain(&self, proto: u8) -> (u8, Vec<u8>) {
        let mut b = Vec::with_capacity(self.len());
        let after = if self.dst.is_empty() { proto } else { proto::DSTOPTS };
        for (header, next) in [(&self.hop, after), (&self.dst, proto)] {
            if !header.is_empty() {
                let at = b.len();
                b.extend_from_slice(header);
                b[at] = next;
            }
        }
        (if self.hop.is_empty() { after } else { proto::HOPOPT }, b)
    }
}

/// The extension headers of a packet that starts with its fixed header, as receivers ask for them: protocol number and bytes of each,
/// in their order. What is malformed ends the list.
pub fn each(packet: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut next = packet.get(6).copied().unwrap_or(proto::NONE);
    let mut rest = packet.get(ipv6::HEADER..).unwrap_or(&[]);
    std::iter::from_fn(move || {
        let len = extension_len(next, rest).ok()??;
        let (header, more) = rest.split_at_checked(len)?;
        let kind = next;
        (next, rest) = (header[0], more);
        Some((kind, header))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_name_each_other() {
        let pad = Headers::of_program(&[0, 0, 1, 4, 0, 0, 0, 0, 9, 9]).unwrap();
        assert_eq!(pad.len(), 8);
        let mut h = Headers { hop: pad.clone(), ..Headers::default() };
        assert_eq!(h.chain(17), (0, vec![17, 0, 1, 4, 0, 0, 0, 0]));
        h.dst = pad.clone();
        let (first, b) = h.chain(17);
        assert_eq!((first, b[0], b[8]), (0, 60, 17));
        h.hop = Vec::new();
        assert_eq!(h.chain(17).0, 60);
        // Those of a routing header need one.
        let alone = Headers { first: pad, ..Headers::default() };
        assert_eq!(alone.chain(17), (17, vec![]));
        assert_eq!(Headers::of_program(&[0, 1, 1, 4, 0, 0, 0, 0]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(b in proptest::collection::vec(any::<u8>(), 0..200)) {
            let all: usize = each(&b).map(|(_, h)| h.len()).sum();
            prop_assert!(all <= b.len());
            if let Some(h) = Headers::of_program(&b) {
                prop_assert!(h.len() % 8 == 0 && h.len() <= b.len());
            }
        }
    }
}
