//! The SIOC* calls about interfaces (netdevice(7)).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::ns::NetNs;
use uml_core::task::Cap;
use uml_core::user;
use uml_net::bridge::Bridge;
use uml_net::interface::{Address, Interface, iff, scope};
use uml_net::neighbour::State;
use uml_net::route::{Mode, Prefix, Route, TABLE_MAIN};
use uml_net::stack::Stack;
use uml_net::tap::hardware_type;
use uml_net::wire::ethernet::Mac;

use crate::{ioctl_bridge, ioctl6};

pub const SIOCATMARK: u64 = 0x8905;
pub const SIOCOUTQNSD: u64 = 0x894b;
const SIOCADDRT: u32 = 0x890b;
const SIOCDELRT: u32 = 0x890c;
const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCSIFFLAGS: u32 = 0x8914;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCSIFADDR: u32 = 0x8916;
const SIOCDIFADDR: u32 = 0x8936;
const SIOCGIFDSTADDR: u32 = 0x8917;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCSIFBRDADDR: u32 = 0x891a;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCSIFNETMASK: u32 = 0x891c;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCSIFMTU: u32 = 0x8922;
const SIOCSIFNAME: u32 = 0x8923;
const SIOCSIFHWADDR: u32 = 0x8924;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;
const SIOCSIFTXQLEN: u32 = 0x8943;
const SIOCETHTOOL: u32 = 0x8946;
const SIOCGIFMAP: u32 = 0x8970;
const SIOCGARP: u32 = 0x8954;
const SIOCSARP: u32 = 0x8955;
const SIOCDARP: u32 = 0x8953;
const IFNAMSIZ: usize = 16;
/// Length of `struct ifreq`.
const IFREQ: usize = 40;

fn name_of(b: &[u8]) -> &str {
    let end = b[..IFNAMSIZ].iter().position(|c| *c == 0).unwrap_or(IFNAMSIZ);
    // An alias (`eth0:1`) is its interface.
    let b = b[..end].split(|c| *c == b':').next().unwrap_or(&[]);
    std::str::from_utf8(b).unwrap_or("")
}

fn v4_of(b: &[u8]) -> Ipv4Addr {
    Ipv4Addr::new(b[4], b[5], b[6], b[7])
}

fn put_v4(b: &mut [u8], a: Ipv4Addr) {
    b[..16].fill(0);
    b[..2].copy_from_slice(&(libc::AF_INET as u16).to_le_bytes());
    b[4..8].copy_from_slice(&a.octets());
}

fn first_v4(i: &Interface) -> Option<Address> {
    i.addresses().into_iter().find(|a| a.addr.is_ipv4())
}

fn mask_of(prefix: u8) -> Ipv4Addr {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0).into()
}

/// The same of a socket of a family without devices (netdevice(7): any socket will do).
pub fn of_any_socket(cx: &mut Ctx<'_>, net: &Arc<NetNs>, cmd: u32, arg: u64) -> Result<u64> {
    other_family(cx, &crate::stack_in(net), cmd, arg)
}

/// The same of an AF_INET or AF_INET6 socket.
pub fn inet(cx: &mut Ctx<'_>, stack: &Arc<Stack>, v6: bool, cmd: u32, arg: u64) -> Result<u64> {
    match cmd {
        SIOCADDRT | SIOCDELRT if v6 => ioctl6::route(cx, stack, cmd == SIOCADDRT, arg),
        SIOCSIFADDR | SIOCDIFADDR if v6 => ioctl6::address(cx, stack, cmd == SIOCSIFADDR, arg),
        _ if v6 => other_family(cx, stack, cmd, arg),
        _ => device(cx, stack, cmd, arg),
    }
}

/// Addresses, routes and neighbours are those of AF_INET. (Those of AF_INET6 have structures of their own, [`ioctl6`].)
fn other_family(cx: &mut Ctx<'_>, stack: &Arc<Stack>, cmd: u32, arg: u64) -> Result<u64> {
    match cmd {
        SIOCADDRT | SIOCDELRT | SIOCSARP | SIOCDARP | SIOCGARP | SIOCGIFADDR | SIOCSIFADDR
        | SIOCGIFDSTADDR | SIOCGIFBRDADDR | SIOCSIFBRDADDR | SIOCGIFNETMASK | SIOCSIFNETMASK => {
            Err(ENOTTY)
        }
        _ => device(cx, stack, cmd, arg),
    }
}

/// ioctl(2) of a socket about devices; `ENOTTY` for what is none of them.
pub fn device(cx: &mut Ctx<'_>, stack: &Arc<Stack>, cmd: u32, arg: u64) -> Result<u64> {
    match cmd {
        SIOCGIFCONF => return list(cx, stack, arg),
        SIOCADDRT | SIOCDELRT => return route(cx, stack, cmd == SIOCADDRT, arg),
        SIOCSARP | SIOCDARP | SIOCGARP => return arp(cx, stack, cmd, arg),
        ioctl_bridge::SIOCBRADDBR..=ioctl_bridge::SIOCBRDELIF => {
            return ioctl_bridge::change(cx, stack, cmd, arg);
        }
        ioctl_bridge::SIOCGIFBR | ioctl_bridge::SIOCSIFBR => {
            return ioctl_bridge::old(cx, stack, arg);
        }
        0x8901..=0x89ff => {}
        _ => return Err(ENOTTY),
    }
    let task = cx.task.clone();
    let mut r = user::read_bytes(&task, arg, IFREQ)?;
    let int = |r: &[u8]| i32::from_le_bytes([r[16], r[17], r[18], r[19]]);
    if cmd == SIOCGIFNAME {
        let i = stack.interface(int(&r) as u32).ok_or(ENODEV)?;
        r[..IFNAMSIZ].fill(0);
        let n = i.name();
        r[..n.len()].copy_from_slice(n.as_bytes());
        user::write_bytes(&task, arg, &r)?;
        return Ok(0);
    }
    if cmd == ioctl_bridge::SIOCDEVPRIVATE
        && let Some(own) = stack.interface_named(name_of(&r))
        && let Some(b) = Bridge::shared(&own)
    {
        let at = u64::from_le_bytes([r[16], r[17], r[18], r[19], r[20], r[21], r[22], r[23]]);
        return ioctl_bridge::old_of_one(cx, stack, &b, at);
    }
    if !is_known(cmd) {
        return Err(if (0x89f0..=0x89ff).contains(&cmd) { EOPNOTSUPP } else { ENOTTY });
    }
    let i = stack.interface_named(name_of(&r)).ok_or(ENODEV)?;
    if matches!(
        cmd,
        SIOCSIFFLAGS
            | SIOCSIFADDR
            | SIOCSIFNETMASK
            | SIOCSIFBRDADDR
            | SIOCSIFMTU
            | SIOCSIFNAME
            | SIOCSIFHWADDR
            | SIOCSIFTXQLEN
    ) {
        crate::require_net(&task, Cap::NetAdmin)?;
        change(stack, &i, cmd, &r)?;
        return Ok(0);
    }
    let put_int = |r: &mut Vec<u8>, v: i32| r[16..20].copy_from_slice(&v.to_le_bytes());
    match cmd {
        SIOCGIFFLAGS => r[16..18].copy_from_slice(&(i.shown_flags() as u16).to_le_bytes()),
        SIOCGIFMETRIC => put_int(&mut r, 0),
        SIOCGIFMTU => put_int(&mut r, i.mtu() as i32),
        SIOCGIFINDEX => put_int(&mut r, i.index as i32),
        SIOCGIFTXQLEN => {
            put_int(&mut r, i.tx_queue_len.load(std::sync::atomic::Ordering::Relaxed) as i32);
        }
        SIOCGIFHWADDR => {
            r[16..32].fill(0);
            r[16..18].copy_from_slice(&hardware_type(i.link).to_le_bytes());
            r[18..24].copy_from_slice(&i.mac().0);
        }
        SIOCGIFMAP => r[16..40].fill(0),
        SIOCGIFADDR | SIOCGIFNETMASK | SIOCGIFBRDADDR | SIOCGIFDSTADDR => {
            let a = first_v4(&i).ok_or(EADDRNOTAVAIL)?;
            let IpAddr::V4(own) = a.addr else { return Err(EADDRNOTAVAIL) };
            let v = match cmd {
                SIOCGIFADDR => own,
                SIOCGIFNETMASK => mask_of(a.prefix),
                SIOCGIFBRDADDR => a.broadcast.unwrap_or(Ipv4Addr::UNSPECIFIED),
                _ => match a.peer {
                    Some(IpAddr::V4(p)) => p,
                    _ => own,
                },
            };
            put_v4(&mut r[16..], v);
        }
        SIOCETHTOOL => return ethtool(cx, &i, &r),
        _ => return Err(EINVAL),
    }
    user::write_bytes(&task, arg, &r)?;
    Ok(0)
}

fn is_known(cmd: u32) -> bool {
    [
        SIOCGIFFLAGS,
        SIOCSIFFLAGS,
        SIOCGIFADDR,
        SIOCSIFADDR,
        SIOCGIFDSTADDR,
        SIOCGIFBRDADDR,
        SIOCSIFBRDADDR,
        SIOCGIFNETMASK,
        SIOCSIFNETMASK,
        SIOCGIFMETRIC,
        SIOCGIFMTU,
        SIOCSIFMTU,
        SIOCSIFNAME,
        SIOCSIFHWADDR,
        SIOCGIFHWADDR,
        SIOCGIFINDEX,
        SIOCGIFTXQLEN,
        SIOCSIFTXQLEN,
        SIOCETHTOOL,
        SIOCGIFMAP,
    ]
    .contains(&cmd)
}

fn change(stack: &Arc<Stack>, i: &Arc<Interface>, cmd: u32, r: &[u8]) -> Result<()> {
    let int = i32::from_le_bytes([r[16], r[17], r[18], r[19]]);
    match cmd {
        SIOCSIFFLAGS => {
            let f = u32::from(u16::from_le_bytes([r[16], r[17]]));
            stack.set_flags(i, f, iff::SETTABLE & 0xffff)
        }
        SIOCSIFMTU => stack.set_mtu(i, usize::try_from(int).map_err(|_| EINVAL)?),
        SIOCSIFTXQLEN => {
            let n = usize::try_from(int).map_err(|_| EINVAL)?;
            i.tx_queue_len.store(n, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        }
        SIOCSIFNAME => {
            let end = r[16..32].iter().position(|c| *c == 0).ok_or(EINVAL)?;
            let new = std::str::from_utf8(&r[16..16 + end]).map_err(|_| EINVAL)?;
            stack.rename(i, new)
        }
        SIOCSIFHWADDR => {
            if u16::from_le_bytes([r[16], r[17]]) != hardware_type(i.link) {
                return Err(EINVAL);
            }
            let mut m = [0; 6];
            m.copy_from_slice(&r[18..24]);
            stack.set_mac(i, Mac(m))
        }
        _ => address(stack, i, cmd, v4_of(&r[16..])),
    }
}

fn address(stack: &Arc<Stack>, i: &Arc<Interface>, cmd: u32, v: Ipv4Addr) -> Result<()> {
    let old = first_v4(i);
    if cmd == SIOCSIFADDR {
        if let Some(o) = &old {
            stack.remove_address(i, o.addr, o.prefix)?;
        }
        if v.is_unspecified() {
            return Ok(());
        }
        // The classes of RFC 791, as this call has always had them.
        let prefix = match v.octets()[0] {
            127 => 8,
            0..=127 => 8,
            128..=191 => 16,
            _ => 24,
        };
        let mut a = Address::new(v.into(), prefix);
        a.label = Some(i.name());
        if i.flags() & iff::BROADCAST != 0 {
            a.broadcast = Some(Ipv4Addr::from(u32::from(v) | !u32::from(mask_of(prefix))));
        }
        stack.add_address(i, a, true)?;
        return stack.set_flags(i, iff::UP, iff::UP);
    }
    let mut a = old.ok_or(EADDRNOTAVAIL)?;
    stack.remove_address(i, a.addr, a.prefix)?;
    if cmd == SIOCSIFNETMASK {
        let bits = u32::from(v);
        if bits.leading_ones() + bits.trailing_zeros() < 32 {
            return Err(EINVAL);
        }
        a.prefix = bits.leading_ones() as u8;
        if let (IpAddr::V4(own), Some(_)) = (a.addr, a.broadcast) {
            a.broadcast = Some(Ipv4Addr::from(u32::from(own) | !bits));
        }
    } else {
        a.broadcast = Some(v);
    }
    stack.add_address(i, a, true)
}

/// SIOCGIFCONF: interfaces with an IPv4 address.
fn list(cx: &Ctx<'_>, stack: &Arc<Stack>, arg: u64) -> Result<u64> {
    let head: [u64; 2] = user::read_obj(&cx.task, arg)?;
    let room = head[0] as u32 as i32;
    let buf = head[1];
    let mut out = Vec::new();
    for i in stack.interfaces() {
        for a in i.addresses() {
            let IpAddr::V4(v) = a.addr else { continue };
            let mut r = vec![0; IFREQ];
            let n = a.label.unwrap_or_else(|| i.name());
            let n = &n.as_bytes()[..n.len().min(IFNAMSIZ - 1)];
            r[..n.len()].copy_from_slice(n);
            put_v4(&mut r[16..], v);
            out.extend_from_slice(&r);
        }
    }
    let len = if buf == 0 {
        out.len()
    } else {
        let n = out.len().min(usize::try_from(room).map_err(|_| EINVAL)? / IFREQ * IFREQ);
        user::write_bytes(&cx.task, buf, &out[..n])?;
        n
    };
    user::write_obj(&cx.task, arg, &(len as i32))?;
    Ok(0)
}

/// `struct rtentry`.
fn route(cx: &Ctx<'_>, stack: &Arc<Stack>, add: bool, arg: u64) -> Result<u64> {
    crate::require_net(&cx.task, Cap::NetAdmin)?;
    let r = user::read_bytes(&cx.task, arg, 120)?;
    let (dst, gateway, mask) = (v4_of(&r[8..]), v4_of(&r[24..]), v4_of(&r[40..]));
    let flags = u16::from_le_bytes([r[56], r[57]]);
    let metric = i16::from_le_bytes([r[76], r[77]]);
    let mut at = [0; 8];
    at.copy_from_slice(&r[80..88]);
    let dev = u64::from_le_bytes(at);
    let bits = u32::from(mask);
    if bits.leading_ones() + bits.trailing_zeros() < 32 && bits != 0 {
        return Err(EINVAL);
    }
    // RTF_HOST
    let len = if flags & 4 != 0 { 32 } else { bits.leading_ones() as u8 };
    let prefix = Prefix::new(dst.into(), len);
    if prefix.addr != IpAddr::V4(dst) {
        return Err(EINVAL);
    }
    let via = (flags & 2 != 0).then_some(IpAddr::V4(gateway));
    let oif = if dev != 0 {
        let n = user::read_cstr_cut(&cx.task, dev, IFNAMSIZ)?;
        let n = std::str::from_utf8(&n).map_err(|_| ENODEV)?;
        stack.interface_named(n).ok_or(ENODEV)?.index
    } else {
        let via = via.ok_or(ENODEV)?;
        stack.route_to(&uml_net::route::Flow::to(via)).map_err(|_| ENETUNREACH)?.iface.index
    };
    if add {
        let metric = u32::try_from(metric.max(1) - 1).unwrap_or(0);
        let scope = if via.is_some() { scope::UNIVERSE } else { scope::LINK };
        let route = Route { gateway: via, metric, scope, ..Route::new(prefix, oif) };
        stack.routes.add(route, Mode { create: true, exclusive: true, ..Mode::default() })?;
    } else {
        stack.routes.remove(TABLE_MAIN, prefix, |o| {
            (dev == 0 || o.oif == oif) && (via.is_none() || o.gateway == via)
        })?;
    }
    Ok(0)
}

/// `struct arpreq`.
fn arp(cx: &Ctx<'_>, stack: &Arc<Stack>, cmd: u32, arg: u64) -> Result<u64> {
    let mut r = user::read_bytes(&cx.task, arg, 68)?;
    if cmd != SIOCGARP {
        crate::require_net(&cx.task, Cap::NetAdmin)?;
    }
    let addr = IpAddr::V4(v4_of(&r));
    let end = r[52..68].iter().position(|c| *c == 0).unwrap_or(16);
    let dev = std::str::from_utf8(&r[52..52 + end]).map_err(|_| ENODEV)?.to_owned();
    let i = if dev.is_empty() {
        stack.route_to(&uml_net::route::Flow::to(addr)).map_err(|_| ENETUNREACH)?.iface
    } else {
        stack.interface_named(&dev).ok_or(ENODEV)?
    };
    match cmd {
        SIOCSARP => {
            let mut m = [0; 6];
            m.copy_from_slice(&r[18..24]);
            stack.enter(|cx| stack.neighbours.set(cx, &i, addr, Mac(m), State::Permanent));
        }
        SIOCDARP => {
            if !stack.neighbours.flush(stack, |k| *k == (i.index, addr)) {
                return Err(ENXIO);
            }
        }
        _ => {
            let all = stack.neighbours.list();
            let n = all.iter().find(|n| n.iface == i.index && n.addr == addr).ok_or(ENXIO)?;
            r[16..18].copy_from_slice(&1u16.to_le_bytes());
            r[18..24].copy_from_slice(&n.mac.0);
            let flags = if n.state == State::Permanent { 6i32 } else { 2 };
            r[32..36].copy_from_slice(&flags.to_le_bytes());
            user::write_bytes(&cx.task, arg, &r)?;
        }
    }
    Ok(0)
}

/// Commands of linux/ethtool.h that anybody may give: they read settings. All others are for CAP_NET_ADMIN.
const READS: [u32; 34] = [
    0x1, 0x3, 0x7, 0xa, 0xe, 0x10, 0x12, 0x14, 0x16, 0x18, 0x1b, 0x1d, 0x1e, 0x20, 0x21, 0x23,
    0x25, 0x27, 0x29, 0x2b, 0x2d, 0x2e, 0x2f, 0x30, 0x37, 0x38, 0x3a, 0x3c, 0x41, 0x44, 0x46, 0x48,
    0x4c, 0x50,
];

/// The ethtool commands that programs ask of every interface.
fn ethtool(cx: &Ctx<'_>, i: &Interface, r: &[u8]) -> Result<u64> {
    const GDRVINFO: u32 = 0x3;
    const GLINK: u32 = 0xa;
    const GET_TS_INFO: u32 = 0x41;
    use uml_net::stamp::flag::{RX_SOFTWARE, SOFTWARE, TX_SOFTWARE};
    let mut at = [0; 8];
    at.copy_from_slice(&r[16..24]);
    let at = u64::from_le_bytes(at);
    let cmd: u32 = user::read_obj(&cx.task, at)?;
    match cmd {
        GLINK => {
            user::write_obj(&cx.task, at + 4, &u32::from(i.is_up()))?;
            Ok(0)
        }
        // `struct ethtool_ts_info`: what every interface can do, no clock of its own, no types of packets to choose.
        GET_TS_INFO => {
            let mut b = vec![0; 44];
            b[..4].copy_from_slice(&cmd.to_le_bytes());
            b[4..8].copy_from_slice(&(TX_SOFTWARE | RX_SOFTWARE | SOFTWARE).to_le_bytes());
            b[8..12].copy_from_slice(&(-1i32).to_le_bytes());
            user::write_bytes(&cx.task, at, &b)?;
            Ok(0)
        }
        GDRVINFO => {
            let (driver, bus) = i.device.driver();
            if driver.is_empty() {
                return Err(EOPNOTSUPP);
            }
            let mut b = vec![0; 196];
            b[..4].copy_from_slice(&cmd.to_le_bytes());
            b[4..4 + driver.len().min(31)]
                .copy_from_slice(&driver.as_bytes()[..driver.len().min(31)]);
            b[100..100 + bus.len().min(31)].copy_from_slice(&bus.as_bytes()[..bus.len().min(31)]);
            user::write_bytes(&cx.task, at, &b)?;
            Ok(0)
        }
        _ if READS.contains(&cmd) => Err(EOPNOTSUPP),
        _ => {
            crate::require_net(&cx.task, Cap::NetAdmin)?;
            Err(EOPNOTSUPP)
        }
    }
}
