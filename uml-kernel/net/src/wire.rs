//! Headers as they are on the wire: checked parsing into plain values, and writing them.
//!
//! Nothing here panics, whatever the bytes are: a header that is too short or contradicts itself is
//! [`Malformed`]. Lengths are checked against the bytes that are there, never trusted.

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod ndp;
pub mod tcp;
pub mod udp;
pub mod v4_options;
pub mod v6_headers;
pub mod vnet;

/// A header that is too short or says impossible things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Result of parsing.
pub type Parsed<T> = Result<T, Malformed>;

/// IP protocol numbers (IANA).
pub mod proto {
    pub const HOPOPT: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const IGMP: u8 = 2;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const UDPLITE: u8 = 136;
    pub const IPV6: u8 = 41;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const GRE: u8 = 47;
    pub const ICMPV6: u8 = 58;
    pub const NONE: u8 = 59;
    pub const DSTOPTS: u8 = 60;
    pub const RAW: u8 = 255;
}

pub(crate) fn be16(b: &[u8], at: usize) -> Parsed<u16> {
    match b.get(at..at + 2) {
        Some(s) => Ok(u16::from_be_bytes([s[0], s[1]])),
        None => Err(Malformed),
    }
}

pub(crate) fn be32(b: &[u8], at: usize) -> Parsed<u32> {
    match b.get(at..at + 4) {
        Some(s) => Ok(u32::from_be_bytes([s[0], s[1], s[2], s[3]])),
        None => Err(Malformed),
    }
}

pub(crate) fn array<const N: usize>(b: &[u8], at: usize) -> Parsed<[u8; N]> {
    b.get(at..at + N).and_then(|s| s.try_into().ok()).ok_or(Malformed)
}
