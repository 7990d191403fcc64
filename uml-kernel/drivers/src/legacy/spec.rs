//! The `eth` option, typed: `<N>=<transport>[,<field>...]`, fields by position, an empty one is its default.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use uml_net::wire::ethernet::Mac;

use crate::number;
use crate::vector::spec::parse_mac;

/// Where Debian's service has the switch's control socket.
const CONTROL_DEBIAN: &str = "/var/run/uml-utilities/uml_switch.ctl";
/// Where a switch that was told nothing has it.
const CONTROL: &str = "/tmp/uml.ctl";
const PORT: u16 = 1102;
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 192, 168, 1);
const NAMES: &str = "daemon, tuntap, mcast, ucast, vde, pcap";

/// A legacy interface as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacySpec {
    pub unit: u32,
    pub transport: Transport,
    pub mac: Option<Mac>,
    /// What is wrong with the address that was given: a random one is used instead.
    pub mac_problem: Option<String>,
    /// What is ignored.
    pub warnings: Vec<String>,
}

/// How frames reach the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A port of a `uml_switch`.
    Daemon {
        control: String,
    },
    Tuntap {
        dev: Option<String>,
        gateway: Option<String>,
    },
    /// One frame in each UDP datagram to a group.
    Mcast {
        group: SocketAddrV4,
        ttl: u8,
    },
    /// The same to one address.
    Ucast {
        remote: (String, u16),
        listen: u16,
    },
    Vde {
        switch: Option<String>,
        port: Option<String>,
        group: Option<String>,
        mode: u32,
        descr: String,
    },
    /// An interface of the host, received from only.
    Pcap {
        ifname: String,
        filter: Option<String>,
        promiscuous: bool,
    },
}

/// Why an option was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpecError {
    Equals,
    Number,
    /// A name that is none of the transports.
    Transport(String),
    /// A transport that is not there, and what serves instead.
    Gone(&'static str),
    /// In the transport's own words.
    Field(String),
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpecError::Equals => f.write_str("Expected '=' after device number"),
            SpecError::Number => f.write_str("Bad device number"),
            SpecError::Transport(t) => write!(f, "unknown transport '{t}'; known: {NAMES}"),
            SpecError::Gone(why) => f.write_str(why),
            SpecError::Field(t) => f.write_str(t),
        }
    }
}

/// Fields in their order.
struct Fields<'a> {
    transport: &'static str,
    rest: std::str::Split<'a, char>,
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Option<&'a str> {
        self.rest.next().filter(|f| !f.is_empty())
    }

    fn own(&mut self) -> Option<String> {
        self.next().map(str::to_owned)
    }

    fn number<T: TryFrom<u64>>(
        &mut self,
        what: &str,
        radix: u32,
        default: T,
    ) -> Result<T, SpecError> {
        let Some(t) = self.next() else { return Ok(default) };
        let bad = || SpecError::Field(format!("{}_setup - Bad {what} : '{t}'", self.transport));
        // The stock parser takes digits alone; a sign is no digit.
        if !t.bytes().all(|c| c.is_ascii_digit()) {
            return Err(bad());
        }
        u64::from_str_radix(t, radix).ok().and_then(|n| T::try_from(n).ok()).ok_or_else(bad)
    }

    /// Nothing may follow.
    fn end(self) -> Result<(), SpecError> {
        let rest: Vec<&str> = self.rest.collect();
        if rest.iter().all(|r| r.is_empty()) {
            return Ok(());
        }
        let (t, rest) = (self.transport, rest.join(","));
        Err(SpecError::Field(format!("{t}_setup - Extra garbage on specification : '{rest}'")))
    }
}

impl LegacySpec {
    /// Parses what follows `eth`.
    pub fn parse(text: &str) -> Result<LegacySpec, SpecError> {
        let (unit, rest) = text.split_once('=').ok_or(match number::leading(text) {
            (_, rest) if rest.len() == text.len() => SpecError::Number,
            _ => SpecError::Equals,
        })?;
        let unit = number::whole(unit).and_then(|n| u32::try_from(n).ok());
        let unit = unit.ok_or(SpecError::Number)?;
        let mut fields = rest.split(',');
        let name = fields.next().unwrap_or("");
        let known = ["daemon", "tuntap", "mcast", "ucast", "vde", "pcap"];
        let Some(transport) = known.into_iter().find(|k| *k == name) else {
            return Err(match name {
                "slirp" => SpecError::Gone(
                    "slirp runs a program of the host that is no longer made; vec0:transport=user has a router built in",
                ),
                "ethertap" => SpecError::Gone(
                    "ethertap devices left Linux with 2.6; use tuntap, or vec0:transport=tap",
                ),
                "slip" => SpecError::Gone(
                    "slip needs the host's SLIP line discipline and a privileged helper (uml_net), which is not used; use tuntap, or vec0:transport=tap",
                ),
                t => SpecError::Transport(t.into()),
            });
        };
        let mut f = Fields { transport, rest: fields };
        let mut warnings = Vec::new();
        // Where the hardware address stands differs.
        let mut mac = None;
        let t = match transport {
            "daemon" => {
                mac = f.next();
                match f.next() {
                    None | Some("unix") => {}
                    Some(t) => {
                        return Err(SpecError::Field(format!(
                            "daemon_setup : Unknown socket type '{t}': only unix is known"
                        )));
                    }
                }
                let control = f.own().unwrap_or_else(|| {
                    let there = Path::new(CONTROL_DEBIAN).exists();
                    if there { CONTROL_DEBIAN } else { CONTROL }.into()
                });
                if f.rest.next().is_some() {
                    warnings.push("daemon_setup : Ignoring data socket specification".into());
                }
                Transport::Daemon { control }
            }
            "tuntap" => {
                let dev = f.own();
                mac = f.next();
                let gateway = f.own();
                if let Some(g) = &gateway
                    && g.parse::<Ipv4Addr>().is_err()
                {
                    return Err(SpecError::Field(format!(
                        "tuntap_setup - Bad gateway address : '{g}'"
                    )));
                }
                f.end()?;
                Transport::Tuntap { dev, gateway }
            }
            "mcast" => {
                mac = f.next();
                let group = f.next().map_or(Ok(GROUP), |a| match a.parse::<Ipv4Addr>() {
                    Ok(g) if g.is_multicast() => Ok(g),
                    _ => Err(SpecError::Field(format!(
                        "mcast_setup - Bad multicast address : '{a}'"
                    ))),
                })?;
                let port = f.number("port", 10, PORT)?;
                let ttl = f.number("ttl", 10, 1u8)?;
                f.end()?;
                Transport::Mcast { group: SocketAddrV4::new(group, port), ttl }
            }
            "ucast" => {
                mac = f.next();
                let Some(host) = f.own() else {
                    return Err(SpecError::Field("ucast_setup - Remote address is missing".into()));
                };
                let listen = f.number("listen port", 10, PORT)?;
                let port = f.number("remote port", 10, PORT)?;
                f.end()?;
                Transport::Ucast { remote: (host, port), listen }
            }
            "vde" => {
                let switch = f.own();
                mac = f.next();
                let port = f.number("port", 10, 0u32)?;
                let port = (port != 0).then(|| port.to_string());
                let group = f.own();
                let mode = f.number("mode", 8, 0o700u32)?;
                let descr = f.own().unwrap_or_else(|| "UML vde_transport".into());
                f.end()?;
                Transport::Vde { switch, port, group, mode, descr }
            }
            _ => {
                let ifname = f.own().unwrap_or_else(|| "eth0".into());
                let filter = f.own();
                let mut promiscuous = true;
                for _ in 0..2 {
                    match f.next() {
                        None | Some("optimize" | "nooptimize") => {}
                        Some("promisc") => promiscuous = true,
                        Some("nopromisc") => promiscuous = false,
                        Some(o) => {
                            return Err(SpecError::Field(format!(
                                "pcap_setup : bad option - '{o}'"
                            )));
                        }
                    }
                }
                mac = f.next().or(mac);
                f.end()?;
                Transport::Pcap { ifname, filter, promiscuous }
            }
        };
        let (mac, mac_problem) = match mac.map(parse_mac) {
            None => (None, None),
            Some(Ok(m)) => (Some(m), None),
            Some(Err(e)) => (None, Some(e)),
        };
        Ok(LegacySpec { unit, transport: t, mac, mac_problem, warnings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn transport(text: &str) -> Transport {
        LegacySpec::parse(text).unwrap().transport
    }

    fn refusal(text: &str) -> String {
        LegacySpec::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn fields_have_their_places_and_defaults() {
        let s = LegacySpec::parse("0=daemon,fe:fd:0:0:0:1,unix,/tmp/s.ctl").unwrap();
        assert_eq!(s.mac, Mac::parse("fe:fd:0:0:0:1"));
        assert_eq!(s.transport, Transport::Daemon { control: "/tmp/s.ctl".into() });
        let s = LegacySpec::parse("0=daemon,,,/c,/d").unwrap();
        assert_eq!(s.warnings, ["daemon_setup : Ignoring data socket specification"]);
        assert_eq!(
            transport("0x1=tuntap,tap3,,192.168.0.254"),
            Transport::Tuntap { dev: Some("tap3".into()), gateway: Some("192.168.0.254".into()) }
        );
        let all: SocketAddrV4 = "239.192.168.1:1102".parse().unwrap();
        assert_eq!(transport("1=mcast"), Transport::Mcast { group: all, ttl: 1 });
        let some: SocketAddrV4 = "224.1.2.3:99".parse().unwrap();
        assert_eq!(
            transport("1=mcast,,224.1.2.3,99,32"),
            Transport::Mcast { group: some, ttl: 32 }
        );
        assert_eq!(
            transport("1=ucast,,h,7,8"),
            Transport::Ucast { remote: ("h".into(), 8), listen: 7 }
        );
        assert_eq!(
            transport("2=vde,/run/vde,,4,users,660,me"),
            Transport::Vde {
                switch: Some("/run/vde".into()),
                port: Some("4".into()),
                group: Some("users".into()),
                mode: 0o660,
                descr: "me".into()
            }
        );
        assert_eq!(
            transport("2=pcap,,tcp,nopromisc"),
            Transport::Pcap {
                ifname: "eth0".into(),
                filter: Some("tcp".into()),
                promiscuous: false
            }
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_the_drivers_words() {
        assert_eq!(refusal("x=daemon"), "Bad device number");
        assert_eq!(refusal("0"), "Expected '=' after device number");
        assert_eq!(refusal("0=mcast,,,x"), "mcast_setup - Bad port : 'x'");
        assert_eq!(refusal("0=mcast,,,1,300"), "mcast_setup - Bad ttl : '300'");
        assert_eq!(refusal("0=ucast,,h,-1"), "ucast_setup - Bad listen port : '-1'");
        assert_eq!(refusal("0=ucast,,h,1,70000"), "ucast_setup - Bad remote port : '70000'");
        assert_eq!(refusal("0=vde,,,,,9"), "vde_setup - Bad mode : '9'");
        assert_eq!(
            refusal("0=tuntap,t,,1.2.3.4,x,y"),
            "tuntap_setup - Extra garbage on specification : 'x,y'"
        );
        assert!(refusal("0=slirp").contains("transport=user"));
        assert!(refusal("0=ethertap,tap0").contains("tuntap"));
        assert!(refusal("0=daemonic").contains("known: daemon"));
        let s = LegacySpec::parse("0=daemon,1:0:0:0:0:0").unwrap();
        assert!(s.mac.is_none() && s.mac_problem.unwrap().contains("multicast"));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(t in "[0-9x=]{0,4}(daemon|tuntap|mcast|ucast|vde|pcap|slip)?[0-9:=,a-z_./-]{0,60}") {
            let _ = LegacySpec::parse(&t);
        }
    }
}
