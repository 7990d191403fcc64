//! ioctl(2) about bridges, as brctl(8) calls it (<linux/sockios.h>).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::task::Cap;
use uml_core::user;
use uml_net::bridge::Bridge;
use uml_net::bridge::stp::TICK;
use uml_net::stack::Stack;

use crate::rtnetlink::create::random;

pub(crate) const SIOCBRADDBR: u32 = 0x89a0;
const SIOCBRDELBR: u32 = 0x89a1;
const SIOCBRADDIF: u32 = 0x89a2;
pub(crate) const SIOCBRDELIF: u32 = 0x89a3;
/// The calls that brctl(8) falls back to: their command is in memory.
pub(crate) const SIOCGIFBR: u32 = 0x8940;
pub(crate) const SIOCSIFBR: u32 = 0x8941;
pub(crate) const SIOCDEVPRIVATE: u32 = 0x89f0;
const IFNAMSIZ: usize = 16;

/// BRCTL_*.
mod old {
    pub const VERSION: u64 = 0;
    pub const ADD: u64 = 2;
    pub const DELETE: u64 = 3;
    pub const ADD_PORT: u64 = 4;
    pub const DELETE_PORT: u64 = 5;
    pub const FORWARD_DELAY: u64 = 8;
    pub const HELLO: u64 = 9;
    pub const MAX_AGE: u64 = 10;
    pub const AGEING: u64 = 11;
    pub const STP: u64 = 14;
    pub const PRIORITY: u64 = 15;
    pub const PORT_PRIORITY: u64 = 16;
    pub const PORT_COST: u64 = 17;
}
/// The part of `struct ifreq` that counts: a name and a number.
const IFREQ: usize = 20;

fn name(b: &[u8]) -> Result<&str> {
    let end = b.iter().position(|c| *c == 0).unwrap_or(IFNAMSIZ - 1).min(IFNAMSIZ - 1);
    std::str::from_utf8(&b[..end]).map_err(|_| EINVAL)
}

/// Makes or ends a bridge, or a port of one. `EPERM` without CAP_NET_ADMIN and for what is no bridge, `ENXIO` for one that there is not,
/// `EBUSY` for one that is up; `EOPNOTSUPP` for ports of what is no bridge, `EINVAL` for interfaces that there are not or that are no
/// ports of it.
pub(crate) fn change(cx: &mut Ctx<'_>, stack: &Arc<Stack>, cmd: u32, arg: u64) -> Result<u64> {
    let task = cx.task.clone();
    crate::require_net(&task, Cap::NetAdmin)?;
    let len = if matches!(cmd, SIOCBRADDBR | SIOCBRDELBR) { IFNAMSIZ } else { IFREQ };
    let b = user::read_bytes(&task, arg, len)?;
    let name = name(&b[..IFNAMSIZ])?;
    match cmd {
        SIOCBRADDBR => create(stack, name)?,
        SIOCBRDELBR => delete(stack, name)?,
        _ => {
            let own = stack.interface_named(name).ok_or(ENODEV)?;
            let bridge = Bridge::shared(&own).ok_or(EOPNOTSUPP)?;
            let index = u32::from_le_bytes([b[16], b[17], b[18], b[19]]);
            change_port(stack, &bridge, index, cmd == SIOCBRADDIF)?;
        }
    }
    Ok(0)
}

fn create(stack: &Arc<Stack>, name: &str) -> Result<()> {
    Bridge::create(stack, name, None, random(stack)).map(drop)
}

fn delete(stack: &Stack, name: &str) -> Result<()> {
    let own = stack.interface_named(name).ok_or(ENXIO)?;
    Bridge::of(&own).ok_or(EPERM)?;
    if own.is_up() {
        return Err(EBUSY);
    }
    stack.remove_interface(&own);
    Ok(())
}

fn change_port(stack: &Stack, bridge: &Arc<Bridge>, index: u32, add: bool) -> Result<()> {
    let port = stack.interface(index).ok_or(EINVAL)?;
    if add {
        return bridge.add_port(&port);
    }
    bridge.port(&port).ok_or(EINVAL)?;
    bridge.remove_port(&port);
    Ok(())
}

fn words(cx: &Ctx<'_>, at: u64, n: usize) -> Result<Vec<u64>> {
    let b = user::read_bytes(&cx.task, at, n * 8)?;
    Ok(b.chunks_exact(8).map(|c| c.iter().rev().fold(0, |v, x| v << 8 | u64::from(*x))).collect())
}

/// SIOCGIFBR, SIOCSIFBR: `EOPNOTSUPP` for what lists bridges, which sysfs does.
pub(crate) fn old(cx: &mut Ctx<'_>, stack: &Arc<Stack>, arg: u64) -> Result<u64> {
    /// BRCTL_VERSION.
    const VERSION: u64 = 1;
    let w = words(cx, arg, 3)?;
    if w[0] == old::VERSION {
        return Ok(VERSION);
    }
    if !matches!(w[0], old::ADD | old::DELETE) {
        return Err(EOPNOTSUPP);
    }
    crate::require_net(&cx.task, Cap::NetAdmin)?;
    let b = user::read_bytes(&cx.task, w[1], IFNAMSIZ)?;
    let name = name(&b)?;
    if w[0] == old::ADD {
        create(stack, name)?
    } else {
        delete(stack, name)?
    }
    Ok(0)
}

/// SIOCDEVPRIVATE of a bridge: `EOPNOTSUPP` for what only asks, which sysfs answers.
pub(crate) fn old_of_one(
    cx: &mut Ctx<'_>,
    stack: &Arc<Stack>,
    b: &Arc<Bridge>,
    arg: u64,
) -> Result<u64> {
    let w = words(cx, arg, 4)?;
    if !matches!(w[0], old::ADD_PORT..=old::DELETE_PORT | old::FORWARD_DELAY..=old::PORT_COST) {
        return Err(EOPNOTSUPP);
    }
    crate::require_net(&cx.task, Cap::NetAdmin)?;
    let ns = w[1].saturating_mul(TICK);
    let port = || {
        let p = b.ports().into_iter().find(|p| u64::from(p.stp.number) == w[1]).ok_or(EINVAL)?;
        Ok::<_, uml_abi::Errno>((p.iface, u32::try_from(w[2]).map_err(|_| ERANGE)?))
    };
    match w[0] {
        old::ADD_PORT | old::DELETE_PORT => {
            change_port(stack, b, w[1] as u32, w[0] == old::ADD_PORT)?;
        }
        old::FORWARD_DELAY => b.set_times(|t| t.forward_delay = ns)?,
        old::HELLO => b.set_times(|t| t.hello = ns)?,
        old::MAX_AGE => b.set_times(|t| t.max_age = ns)?,
        old::AGEING => b.set_ageing(ns),
        old::STP => b.set_stp(w[1] != 0),
        old::PRIORITY => b.set_priority(w[1] as u16),
        old::PORT_PRIORITY => {
            let (i, n) = port()?;
            b.set_port_priority(&i, n)?;
        }
        old::PORT_COST => {
            let (i, n) = port()?;
            b.set_port_cost(&i, n)?;
        }
        _ => return Err(EOPNOTSUPP),
    }
    Ok(0)
}
