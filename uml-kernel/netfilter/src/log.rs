//! Lines about packets in the kernel's log, as nf_log_syslog writes them.

use std::fmt::Write;

use uml_net::wire::{ipv4, ipv6, proto};

use crate::machine::Machine;

/// Logs a packet at a syslog level; 8 (audit) is not kept.
pub fn packet(m: &Machine<'_>, prefix: &str, level: u32) {
    if level > 7 {
        return;
    }
    let mut s = String::from(prefix);
    let name = |i: Option<&std::sync::Arc<uml_net::interface::Interface>>| {
        i.map(|i| i.name()).unwrap_or_default()
    };
    let _ = write!(s, "IN={} OUT={} ", name(m.iif), name(m.oif));
    if m.iif.is_some() {
        let mac: Vec<String> = m.p.link().iter().take(14).map(|b| format!("{b:02x}")).collect();
        let _ = write!(s, "MAC={} ", mac.join(":"));
    }
    let b = m.p.net();
    if m.parsed.v6 {
        if let Ok(h) = ipv6::Ipv6::parse_quoted(b) {
            let full = |a: std::net::Ipv6Addr| a.segments().map(|w| format!("{w:04x}")).join(":");
            let _ = write!(
                s,
                "SRC={} DST={} LEN={} TC={} HOPLIMIT={} FLOWLBL={} ",
                full(h.src),
                full(h.dst),
                ipv6::HEADER + h.payload_len,
                h.class,
                h.hop_limit,
                h.flow
            );
        }
    } else if let Ok(h) = ipv4::Ipv4::parse_quoted(b) {
        let _ = write!(
            s,
            "SRC={} DST={} LEN={} TOS=0x{:02X} PREC=0x{:02X} TTL={} ID={} ",
            h.src,
            h.dst,
            h.total_len,
            h.tos & 0x1e,
            h.tos & 0xe0,
            h.ttl,
            h.id
        );
        if h.df {
            s.push_str("DF ");
        }
        if h.mf {
            s.push_str("MF ");
        }
        if h.frag_off != 0 {
            let _ = write!(s, "FRAG:{} ", h.frag_off / 8);
        }
    }
    transport(m, &mut s);
    if m.p.mark != 0 {
        let _ = write!(s, "MARK=0x{:x} ", m.p.mark);
    }
    uml_base::klog::log_prio(level, &s);
}

fn transport(m: &Machine<'_>, s: &mut String) {
    let h = m.parsed;
    let t = m.p.net().get(h.transport..).unwrap_or(&[]);
    let half = |i: usize| t.get(i..i + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
    let _ = match h.proto {
        proto::TCP => write!(s, "PROTO=TCP "),
        proto::UDP => write!(s, "PROTO=UDP "),
        proto::ICMP => write!(s, "PROTO=ICMP "),
        proto::ICMPV6 => write!(s, "PROTO=ICMPv6 "),
        n => write!(s, "PROTO={n} "),
    };
    if h.piece || t.len() < 8 {
        return;
    }
    match h.proto {
        proto::TCP if t.len() >= 20 => {
            let _ = write!(
                s,
                "SPT={} DPT={} WINDOW={} RES=0x{:02x} ",
                half(0),
                half(2),
                half(14),
                (t[12] & 0xf) << 2 | t[13] >> 6
            );
            for (bit, name) in [
                (0x80, "CWR"),
                (0x40, "ECE"),
                (0x20, "URG"),
                (0x10, "ACK"),
                (8, "PSH"),
                (4, "RST"),
                (2, "SYN"),
                (1, "FIN"),
            ] {
                if t[13] & bit != 0 {
                    let _ = write!(s, "{name} ");
                }
            }
            let _ = write!(s, "URGP={} ", half(18));
        }
        proto::UDP => {
            let _ = write!(s, "SPT={} DPT={} LEN={} ", half(0), half(2), half(4));
        }
        proto::ICMP | proto::ICMPV6 => {
            let _ = write!(s, "TYPE={} CODE={} ", t[0], t[1]);
            if matches!(t[0], 0 | 8 | 128 | 129) {
                let _ = write!(s, "ID={} SEQ={} ", half(4), half(6));
            }
        }
        _ => {}
    }
}
