//! The SIOC* calls of AF_INET6 sockets that have structures of their own (ipv6(7), `struct in6_ifreq` and `struct in6_rtmsg` of
//! <linux/ipv6.h> and <linux/ipv6_route.h>): what ifconfig(8) and route(8) use.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::task::Cap;
use uml_core::user;
use uml_net::addrconf::with_dad;
use uml_net::interface::Address;
use uml_net::route::{Flow, Mode, Prefix, Route, TABLE_MAIN};
use uml_net::stack::{Change, Stack};

/// RTF_GATEWAY.
const GATEWAY: u32 = 2;
/// Metric of routes that name none (IP6_RT_PRIO_USER).
const METRIC: u32 = 1024;

fn word(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn ip(b: &[u8], at: usize) -> Ipv6Addr {
    let mut o = [0; 16];
    o.copy_from_slice(&b[at..at + 16]);
    o.into()
}

/// SIOCSIFADDR and SIOCDIFADDR: `EPERM`, `EINVAL` for a prefix that there is not, `ENODEV`, `EEXIST`, `EADDRNOTAVAIL`.
pub fn address(cx: &Ctx<'_>, stack: &Arc<Stack>, add: bool, arg: u64) -> Result<u64> {
    crate::require_net(&cx.task, Cap::NetAdmin)?;
    let r = user::read_bytes(&cx.task, arg, 24)?;
    let (a, prefix) = (IpAddr::V6(ip(&r, 0)), word(&r, 16));
    let prefix = u8::try_from(prefix).ok().filter(|p| *p <= 128).ok_or(EINVAL)?;
    let i = stack.interface(word(&r, 20)).ok_or(ENODEV)?;
    if add {
        let a = with_dad(&i, Address::new(a, prefix));
        stack.add_address(&i, a, false)?;
    } else {
        stack.remove_address(&i, a, prefix)?;
    }
    Ok(0)
}

/// SIOCADDRT and SIOCDELRT: `EPERM`, `EINVAL`, `ENODEV`, `EHOSTUNREACH` for a gateway without a way to it, `EEXIST`, `ESRCH`.
pub fn route(cx: &Ctx<'_>, stack: &Arc<Stack>, add: bool, arg: u64) -> Result<u64> {
    crate::require_net(&cx.task, Cap::NetAdmin)?;
    let r = user::read_bytes(&cx.task, arg, 80)?;
    let len = u16::from_le_bytes([r[52], r[53]]);
    // Routes by source are not there.
    if len > 128 || r[54..56] != [0, 0] {
        return Err(EINVAL);
    }
    let (dst, flags, index) = (ip(&r, 0), word(&r, 72), word(&r, 76));
    let prefix = Prefix::new(dst.into(), len as u8);
    let via = (flags & GATEWAY != 0).then(|| IpAddr::V6(ip(&r, 32)));
    if !add {
        let metric = word(&r, 56);
        let gone = stack.routes.remove(TABLE_MAIN, prefix, |o| {
            (index == 0 || o.oif == index)
                && (via.is_none() || o.gateway == via)
                && (metric == 0 || o.metric == metric)
        })?;
        stack.announce(&Change::RouteGone(gone));
        return Ok(0);
    }
    let oif = match (index, via) {
        (0, None) => return Err(ENODEV),
        (0, Some(via)) => stack.route_to(&Flow::to(via)).map_err(|_| EHOSTUNREACH)?.iface.index,
        (n, _) => stack.interface(n).ok_or(ENODEV)?.index,
    };
    let metric = match word(&r, 56) {
        0 => METRIC,
        m => m,
    };
    let route = Route { gateway: via, metric, ..Route::new(prefix, oif) };
    stack.routes.add(route.clone(), Mode { create: true, exclusive: true, ..Mode::default() })?;
    stack.announce(&Change::Route(route));
    Ok(0)
}
