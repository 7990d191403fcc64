//! The host's name servers (resolv.conf(5)), read again when the file has changed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::SystemTime;

const PATH: &str = "/etc/resolv.conf";
const PORT: u16 = 53;
/// As many as the C library uses.
const MOST: usize = 3;
/// Bytes of the file that are looked at.
const LONGEST: u64 = 64 << 10;

/// The list, and which state of the file it is from.
#[derive(Default)]
pub struct Resolvers {
    list: Vec<SocketAddr>,
    seen: Option<(SystemTime, u64)>,
}

impl Resolvers {
    /// The present list.
    pub fn now(&mut self) -> &[SocketAddr] {
        let state = std::fs::metadata(PATH).ok().and_then(|m| Some((m.modified().ok()?, m.len())));
        if self.list.is_empty() || state != self.seen {
            self.seen = state;
            self.list = parse(&read());
        }
        &self.list
    }
}

fn read() -> String {
    use std::io::Read;
    let mut text = Vec::new();
    if let Ok(f) = std::fs::File::open(PATH) {
        let _ = f.take(LONGEST).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The servers that a file names; without any it is the host itself, as the C library has it.
fn parse(text: &str) -> Vec<SocketAddr> {
    let mut list: Vec<SocketAddr> = text
        .lines()
        .filter_map(|l| l.trim_start().strip_prefix("nameserver"))
        .filter(|rest| rest.starts_with(char::is_whitespace))
        .filter_map(|rest| address(rest.split_whitespace().next()?))
        .take(MOST)
        .collect();
    if list.is_empty() {
        list.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
    }
    list
}

fn address(t: &str) -> Option<SocketAddr> {
    match t.split_once('%') {
        // A link-local address with its interface.
        Some((a, zone)) => {
            let index = zone.parse().ok().or_else(|| uml_host::netdev::index_of(zone))?;
            Some(SocketAddrV6::new(a.parse().ok()?, PORT, 0, index).into())
        }
        None => Some(SocketAddr::new(t.parse::<IpAddr>().ok()?, PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_in_their_order() {
        let text = "# nameserver 9.9.9.9\nsearch a b\n nameserver 127.0.0.53 # local\nnameserver\t::1\nnameserver fe80::1%3\nnameserverx 1.1.1.1\nnameserver 8.8.8.8\n";
        let shown: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["127.0.0.53:53", "[::1]:53", "[fe80::1%3]:53"]);
        assert_eq!(parse("nameserver nonsense\n")[0].to_string(), "127.0.0.1:53");
    }
}
