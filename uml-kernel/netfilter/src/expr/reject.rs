//! Refusing packets with an answer (nft(8), "REJECT STATEMENT").

use std::net::IpAddr;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_net::hook::Hook;
use uml_net::icmp;
use uml_net::ip::{self, Meta};
use uml_net::packet::{Data, Packet};
use uml_net::route::Flow;
use uml_net::wire::tcp::flags;
use uml_net::wire::{ipv4, ipv6, proto};

use super::{Names, Operation, Step};
use crate::attr::{Attrs, Out, Outcome};
use crate::machine::Machine;
use crate::model::{Base, ChainKind, Table, family};

/// NFT_REJECT_*.
const UNREACH: u32 = 0;
const RESET: u32 = 1;
const ANY_UNREACH: u32 = 2;

/// Drops a packet and says so.
pub struct Reject {
    kind: u32,
    code: u8,
}

impl Reject {
    pub fn parse(a: &Attrs<'_>, names: &Names<'_>) -> Outcome<Reject> {
        let kind = a.need(1)?.be32()?;
        let code = a.get(2).map(|c| c.byte()).transpose()?;
        match (kind, code) {
            (UNREACH, Some(code)) => Ok(Reject { kind, code }),
            (ANY_UNREACH, Some(code @ 0..=3))
                if matches!(names.family, family::INET | family::NETDEV) =>
            {
                Ok(Reject { kind, code })
            }
            (RESET, _) => Ok(Reject { kind, code: 0 }),
            _ => Err(EINVAL.into()),
        }
    }
}

/// Answers with an ICMP error.
pub fn unreachable(m: &mut Machine<'_>, code: u8) {
    let p = bare(m.p);
    // UNREACHABLE of either protocol.
    let kind = if m.parsed.v6 { 1 } else { 3 };
    icmp::error(m.cx, &p, kind, code, 0);
}

/// The packet without its connection, so that the answer is no part of it, with complete headers.
fn bare(p: &Packet) -> Packet {
    let mut q = p.clone();
    q.track = Default::default();
    q.complete_checksum();
    q
}

/// Answers a TCP segment with a reset (RFC 9293 3.10.7.1).
pub fn reset(m: &mut Machine<'_>) {
    let h = m.parsed;
    if h.proto != proto::TCP || h.piece || !m.p.pull(h.transport + 20) {
        return;
    }
    let b = m.p.net();
    let (src, dst): (IpAddr, IpAddr) = if h.v6 {
        let Ok(i) = ipv6::Ipv6::parse_quoted(b) else { return };
        (i.src.into(), i.dst.into())
    } else {
        let Ok(i) = ipv4::Ipv4::parse_quoted(b) else { return };
        (i.src.into(), i.dst.into())
    };
    let t = &b[h.transport..];
    let word = |i: usize| u32::from_be_bytes([t[i], t[i + 1], t[i + 2], t[i + 3]]);
    let (seq, ack, f) = (word(4), word(8), t[13]);
    if f & flags::RST != 0 || dst.is_multicast() {
        return;
    }
    let head = usize::from(t[12] >> 4) * 4;
    let ports = [t[2], t[3], t[0], t[1]];
    let len = m.p.net_len().saturating_sub(h.transport + head) as u32;
    let covered = len + u32::from(f & flags::SYN != 0) + u32::from(f & flags::FIN != 0);
    let (seq, ack, f) = if f & flags::ACK != 0 {
        (ack, 0, flags::RST)
    } else {
        (0, seq.wrapping_add(covered), flags::RST | flags::ACK)
    };
    let stack = m.cx.stack().clone();
    let mut flow = Flow::to(src);
    flow.src = Some(dst);
    // What another host would have answered passes through as its answer.
    let way = match stack.route_to(&flow) {
        Ok(w) => w,
        Err(_) => return,
    };
    let mut r = Packet::new(Data::new());
    let out = r.head_mut();
    out.extend_from_slice(&ports);
    out.extend_from_slice(&seq.to_be_bytes());
    out.extend_from_slice(&ack.to_be_bytes());
    out.extend_from_slice(&[5 << 4, f, 0, 0, 0, 0, 0, 0]);
    ip::partial_checksum(&mut r, dst, src, proto::TCP, 16);
    let _ = stack.send_ip(m.cx, &way, &Meta::new(dst, src, proto::TCP), r);
}

impl Operation for Reject {
    fn name(&self) -> &'static str {
        "reject"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        o.be32(1, self.kind);
        if self.kind != RESET {
            o.put(2, &[self.code]);
        }
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        if !m.parsed.ip {
            // Nobody to be told.
            return Step::Drop;
        }
        match self.kind {
            RESET => reset(m),
            ANY_UNREACH => {
                // No route, port, host, administratively prohibited.
                let code = match (m.parsed.v6, self.code) {
                    (false, n) => [0, 3, 1, 13][usize::from(n & 3)],
                    (true, n) => [0, 4, 3, 1][usize::from(n & 3)],
                };
                unreachable(m, code);
            }
            _ => unreachable(m, self.code),
        }
        Step::Stolen
    }

    fn allowed(&self, base: &Base, fam: u8) -> Result<()> {
        if fam == family::NETDEV {
            // Where frames come in.
            return if base.hook == 0 { Ok(()) } else { Err(EOPNOTSUPP) };
        }
        let hooks = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output];
        if base.kind == ChainKind::Nat || !hooks.iter().any(|h| *h as u32 == base.hook) {
            return Err(EOPNOTSUPP);
        }
        Ok(())
    }
}
