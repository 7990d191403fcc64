//! New virtual interfaces (ip-link(8), `type`).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_net::bridge::Bridge;
use uml_net::interface::{Dummy, Interface, Link, iff};
use uml_net::stack::Stack;
use uml_net::veth::{Plan, Veth};
use uml_net::vlan::Vlan;
use uml_net::wire::ethernet::Mac;

use super::link::{ADDRESS, FIXED, IFNAME, INFO_DATA, INFO_KIND, LINK, LINKINFO, MTU};
use super::{Request, bridge, netns};
use crate::nlmsg::{Attrs, nest};

const VETH_PEER: u16 = 1;
const VLAN_ID: u16 = 1;
const VLAN_FLAGS: u16 = 2;
const VLAN_PROTOCOL: u16 = 5;
/// 802.1Q, big-endian.
const TAGGED: [u8; 2] = [0x81, 0];
/// VLAN_FLAG_REORDER_HDR, always on: tags are not shown to readers of the interface.
const REORDER: u32 = 1;

pub(crate) fn random(stack: &Stack) -> Mac {
    let mut m = [0; 6];
    m.copy_from_slice(&stack.random().to_le_bytes()[..6]);
    m[0] = m[0] & !1 | 2;
    Mac(m)
}

/// IFLA_ADDRESS: `EADDRNOTAVAIL` for one that no station can have.
fn address(a: &Attrs<'_>) -> Result<Option<Mac>> {
    let Some(b) = a.get(ADDRESS) else { return Ok(None) };
    let m = Mac(b.try_into().map_err(|_| EINVAL)?);
    if m.is_valid_unicast() { Ok(Some(m)) } else { Err(EADDRNOTAVAIL) }
}

/// Makes the interface that a request describes, in the namespace of who asks. `EOPNOTSUPP` for kinds that are not
/// there, as without the module.
pub fn create(r: &Request<'_>, a: &Attrs<'_>) -> Result<Arc<Interface>> {
    let stack = &r.stack;
    let info = Attrs::parse(a.get(LINKINFO).ok_or(EOPNOTSUPP)?, 0)?;
    let kind = info.text(INFO_KIND)?.ok_or(EOPNOTSUPP)?;
    let data = Attrs::parse(info.get(INFO_DATA).unwrap_or(&[]), 0)?;
    let pattern = a.text(IFNAME)?.map_or(format!("{kind}%d"), str::to_owned);
    let name = stack.free_name(&pattern);
    let mac = address(a)?;
    match kind {
        "dummy" => {
            let mac = mac.unwrap_or_else(|| random(stack));
            let device = Arc::new(Dummy);
            let i = stack.add_interface(&name, Link::Ethernet, mac, 1500, 65_535, device)?;
            let _ = stack.set_flags(&i, iff::NOARP, iff::NOARP);
            Ok(i)
        }
        "veth" => {
            let mtu = |a: &Attrs<'_>| match a.word(MTU)? {
                Some(m) if !(68..=65_535).contains(&m) => Err(EINVAL),
                m => Ok(m.unwrap_or(1500) as usize),
            };
            let mut peer = Plan {
                stack: stack.clone(),
                name: "veth%d".into(),
                mac: random(stack),
                mtu: mtu(a)?,
            };
            if let Some(b) = data.get(VETH_PEER) {
                let p = Attrs::parse(b, FIXED)?;
                peer.name = p.text(IFNAME)?.unwrap_or("veth%d").to_owned();
                peer.mac = address(&p)?.unwrap_or(peer.mac);
                if p.get(MTU).is_some() {
                    peer.mtu = mtu(&p)?;
                }
                if let Some(s) = netns::target(r, &p)? {
                    peer.stack = s;
                }
            }
            let mac = mac.unwrap_or_else(|| random(stack));
            let first = Plan { stack: stack.clone(), name: pattern, mac, mtu: mtu(a)? };
            Ok(Veth::pair(first, peer)?.0)
        }
        "bridge" => {
            bridge::check(&data)?;
            let i = Bridge::create(stack, &name, mac, random(stack))?;
            if let Some(b) = Bridge::of(&i) {
                bridge::change(b, &data)?;
            }
            Ok(i)
        }
        "vlan" => vlan(stack, a, &data, &name, mac),
        _ => Err(EOPNOTSUPP),
    }
}

fn vlan(
    stack: &Arc<Stack>,
    a: &Attrs<'_>,
    data: &Attrs<'_>,
    name: &str,
    mac: Option<Mac>,
) -> Result<Arc<Interface>> {
    let lower = stack.interface(a.word(LINK)?.ok_or(EINVAL)?).ok_or(ENODEV)?;
    let id = data.get(VLAN_ID).and_then(|b| b.get(..2)).ok_or(EINVAL)?;
    let id = u16::from_le_bytes([id[0], id[1]]);
    if data.get(VLAN_PROTOCOL).is_some_and(|p| p != TAGGED) {
        return Err(EPROTONOSUPPORT);
    }
    // Flags and a mask of those that are given.
    if let Some(f) = data.get(VLAN_FLAGS).and_then(|b| b.get(..8)) {
        let flags = u32::from_le_bytes([f[0], f[1], f[2], f[3]]);
        let mask = u32::from_le_bytes([f[4], f[5], f[6], f[7]]);
        if (flags ^ REORDER) & mask != 0 {
            return Err(EOPNOTSUPP);
        }
    }
    Vlan::create(stack, (&lower, stack), name, id, mac)
}

/// IFLA_INFO_DATA of a VLAN interface.
pub fn describe_vlan(v: &Vlan) -> Vec<u8> {
    nest(|m| {
        m.put(VLAN_PROTOCOL, &TAGGED);
        m.half(VLAN_ID, v.id);
        m.put(VLAN_FLAGS, &[REORDER.to_le_bytes(), u32::MAX.to_le_bytes()].concat());
    })
}
