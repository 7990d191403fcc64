//! UDP: a socket of the host for each port of the guest that is in use, forwarded ports, name servers.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use uml_abi::Errno;
use uml_abi::errno::*;
use uml_net::Time;
use uml_net::ip::Delivery;
use uml_net::packet::{Csum, Data};
use uml_net::wire::ethernet::Mac;
use uml_net::wire::{proto, udp};

use crate::config::Forward;
use crate::dns::Questions;
use crate::flows::{Flow, Id};
use crate::limits;
use crate::nat::{Nat, Target};
use crate::outside::{Outside, Trouble};
use crate::wire::{Datagram, Unreachable, pieces};

/// A port of the guest.
pub(crate) struct Udp<S> {
    pub guest: SocketAddr,
    /// Sockets for IPv4 and IPv6 destinations: name servers may be of the other family.
    socks: [Option<S>; 2],
    /// Who may answer, in the host's view.
    peers: VecDeque<IpAddr>,
    /// A port of the host leads here: everybody may send, and it does not end.
    forwarded: bool,
    pub questions: Questions,
    used: Time,
    answered: bool,
}

impl<S> Udp<S> {
    fn end(&self) -> Time {
        let idle = if self.answered { limits::UDP_ANSWERED } else { limits::UDP_UNANSWERED };
        if self.forwarded { Time::NEVER } else { self.used + idle }
    }
}

/// Header of a datagram of the guest, for quoting.
fn header(guest: SocketAddr, remote: SocketAddr, len: usize) -> [u8; udp::HEADER] {
    udp::Udp { src: guest.port(), dst: remote.port(), len: udp::HEADER + len, checksum: 0 }.bytes()
}

impl<O: Outside> Nat<O> {
    /// Opens a forwarded port.
    pub(crate) fn udp_forward(&mut self, f: &Forward) -> Result<(), Errno> {
        if self.udp.contains_key(&f.guest) {
            return Err(EADDRINUSE);
        }
        let id = self.flows.reserve();
        let sock = match self.io.datagrams(id, f.host) {
            Ok(s) => s,
            Err(e) => {
                self.flows.end(id);
                return Err(e);
            }
        };
        let mut u = self.empty(f.guest, Time(0));
        u.socks[usize::from(f.host.is_ipv6())] = Some(sock);
        u.forwarded = true;
        self.udp.insert(f.guest, id);
        self.flows.put(id, Flow::Udp(Box::new(u)));
        Ok(())
    }

    fn empty(&self, guest: SocketAddr, now: Time) -> Udp<O::Socket> {
        Udp {
            guest,
            socks: [None, None],
            peers: VecDeque::new(),
            forwarded: false,
            questions: Questions::default(),
            used: now,
            answered: false,
        }
    }

    /// A datagram of the guest.
    pub(crate) fn udp_input(&mut self, mac: Mac, mut d: Datagram, sum: &Delivery, now: Time) {
        if !d.p.pull(udp::HEADER) {
            return;
        }
        let whole = d.p.net_len();
        let Ok(h) = udp::Udp::parse(d.p.net(), whole) else { return };
        d.p.truncate_net(h.len);
        // No checksum is a right one on IPv4 (RFC 768).
        let none = h.checksum == 0 && d.dst.is_ipv4() && d.p.csum == Csum::None;
        if !none && !sum.checksum_ok(&d.p) {
            return;
        }
        let size = d.p.gso.map(|g| usize::from(g.size));
        if h.dst == 67
            && d.dst.is_ipv4()
            && (self.wire.cfg.own(d.dst) || d.dst == Ipv4Addr::BROADCAST)
        {
            let data = d.p.take_payload(udp::HEADER);
            return self.dhcp(mac, d.src, &data);
        }
        if h.dst == 547 && d.dst.is_ipv6() {
            let data = d.p.take_payload(udp::HEADER);
            return self.dhcp6(d.src, h.src, &data);
        }
        if d.src.is_unspecified() || h.src == 0 || h.dst == 0 {
            return;
        }
        let guest = SocketAddr::new(d.src, h.src);
        let remote = SocketAddr::new(d.dst, h.dst);
        let known = self.udp.get(&guest).copied();
        let forwarded =
            known.is_some_and(|id| matches!(self.flows.get(id), Some(Flow::Udp(u)) if u.forwarded));
        let target = match self.target(d.dst) {
            // Answers to what came in by a forwarded port go out again whatever the rules.
            Target::Not(Unreachable::Prohibited) if forwarded => match self.answer_to(known, d.dst)
            {
                Some(a) => Target::Host(a),
                None => Target::Not(Unreachable::Prohibited),
            },
            t => t,
        };
        match target {
            Target::Not(why) => return self.refuse(&d, why),
            Target::Nowhere => return,
            Target::Dns if h.dst != 53 => return self.refuse(&d, Unreachable::Port),
            Target::Dns | Target::Host(_) => {}
        }
        if self.ttl_over(&d) {
            return;
        }
        let (id, mut u) = match known.and_then(|id| Some((id, self.flows.take(id)?))) {
            Some((id, Flow::Udp(u))) => (id, u),
            _ => {
                if self.udp.len() >= limits::UDP && !self.drop_oldest_udp() {
                    return;
                }
                let id = self.flows.reserve();
                self.udp.insert(guest, id);
                (id, Box::new(self.empty(guest, now)))
            }
        };
        u.used = now;
        let ttl = d.ttl.saturating_sub(1);
        let data = d.p.clone().take_payload(udp::HEADER);
        let mut failure = None;
        for part in pieces(&data, size) {
            match target {
                Target::Dns => self.ask(id, &mut u, &part),
                Target::Host(a) => {
                    let to = SocketAddr::new(a, remote.port());
                    u.allow(a);
                    if let Err(e) = self.udp_send(id, &mut u, &part, to, ttl)
                        && e != EAGAIN
                    {
                        failure = Some(e);
                    }
                }
                _ => {}
            }
        }
        let end = u.end();
        self.flows.put(id, Flow::Udp(u));
        if end != Time::NEVER {
            self.flows.arm(id, end);
        }
        if let Some(e) = failure {
            self.refuse(&d, Unreachable::of(e));
        }
    }

    /// The host's view of a peer that has sent to a forwarded port.
    fn answer_to(&self, id: Option<Id>, a: IpAddr) -> Option<IpAddr> {
        let Some(Flow::Udp(u)) = self.flows.get(id?) else { return None };
        let shown = |p: &IpAddr| self.shown(SocketAddr::new(*p, 1), a).ip();
        u.peers.iter().find(|p| shown(p) == a).copied()
    }

    /// Sends from the socket of the right family, which is made when there is none.
    pub(crate) fn udp_send(
        &mut self,
        id: Id,
        u: &mut Udp<O::Socket>,
        data: &Data,
        to: SocketAddr,
        ttl: u8,
    ) -> Result<(), Errno> {
        let six = to.is_ipv6();
        let slot = &mut u.socks[usize::from(six)];
        let sock = match slot {
            Some(s) => s,
            None => {
                let any: IpAddr =
                    if six { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
                slot.insert(self.io.datagrams(id, SocketAddr::new(any, 0))?)
            }
        };
        self.io.send_to(sock, data, to, ttl)
    }

    fn drop_oldest_udp(&mut self) -> bool {
        let used = |id: &Id| match self.flows.get(*id) {
            Some(Flow::Udp(u)) if u.forwarded => Time::NEVER,
            Some(Flow::Udp(u)) => u.used,
            _ => Time(0),
        };
        let oldest = self.udp.iter().map(|(k, i)| (*k, *i)).min_by_key(|(_, i)| used(i));
        match oldest {
            Some((key, id)) if used(&id) != Time::NEVER => {
                self.udp.remove(&key);
                self.flows.end(id);
                true
            }
            _ => false,
        }
    }

    /// Datagrams and errors from the host.
    pub(crate) fn udp_ready(&mut self, id: Id, mut u: Box<Udp<O::Socket>>, now: Time) {
        for i in 0..2 {
            let Some(sock) = u.socks[i].take() else { continue };
            let mut troubles = Vec::new();
            while let Some(t) = self.io.trouble(&sock) {
                troubles.push(t);
                if troubles.len() >= limits::BATCH {
                    break;
                }
            }
            let mut scratch = std::mem::take(&mut self.scratch);
            for _ in 0..limits::BATCH {
                let Ok((n, from)) = self.io.recv_from(&sock, &mut scratch) else { break };
                let bytes = &scratch[..n.min(scratch.len())];
                self.udp_answer(&mut u, from, bytes, now);
            }
            self.scratch = scratch;
            u.socks[i] = Some(sock);
            for t in troubles {
                self.udp_trouble(id, &mut u, &t);
            }
        }
        let end = u.end();
        self.flows.put(id, Flow::Udp(u));
        if end != Time::NEVER {
            self.flows.arm(id, end);
        }
    }

    fn udp_answer(&mut self, u: &mut Udp<O::Socket>, from: SocketAddr, bytes: &[u8], now: Time) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        if u.questions.answered(from, bytes) {
            u.used = now;
            let dns = SocketAddr::new(self.wire.dns(u.guest.is_ipv4()), 53);
            self.wire.udp(dns, u.guest, Data::copy_of(bytes));
            return;
        }
        if u.forwarded {
            u.allow(from.ip());
        } else if !u.peers.contains(&from.ip()) {
            return;
        }
        (u.used, u.answered) = (now, true);
        let from = self.shown(from, u.guest.ip());
        self.wire.udp(from, u.guest, Data::copy_of(bytes));
    }

    fn udp_trouble(&mut self, id: Id, u: &mut Udp<O::Socket>, t: &Trouble) {
        let to = SocketAddr::new(t.to.ip().to_canonical(), t.to.port());
        if self.dns_trouble(id, u, to) {
            return;
        }
        if !u.peers.contains(&to.ip()) {
            return;
        }
        let remote = self.shown(to, u.guest.ip());
        let mut quoted = header(u.guest, remote, t.quoted.len()).to_vec();
        quoted.extend_from_slice(&t.quoted);
        self.pass_on(t, u.guest, remote, proto::UDP, &quoted);
    }

    pub(crate) fn udp_timer(&mut self, id: Id, u: Box<Udp<O::Socket>>, now: Time) {
        let end = u.end();
        if end <= now {
            self.udp.remove(&u.guest);
            self.flows.end(id);
            return;
        }
        self.flows.put(id, Flow::Udp(u));
        self.flows.arm(id, end);
    }
}

impl<S> Udp<S> {
    fn allow(&mut self, a: IpAddr) {
        if self.peers.back() == Some(&a) || self.peers.contains(&a) {
            return;
        }
        if self.peers.len() >= limits::PEERS {
            self.peers.pop_front();
        }
        self.peers.push_back(a);
    }
}
