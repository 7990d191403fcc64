//! Network interfaces: modes, ports, addresses, and the kernel's words for them.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use uml_nat::config::Forward;

use super::diagnose::nearest;
use super::load::Loaded;
use super::vm::{Net, VmFile};
use crate::failure::Result;

/// What `[[net]]` can ask for; all but `user`, `switch` and `none` are vector transports that the host must provide.
pub const MODES: [&str; 11] =
    ["user", "tap", "raw", "hybrid", "gre", "l2tpv3", "bess", "fd", "vde", "switch", "none"];

/// Other words for networks, and what to write here.
const INSTEAD: [(&str, &str); 10] = [
    ("daemon", "use \"switch\" with options.socket"),
    ("uml_switch", "use \"switch\" with options.socket"),
    ("bridge", "use \"tap\" with options.ifname, a tap device that is a port of the bridge"),
    ("tuntap", "use \"tap\" with options.ifname"),
    ("proxy", "these kernels have no such transport; use \"user\" or \"tap\""),
    ("nat", "use \"user\""),
    ("slirp", "use \"user\""),
    ("slirp4netns", "use \"user\""),
    ("passt", "use \"user\""),
    ("pcap", "use \"raw\" with options.ifname"),
];

/// Options without which the transport cannot work.
const REQUIRED: [(&str, &[&str]); 7] = [
    ("raw", &["ifname"]),
    ("hybrid", &["ifname"]),
    ("gre", &["src", "dst"]),
    ("l2tpv3", &["src", "dst", "rx_session", "tx_session"]),
    ("bess", &["dst"]),
    ("fd", &["fd"]),
    ("switch", &["socket"]),
];

/// Options of the router in mode `user`.
const ROUTER: [&str; 12] = [
    "net",
    "gateway",
    "dns",
    "guest",
    "net6",
    "ipv6",
    "loopback",
    "restrict",
    "dhcp",
    "hostname",
    "domain",
    "nameserver",
];

/// Options of every vector interface (linux(1)).
const COMMON: [&str; 8] = ["mtu", "depth", "headroom", "gro", "vec", "bpffile", "bpfflash", "ifup"];

/// The mode of an interface.
pub fn mode(n: &Net) -> &str {
    n.mode.as_deref().unwrap_or("user")
}

/// What the kernel's names of interfaces of a mode begin with: a switch is joined by a legacy interface, which the
/// stock kernels of the 6.1 series have as well.
fn family(n: &Net) -> &'static str {
    if mode(n) == "switch" { "eth" } else { "vec" }
}

/// The interfaces a machine gets, with their kernel names.
fn present(list: &[Net]) -> impl Iterator<Item = (String, &Net)> {
    let taken: Vec<&str> = list.iter().filter_map(|n| n.id.as_deref()).collect();
    let mut next = [0; 2];
    list.iter().filter(|n| mode(n) != "none").map(move |n| {
        let id = n.id.clone().unwrap_or_else(|| {
            let f = family(n);
            let next = &mut next[usize::from(f == "eth")];
            while taken.contains(&format!("{f}{next}").as_str()) {
                *next += 1;
            }
            *next += 1;
            format!("{f}{}", *next - 1)
        });
        (id, n)
    })
}

/// Reads `[ADDRESS:]PORT:GUEST PORT[/udp]` as the router's notation.
pub fn port(text: &str) -> std::result::Result<String, String> {
    let bad = || {
        format!(
            "ports: \"{text}\": expected \"[HOST ADDRESS:]PORT:GUEST PORT[/udp]\", such as \"8080:80\" or \"0.0.0.0:53:53/udp\""
        )
    };
    let (rest, kind) = match text.rsplit_once('/') {
        None => (text, "tcp"),
        Some((rest, kind @ ("tcp" | "udp"))) => (rest, kind),
        Some(_) => return Err(bad()),
    };
    let number = |t: &str| t.parse::<u16>().ok().filter(|n| *n > 0).ok_or_else(bad);
    let (rest, guest) = rest.rsplit_once(':').ok_or_else(bad)?;
    let guest = number(guest)?;
    let (address, host) = match rest.rsplit_once(':') {
        Some((a, h)) => (a, number(h)?),
        None => ("", number(rest)?),
    };
    if !address.is_empty() {
        let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
        let fits = match bare {
            Some(a) => a.parse::<IpAddr>().is_ok_and(|a| a.is_ipv6()),
            None => address.parse::<Ipv4Addr>().is_ok(),
        };
        if !fits {
            return Err(bad());
        }
    }
    Ok(format!("{kind}:{address}:{host}-:{guest}"))
}

/// An address and its prefix length.
fn address(text: &str) -> std::result::Result<(Ipv4Addr, u8), String> {
    let bad = || {
        format!(
            "\"{text}\": expected an IPv4 address with its prefix length, such as \"10.0.0.5/24\""
        )
    };
    let (a, p) = text.split_once('/').ok_or_else(bad)?;
    let p = p.parse().ok().filter(|p| (1..=32).contains(p)).ok_or_else(bad)?;
    Ok((a.parse().map_err(|_| bad())?, p))
}

/// The router of a `user` interface.
fn router(n: &Net) -> std::result::Result<uml_nat::Config, String> {
    let mut items: Vec<(String, String)> =
        n.options.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    for p in &n.ports {
        items.push(("hostfwd".into(), port(p)?));
    }
    uml_nat::Config::parse(items.iter().map(|(k, v)| (k.as_str(), v.as_str())))
}

/// Ports of the host that interfaces take, by [`Forward::host`] and [`Forward::udp`].
pub fn forwards(list: &[Net]) -> impl Iterator<Item = Forward> {
    let users = list.iter().filter(|n| mode(n) == "user");
    users.filter_map(|n| router(n).ok()).flat_map(|c| c.forwards)
}

/// An address that an interface has from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    pub device: String,
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Option<Ipv4Addr>,
    pub dns: Vec<IpAddr>,
}

/// The addresses that interfaces have before anything of the guest's own runs: as the file says, or, when umld's own init
/// runs and nothing in the guest would ask for one, the router's. The kernel sets the first, umld's own init the others.
pub fn given(list: &[Net], own_init: bool) -> Vec<Given> {
    let written = present(list).filter_map(|(device, n)| {
        let (a, prefix) = address(n.address.as_deref()?).ok()?;
        let gateway = n.gateway.as_deref().and_then(|g| g.parse().ok());
        let dns = n.dns.iter().filter_map(|d| d.parse().ok()).collect();
        Some(Given { device, address: a, prefix, gateway, dns })
    });
    let routed = present(list).filter_map(|(device, n)| {
        let c = router(n).ok().filter(|_| own_init && mode(n) == "user" && n.address.is_none())?;
        let mut dns = vec![IpAddr::V4(c.dns)];
        if !n.dns.is_empty() {
            dns = n.dns.iter().filter_map(|d| d.parse().ok()).collect();
        }
        Some(Given { device, address: c.guest, prefix: c.prefix, gateway: Some(c.gateway), dns })
    });
    let mut all: Vec<Given> = written.chain(routed).collect();
    all.truncate(if own_init { usize::MAX } else { 1 });
    // One way out is enough.
    let way_out = all.iter().position(|g| g.gateway.is_some());
    all.iter_mut()
        .enumerate()
        .filter(|(k, _)| Some(*k) != way_out)
        .for_each(|(_, g)| g.gateway = None);
    all
}

impl Given {
    /// The kernel's `ip=`.
    fn word(&self) -> String {
        let mask = Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0));
        let gateway = self.gateway.map(|g| g.to_string()).unwrap_or_default();
        let mut w = format!("ip={}::{gateway}:{mask}::{}:off", self.address, self.device);
        for d in self.dns.iter().filter(|d| d.is_ipv4()).take(2) {
            w += &format!(":{d}");
        }
        w
    }

    /// The guest's resolv.conf(5); the host's search list stays.
    pub fn resolv_conf(&self, host: &str) -> Option<String> {
        if self.dns.is_empty() {
            return None;
        }
        let mut text: String = self.dns.iter().map(|d| format!("nameserver {d}\n")).collect();
        for l in host.lines().map(str::trim) {
            if ["search", "domain"].iter().any(|k| l.split_whitespace().next() == Some(k)) {
                text += l;
                text.push('\n');
            }
        }
        Some(text)
    }
}

/// The words of the kernel's command line.
pub fn words(list: &[Net], name: &str, own_init: bool) -> Vec<String> {
    let mut out = Vec::new();
    for (i, (id, n)) in present(list).enumerate() {
        let mac = n.mac.clone().unwrap_or_else(|| super::cmdline::mac_of(name, i));
        if let Some(socket) = n.options.get("socket").filter(|_| mode(n) == "switch") {
            out.push(format!("{id}=daemon,{mac},unix,{socket}"));
            continue;
        }
        let mut word = format!("{id}:transport={},mac={mac}", mode(n));
        for (k, v) in &n.options {
            word += &format!(",{k}={v}");
        }
        for p in n.ports.iter().filter_map(|p| port(p).ok()) {
            word += &format!(",hostfwd={p}");
        }
        out.push(word);
    }
    out.extend(given(list, own_init).first().map(Given::word));
    out
}

/// Checks every interface of a file.
pub fn check(l: &Loaded) -> Result {
    let mut seen: Vec<&str> = Vec::new();
    let mut addressed = false;
    for (i, n) in l.vm.net.iter().enumerate() {
        let at = |key: &str| format!("net[{i}].{key}");
        if let Some(id) = n.id.as_deref() {
            let f = family(n);
            let number = id.strip_prefix(f).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
            if number.and_then(|d| d.parse::<u16>().ok()).is_none() {
                let text = format!("no such interface \"{id}\"; expected {f}0, {f}1 and so on");
                return Err(l.complain(&at("id"), &text));
            }
            if seen.contains(&id) {
                return Err(l.complain(&at("id"), &format!("a second interface \"{id}\"")));
            }
            seen.push(id);
        }
        check_mode(l, i, n)?;
        let plain = |s: &str| !s.contains([',', '=']) && !s.chars().any(char::is_whitespace);
        if let Some((k, _)) = n.options.iter().find(|(k, v)| !plain(k) || !plain(v)) {
            let text = "the kernel cannot take ',', '=' or blanks here";
            return Err(l.complain(&at(&format!("options.{k}")), text));
        }
        if let Some(m) = &n.mac
            && !is_station(m)
        {
            let text =
                format!("\"{m}\": expected the address of a station, such as 02:00:00:00:00:01");
            return Err(l.complain(&at("mac"), &text));
        }
        // Those of the other transports are the kernel's to know; it tells of what it does not.
        if mode(n) == "user" {
            let known = [&ROUTER[..], &COMMON[..]].concat();
            if let Some(k) = n.options.keys().find(|k| !known.contains(&k.as_str())) {
                let near = nearest(k, &known);
                let hint = near.map_or_else(
                    || format!("; expected one of {}", known.join(", ")),
                    |m| format!("; did you mean \"{m}\"?"),
                );
                let text = format!("mode \"user\" has no option \"{k}\"{hint}");
                return Err(l.complain(&at(&format!("options.{k}")), &text));
            }
            for (k, p) in n.ports.iter().enumerate() {
                port(p).map_err(|e| l.complain(&format!("net[{i}].ports[{k}]"), &e))?;
            }
            router(n).map_err(|e| {
                let key = e.split_once('=').map_or("", |(k, _)| k);
                let known = n.options.contains_key(key);
                l.complain(&at(&if known { format!("options.{key}") } else { "mode".into() }), &e)
            })?;
        } else if !n.ports.is_empty() {
            let text = format!(
                "ports are forwarded by mode \"user\" only; \"{}\" has addresses of its own",
                mode(n)
            );
            return Err(l.complain(&at("ports"), &text));
        }
        check_addresses(l, i, n, &mut addressed)?;
    }
    Ok(())
}

fn check_mode(l: &Loaded, i: usize, n: &Net) -> Result {
    let at = format!("net[{i}].mode");
    let mode = mode(n);
    if let Some((_, text)) = INSTEAD.iter().find(|(m, _)| *m == mode) {
        return Err(l.complain(&at, &format!("mode \"{mode}\" is not supported: {text}")));
    }
    if !MODES.contains(&mode) {
        let near = nearest(mode, &MODES);
        let hint = near.map(|n| format!("; did you mean \"{n}\"?")).unwrap_or_default();
        let text = format!("unknown mode \"{mode}\"{hint}\nexpected one of {}", MODES.join(", "));
        return Err(l.complain(&at, &text));
    }
    if mode == "user" && !l.vm.vm.is_built_in() {
        let text = "mode \"user\": only the built-in kernel has a router of its own; use \"tap\" with this kernel";
        return Err(l.complain(&at, text));
    }
    let needed = REQUIRED.iter().find(|(m, _)| *m == mode).map_or(&[][..], |r| r.1);
    if let Some(s) = &n.switch
        && !n.options.contains_key("socket")
    {
        let text = format!(
            "\"{s}\": only members of a fleet join a switch by its name, with mode \"switch\"; elsewhere options.socket says which"
        );
        return Err(l.complain(&format!("net[{i}].switch"), &text));
    }
    if let Some(k) = needed.iter().find(|k| !n.options.contains_key(**k)) {
        return Err(l.complain(&at, &format!("mode \"{mode}\" needs options.{k}")));
    }
    if mode == "switch" {
        switch(n).map_err(|(k, e)| l.complain(&format!("net[{i}].options.{k}"), &e))?;
    }
    Ok(())
}

/// Checks the options of a switch; the error is about one of them.
fn switch(n: &Net) -> std::result::Result<(), (&str, String)> {
    if let Some((k, _)) = n.options.iter().find(|(k, _)| *k != "socket") {
        return Err((k, "mode \"switch\" has no such option, only socket".into()));
    }
    match n.options.get("socket").map(Path::new) {
        Some(s) if !s.is_absolute() => {
            let text =
                format!("\"{}\": expected the absolute path of a control socket", s.display());
            Err(("socket", text))
        }
        // sun_path with its NUL.
        Some(s) if s.as_os_str().len() > 107 => {
            Err(("socket", "longer than the 107 bytes of a socket's path".into()))
        }
        _ => Ok(()),
    }
}

fn check_addresses(l: &Loaded, i: usize, n: &Net, addressed: &mut bool) -> Result {
    let at = |key: &str| format!("net[{i}].{key}");
    if let Some(a) = &n.address {
        address(a).map_err(|e| l.complain(&at("address"), &e))?;
        if std::mem::replace(addressed, true) && !super::cmdline::own_init(&l.vm) {
            let text = "the kernel sets the address of one interface; the guest's init must set those of the others";
            return Err(l.complain(&at("address"), text));
        }
    }
    if let Some(g) = &n.gateway {
        if n.address.is_none() {
            return Err(
                l.complain(&at("gateway"), "a gateway without an `address` of the interface")
            );
        }
        if g.parse::<Ipv4Addr>().is_err() {
            return Err(l.complain(&at("gateway"), &format!("\"{g}\": expected an IPv4 address")));
        }
    }
    if let Some(d) = n.dns.iter().find(|d| d.parse::<IpAddr>().is_err()) {
        return Err(l.complain(&at("dns"), &format!("\"{d}\": expected an address")));
    }
    Ok(())
}

fn is_station(m: &str) -> bool {
    let bytes: Vec<_> =
        m.split(':').map(|b| u8::from_str_radix(b, 16).ok().filter(|_| b.len() <= 2)).collect();
    bytes.len() == 6
        && bytes.iter().all(Option::is_some)
        && bytes[0].is_some_and(|b| b & 1 == 0)
        && bytes.iter().any(|b| *b != Some(0))
}

/// Reads `MODE[,KEY=VALUE...]` of a command line, with ports to forward.
pub fn parse(text: &str, ports: &[String]) -> std::result::Result<Vec<Net>, String> {
    let (mode, rest) = text.split_once(',').unwrap_or((text, ""));
    let mut n = Net { mode: Some(mode.into()), ports: ports.to_vec(), ..Net::default() };
    for item in rest.split(',').filter(|i| !i.is_empty()) {
        let (k, v) =
            item.split_once('=').ok_or_else(|| format!("--net: \"{item}\": expected KEY=VALUE"))?;
        match k {
            "mac" if is_station(v) => n.mac = Some(v.into()),
            "mac" => return Err(format!("--net: mac={v}: expected the address of a station")),
            _ => {
                n.options.insert(k.into(), v.into());
            }
        }
    }
    if !MODES.contains(&mode) {
        return Err(match INSTEAD.iter().find(|(m, _)| *m == mode) {
            Some((_, text)) => format!("--net {mode} is not supported: {text}"),
            None => format!("--net {mode}: expected one of {}", MODES.join(", ")),
        });
    }
    if mode == "switch" {
        if let Some(s) = n.options.get_mut("socket")
            && let Ok(p) = std::path::absolute(&*s)
            && let Some(p) = p.to_str()
        {
            *s = p.to_owned();
        }
        let known = n.options.contains_key("socket");
        known.then_some(()).ok_or_else(|| "--net switch needs socket=PATH".to_owned())?;
        switch(&n).map_err(|(k, e)| format!("--net: {k}: {e}"))?;
    }
    if mode == "user" {
        router(&n).map_err(|e| format!("--net: {e}"))?;
    } else if !ports.is_empty() {
        return Err(format!("--publish needs --net user, not \"{mode}\""));
    }
    Ok(vec![n])
}

/// What the guest's resolv.conf(5) is to be: only umld's own init, over a throw-away layer, may write it.
pub fn resolv_conf(vm: &VmFile) -> Option<String> {
    let own = super::cmdline::own_init(vm);
    if !own || !super::cmdline::overlaid(vm) {
        return None;
    }
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    given(&vm.net, own).iter().find_map(|g| g.resolv_conf(&host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_become_forwards() {
        assert_eq!(port("8080:80").unwrap(), "tcp::8080-:80");
        assert_eq!(port("0.0.0.0:53:53/udp").unwrap(), "udp:0.0.0.0:53-:53");
        assert_eq!(port("[::1]:80:8080/tcp").unwrap(), "tcp:[::1]:80-:8080");
        for bad in ["80", "0:80", "80:80/sctp", "host:80:80", "::1:80:80", "80:99999"] {
            assert!(port(bad).unwrap_err().contains(bad), "{bad}");
        }
    }

    #[test]
    fn words_say_interface_and_address() {
        let n = parse("user,loopback=0", &["8080:80".into()]).unwrap();
        let w = words(&n, "x", true);
        assert!(w[0].starts_with("vec0:transport=user,mac=02:"), "{w:?}");
        assert!(w[0].ends_with(",loopback=0,hostfwd=tcp::8080-:80"), "{w:?}");
        assert_eq!(w[1], "ip=10.0.2.15::10.0.2.2:255.255.255.0::vec0:off:10.0.2.3");
        assert_eq!(words(&n, "x", false).len(), 1, "a guest's own init asks for its address");
        assert!(words(&parse("none", &[]).unwrap(), "x", true).is_empty());
        assert!(parse("slirp", &[]).unwrap_err().contains("\"user\""));
        assert!(parse("user,restrict=2", &[]).unwrap_err().contains("0 or 1"));
        assert!(parse("tap", &["1:1".into()]).is_err());
        let g = given(&n, true);
        let text = g[0].resolv_conf("nameserver 1.1.1.1\nsearch a b\n").unwrap();
        assert_eq!(text, "nameserver 10.0.2.3\nsearch a b\n");
    }

    #[test]
    fn one_address_is_the_kernels_and_the_others_are_of_umlds_init() {
        let lan = |a: &str| Net {
            mode: Some("switch".into()),
            address: Some(a.into()),
            options: [("socket".to_owned(), "/s".to_owned())].into(),
            ..Net::default()
        };
        let list = [Net::default(), lan("10.9.0.1/24"), lan("10.8.0.1/30")];
        let of = |own| -> Vec<(String, Option<Ipv4Addr>)> {
            given(&list, own).into_iter().map(|g| (g.device, g.gateway)).collect()
        };
        let router = Some(Ipv4Addr::new(10, 0, 2, 2));
        assert_eq!(
            of(true),
            [("eth0".into(), None), ("eth1".into(), None), ("vec0".into(), router)]
        );
        assert_eq!(of(false), [("eth0".to_owned(), None)]);
    }

    #[test]
    fn names_fill_the_gaps() {
        let net = |id: Option<&str>| Net { id: id.map(Into::into), ..Net::default() };
        let list = [net(None), net(Some("vec0")), net(None)];
        let names: Vec<String> = present(&list).map(|(n, _)| n).collect();
        assert_eq!(names, ["vec1", "vec0", "vec2"]);
    }

    #[test]
    fn a_switch_is_joined_by_a_legacy_interface() {
        let n = parse("switch,socket=/run/s.ctl,mac=02:00:00:00:00:01", &[]).unwrap();
        assert_eq!(words(&n, "x", true), ["eth0=daemon,02:00:00:00:00:01,unix,/run/s.ctl"]);
        let n = parse("switch,socket=s.ctl", &[]).unwrap();
        let here = std::env::current_dir().unwrap();
        assert!(words(&n, "x", true)[0].ends_with(&format!(",unix,{}/s.ctl", here.display())));
        assert!(parse("switch", &[]).unwrap_err().contains("socket=PATH"));
        assert!(parse("switch,socket=/s,depth=3", &[]).unwrap_err().contains("depth"));
        assert!(parse("daemon", &[]).unwrap_err().contains("\"switch\""));
        let with = |m: &str| Net { mode: Some(m.into()), ..Net::default() };
        let list = [with("switch"), with("tap"), with("switch")];
        let names: Vec<String> = present(&list).map(|(n, _)| n).collect();
        assert_eq!(names, ["eth0", "vec0", "eth1"]);
    }
}
