//! Echo requests to the router itself, and errors that the host met on the guest's behalf.

use std::net::SocketAddr;

use uml_net::wire::icmp::{HEADER, Icmp, v4, v6};

use crate::nat::{Nat, Target};
use crate::outside::{Outside, Trouble};
use crate::wire::{Datagram, Unreachable};

impl<O: Outside> Nat<O> {
    /// An echo request, or something else that has no answer.
    pub(crate) fn echo(&mut self, mut d: Datagram, now: uml_net::Time) {
        if !d.p.pull(HEADER) {
            return;
        }
        let Ok(h) = Icmp::parse(d.p.net()) else { return };
        let request = if d.dst.is_ipv4() { v4::ECHO } else { v6::ECHO };
        if h.kind != request || h.code != 0 || d.src.is_unspecified() {
            return;
        }
        if self.wire.cfg.own(d.dst) {
            let body = d.p.take_payload(HEADER);
            let kind = if d.dst.is_ipv4() { v4::ECHO_REPLY } else { v6::ECHO_REPLY };
            self.wire.icmp(d.dst, d.src, 64, Icmp { kind, ..h }, body);
            return;
        }
        if self.ttl_over(&d) {
            return;
        }
        match self.target(d.dst) {
            Target::Host(a) => self.ping_request(d, a, &h, now),
            Target::Not(why) => self.refuse(&d, why),
            Target::Dns | Target::Nowhere => {}
        }
    }

    /// Passes an error on. `quoted` is how the transport header began as the guest wrote it.
    pub(crate) fn pass_on(
        &mut self,
        t: &Trouble,
        guest: SocketAddr,
        remote: SocketAddr,
        number: u8,
        quoted: &[u8],
    ) {
        let four = guest.is_ipv4();
        let h = match t.kind {
            // The host itself refused.
            0 if t.from.is_none() => Unreachable::of(t.errno).message(four),
            v4::UNREACHABLE | v4::TIME_EXCEEDED if four => {
                // "Fragmentation needed" says what fits.
                let rest = if t.kind == v4::UNREACHABLE && t.code == v4::FRAG_NEEDED {
                    t.info & 0xffff
                } else {
                    0
                };
                Icmp { kind: t.kind, code: t.code, checksum: 0, rest }
            }
            v6::UNREACHABLE | v6::TIME_EXCEEDED if !four => {
                Icmp { kind: t.kind, code: t.code, checksum: 0, rest: 0 }
            }
            v6::TOO_BIG if !four => Icmp { kind: t.kind, code: 0, checksum: 0, rest: t.info },
            _ => return,
        };
        let from = t.from.filter(|a| !a.is_loopback());
        // What answers on the host's loopback is the gateway to the guest.
        let from = if t.from.is_some_and(|a| a.is_loopback()) { Some(remote.ip()) } else { from };
        self.wire.error(from, guest.ip(), remote.ip(), number, quoted, h);
    }
}
