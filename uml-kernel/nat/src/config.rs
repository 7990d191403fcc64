//! The router's network and rules, and their notation in `vecN:transport=user`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use uml_net::wire::ethernet::Mac;

/// A port of the host whose traffic goes to the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    pub udp: bool,
    pub host: SocketAddr,
    pub guest: SocketAddr,
}

/// The router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub net: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Ipv4Addr,
    pub dns: Ipv4Addr,
    /// First address that is leased, and where forwarded ports lead.
    pub guest: Ipv4Addr,
    /// The IPv6 network, a /64; none when IPv6 is off.
    pub net6: Option<Ipv6Addr>,
    /// The gateway's address leads to the host's loopback.
    pub loopback: bool,
    /// Nothing leaves but what was forwarded in.
    pub restrict: bool,
    pub dhcp: bool,
    pub hostname: Option<String>,
    pub domain: Option<String>,
    /// Name servers instead of the host's.
    pub nameservers: Vec<SocketAddr>,
    pub forwards: Vec<Forward>,
    /// The router's hardware address, and the guest's.
    pub mac: Mac,
    pub guest_mac: Mac,
    pub mtu: usize,
}

/// Most forwarded ports.
const FORWARDS: usize = 64;
const NAMESERVERS: usize = 8;

impl Default for Config {
    fn default() -> Self {
        Config {
            net: Ipv4Addr::new(10, 0, 2, 0),
            prefix: 24,
            gateway: Ipv4Addr::new(10, 0, 2, 2),
            dns: Ipv4Addr::new(10, 0, 2, 3),
            guest: Ipv4Addr::new(10, 0, 2, 15),
            net6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0)),
            loopback: true,
            restrict: false,
            dhcp: true,
            hostname: None,
            domain: None,
            nameservers: Vec::new(),
            forwards: Vec::new(),
            mac: Mac([0x52, 0x55, 10, 0, 2, 2]),
            guest_mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
        }
    }
}

fn with_host(net: Ipv6Addr, host: u16) -> Ipv6Addr {
    let mut s = net.segments();
    (s[4], s[5], s[6], s[7]) = (0, 0, 0, host);
    Ipv6Addr::from(s)
}

impl Config {
    /// The mask of the IPv4 network.
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from(mask(self.prefix))
    }

    /// The address of all hosts of the IPv4 network.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.net) | !mask(self.prefix))
    }

    /// True for an address of the guest's network.
    pub fn inside(&self, a: IpAddr) -> bool {
        match a {
            IpAddr::V4(a) => u32::from(a) & mask(self.prefix) == u32::from(self.net),
            IpAddr::V6(a) => {
                self.net6.is_some_and(|n| n.segments()[..4] == a.segments()[..4])
                    || a.segments()[0] & 0xffc0 == 0xfe80
            }
        }
    }

    /// The gateway's IPv6 address.
    pub fn gateway6(&self) -> Option<Ipv6Addr> {
        self.net6.map(|n| with_host(n, 2))
    }

    /// The name server's.
    pub fn dns6(&self) -> Option<Ipv6Addr> {
        self.net6.map(|n| with_host(n, 3))
    }

    /// The address that DHCPv6 gives.
    pub fn guest6(&self) -> Option<Ipv6Addr> {
        self.net6.map(|n| with_host(n, 15))
    }

    /// The gateway's link-local address.
    pub fn link_local(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2)
    }

    /// True for an address that the router itself answers for.
    pub fn own(&self, a: IpAddr) -> bool {
        match a {
            IpAddr::V4(a) => a == self.gateway || a == self.dns,
            IpAddr::V6(a) => {
                self.net6.is_some()
                    && (a == self.link_local()
                        || Some(a) == self.gateway6()
                        || Some(a) == self.dns6())
            }
        }
    }

    /// Reads the options of `vecN:transport=user`; those that are not the router's are skipped. The error says
    /// what was wrong and what is accepted.
    pub fn parse<'a>(
        items: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Result<Config, String> {
        let mut c = Config::default();
        let first = |key: &str| items.clone().find(|(k, _)| *k == key).map(|(_, v)| v);
        if let Some(t) = first("net") {
            (c.net, c.prefix) = network(t)?;
            let host = |n: u32| Ipv4Addr::from(u32::from(c.net) | n);
            (c.gateway, c.dns) = (host(2), host(3));
            c.guest = host(if c.prefix <= 27 { 15 } else { 4 });
        }
        for (key, to) in [("gateway", &mut c.gateway), ("dns", &mut c.dns), ("guest", &mut c.guest)]
        {
            if let Some(t) = first(key) {
                *to = t.parse().map_err(|_| format!("{key}={t}: expected an IPv4 address"))?;
            }
        }
        for (key, a) in [("gateway", c.gateway), ("dns", c.dns), ("guest", c.guest)] {
            let broadcast = u32::from(a) | mask(c.prefix) == u32::MAX;
            if !c.inside(a.into()) || a == c.net || broadcast {
                return Err(format!("{key}={a}: expected a host in {}/{}", c.net, c.prefix));
            }
        }
        if c.gateway == c.dns || c.gateway == c.guest || c.dns == c.guest {
            return Err("gateway, dns and guest: expected three different addresses".into());
        }
        if let Some(t) = first("net6") {
            let bad =
                || format!("net6={t}: expected an IPv6 network of 64 bits, such as fd00::/64");
            let a: Ipv6Addr = t.strip_suffix("/64").and_then(|a| a.parse().ok()).ok_or_else(bad)?;
            let top = a.segments()[0];
            if a.segments()[4..] != [0; 4]
                || top & 0xff00 == 0xff00
                || top & 0xffc0 == 0xfe80
                || top == 0
            {
                return Err(bad());
            }
            c.net6 = Some(a);
        }
        if !switch(first("ipv6"), "ipv6", true)? {
            c.net6 = None;
        }
        c.loopback = switch(first("loopback"), "loopback", true)?;
        c.restrict = switch(first("restrict"), "restrict", false)?;
        c.dhcp = switch(first("dhcp"), "dhcp", true)?;
        c.hostname = name(first("hostname"), "hostname")?;
        c.domain = name(first("domain"), "domain")?;
        for (_, t) in items.clone().filter(|(k, _)| *k == "nameserver") {
            if c.nameservers.len() >= NAMESERVERS {
                return Err(format!("nameserver={t}: more than {NAMESERVERS}"));
            }
            c.nameservers.push(nameserver(t)?);
        }
        for (_, t) in items.clone().filter(|(k, _)| *k == "hostfwd") {
            if c.forwards.len() >= FORWARDS {
                return Err(format!("hostfwd={t}: more than {FORWARDS}"));
            }
            c.forwards.push(forward(t, &c)?);
        }
        Ok(c)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn network(t: &str) -> Result<(Ipv4Addr, u8), String> {
    let bad = || format!("net={t}: expected an IPv4 network of 8 to 29 bits, such as 10.0.2.0/24");
    let (a, p) = t.split_once('/').ok_or_else(bad)?;
    let a: Ipv4Addr = a.parse().map_err(|_| bad())?;
    let p: u8 = p.parse().ok().filter(|p| (8..=29).contains(p)).ok_or_else(bad)?;
    let usable = !a.is_loopback() && !a.is_multicast() && a.octets()[0] != 0 && a.octets()[0] < 240;
    if u32::from(a) & !mask(p) != 0 || !usable {
        return Err(bad());
    }
    Ok((a, p))
}

fn switch(t: Option<&str>, key: &str, default: bool) -> Result<bool, String> {
    match t {
        None => Ok(default),
        Some("1" | "on" | "yes") => Ok(true),
        Some("0" | "off" | "no") => Ok(false),
        Some(t) => Err(format!("{key}={t}: expected 0 or 1")),
    }
}

fn name(t: Option<&str>, key: &str) -> Result<Option<String>, String> {
    let Some(t) = t else { return Ok(None) };
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    if t.is_empty() || t.len() > 200 || !t.chars().all(fine) {
        return Err(format!("{key}={t}: expected a name of letters, digits, '-', '_' and '.'"));
    }
    Ok(Some(t.to_owned()))
}

fn nameserver(t: &str) -> Result<SocketAddr, String> {
    let bad = || format!("nameserver={t}: expected ADDRESS or ADDRESS#PORT");
    let (a, p) = match t.split_once('#') {
        Some((a, p)) => (a, p.parse().ok().filter(|p| *p > 0).ok_or_else(bad)?),
        None => (t, 53),
    };
    let a: IpAddr = a.trim_matches(['[', ']']).parse().map_err(|_| bad())?;
    Ok(SocketAddr::new(a, p))
}

/// Splits `[ADDR]:PORT`; the address may be empty, and is in brackets when it is IPv6.
fn address(t: &str) -> Option<(Option<IpAddr>, u16)> {
    let (a, p) = t.rsplit_once(':')?;
    let p = p.parse().ok().filter(|p| *p > 0)?;
    if a.is_empty() {
        return Some((None, p));
    }
    let a = match a.strip_prefix('[') {
        Some(rest) => IpAddr::V6(rest.strip_suffix(']')?.parse().ok()?),
        None => IpAddr::V4(a.parse().ok()?),
    };
    Some((Some(a), p))
}

/// Reads `tcp:[HOST]:PORT-[GUEST]:PORT`.
fn forward(t: &str, c: &Config) -> Result<Forward, String> {
    let bad = || {
        format!(
            "hostfwd={t}: expected tcp:[HOST ADDRESS]:PORT-[GUEST ADDRESS]:PORT or udp:..., such as tcp::8080-:80"
        )
    };
    let (kind, rest) = t.split_once(':').ok_or_else(bad)?;
    let udp = match kind {
        "tcp" => false,
        "udp" => true,
        _ => return Err(bad()),
    };
    let (host, guest) = rest.split_once('-').ok_or_else(bad)?;
    let (host, hport) = address(host).ok_or_else(bad)?;
    let (guest, gport) = address(guest).ok_or_else(bad)?;
    let host = host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let guest = match guest {
        Some(g) => g,
        None if host.is_ipv4() => IpAddr::V4(c.guest),
        None => IpAddr::V6(c.guest6().ok_or_else(|| format!("hostfwd={t}: IPv6 is off"))?),
    };
    if guest.is_ipv4() != host.is_ipv4() {
        return Err(format!("hostfwd={t}: both addresses must be of one family"));
    }
    if !c.inside(guest) || c.own(guest) {
        return Err(format!("hostfwd={t}: {guest} is no address for the guest"));
    }
    Ok(Forward { udp, host: SocketAddr::new(host, hport), guest: SocketAddr::new(guest, gport) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(items: &[(&str, &str)]) -> Result<Config, String> {
        Config::parse(items.iter().copied())
    }

    #[test]
    fn defaults_are_those_that_slirp_users_know() {
        let c = parse(&[("transport", "user"), ("mac", "x")]).unwrap();
        assert_eq!(c, Config::default());
        assert_eq!(c.gateway6().unwrap().to_string(), "fd00::2");
        assert_eq!(c.dns6().unwrap().to_string(), "fd00::3");
        assert!(c.own("10.0.2.3".parse().unwrap()) && !c.own("10.0.2.15".parse().unwrap()));
    }

    #[test]
    fn addresses_follow_the_network() {
        let c = parse(&[("net", "192.168.7.0/24"), ("dns", "192.168.7.9"), ("ipv6", "0")]).unwrap();
        assert_eq!(
            (c.gateway.to_string(), c.dns.to_string()),
            ("192.168.7.2".into(), "192.168.7.9".into())
        );
        assert_eq!((c.guest.to_string(), c.net6), ("192.168.7.15".into(), None));
        for bad in ["192.168.7.1/24", "10.0.0.0/30", "127.0.0.0/8", "10.0.2.0", "x/24"] {
            assert!(parse(&[("net", bad)]).is_err(), "{bad}");
        }
        assert!(parse(&[("gateway", "10.0.3.2")]).unwrap_err().contains("10.0.2.0/24"));
        assert!(parse(&[("gateway", "10.0.2.3")]).is_err());
        assert!(parse(&[("restrict", "maybe")]).unwrap_err().contains("0 or 1"));
        assert!(parse(&[("net6", "fe80::/64")]).is_err());
    }

    #[test]
    fn forwards_have_defaults_and_are_checked() {
        let c = parse(&[
            ("hostfwd", "tcp::8080-:80"),
            ("hostfwd", "udp:0.0.0.0:53-10.0.2.20:5353"),
            ("hostfwd", "tcp:[::1]:80-:8080"),
        ])
        .unwrap();
        let shown: Vec<_> =
            c.forwards.iter().map(|f| (f.udp, f.host.to_string(), f.guest.to_string())).collect();
        assert_eq!(shown[0], (false, "127.0.0.1:8080".into(), "10.0.2.15:80".into()));
        assert_eq!(shown[1], (true, "0.0.0.0:53".into(), "10.0.2.20:5353".into()));
        assert_eq!(shown[2], (false, "[::1]:80".into(), "[fd00::f]:8080".into()));
        for bad in [
            "tcp:8080",
            "sctp::1-:1",
            "tcp::0-:1",
            "tcp::1-1.2.3.4:1",
            "tcp::1-10.0.2.2:1",
            "tcp:[::1]:1-10.0.2.15:1",
        ] {
            assert!(parse(&[("hostfwd", bad)]).is_err(), "{bad}");
        }
        assert_eq!(nameserver("127.0.0.1#5353").unwrap().to_string(), "127.0.0.1:5353");
    }

    proptest! {
        #[test]
        fn any_text_is_survived(k in prop::sample::select(vec!["net", "net6", "hostfwd", "nameserver", "guest", "domain"]), t in "[0-9a-f:./#\\[\\]tcpud-]{0,40}") {
            let _ = parse(&[(k, &t)]);
        }
    }
}
