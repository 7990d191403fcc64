//! `umld net doctor`: what each mode of `[[net]]` needs of the host, whether it is there, and the commands that give it.

use std::path::Path;

use serde::Serialize;

use crate::cli::{NetCommand, NetDoctor};
use crate::cmd::doctor::{Grade, which};
use crate::cmd::print;
use crate::failure::{Failure, Result, code};
use crate::spec;
use crate::spec::diagnose::nearest;
use crate::spec::net::{MODES, mode};

/// `CAP_NET_ADMIN` and `CAP_NET_RAW` (capabilities(7)), as bits of `CapEff`.
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;

/// One mode. The field names are stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Need {
    mode: String,
    /// The interface of the host, where the mode has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
    grade: Grade,
    needs: &'static str,
    found: String,
    /// To be run as root, in this order.
    commands: Vec<String>,
}

/// What is looked at; apart from it, answers depend on nothing.
struct Host {
    user: String,
    capabilities: u64,
    tun: std::result::Result<(), String>,
    vde_plug: bool,
    /// The owner of a tap interface; none when there is no such interface, or it is no tap.
    tap_owner: fn(&str) -> Option<u32>,
    exists: fn(&str) -> bool,
    uid: u32,
}

impl Host {
    fn this() -> Host {
        let uid = nix::unistd::geteuid();
        let user = nix::unistd::User::from_uid(uid).ok().flatten();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
        let tun = std::fs::File::options().read(true).write(true).open("/dev/net/tun");
        Host {
            user: user.map_or(uid.to_string(), |u| u.name),
            capabilities: line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok()).unwrap_or(0),
            tun: tun.map(|_| ()).map_err(|e| uml_formats::strerror(&e)),
            vde_plug: which("vde_plug").is_some(),
            tap_owner: |name| {
                let dir = Path::new("/sys/class/net").join(name);
                dir.join("tun_flags").is_file().then_some(())?;
                std::fs::read_to_string(dir.join("owner")).ok()?.trim().parse().ok()
            },
            exists: |name| Path::new("/sys/class/net").join(name).is_dir(),
            uid: uid.as_raw(),
        }
    }

    fn may(&self, capability: u64) -> bool {
        self.capabilities & capability != 0
    }
}

/// Runs a subcommand.
pub fn run(c: &NetCommand) -> Result<u8> {
    match c {
        NetCommand::Doctor(a) => doctor(a),
    }
}

/// Status 69 when what was asked for cannot be used.
fn doctor(a: &NetDoctor) -> Result<u8> {
    let host = Host::this();
    let mut wanted: Vec<(String, Option<String>)> = Vec::new();
    for word in &a.what {
        let text = word.to_string_lossy();
        if MODES.contains(&text.as_ref()) {
            wanted.push((text.into_owned(), None));
        } else if crate::cmd::start::is_file(word) {
            let nets = spec::load(word)?.vm.net;
            let one = |n: &spec::vm::Net| (mode(n).to_owned(), n.options.get("ifname").cloned());
            wanted.extend(nets.iter().map(one));
        } else {
            let near = nearest(&text, &MODES).map(|n| format!("; did you mean \"{n}\"?"));
            let text = format!(
                "\"{text}\" is no mode of [[net]]{}\nexpected a vm.toml, or one of {}",
                near.unwrap_or_default(),
                MODES.join(", ")
            );
            return Err(Failure::new(code::USAGE, text));
        }
    }
    let asked = !a.what.is_empty();
    if !asked {
        wanted = MODES.iter().map(|m| ((*m).to_owned(), None)).collect();
    }
    let all: Vec<Need> =
        wanted.iter().map(|(m, interface)| need(m, interface.as_deref(), &host)).collect();
    if a.format.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&all).unwrap_or_default()))?;
    } else if a.format.quiet {
        let bad = all.iter().filter(|n| n.grade != Grade::Ok);
        print(&bad.map(|n| format!("{}\n", n.mode)).collect::<String>())?;
    } else {
        print(&all.iter().map(text).collect::<String>())?;
    }
    let missing = asked && all.iter().any(|n| n.grade != Grade::Ok);
    Ok(if missing { code::UNAVAILABLE } else { 0 })
}

fn text(n: &Need) -> String {
    let grade = if n.grade == Grade::Ok { "ok" } else { "MISSING" };
    let name = n.interface.as_ref().map_or(n.mode.clone(), |i| format!("{} {i}", n.mode));
    let mut out = format!("{name}: {grade}\n  needs  {}\n  found  {}\n", n.needs, n.found);
    for (k, c) in n.commands.iter().enumerate() {
        out += &format!("  {}{c}\n", if k == 0 { "root#  " } else { "       " });
    }
    out
}

/// What a mode needs, on an interface of the host where the file names one.
fn need(mode: &str, interface: Option<&str>, h: &Host) -> Need {
    let own = |default: &str| interface.unwrap_or(default).to_owned();
    let none = Vec::new;
    let raw = |commands: Vec<String>| match h.may(NET_RAW) {
        true => (Grade::Ok, "CAP_NET_RAW".to_owned(), Vec::new()),
        false => (Grade::Missing, "no CAP_NET_RAW".to_owned(), commands),
    };
    let (interface, needs, (grade, found, commands)) = match mode {
        "user" | "none" | "fd" => {
            let needs = match mode {
                "user" => "nothing: the router is in the machine's own process",
                "fd" => {
                    "a descriptor of a packet socket or tap that whoever starts the kernel passes"
                }
                _ => "nothing",
            };
            (None, needs, (Grade::Ok, "no privilege is needed".into(), none()))
        }
        "tap" => (Some(own("umltap0")), TAP, tap(&own("umltap0"), h)),
        "raw" => {
            let name = own("veth0");
            let link = format!("ip link set {name} up promisc on");
            let mut found = raw(vec![link.clone(), with_raw(h)]);
            if !(h.exists)(&name) {
                let make = format!("ip link add {name} type veth peer name {name}-host");
                let up = format!("ip link set {name}-host up");
                let grant = (!h.may(NET_RAW)).then(|| with_raw(h));
                let commands = [make, up, link].into_iter().chain(grant).collect();
                found = (Grade::Missing, format!("no interface {name}"), commands);
            }
            let needs =
                "CAP_NET_RAW for a packet socket, and an interface of the host (options.ifname)";
            (Some(name), needs, found)
        }
        "hybrid" => {
            let name = own("umltap0");
            let (grade, found, mut commands) = tap(&name, h);
            let (second, also, _) = raw(none());
            if second != Grade::Ok {
                commands.push(with_raw(h));
            }
            let grade = if grade == Grade::Ok { second } else { grade };
            let needs = "what tap needs, and CAP_NET_RAW for a packet socket on the same interface";
            (Some(name), needs, (grade, format!("{found}; {also}"), commands))
        }
        "gre" => (None, "CAP_NET_RAW for a socket of IP protocol 47", raw(vec![with_raw(h)])),
        "l2tpv3" => (
            None,
            "CAP_NET_RAW for a socket of IP protocol 115; nothing with options.udp = \"1\"",
            raw(vec![with_raw(h)]),
        ),
        "bess" => (
            None,
            "a BESS port: a seqpacket socket (options.dst) that this user may write to",
            (Grade::Ok, "no privilege is needed".into(), none()),
        ),
        "switch" => (
            None,
            "a uml_switch whose socket (options.socket) this user may write to: see uml_switch(1)",
            (Grade::Ok, "no privilege is needed".into(), none()),
        ),
        "vde" => {
            let found = match h.vde_plug {
                true => (Grade::Ok, "vde_plug".into(), none()),
                false => {
                    let install = vec!["apt install vde2".to_owned()];
                    (Grade::Missing, "vde_plug is not installed".into(), install)
                }
            };
            (None, "the program vde_plug, and a VDE network that this user may join", found)
        }
        _ => (
            None,
            "what linux(1) says of this transport",
            (Grade::Ok, "no privilege is known to be needed".into(), none()),
        ),
    };
    Need { mode: mode.into(), interface, grade, needs, found, commands }
}

const TAP: &str = "/dev/net/tun, and a tap interface that belongs to this user, or CAP_NET_ADMIN";

type Found = (Grade, String, Vec<String>);

fn tap(name: &str, h: &Host) -> Found {
    let mut commands = Vec::new();
    let mut found = Vec::new();
    if let Err(e) = &h.tun {
        found.push(format!("/dev/net/tun: {e}"));
        commands.push("modprobe tun".to_owned());
        commands.push("chmod 0666 /dev/net/tun".to_owned());
    }
    match (h.tap_owner)(name) {
        Some(owner) if owner == h.uid => found.push(format!("{name} belongs to {}", h.user)),
        _ if h.may(NET_ADMIN) => found.push("CAP_NET_ADMIN".into()),
        other => {
            found.push(match other {
                Some(owner) => format!("{name} belongs to user {owner}"),
                None if (h.exists)(name) => format!("{name} is no tap of a user"),
                None => format!("no interface {name}"),
            });
            if (h.exists)(name) {
                commands.push(format!("ip link delete {name}"));
            }
            commands.push(format!("ip tuntap add dev {name} mode tap user {}", h.user));
            commands.push(format!("ip address add 192.168.77.1/24 dev {name}"));
            commands.push(format!("ip link set {name} up"));
            // For the way out: the guest has 192.168.77.2/24 and this gateway.
            commands.push("sysctl -w net.ipv4.ip_forward=1".into());
            commands.push("iptables -t nat -A POSTROUTING -s 192.168.77.0/24 -j MASQUERADE".into());
        }
    }
    let grade = if commands.is_empty() { Grade::Ok } else { Grade::Missing };
    (grade, found.join("; "), commands)
}

/// Starts umld with the capability for the kernel to inherit. File capabilities would make the process undumpable.
fn with_raw(h: &Host) -> String {
    format!(
        "setpriv --reuid {0} --init-groups --inh-caps +net_raw --ambient-caps +net_raw umld start FILE",
        h.user
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host {
            user: "alice".into(),
            capabilities: 0,
            tun: Ok(()),
            vde_plug: false,
            tap_owner: |n| (n == "mine").then_some(1000).or((n == "his").then_some(7)),
            exists: |n| ["mine", "his", "eth0"].contains(&n),
            uid: 1000,
        }
    }

    #[test]
    fn every_mode_is_known_and_what_is_missing_has_commands() {
        let h = host();
        for m in MODES {
            let n = need(m, None, &h);
            assert_ne!(n.found, "no privilege is known to be needed", "{m}");
            assert_eq!(n.grade == Grade::Ok, n.commands.is_empty(), "{n:?}");
        }
        let all = Host { capabilities: !0, vde_plug: true, exists: |_| true, ..host() };
        assert!(MODES.iter().all(|m| need(m, None, &all).grade == Grade::Ok));
    }

    #[test]
    fn taps() {
        let h = host();
        assert_eq!(need("tap", Some("mine"), &h).grade, Grade::Ok);
        let his = need("tap", Some("his"), &h);
        assert_eq!(his.found, "his belongs to user 7");
        assert_eq!(
            his.commands[..2],
            ["ip link delete his", "ip tuntap add dev his mode tap user alice"]
        );
        let tun = Host { tun: Err("Permission denied".into()), ..host() };
        let n = need("tap", Some("mine"), &tun);
        assert_eq!(n.commands, ["modprobe tun", "chmod 0666 /dev/net/tun"]);
        // The packet socket of hybrid is a second matter.
        let n = need("hybrid", Some("mine"), &h);
        assert_eq!(n.commands.len(), 1);
        assert!(n.commands[0].contains("--ambient-caps +net_raw"), "{n:?}");
    }
}
