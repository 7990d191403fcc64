//! Forwarding: packets for other hosts (RFC 1812 5.2, RFC 8200).

use uml_abi::Errno;
use uml_abi::errno::*;

use crate::hook::Hook;
use crate::icmp;
use crate::ip::Dst;
use crate::packet::{GsoKind, Packet};
use crate::route::Flow;
use crate::snmp::IpCounters;
use crate::stack::{Cx, Stack};
use crate::wire::icmp as wire_icmp;
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::udp;

impl Stack {
    pub(crate) fn forward_v4(&self, cx: &mut Cx, h: Ipv4, mut p: Packet, problem: Option<Errno>) {
        if let Some(e) = problem {
            let code = match e {
                EACCES => 13,
                EHOSTUNREACH => wire_icmp::v4::HOST,
                EINVAL => return,
                _ => wire_icmp::v4::NET,
            };
            icmp::error(cx, &p, wire_icmp::v4::UNREACHABLE, code, 0);
            return;
        }
        if h.ttl <= 1 {
            icmp::error(cx, &p, wire_icmp::v4::TIME_EXCEEDED, 0, 0);
            return;
        }
        let f = Flow::arrived(&p, h.src.into(), h.dst.into(), h.tos);
        let Ok(dst) = self.route_to(&f) else { return };
        let fits = |n: usize| n <= dst.mtu;
        let size = segment_len(&mut p, h.header_len);
        let passes = fits(p.net_len()) || (p.gso.is_some() && fits(size));
        if !passes && h.df {
            icmp::error(
                cx,
                &p,
                wire_icmp::v4::UNREACHABLE,
                wire_icmp::v4::FRAG_NEEDED,
                dst.mtu as u32,
            );
            return;
        }
        self.snmp.ip.forw_datagrams.inc();
        p.strip_link();
        let b = p.net_bytes_mut();
        b[8] -= 1;
        // The checksum changes by one in its high byte (RFC 1624).
        let sum = u32::from(u16::from_be_bytes([b[10], b[11]])) + 0x100;
        let sum = (sum & 0xffff) + (sum >> 16);
        b[10..12].copy_from_slice(&(sum as u16).to_be_bytes());
        if h.header_len > ipv4::HEADER {
            let here = self.source_for(&dst.iface, h.dst.into(), dst.next);
            self.record_options(&mut p, h.header_len, here);
        }
        p.priority = 0;
        self.pass_on(cx, &dst, p);
    }

    /// Sends what came for another host, if filters let it.
    fn pass_on(&self, cx: &mut Cx, dst: &Dst, mut p: Packet) {
        if self.hooks.active(Hook::Forward) {
            let input = self.interface(p.iface);
            if !self.passes(cx, Hook::Forward, &mut p, input.as_ref(), Some(&dst.iface)) {
                return;
            }
        }
        let _ = self.finish(cx, dst, p);
    }

    pub(crate) fn forward_v6(&self, cx: &mut Cx, h: Ipv6, mut p: Packet, problem: Option<Errno>) {
        let from = self.interface(p.iface);
        let count = |f: &dyn Fn(&IpCounters)| match &from {
            Some(i) => self.count_ip(true, i, f),
            None => f(&self.snmp.ip6),
        };
        if let Some(e) = problem {
            count(&|c| c.in_no_routes.inc());
            let code = match e {
                EACCES => wire_icmp::v6::PROHIBITED,
                EINVAL => return,
                _ => wire_icmp::v6::NO_ROUTE,
            };
            icmp::error(cx, &p, wire_icmp::v6::UNREACHABLE, code, 0);
            return;
        }
        if h.hop_limit <= 1 {
            count(&|c| c.in_hdr_errors.inc());
            icmp::error(cx, &p, wire_icmp::v6::TIME_EXCEEDED, 0, 0);
            return;
        }
        let f = Flow::arrived(&p, h.src.into(), h.dst.into(), h.class);
        let Ok(dst) = self.route_to(&f) else { return };
        let size = segment_len(&mut p, ipv6::HEADER);
        if size > dst.mtu {
            count(&|c| c.in_too_big_errors.inc());
            icmp::error(cx, &p, wire_icmp::v6::TOO_BIG, 0, dst.mtu as u32);
            return;
        }
        self.count_ip(true, &dst.iface, |c| c.forw_datagrams.inc());
        p.strip_link();
        p.net_bytes_mut()[7] -= 1;
        p.priority = 0;
        self.pass_on(cx, &dst, p);
    }
}

/// Bytes of the largest packet that a super-segment becomes; of any other its own.
fn segment_len(p: &mut Packet, header: usize) -> usize {
    let Some(g) = p.gso else { return p.net_len() };
    let transport = match g.kind {
        GsoKind::Udp => udp::HEADER,
        // With its options, which can be guessed too long for a link that they fit.
        _ if p.pull(header + 13) => usize::from(p.net()[header + 12] >> 4) * 4,
        _ => 60,
    };
    header + transport + usize::from(g.size)
}
