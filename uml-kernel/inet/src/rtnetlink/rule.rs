//! RTM_*RULE: policy routing (ip-rule(8)).

use uml_abi::Result;
use uml_abi::errno::*;
use uml_net::route::{Action, Prefix, Rule};
use uml_net::stack::Change;

use super::Request;
use crate::nlmsg::{Attrs, Message, Reply, kind};

const FIXED: usize = 12;
const DST: u16 = 1;
const SRC: u16 = 2;
const IIFNAME: u16 = 3;
const PRIORITY: u16 = 6;
const FWMARK: u16 = 10;
const SUPPRESS_PREFIXLEN: u16 = 14;
const TABLE: u16 = 15;
const FWMASK: u16 = 16;
const OIFNAME: u16 = 17;
const PROTOCOL: u16 = 21;
const INVERT: u32 = 2;

fn fixed(r: &Rule) -> [u8; FIXED] {
    let (action, table) = match r.action {
        Action::Table(t) => (1, u8::try_from(t).unwrap_or(252)),
        Action::Blackhole => (6, 0),
        Action::Unreachable => (7, 0),
        Action::Prohibit => (8, 0),
    };
    let mut b = [0; FIXED];
    b[0] = if r.v6 { libc::AF_INET6 as u8 } else { libc::AF_INET as u8 };
    b[1] = r.to.map_or(0, |p| p.len);
    b[2] = r.from.map_or(0, |p| p.len);
    b[3] = r.tos;
    b[4] = table;
    b[7] = action;
    let flags = if r.invert { INVERT } else { 0 };
    b[8..].copy_from_slice(&flags.to_le_bytes());
    b
}

fn describe(m: &mut Message, r: &Rule) {
    if let Action::Table(t) = r.action {
        m.word(TABLE, t);
        m.word(SUPPRESS_PREFIXLEN, u32::MAX);
    }
    m.byte(PROTOCOL, if matches!(r.priority, 0 | 32_766 | 32_767) { 2 } else { 3 });
    if !r.iif_name.is_empty() {
        m.text(IIFNAME, &r.iif_name);
    }
    if !r.oif_name.is_empty() {
        m.text(OIFNAME, &r.oif_name);
    }
    if r.priority != 0 {
        m.word(PRIORITY, r.priority);
    }
    if r.mark != 0 || r.mask != 0 {
        m.word(FWMARK, r.mark);
        m.word(FWMASK, r.mask);
    }
    if let Some(p) = r.to {
        m.ip(DST, p.addr);
    }
    if let Some(p) = r.from {
        m.ip(SRC, p.addr);
    }
}

/// The notification of a change.
pub fn notice(k: u16, r: &Rule) -> Vec<u8> {
    let mut m = Message::new(k, 0, 0, 0, &fixed(r));
    describe(&mut m, r);
    m.finish()
}

pub fn get(r: &Request<'_>, out: &mut Reply) -> Result<()> {
    if !r.dump() {
        return Err(EOPNOTSUPP);
    }
    let family = r.family();
    for o in r.stack.routes.rules() {
        let f = if o.v6 { libc::AF_INET6 } else { libc::AF_INET };
        if family == 0 || family == f {
            let mut m = out.message(kind::NEWRULE, true, &fixed(&o));
            describe(&mut m, &o);
            out.push(m);
        }
    }
    Ok(())
}

/// The rule a request describes, and whether it names a priority.
fn parse(r: &Request<'_>) -> Result<(Rule, bool, bool)> {
    if r.body.len() < FIXED {
        return Err(EINVAL);
    }
    let a = Attrs::parse(r.body, FIXED)?;
    let b = r.body;
    let family = r.family();
    let v6 = match family {
        libc::AF_INET => false,
        libc::AF_INET6 => true,
        _ => return Err(EAFNOSUPPORT),
    };
    let table = a.word(TABLE)?.unwrap_or(u32::from(b[4]));
    let mut n = Rule::table(v6, a.word(PRIORITY)?.unwrap_or(0), table);
    n.action = match b[7] {
        0 | 1 => Action::Table(table),
        6 => Action::Blackhole,
        7 => Action::Unreachable,
        8 => Action::Prohibit,
        _ => return Err(EINVAL),
    };
    n.tos = b[3];
    n.invert = u32::from_le_bytes([b[8], b[9], b[10], b[11]]) & INVERT != 0;
    n.to = a.ip(DST, family)?.map(|d| Prefix::new(d, b[1]));
    n.from = a.ip(SRC, family)?.map(|d| Prefix::new(d, b[2]));
    if let Some(m) = a.word(FWMARK)? {
        (n.mark, n.mask) = (m, a.word(FWMASK)?.unwrap_or(u32::MAX));
    }
    let index = |name: &str| r.stack.interface_named(name).map_or(0, |i| i.index);
    if let Some(t) = a.text(IIFNAME)? {
        (n.iif, n.iif_name) = (index(t), t.to_owned());
    }
    if let Some(t) = a.text(OIFNAME)? {
        (n.oif, n.oif_name) = (index(t), t.to_owned());
    }
    let names_table = table != 0;
    Ok((n, a.get(PRIORITY).is_some(), names_table))
}

pub fn add(r: &Request<'_>) -> Result<()> {
    let (n, explicit, named) = parse(r)?;
    if matches!(n.action, Action::Table(_)) && !named {
        return Err(EINVAL);
    }
    r.stack.routes.add_rule(n.clone(), explicit)?;
    r.stack.announce(&Change::Rule(n));
    Ok(())
}

pub fn delete(r: &Request<'_>) -> Result<()> {
    let (n, explicit, named) = parse(r)?;
    let gone = r.stack.routes.remove_rule(|o| {
        o.v6 == n.v6
            && (!explicit || o.priority == n.priority)
            && (!named || o.action == n.action)
            && (n.from.is_none() || o.from == n.from)
            && (n.to.is_none() || o.to == n.to)
            && (n.mask == 0 || (o.mark, o.mask) == (n.mark, n.mask))
            && (n.iif_name.is_empty() || o.iif_name == n.iif_name)
            && (n.oif_name.is_empty() || o.oif_name == n.oif_name)
    })?;
    r.stack.announce(&Change::RuleGone(gone));
    Ok(())
}
