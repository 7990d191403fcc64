//! ARP for the router's own addresses (RFC 826).

use uml_net::packet::{Data, Packet};
use uml_net::wire::arp::{Arp, LEN, REPLY, REQUEST};
use uml_net::wire::ethernet::ethertype;

use crate::nat::Nat;
use crate::outside::Outside;

impl<O: Outside> Nat<O> {
    pub(crate) fn arp(&mut self, mut p: Packet) {
        if !p.pull(LEN) {
            return;
        }
        let Ok(a) = Arp::parse(p.net()) else { return };
        self.wire.learn(a.sender.into(), a.sender_mac);
        if a.op != REQUEST || !self.wire.cfg.own(a.target.into()) {
            return;
        }
        let r = Arp {
            op: REPLY,
            sender_mac: self.wire.cfg.mac,
            sender: a.target,
            target_mac: a.sender_mac,
            target: a.sender,
        };
        let mut reply = Packet::new(Data::new());
        reply.head_mut().extend_from_slice(&r.bytes());
        self.wire.frame(a.sender_mac, ethertype::ARP, reply);
    }
}
