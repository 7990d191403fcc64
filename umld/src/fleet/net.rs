//! Switches and links of a fleet: what fleet.toml says of them, and what that makes of its members' interfaces.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::spec::FleetFile;
use super::switch::control;
use crate::spec::cmdline::{Root, overlaid, own_init, root};
use crate::spec::vm::GuestFile;
use crate::spec::{Loaded, check, net};
use crate::state::Store;

/// A virtual switch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Switch {
    /// Its name, by which `[[net]] switch` joins it. One user's fleets share the switch of a name. Required.
    pub name: String,
    /// Send every frame to every port. Default: false.
    pub hub: bool,
    /// IPv4 network, as `10.9.0.0/24`: members on it that have no address get one, in their order. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

/// A cable: a switch with two ports, and one more interface of two members.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Link {
    /// Its name. Default: those of the members with `-` in between.
    pub name: Option<String>,
    /// The two members. Required.
    pub between: Vec<String>,
    /// As of a switch. Default: none.
    pub network: Option<String>,
}

/// Where in the file something is wrong, and what.
type Wrong = (String, String);

/// The switches of a fleet, those of links included.
pub struct Plan {
    /// First those of `[[switch]]`, in the order of the file.
    pub switches: Vec<Switch>,
    /// How many of these are of `[[switch]]`.
    plain: usize,
    /// Ends of the links, in the order of their switches.
    cables: Vec<Vec<String>>,
}

/// Addresses of stations of a network, and its prefix length.
fn stations(text: &str) -> Result<(std::ops::Range<u32>, u8), String> {
    let bad =
        || format!("\"{text}\": expected an IPv4 network of at most /30, such as \"10.9.0.0/24\"");
    let (a, p) = text.split_once('/').ok_or_else(bad)?;
    let prefix: u8 = p.parse().ok().filter(|p| (8..=30).contains(p)).ok_or_else(bad)?;
    let size = 1u32 << (32 - prefix);
    let first = u32::from(a.parse::<Ipv4Addr>().map_err(|_| bad())?) & !(size - 1);
    // Neither the network's own address nor that of everybody.
    Ok((first.saturating_add(1)..first.saturating_add(size - 1), prefix))
}

impl Plan {
    /// Reads and checks it; `members` are the names of all.
    pub fn of(file: &FleetFile, members: &BTreeSet<String>) -> Result<Plan, Wrong> {
        let mut plan = Plan {
            switches: Vec::new(),
            plain: file.switch.len(),
            cables: file.link.iter().map(|l| l.between.clone()).collect(),
        };
        for (k, s) in file.switch.iter().enumerate() {
            plan.add(s.clone(), &format!("switch[{k}]"), members)?;
        }
        for (k, l) in file.link.iter().enumerate() {
            let at = format!("link[{k}]");
            let between = |text: String| (format!("{at}.between"), text);
            match l.between.as_slice() {
                [a, b] if a != b => {}
                _ => return Err(between("expected two different members".into())),
            }
            if let Some(m) = l.between.iter().find(|m| !members.contains(*m)) {
                return Err(between(format!("there is no member \"{m}\"")));
            }
            let name = l.name.clone().unwrap_or_else(|| l.between.join("-"));
            let s = Switch { name, hub: false, network: l.network.clone() };
            plan.add(s, &at, members)?;
        }
        Ok(plan)
    }

    fn add(&mut self, s: Switch, at: &str, members: &BTreeSet<String>) -> Result<(), Wrong> {
        let named = |text: String| (format!("{at}.name"), text);
        check::name(&s.name).map_err(named)?;
        if members.contains(&s.name) {
            return Err(named(format!("\"{}\" is a member's name already", s.name)));
        }
        if self.switches.iter().any(|o| o.name == s.name) {
            return Err(named(format!("a second switch or link \"{}\"", s.name)));
        }
        if let Some(n) = &s.network {
            stations(n).map_err(|e| (format!("{at}.network"), e))?;
        }
        self.switches.push(s);
        Ok(())
    }

    /// Gives a member's interfaces the sockets of the switches that they name, and the member those of its links.
    pub fn join(&self, store: &Store, member: &str, table: &mut Table) -> Result<(), String> {
        let ends = self.switches.iter().skip(self.plain).zip(&self.cables);
        let mut cables = ends.filter(|(_, c)| c.iter().any(|m| m == member)).peekable();
        if !table.contains_key("net") && cables.peek().is_none() {
            return Ok(());
        }
        let list = table.entry("net").or_insert_with(|| Value::Array(Vec::new()));
        let Value::Array(list) = list else { return Ok(()) };
        list.extend(cables.map(|(s, _)| {
            let mut net = Table::new();
            net.insert("switch".into(), s.name.clone().into());
            Value::Table(net)
        }));
        for net in list.iter_mut().filter_map(Value::as_table_mut) {
            self.plug(store, net)?;
        }
        Ok(())
    }

    fn plug(&self, store: &Store, net: &mut Table) -> Result<(), String> {
        let text = |net: &Table, key: &str| net.get(key).and_then(Value::as_str).map(str::to_owned);
        let named = text(net, "switch");
        let mode = text(net, "mode");
        let given = net.get("options").is_some_and(|o| o.get("socket").is_some());
        let only = match (self.plain, mode.as_deref()) {
            (1, Some("switch")) if !given => self.switches.first().map(|s| s.name.clone()),
            _ => None,
        };
        let Some(name) = named.clone().or(only) else { return Ok(()) };
        if named.is_some() && given {
            return Err(format!("an interface with both switch = \"{name}\" and options.socket"));
        }
        if let Some(m) = mode.filter(|m| m != "switch") {
            return Err(format!("an interface of mode \"{m}\" with switch = \"{name}\""));
        }
        if !self.switches.iter().any(|s| s.name == name) {
            return Err(format!("there is no [[switch]] \"{name}\" that a member could join"));
        }
        let socket = control(store, &name);
        let socket = socket.to_str().ok_or("the home directory's name is not UTF-8")?;
        net.insert("mode".into(), "switch".into());
        net.insert("switch".into(), name.into());
        let options = net.entry("options").or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(o) = options {
            o.insert("socket".into(), socket.into());
        }
        Ok(())
    }

    /// Gives members on a switch with a network an address, unless it has one or, where a guest's own init runs, which the kernel
    /// sets a single address for, something else has.
    pub fn give_addresses(&self, members: &mut [(Loaded, BTreeSet<String>)]) -> Result<(), Wrong> {
        for (k, s) in self.switches.iter().enumerate() {
            let Some(network) = &s.network else { continue };
            let at = match k.checked_sub(self.plain) {
                None => format!("switch[{k}].network"),
                Some(k) => format!("link[{k}].network"),
            };
            let (range, prefix) = stations(network).map_err(|e| (at.clone(), e))?;
            let address = |n: &crate::spec::vm::Net| {
                n.address.as_ref()?.split_once('/')?.0.parse::<Ipv4Addr>().ok().map(u32::from)
            };
            let taken: BTreeSet<u32> =
                members.iter().flat_map(|(l, _)| l.vm.net.iter().filter_map(address)).collect();
            let mut free = range.filter(|a| !taken.contains(a));
            for (l, _) in members.iter_mut() {
                let may = own_init(&l.vm) || net::given(&l.vm.net, false).is_empty();
                let on = l.vm.net.iter_mut().find(|n| n.switch.as_ref() == Some(&s.name));
                let Some(n) = on.filter(|n| may && n.address.is_none()) else { continue };
                let Some(a) = free.next() else {
                    let text =
                        format!("\"{network}\" has no address left for member \"{}\"", l.name);
                    return Err((at, text));
                };
                n.address = Some(format!("{}/{prefix}", Ipv4Addr::from(a)));
            }
        }
        Ok(())
    }

    /// Gives members without a host name their own name for one, where umld can set it without changing the host.
    pub fn name_hosts(members: &mut [(Loaded, BTreeSet<String>)]) {
        for (l, _) in members.iter_mut() {
            if l.vm.guest.hostname.is_none() && check::is_host_name(&l.name) && may_write(l) {
                l.vm.guest.hostname = Some(l.name.clone());
            }
        }
    }

    /// Writes the members' names, with their addresses on the fleet's switches, to the /etc/hosts of those whose root umld can
    /// write to without changing the host, unless they have one of their own.
    pub fn give_names(members: &mut [(Loaded, BTreeSet<String>)]) {
        let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n");
        let plain = text.len();
        for (l, _) in members.iter() {
            let of = |n: &crate::spec::vm::Net| {
                Some(
                    n.address
                        .as_ref()
                        .filter(|_| n.switch.is_some())?
                        .split_once('/')?
                        .0
                        .to_owned(),
                )
            };
            let other = l.vm.guest.hostname.as_ref().filter(|h| **h != l.name);
            if let Some(a) = l.vm.net.iter().find_map(of) {
                text += &format!("{a}\t{}", l.name);
                text += &other.map(|h| format!(" {h}")).unwrap_or_default();
                text.push('\n');
            }
        }
        if text.len() == plain {
            return;
        }
        for (l, _) in members.iter_mut() {
            let writable = may_write(l);
            let files = &mut l.vm.guest.files;
            if writable && !files.iter().any(|f| f.path.as_deref() == Some("/etc/hosts")) {
                files.push(GuestFile {
                    path: Some("/etc/hosts".into()),
                    content: Some(text.clone()),
                    ..GuestFile::default()
                });
            }
        }
    }
}

/// Whether umld can write to the member's root without changing the host's own files.
fn may_write(l: &Loaded) -> bool {
    match root(&l.vm) {
        Root::Disk(_) => l.vm.boot.readonly != Some(true),
        Root::Host(_) => own_init(&l.vm) && overlaid(&l.vm),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_stations() {
        assert_eq!(stations("10.9.0.7/29").unwrap(), (0x0a09_0001..0x0a09_0007, 29));
        assert_eq!(stations("255.255.255.255/30").unwrap().0.len(), 2);
        for bad in ["10.9.0.0", "10.9.0.0/31", "10.9.0.0/0", "fd00::/64", "x/24"] {
            assert!(stations(bad).unwrap_err().contains(bad), "{bad}");
        }
    }
}
