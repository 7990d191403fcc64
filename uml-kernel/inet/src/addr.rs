//! Addresses of the Internet families as bytes (ip(7), ipv6(7)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use uml_abi::Result;
use uml_abi::errno::*;

/// Length of `struct sockaddr_in` and of `struct sockaddr_in6` with its scope.
pub const LEN_V4: usize = 16;
pub const LEN_V6: usize = 28;
/// The shortest `sockaddr_in6`, without the scope.
const MIN_V6: usize = 24;

/// The family at the start of an address.
pub fn family(a: &[u8]) -> Result<i32> {
    let b = a.get(..2).ok_or(EINVAL)?;
    Ok(i32::from(u16::from_le_bytes([b[0], b[1]])))
}

/// What an address means to a socket of the family: IPv4-mapped addresses become IPv4. With the interface
/// of a scoped address.
pub fn parse(a: &[u8], v6: bool) -> Result<(SocketAddr, u32)> {
    let f = family(a)?;
    // As on Linux the length is looked at before the family.
    if a.len() < if v6 { MIN_V6 } else { LEN_V4 } {
        return Err(EINVAL);
    }
    let port = || a.get(2..4).map(|b| u16::from_be_bytes([b[0], b[1]])).ok_or(EINVAL);
    match f {
        libc::AF_INET if !v6 => {
            let b = a.get(..LEN_V4).ok_or(EINVAL)?;
            let ip = Ipv4Addr::new(b[4], b[5], b[6], b[7]);
            Ok((SocketAddr::new(ip.into(), port()?), 0))
        }
        libc::AF_INET6 if v6 => {
            let mut o = [0; 16];
            o.copy_from_slice(&a[8..24]);
            let ip = Ipv6Addr::from(o);
            let scope = a.get(24..28).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            let ip = match ip.to_ipv4_mapped() {
                Some(v) => IpAddr::V4(v),
                None => IpAddr::V6(ip),
            };
            Ok((SocketAddr::new(ip, port()?), scope))
        }
        _ => Err(EAFNOSUPPORT),
    }
}

/// An address for a program with a socket of the family.
pub fn format(a: SocketAddr, v6: bool, scope: u32) -> Vec<u8> {
    let mut b;
    match (a.ip(), v6) {
        (IpAddr::V4(ip), false) => {
            b = vec![0; LEN_V4];
            b[..2].copy_from_slice(&(libc::AF_INET as u16).to_le_bytes());
            b[4..8].copy_from_slice(&ip.octets());
        }
        (ip, _) => {
            b = vec![0; LEN_V6];
            b[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_le_bytes());
            let (ip, scope) = match ip {
                IpAddr::V4(v) => (v.to_ipv6_mapped(), 0),
                IpAddr::V6(v) => (v, if uml_net::interface::is_link_local(v) { scope } else { 0 }),
            };
            b[8..24].copy_from_slice(&ip.octets());
            b[24..28].copy_from_slice(&scope.to_le_bytes());
        }
    }
    b[2..4].copy_from_slice(&a.port().to_be_bytes());
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_and_mapped_ones_are_ipv4() {
        for (s, v6) in [("1.2.3.4:80", false), ("[2001:db8::1]:443", true), ("9.9.9.9:53", true)] {
            let a: SocketAddr = s.parse().unwrap();
            let b = format(a, v6, 7);
            assert_eq!(b.len(), if v6 { LEN_V6 } else { LEN_V4 });
            assert_eq!(parse(&b, v6), Ok((a, 0)));
        }
        let link: SocketAddr = "[fe80::1]:1".parse().unwrap();
        assert_eq!(parse(&format(link, true, 7), true), Ok((link, 7)));
        assert_eq!(parse(&[2, 0, 0], false), Err(EINVAL));
        assert_eq!(parse(&[10, 0, 0, 0], false), Err(EINVAL));
    }
}
