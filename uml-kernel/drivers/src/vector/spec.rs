//! The `vec` option, typed: shared by the command line, the management console and configuration files.

use std::fmt;

use uml_net::wire::ethernet::Mac;

use crate::number;

/// Most items of an option.
const ITEMS_MAX: usize = 20;
/// The same for `user`, whose forwarded ports are an item each.
const USER_ITEMS_MAX: usize = 100;
/// Keys of `user` of which every occurrence counts.
const REPEATED: [&str; 2] = ["hostfwd", "nameserver"];
const DEPTH: usize = 64;
const MTU: usize = 1500;
const HEADROOM: usize = 2;

/// A vector interface as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VectorSpec {
    pub unit: u32,
    /// What was written, for queries.
    pub text: String,
    pub transport: Transport,
    pub depth: usize,
    pub mac: Option<Mac>,
    /// What is wrong with the `mac` that was given: a random one is used instead.
    pub mac_problem: Option<String>,
    pub mtu: usize,
    pub headroom: usize,
    pub gro: bool,
    /// Frames are moved in batches.
    pub vec: bool,
    pub bpf_file: Option<String>,
    pub bpf_flash: bool,
    /// Program run once the host side is open.
    pub ifup: Option<String>,
}

/// How frames reach the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    Tap {
        ifname: Option<String>,
    },
    Hybrid {
        ifname: Option<String>,
    },
    Raw {
        ifname: Option<String>,
    },
    Gre(Tunnel),
    L2tpv3(Tunnel),
    Bess {
        src: Option<String>,
        dst: Option<String>,
    },
    Fd {
        fd: Option<i32>,
    },
    Vde {
        vnl: Option<String>,
        descr: String,
        port: Option<String>,
        mode: Option<String>,
        group: Option<String>,
    },
    /// A router in user mode; its options as they are written.
    User(Vec<(String, String)>),
    /// A name that is none of them: the interface cannot go up.
    Unknown(String),
    Missing,
}

/// Options of tunnels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    pub src: Option<String>,
    pub dst: Option<String>,
    pub src_port: Option<String>,
    pub dst_port: Option<String>,
    pub v6: bool,
    pub udp: bool,
    /// GRE keys, L2TPv3 sessions.
    pub rx_id: Option<u32>,
    pub tx_id: Option<u32>,
    pub rx_cookie: Option<u64>,
    pub tx_cookie: Option<u64>,
    pub cookie64: bool,
    /// GRE sequence numbers, the L2TPv3 counter.
    pub counter: bool,
    pub pin_counter: bool,
    /// An identifier that is no number.
    pub bad: Option<String>,
}

/// Why an option was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpecError {
    Colon,
    Number,
    Item(String),
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpecError::Colon => f.write_str("Expected ':' after device number"),
            SpecError::Number => f.write_str("Bad device number"),
            SpecError::Item(t) => write!(f, "vector_config failed to parse parameters: '{t}'"),
        }
    }
}

/// Unit number and what follows the colon (or `=`, as the management console writes it).
pub fn split_unit(text: &str) -> Result<(u32, &str), SpecError> {
    let at = text.find([':', '=']).ok_or(SpecError::Colon)?;
    let unit =
        number::whole(&text[..at]).and_then(|n| u32::try_from(n).ok()).ok_or(SpecError::Number)?;
    Ok((unit, &text[at + 1..]))
}

/// A number that may be negative, with C prefixes, in 64 bits.
fn signed(t: &str) -> Option<u64> {
    match t.strip_prefix('-') {
        Some(rest) => number::whole(rest).map(|n| n.wrapping_neg()),
        None => number::whole(t),
    }
}

impl VectorSpec {
    /// Parses what follows `vec`: `<unit>:<key>=<value>,...`.
    pub fn parse(text: &str) -> Result<VectorSpec, SpecError> {
        let (unit, rest) = split_unit(text)?;
        let mut items: Vec<(&str, &str)> = Vec::new();
        let user = rest.split(',').any(|i| i.starts_with("transport=user"));
        let most = if user { USER_ITEMS_MAX } else { ITEMS_MAX };
        for item in rest.split(',').filter(|i| !i.is_empty()) {
            let (k, v) = item.split_once('=').ok_or_else(|| SpecError::Item(item.to_owned()))?;
            if v.contains('=') || items.len() >= most {
                return Err(SpecError::Item(item.to_owned()));
            }
            // The first of a key counts.
            if (user && REPEATED.contains(&k)) || !items.iter().any(|(o, _)| *o == k) {
                items.push((k, v));
            }
        }
        let get = |k: &str| items.iter().find(|(o, _)| *o == k).map(|(_, v)| *v);
        let own = |k: &str| get(k).map(str::to_owned);
        let decimal = |k: &str| get(k).and_then(|v| v.parse::<i64>().ok());
        let on = |k: &str| get(k).and_then(signed).is_some_and(|n| n > 0 && n < 1 << 63);
        let (mac, mac_problem) = match get("mac") {
            None => (None, None),
            Some(t) => match parse_mac(t) {
                Ok(m) => (Some(m), None),
                Err(e) => (None, Some(e)),
            },
        };
        let mtu = decimal("mtu").and_then(|n| usize::try_from(n).ok());
        Ok(VectorSpec {
            unit,
            text: rest.to_owned(),
            transport: if user {
                let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
                Transport::User(items.iter().map(own).collect())
            } else {
                transport(&get, &own, &on)
            },
            depth: decimal("depth")
                .and_then(|n| usize::try_from(n).ok())
                .filter(|n| (1..=1024).contains(n))
                .unwrap_or(DEPTH),
            mac,
            mac_problem,
            mtu: mtu.filter(|m| (576..=65_534).contains(m)).unwrap_or(MTU),
            headroom: decimal("headroom").and_then(|n| usize::try_from(n).ok()).unwrap_or(HEADROOM),
            gro: decimal("gro").is_some_and(|n| n > 0),
            vec: decimal("vec") != Some(0),
            bpf_file: own("bpffile"),
            bpf_flash: on("bpfflash"),
            ifup: own("ifup"),
        })
    }
}

/// A station's address, or the driver's words about one that is none.
pub fn parse_mac(t: &str) -> Result<Mac, String> {
    let m = Mac::parse(t).ok_or_else(|| format!("Failed to parse '{t}' as an ethernet address"))?;
    if m.is_multicast() {
        return Err("Attempt to assign a multicast ethernet address to a device disallowed".into());
    }
    if m == Mac::ZERO {
        return Err("Attempt to assign an invalid ethernet address to a device disallowed".into());
    }
    Ok(m)
}

fn transport<'a>(
    get: &impl Fn(&str) -> Option<&'a str>,
    own: &impl Fn(&str) -> Option<String>,
    on: &impl Fn(&str) -> bool,
) -> Transport {
    let Some(t) = get("transport") else { return Transport::Missing };
    let ifname = own("ifname");
    let names = ["tap", "hybrid", "raw", "gre", "l2tpv3", "bess", "fd", "vde"];
    match names.iter().find(|n| t.starts_with(**n)) {
        Some(&"tap") => Transport::Tap { ifname },
        Some(&"hybrid") => Transport::Hybrid { ifname },
        Some(&"raw") => Transport::Raw { ifname },
        Some(&"gre") => {
            Transport::Gre(tunnel(get, own, on, "rx_key", "tx_key", "sequence", "pin_sequence"))
        }
        Some(&"l2tpv3") => Transport::L2tpv3(tunnel(
            get,
            own,
            on,
            "rx_session",
            "tx_session",
            "counter",
            "pin_counter",
        )),
        Some(&"bess") => Transport::Bess { src: own("src"), dst: own("dst") },
        Some(&"fd") => Transport::Fd { fd: get("fd").and_then(|v| v.parse().ok()) },
        Some(&"vde") => Transport::Vde {
            vnl: own("vnl"),
            descr: own("descr").unwrap_or_else(|| "UML".into()),
            port: own("port"),
            mode: own("mode"),
            group: own("group"),
        },
        _ => Transport::Unknown(t.to_owned()),
    }
}

fn tunnel<'a>(
    get: &impl Fn(&str) -> Option<&'a str>,
    own: &impl Fn(&str) -> Option<String>,
    on: &impl Fn(&str) -> bool,
    rx: &str,
    tx: &str,
    counter: &str,
    pin: &str,
) -> Tunnel {
    let mut bad = None;
    let mut id = |k: &str| {
        let t = get(k)?;
        // Signed or unsigned, 32 bits (the stock kernel takes only the signed range).
        match signed(t).filter(|n| *n <= u64::from(u32::MAX) || *n >= u64::MAX - 0x7fff_ffff) {
            Some(n) => Some(n as u32),
            None => {
                bad = Some(format!("{k}={t}"));
                None
            }
        }
    };
    let (rx_id, tx_id) = (id(rx), id(tx));
    let mut cookie = |k: &str| {
        let t = get(k)?;
        let n = signed(t);
        if n.is_none() {
            bad = Some(format!("{k}={t}"));
        }
        n
    };
    let (rx_cookie, tx_cookie) = (cookie("rx_cookie"), cookie("tx_cookie"));
    Tunnel {
        src: own("src"),
        dst: own("dst"),
        src_port: own("srcport"),
        dst_port: own("dstport"),
        v6: on("v6"),
        udp: on("udp"),
        rx_id,
        tx_id,
        rx_cookie,
        tx_cookie,
        cookie64: on("cookie64"),
        counter: on(counter),
        pin_counter: on(pin),
        bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn options_have_their_defaults_and_rules() {
        let s = VectorSpec::parse("0:transport=tap,ifname=tap0,depth=128,gro=1").unwrap();
        assert_eq!(s.transport, Transport::Tap { ifname: Some("tap0".into()) });
        assert_eq!(
            (s.unit, s.depth, s.mtu, s.headroom, s.gro, s.vec),
            (0, 128, 1500, 2, true, true)
        );
        let s = VectorSpec::parse("0x1:transport=tapir,mtu=100,vec=0,mac=01:2:3:4:5:6,mtu=9000")
            .unwrap();
        assert_eq!(
            (s.unit, s.mtu, s.vec),
            (1, 1500, false),
            "first counts, out of range is the default"
        );
        assert!(s.mac_problem.unwrap().contains("multicast"));
        assert!(matches!(s.transport, Transport::Tap { .. }));
        assert_eq!(VectorSpec::parse("x:transport=tap"), Err(SpecError::Number));
        assert_eq!(VectorSpec::parse("0transport"), Err(SpecError::Colon));
        assert_eq!(VectorSpec::parse("0:a=b=c"), Err(SpecError::Item("a=b=c".into())));
        let s = VectorSpec::parse("2:transport=l2tpv3,rx_session=0xaabbccdd,tx_session=-1,udp=1")
            .unwrap();
        let Transport::L2tpv3(t) = s.transport else { panic!() };
        assert_eq!((t.rx_id, t.tx_id, t.udp), (Some(0xaabb_ccdd), Some(u32::MAX), true));
        let s = VectorSpec::parse("2:transport=gre,rx_key=zap").unwrap();
        let Transport::Gre(t) = s.transport else { panic!() };
        assert_eq!(t.bad, Some("rx_key=zap".into()));
        assert_eq!(VectorSpec::parse("1:depth=4").unwrap().transport, Transport::Missing);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(t in "[0-9x:=,a-z_.-]{0,60}") {
            let _ = VectorSpec::parse(&t);
        }
    }
}
