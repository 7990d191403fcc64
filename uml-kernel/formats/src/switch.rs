//! The control protocol of `uml_switch`, for both ends.
//!
//! A client opens a stream to the switch's control socket and sends one [`Request`] with the address of its
//! own datagram socket; versions 1 and 3 are answered with the [`Address`] to send frames to. Numbers are in host
//! byte order. See uml_switch(1).

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// First word of requests since version 1.
pub const MAGIC: u32 = 0xfeed_face;
/// Bytes of a `struct sockaddr_un`, which is how addresses travel.
pub const ADDRESS_LEN: usize = 110;
/// Bytes of `sun_path`.
pub const PATH_LEN: usize = 108;
/// Largest request of any version.
pub const MAX_REQUEST: usize = 124;
/// Largest frame without a VLAN tag: two addresses, a type and 1500 bytes.
pub const MAX_FRAME: usize = 1514;

const MAC_LEN: usize = 6;
const NEW_PORT: u32 = 0;
const AF_UNIX: u16 = 1;

/// A Unix datagram address as it travels: the whole of `sun_path`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address(pub [u8; PATH_LEN]);

impl Address {
    /// The address of a socket file; `None` when the path is empty or does not fit with its NUL.
    pub fn from_path(path: &Path) -> Option<Address> {
        let bytes = path.as_os_str().as_bytes();
        if bytes.is_empty() || bytes.len() >= PATH_LEN || bytes.contains(&0) {
            return None;
        }
        let mut a = [0; PATH_LEN];
        a[..bytes.len()].copy_from_slice(bytes);
        Some(Address(a))
    }

    /// An abstract address (unix(7)) that begins with `name` and is filled with zeros to its full length, all of
    /// which counts.
    pub fn from_abstract(name: &[u8]) -> Option<Address> {
        if name.len() >= PATH_LEN {
            return None;
        }
        let mut a = [0; PATH_LEN];
        a[1..=name.len()].copy_from_slice(name);
        Some(Address(a))
    }

    /// Whether the address is in the abstract namespace.
    pub fn is_abstract(&self) -> bool {
        self.0[0] == 0
    }

    /// The path of a socket file, or the abstract name without its leading NUL.
    pub fn name(&self) -> &[u8] {
        if self.is_abstract() {
            return &self.0[1..];
        }
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(PATH_LEN);
        &self.0[..end]
    }

    /// What a peer's address, as recvfrom(2) gives it (`sun_path` only), must equal.
    pub fn key(&self) -> &[u8] {
        if self.is_abstract() { &self.0 } else { self.name() }
    }

    /// `struct sockaddr_un` in full.
    pub fn encode(&self) -> [u8; ADDRESS_LEN] {
        let mut out = [0; ADDRESS_LEN];
        out[..2].copy_from_slice(&AF_UNIX.to_ne_bytes());
        out[2..].copy_from_slice(&self.0);
        out
    }

    /// The address in `bytes`, at least [`ADDRESS_LEN`] of them, of family AF_UNIX.
    pub fn decode(bytes: &[u8]) -> Option<Address> {
        let family: [u8; 2] = bytes.get(..2)?.try_into().ok()?;
        let path: [u8; PATH_LEN] = bytes.get(2..ADDRESS_LEN)?.try_into().ok()?;
        (u16::from_ne_bytes(family) == AF_UNIX).then_some(Address(path))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        if self.is_abstract() {
            let end = name.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
            write!(f, "@{}", name[..end].escape_ascii())
        } else {
            write!(f, "{}", name.escape_ascii())
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// A client asks for a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// 0, 1 or 3.
    pub version: u32,
    /// Where the client receives frames.
    pub address: Address,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// Version 2, which never worked.
    Version2,
    /// A version after 3.
    Future(u32),
    /// A request for something else than a port.
    Type(u32),
    /// The address is not of family AF_UNIX.
    Family,
}

/// What the bytes received so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A beginning: more must come.
    Incomplete,
    /// A request and how many bytes it took, its padding included as far as it came.
    Request(Request, usize),
    /// Not a request that can be served.
    Refused(RequestError),
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Reads a request from the beginning of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    let Some(first) = word(bytes, 0) else { return Parsed::Incomplete };
    let (version, kind, address_at, len) = if first != MAGIC {
        (0, first, 4 + MAC_LEN, 120)
    } else {
        let Some(second) = word(bytes, 4) else { return Parsed::Incomplete };
        match second {
            0 | 1 => (1, second, 8 + MAC_LEN, MAX_REQUEST),
            2 => return Parsed::Refused(RequestError::Version2),
            3 => match word(bytes, 8) {
                None => return Parsed::Incomplete,
                Some(kind) => (3, kind, 12, 122),
            },
            later => return Parsed::Refused(RequestError::Future(later)),
        }
    };
    if kind != NEW_PORT {
        return Parsed::Refused(RequestError::Type(kind));
    }
    let Some(address) = bytes.get(address_at..len) else { return Parsed::Incomplete };
    match Address::decode(address) {
        None => Parsed::Refused(RequestError::Family),
        // C clients send version 3 with the two bytes that pad their structure.
        Some(address) => Parsed::Request(
            Request { version, address },
            if version == 3 { bytes.len().min(MAX_REQUEST) } else { len },
        ),
    }
}

impl Request {
    /// The bytes of the request as a C client sends them. Versions other than 0 and 1 are sent as 3.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAX_REQUEST);
        match self.version {
            0 => {
                out.extend(NEW_PORT.to_ne_bytes());
                out.extend([0; MAC_LEN]);
            }
            1 => {
                out.extend(MAGIC.to_ne_bytes());
                out.extend(NEW_PORT.to_ne_bytes());
                out.extend([0; MAC_LEN]);
            }
            _ => {
                out.extend(MAGIC.to_ne_bytes());
                out.extend(3u32.to_ne_bytes());
                out.extend(NEW_PORT.to_ne_bytes());
            }
        }
        out.extend(self.address.encode());
        if self.version > 1 {
            out.extend([0; 2]);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address() -> Address {
        Address::from_abstract(b"abc").expect("short")
    }

    #[test]
    fn sizes_are_those_of_the_protocol() {
        for (version, len) in [(0, 120), (1, 124), (3, 124)] {
            let r = Request { version, address: address() };
            assert_eq!(r.encode().len(), len);
            assert_eq!(parse(&r.encode()), Parsed::Request(r, len));
        }
    }

    #[test]
    fn version_3_needs_no_padding() {
        let r = Request { version: 3, address: address() };
        assert_eq!(parse(&r.encode()[..122]), Parsed::Request(r, 122));
        assert_eq!(parse(&r.encode()[..121]), Parsed::Incomplete);
    }

    #[test]
    fn what_cannot_be_served_is_told_apart() {
        let words = |w: &[u32]| w.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<u8>>();
        assert_eq!(parse(&words(&[MAGIC, 2])), Parsed::Refused(RequestError::Version2));
        assert_eq!(parse(&words(&[MAGIC, 4])), Parsed::Refused(RequestError::Future(4)));
        assert_eq!(parse(&words(&[MAGIC, 3, 7])), Parsed::Refused(RequestError::Type(7)));
        // The type of version 1 is its version word.
        assert_eq!(parse(&words(&[MAGIC, 1])), Parsed::Refused(RequestError::Type(1)));
        assert_eq!(parse(&words(&[9])), Parsed::Refused(RequestError::Type(9)));
        assert_eq!(parse(&words(&[MAGIC])), Parsed::Incomplete);
        let mut other_family = Request { version: 3, address: address() }.encode();
        other_family[12] = 2;
        assert_eq!(parse(&other_family), Parsed::Refused(RequestError::Family));
    }

    #[test]
    fn addresses_of_files_end_at_their_nul() {
        let a = Address::from_path(Path::new("/tmp/x")).expect("short");
        assert_eq!((a.name(), a.key()), (&b"/tmp/x"[..], &b"/tmp/x"[..]));
        assert_eq!(a.to_string(), "/tmp/x");
        assert_eq!(address().key().len(), PATH_LEN);
        assert_eq!(address().to_string(), "@abc");
        assert_eq!(Address::from_path(Path::new(&"x".repeat(108))), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Parsed::Request(r, used) = parse(&bytes) {
                prop_assert!(used <= bytes.len() && used <= MAX_REQUEST);
                prop_assert_eq!(parse(&r.encode()), Parsed::Request(r, r.encode().len()));
            }
        }

        #[test]
        fn a_request_in_pieces_is_incomplete_until_whole(cut in 0usize..120, version in prop_oneof![Just(0u32), Just(1), Just(3)]) {
            let r = Request { version, address: address() };
            prop_assert_eq!(parse(&r.encode()[..cut]), Parsed::Incomplete);
        }
    }
}
