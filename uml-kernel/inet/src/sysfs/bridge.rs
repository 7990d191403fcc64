//! Bridges and their ports in sysfs (`bridge/`, `brif/`, `brport/`), which brctl(8) reads and writes. Of multicast there is what is always so.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::device::{Attribute, Entry, Folder};
use uml_net::bridge::stp::{Id, TICK};
use uml_net::bridge::{Bridge, Port};
use uml_net::interface::Interface;

type Of<T> = fn(&Bridge, &T) -> String;
type Set = fn(&Bridge, u64) -> Result<()>;
type SetPort = fn(&Bridge, &Interface, u32) -> Result<()>;
type Tree = uml_net::bridge::View;

/// Priority and address: `8000.020000000001`.
fn id(i: &Id) -> String {
    let hex = |b: &[u8]| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
    format!("{}.{}", hex(&i[..2]), hex(&i[2..]))
}

fn flag(on: bool) -> String {
    u8::from(on).to_string()
}

/// Files of a bridge that say what it is in the tree.
const BRIDGE: [(&str, Of<Tree>); 17] = [
    ("ageing_time", |b, _| (b.ageing() / TICK).to_string()),
    ("bridge_id", |_, t| id(&t.bridge.id)),
    ("forward_delay", |_, t| (t.bridge.times.forward_delay / TICK).to_string()),
    ("hello_time", |_, t| (t.bridge.times.hello / TICK).to_string()),
    ("hello_timer", |_, t| t.bridge.hello.left(t.now).to_string()),
    ("max_age", |_, t| (t.bridge.times.max_age / TICK).to_string()),
    ("priority", |_, t| t.bridge.priority().to_string()),
    ("root_id", |_, t| id(&t.bridge.root)),
    ("root_path_cost", |_, t| t.bridge.root_cost.to_string()),
    ("root_port", |_, t| t.bridge.root_port.to_string()),
    ("stp_state", |_, t| flag(t.bridge.on)),
    ("tcn_timer", |_, t| t.bridge.notification.left(t.now).to_string()),
    ("topology_change", |_, t| flag(t.bridge.topology_change)),
    ("topology_change_detected", |_, t| flag(t.bridge.change_detected)),
    ("topology_change_timer", |_, t| t.bridge.change.left(t.now).to_string()),
    ("vlan_filtering", |b, _| flag(b.filters())),
    ("default_pvid", |b, _| b.default_pvid().to_string()),
];

/// Those of them that can be written, with a number.
const SET: [(&str, Set); 8] = [
    ("ageing_time", |b, n| {
        b.set_ageing(n.saturating_mul(TICK));
        Ok(())
    }),
    ("forward_delay", |b, n| b.set_times(|t| t.forward_delay = n.saturating_mul(TICK))),
    ("hello_time", |b, n| b.set_times(|t| t.hello = n.saturating_mul(TICK))),
    ("max_age", |b, n| b.set_times(|t| t.max_age = n.saturating_mul(TICK))),
    ("priority", |b, n| {
        b.set_priority(n as u16);
        Ok(())
    }),
    ("stp_state", |b, n| {
        b.set_stp(n != 0);
        Ok(())
    }),
    ("vlan_filtering", |b, n| {
        b.set_filtering(n != 0);
        Ok(())
    }),
    ("default_pvid", |b, n| b.set_default_pvid(u16::try_from(n).map_err(|_| EINVAL)?)),
];

/// Files that always say the same: what a bridge does not do, and times of multicast snooping. What they say may be written.
const ALWAYS: [(&str, &str); 23] = [
    ("group_addr", "01:80:c2:00:00:00"),
    ("group_fwd_mask", "0x0"),
    ("hash_elasticity", "16"),
    ("hash_max", "4096"),
    ("multicast_igmp_version", "2"),
    ("multicast_last_member_count", "2"),
    ("multicast_last_member_interval", "100"),
    ("multicast_membership_interval", "26000"),
    ("multicast_mld_version", "1"),
    ("multicast_querier", "0"),
    ("multicast_querier_interval", "25500"),
    ("multicast_query_interval", "12500"),
    ("multicast_query_response_interval", "1000"),
    ("multicast_query_use_ifaddr", "0"),
    ("multicast_router", "1"),
    ("multicast_snooping", "1"),
    ("multicast_startup_query_count", "2"),
    ("multicast_startup_query_interval", "3124"),
    ("multicast_stats_enabled", "0"),
    ("nf_call_arptables", "0"),
    ("nf_call_ip6tables", "0"),
    ("nf_call_iptables", "0"),
    ("no_linklocal_learn", "0"),
];

/// Files of a port.
const PORT: [(&str, Of<Port>); 20] = [
    ("broadcast_flood", |_, p| flag(p.flags.bcast_flood)),
    ("change_ack", |_, p| flag(p.stp.acknowledge)),
    ("config_pending", |_, p| flag(p.stp.config_pending)),
    ("designated_bridge", |_, p| id(&p.stp.designated_bridge)),
    ("designated_cost", |_, p| p.stp.designated_cost.to_string()),
    ("designated_port", |_, p| p.stp.designated_port.to_string()),
    ("designated_root", |_, p| id(&p.stp.designated_root)),
    ("forward_delay_timer", |b, p| p.stp.forward_delay.left(b.tree().now).to_string()),
    ("hairpin_mode", |_, p| flag(p.flags.hairpin)),
    ("hold_timer", |b, p| p.stp.hold.left(b.tree().now).to_string()),
    ("isolated", |_, p| flag(p.flags.isolated)),
    ("learning", |_, p| flag(p.flags.learning)),
    ("message_age_timer", |b, p| p.stp.message_age.left(b.tree().now).to_string()),
    ("multicast_flood", |_, p| flag(p.flags.mcast_flood)),
    ("path_cost", |_, p| p.stp.cost.to_string()),
    ("port_id", |_, p| format!("{:#x}", p.stp.id())),
    ("port_no", |_, p| format!("{:#x}", p.stp.number)),
    ("priority", |_, p| p.stp.priority.to_string()),
    ("state", |_, p| (p.state() as u8).to_string()),
    ("unicast_flood", |_, p| flag(p.flags.flood)),
];

const SET_PORT: [(&str, SetPort); 8] = [
    ("broadcast_flood", |b, i, n| b.change_flags(i, |f| f.bcast_flood = n != 0)),
    ("hairpin_mode", |b, i, n| b.change_flags(i, |f| f.hairpin = n != 0)),
    ("isolated", |b, i, n| b.change_flags(i, |f| f.isolated = n != 0)),
    ("learning", |b, i, n| b.change_flags(i, |f| f.learning = n != 0)),
    ("multicast_flood", |b, i, n| b.change_flags(i, |f| f.mcast_flood = n != 0)),
    ("path_cost", |b, i, n| b.set_port_cost(i, n)),
    ("priority", |b, i, n| b.set_port_priority(i, n)),
    ("unicast_flood", |b, i, n| b.change_flags(i, |f| f.flood = n != 0)),
];

/// What is always so of ports.
const PORT_ALWAYS: [(&str, &str); 10] = [
    ("backup_port", ""),
    ("bpdu_guard", "0"),
    ("group_fwd_mask", "0x0"),
    ("multicast_fast_leave", "0"),
    ("multicast_router", "1"),
    ("multicast_to_unicast", "0"),
    ("neigh_suppress", "0"),
    ("proxyarp", "0"),
    ("proxyarp_wifi", "0"),
    ("root_block", "0"),
];

/// A file that takes nothing but what it says: `EOPNOTSUPP`.
fn always((name, text): (&'static str, &'static str)) -> Entry {
    Entry::File(Attribute::fixed(name, text).writable(move |data| {
        if data.trim_ascii() == text.as_bytes() { Ok(()) } else { Err(EOPNOTSUPP) }
    }))
}

/// A number that a program writes, in any of C's notations.
fn number(b: &[u8]) -> Result<u64> {
    let text = std::str::from_utf8(b).map_err(|_| EINVAL)?.trim();
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| EINVAL)
}

fn line(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(b'\n');
}

fn bridge_files(b: &Arc<Bridge>) -> Vec<Entry> {
    let mut all: Vec<Entry> = ALWAYS.into_iter().map(always).collect();
    // Old stations are looked for when one is asked for.
    all.push(Entry::File(Attribute::fixed("gc_timer", "0")));
    for (name, get) in BRIDGE {
        let of = b.clone();
        let mut a = Attribute::new(name, move |out| {
            line(out, &get(&of, &of.tree()));
            Ok(())
        });
        if let Some((_, set)) = SET.iter().find(|(n, _)| *n == name) {
            let of = b.clone();
            a = a.writable(move |data| set(&of, number(data)?));
        }
        all.push(Entry::File(a));
    }
    let of = b.clone();
    all.push(Entry::File(Attribute {
        name: "flush",
        show: None,
        store: Some(Box::new(move |_| {
            of.flush(None);
            Ok(())
        })),
    }));
    all
}

fn port_files(b: &Arc<Bridge>, i: &Arc<Interface>) -> Vec<Entry> {
    let mut all: Vec<Entry> = PORT_ALWAYS.into_iter().map(always).collect();
    for (name, get) in PORT {
        let (of, port) = (b.clone(), i.clone());
        let mut a = Attribute::new(name, move |out| {
            line(out, &get(&of, &of.port(&port).ok_or(ENODEV)?));
            Ok(())
        });
        if let Some((_, set)) = SET_PORT.iter().find(|(n, _)| *n == name) {
            let (of, port) = (b.clone(), i.clone());
            a = a.writable(move |data| {
                set(&of, &port, u32::try_from(number(data)?).map_err(|_| EINVAL)?)
            });
        }
        all.push(Entry::File(a));
    }
    let (of, port) = (b.clone(), i.clone());
    all.push(Entry::File(Attribute {
        name: "flush",
        show: None,
        store: Some(Box::new(move |_| {
            of.flush(Some(port.index));
            Ok(())
        })),
    }));
    if let Some((own, _)) = b.end() {
        all.push(Entry::Link("bridge".into(), format!("../../{}", own.name())));
    }
    all
}

/// `brforward`: a `struct __fdb_entry` of each station.
fn stations(b: &Arc<Bridge>) -> Entry {
    /// More do not fit the page that a reader gets.
    const MOST: usize = 256;
    let of = b.clone();
    Entry::File(Attribute::new("brforward", move |out| {
        let now = of.tree().now;
        let ports = of.ports();
        for (mac, _, e) in of.entries(now).into_iter().take(MOST) {
            let number = ports.iter().find(|p| p.iface.index == e.iface).map(|p| p.stp.number);
            // Addresses of the bridge alone are behind no port.
            let Some(number) = number else { continue };
            let ago = if e.fixed { 0 } else { (now.since(e.updated) / TICK) as u32 };
            out.extend_from_slice(&mac.0);
            out.extend_from_slice(&[number as u8, u8::from(e.local)]);
            out.extend_from_slice(&ago.to_le_bytes());
            out.extend_from_slice(&[(number >> 8) as u8, 0, 0, 0]);
        }
        Ok(())
    }))
}

/// The directories of an interface: as a bridge, and as a port of one.
pub(super) fn folders(i: &Arc<Interface>) -> Vec<Folder> {
    let mut all = Vec::new();
    if let Some(b) = Bridge::shared(i) {
        let of = Arc::downgrade(&b);
        all.push(Folder {
            name: "bridge",
            entries: Box::new(move || Some(bridge_files(&of.upgrade()?))),
        });
        let of = Arc::downgrade(&b);
        all.push(Folder {
            name: "",
            entries: Box::new(move || Some(vec![stations(&of.upgrade()?)])),
        });
        let of = Arc::downgrade(&b);
        all.push(Folder {
            name: "brif",
            entries: Box::new(move || {
                let ports = of.upgrade()?.ports();
                let link = |p: &Port| {
                    let name = p.iface.name();
                    Entry::Link(name.clone(), format!("../../{name}/brport"))
                };
                Some(ports.iter().map(link).collect())
            }),
        });
    }
    let of = i.clone();
    all.push(Folder {
        name: "brport",
        entries: Box::new(move || Some(port_files(&of.bridge()?, &of))),
    });
    let of = i.clone();
    all.push(Folder {
        name: "",
        entries: Box::new(move || {
            let (own, _) = of.bridge()?.end()?;
            let to = format!("../{}", own.name());
            Some(vec![
                Entry::Link("master".into(), to.clone()),
                Entry::Link(format!("upper_{}", own.name()), to),
            ])
        }),
    });
    all
}
