//! Echo requests through the host's ping sockets (icmp(7), net.ipv4.ping_group_range).

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use uml_net::Time;
use uml_net::packet::Data;
use uml_net::wire::icmp::{HEADER, Icmp, v4, v6};
use uml_net::wire::proto;

use crate::flows::{Flow, Id};
use crate::limits;
use crate::nat::Nat;
use crate::outside::Outside;
use crate::wire::{Datagram, Unreachable};

/// The requests of one program of the guest.
pub(crate) struct Ping<S> {
    guest: IpAddr,
    id: u16,
    sock: S,
    /// Who was asked.
    peers: VecDeque<IpAddr>,
    used: Time,
}

fn message(kind: u8, id: u16, seq: u16) -> Icmp {
    Icmp { kind, code: 0, checksum: 0, rest: u32::from(id) << 16 | u32::from(seq) }
}

impl<O: Outside> Nat<O> {
    pub(crate) fn ping_request(&mut self, mut d: Datagram, to: IpAddr, h: &Icmp, now: Time) {
        let key = (d.src, h.id());
        let known = self.ping.get(&key).copied();
        let (id, mut f) = match known.and_then(|id| Some((id, self.flows.take(id)?))) {
            Some((id, Flow::Ping(f))) => (id, f),
            _ => match self.new_ping(&d, h.id(), now) {
                Ok(new) => new,
                Err(why) => return self.refuse(&d, why),
            },
        };
        f.used = now;
        if !f.peers.contains(&to) {
            if f.peers.len() >= limits::PEERS {
                f.peers.pop_front();
            }
            f.peers.push_back(to);
        }
        let data = Data::copy_of(&{
            let mut b = message(h.kind, 0, h.rest as u16).bytes().to_vec();
            let body = d.p.clone().take_payload(HEADER);
            b.extend_from_slice(&body.to_vec());
            b
        });
        let ttl = d.ttl.saturating_sub(1);
        let sent = self.io.send_to(&f.sock, &data, SocketAddr::new(to, 0), ttl);
        self.flows.put(id, Flow::Ping(f));
        self.flows.arm(id, now + limits::PING_IDLE);
        if let Err(e) = sent
            && e != uml_abi::errno::EAGAIN
        {
            d.p.pull(HEADER);
            self.refuse(&d, Unreachable::of(e));
        }
    }

    fn new_ping(
        &mut self,
        d: &Datagram,
        number: u16,
        now: Time,
    ) -> Result<(Id, Box<Ping<O::Socket>>), Unreachable> {
        if self.ping.len() >= limits::PING {
            self.drop_oldest_ping();
        }
        let id = self.flows.reserve();
        match self.io.ping(id, d.src.is_ipv6()) {
            Ok(sock) => {
                let f = Ping { guest: d.src, id: number, sock, peers: VecDeque::new(), used: now };
                self.ping.insert((d.src, number), id);
                Ok((id, Box::new(f)))
            }
            Err(e) => {
                self.flows.end(id);
                Err(Unreachable::of(e))
            }
        }
    }

    fn drop_oldest_ping(&mut self) {
        let used = |id: &Id| match self.flows.get(*id) {
            Some(Flow::Ping(f)) => f.used,
            _ => Time(0),
        };
        if let Some((key, id)) =
            self.ping.iter().map(|(k, i)| (*k, *i)).min_by_key(|(_, i)| used(i))
        {
            self.ping.remove(&key);
            self.flows.end(id);
        }
    }

    pub(crate) fn ping_ready(&mut self, id: Id, f: Box<Ping<O::Socket>>, _now: Time) {
        while let Some(t) = self.io.trouble(&f.sock) {
            if !f.peers.contains(&t.to.ip().to_canonical()) {
                continue;
            }
            let mut quoted = t.quoted.clone();
            if quoted.len() < HEADER {
                quoted.resize(HEADER, 0);
            }
            quoted[4..6].copy_from_slice(&f.id.to_be_bytes());
            let (guest, remote) = (SocketAddr::new(f.guest, 0), SocketAddr::new(t.to.ip(), 0));
            let number = if f.guest.is_ipv4() { proto::ICMP } else { proto::ICMPV6 };
            self.pass_on(&t, guest, remote, number, &quoted);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        for _ in 0..limits::BATCH {
            let Ok((n, from)) = self.io.recv_from(&f.sock, &mut scratch) else { break };
            let b = &scratch[..n.min(scratch.len())];
            let Ok(h) = Icmp::parse(b) else { continue };
            let reply = if f.guest.is_ipv4() { v4::ECHO_REPLY } else { v6::ECHO_REPLY };
            if h.kind != reply || !f.peers.contains(&from.ip()) {
                continue;
            }
            let m = message(reply, f.id, h.rest as u16);
            self.wire.icmp(from.ip(), f.guest, 63, m, Data::copy_of(&b[HEADER..]));
        }
        self.scratch = scratch;
        self.flows.put(id, Flow::Ping(f));
    }

    pub(crate) fn ping_timer(&mut self, id: Id, f: Box<Ping<O::Socket>>, now: Time) {
        let end = f.used + limits::PING_IDLE;
        if end <= now {
            self.ping.remove(&(f.guest, f.id));
            self.flows.end(id);
            return;
        }
        self.flows.put(id, Flow::Ping(f));
        self.flows.arm(id, end);
    }
}
