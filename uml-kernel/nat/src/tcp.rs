//! TCP: a connection with the guest, one with the host's socket, and what flows between them.
//!
//! A SYN of the guest is answered when the host's connection is there; what went wrong is passed on as a reset
//! or as "unreachable". The window offered to either side is what the other one can take.

use std::net::SocketAddr;

use uml_abi::Errno;
use uml_abi::errno::*;
use uml_net::Time;
use uml_net::ip;
use uml_net::packet::{Frag, Gso, GsoKind, Packet, SLAB, Slab};
use uml_net::tcp::tcb::{Handshake, Path, Settings, Tcb};
use uml_net::tcp::{GSO_MAX, Out, Segment, State};
use uml_net::wire::proto;
use uml_net::wire::tcp::{self as wire, flags};

use crate::flows::{Flow, Id, Listener};
use crate::limits;
use crate::nat::{Nat, Target};
use crate::outside::Outside;
use crate::wire::{Datagram, Unreachable, Wire};

/// Bytes handed to the host in one call, and read in one.
const SEND: usize = 256 << 10;
const READ: usize = 64 << 10;

/// A connection.
pub(crate) struct Tcp<S> {
    guest: SocketAddr,
    /// The other end as the guest sees it.
    remote: SocketAddr,
    sock: Option<S>,
    stage: Stage,
    /// The host may have something to read, room to write.
    readable: bool,
    writable: bool,
    /// The host's sending side has ended; it has ended its own.
    shut: bool,
    eof: bool,
    /// Further destinations to try (name servers).
    others: Vec<SocketAddr>,
}

enum Stage {
    /// The host's side is being connected; what the guest asked for.
    Connecting(Handshake),
    Open(Box<Tcb>),
}

impl<S> Tcp<S> {
    fn key(&self) -> (SocketAddr, SocketAddr) {
        (self.guest, self.remote)
    }

    /// Bytes of the guest that the host's connection has not taken yet.
    pub fn undelivered(&self) -> usize {
        match &self.stage {
            Stage::Open(t) if self.sock.is_some() => t.readable(),
            _ => 0,
        }
    }
}

impl Wire {
    fn tcp(&mut self, guest: SocketAddr, remote: SocketAddr, segments: Vec<Segment>) {
        for s in segments {
            let mut h = s.header;
            (h.src, h.dst) = (remote.port(), guest.port());
            let len = s.data.len();
            let mut p = Packet::new(s.data);
            h.write(p.head_mut());
            ip::partial_checksum(&mut p, remote.ip(), guest.ip(), proto::TCP, 16);
            if s.gso > 0 && len > s.gso {
                let kind = if guest.is_ipv4() { GsoKind::TcpV4 } else { GsoKind::TcpV6 };
                p.gso = Some(Gso { kind, size: s.gso.min(65_535) as u16 });
            }
            self.ip(remote.ip(), guest.ip(), proto::TCP, 64, p);
        }
    }

    /// A segment that no connection sends.
    fn bare(&mut self, guest: SocketAddr, remote: SocketAddr, seq: u32, ack: u32, flag: u8) {
        let header = wire::Tcp {
            src: 0,
            dst: 0,
            seq,
            ack,
            flags: flag,
            window: 0,
            checksum: 0,
            urgent: 0,
            header_len: 0,
            options: wire::Options::default(),
        };
        let data = uml_net::packet::Data::new();
        self.tcp(guest, remote, vec![Segment { header, data, gso: 0 }]);
    }
}

/// A host's error as the answer to a SYN.
fn answer_failure(w: &mut Wire, guest: SocketAddr, remote: SocketAddr, irs: u32, e: Errno) {
    if e == ECONNREFUSED || e == ECONNRESET {
        w.bare(guest, remote, 0, irs.wrapping_add(1), flags::RST | flags::ACK);
        return;
    }
    let mut quoted = Vec::with_capacity(8);
    quoted.extend_from_slice(&guest.port().to_be_bytes());
    quoted.extend_from_slice(&remote.port().to_be_bytes());
    quoted.extend_from_slice(&irs.to_be_bytes());
    let h = Unreachable::of(e).message(guest.is_ipv4());
    w.error(None, guest.ip(), remote.ip(), proto::TCP, &quoted, h);
}

impl<O: Outside> Nat<O> {
    fn tcp_settings(&self) -> Settings {
        let large = self.tcp.len() < limits::LARGE;
        let buf = if large { limits::BUFFER_LARGE } else { limits::BUFFER_SMALL };
        Settings {
            nodelay: true,
            quickack: Some(true),
            keepalive: true,
            oob_inline: true,
            sndbuf: buf,
            sndbuf_locked: true,
            rcvbuf: buf,
            rcvbuf_locked: true,
            ..Settings::default()
        }
    }

    fn tcp_path(&mut self, guest: SocketAddr) -> Path {
        let r = self.random();
        Path {
            iss: r as u32,
            ts_offset: (r >> 32) as u32,
            mtu: self.wire.cfg.mtu,
            net_header: ip::header_len(guest.ip()),
            gso_max: GSO_MAX,
        }
    }

    /// A segment of the guest.
    pub(crate) fn tcp_input(&mut self, mut d: Datagram, now: Time) {
        if !d.p.pull(wire::HEADER) {
            return;
        }
        let Ok(len) = wire::Tcp::header_len(d.p.net()) else { return };
        if !d.p.pull(len) {
            return;
        }
        let Ok(h) = wire::Tcp::parse(d.p.net()) else { return };
        let guest = SocketAddr::new(d.src, h.src);
        let remote = SocketAddr::new(d.dst, h.dst);
        if let Some(id) = self.tcp.get(&(guest, remote)).copied()
            && let Some(Flow::Tcp(mut f)) = self.flows.take(id)
        {
            let data = d.p.take_payload(len);
            match &mut f.stage {
                Stage::Connecting(hand) => {
                    if h.has(flags::RST) || (h.has(flags::SYN) && h.seq != hand.irs) {
                        // Given up, or begun anew with other numbers: the old attempt is over.
                        self.tcp.remove(&f.key());
                        self.flows.end(id);
                        if h.has(flags::SYN) && !h.has(flags::RST) {
                            self.tcp_syn(&d, guest, remote, &h, now);
                        }
                        return;
                    }
                    self.flows.put(id, Flow::Tcp(f));
                }
                Stage::Open(t) => {
                    let mut out = Out::default();
                    t.input(&h, data, now, &mut out);
                    self.tcp_pump(id, f, now, out);
                }
            }
            return;
        }
        if h.has(flags::RST) || d.src.is_unspecified() {
            return;
        }
        if h.has(flags::SYN) && !h.has(flags::ACK) && !h.has(flags::FIN) {
            if !self.ttl_over(&d) {
                self.tcp_syn(&d, guest, remote, &h, now);
            }
            return;
        }
        let n = d.p.net_len().saturating_sub(len) as u32;
        if h.has(flags::ACK) {
            self.wire.bare(guest, remote, h.ack, 0, flags::RST);
        } else {
            let n = n + u32::from(h.has(flags::SYN)) + u32::from(h.has(flags::FIN));
            self.wire.bare(guest, remote, 0, h.seq.wrapping_add(n), flags::RST | flags::ACK);
        }
    }

    /// The guest wants a connection.
    fn tcp_syn(
        &mut self,
        d: &Datagram,
        guest: SocketAddr,
        remote: SocketAddr,
        h: &wire::Tcp,
        now: Time,
    ) {
        let mut to = match self.target(remote.ip()) {
            Target::Host(a) => vec![SocketAddr::new(a, remote.port())],
            Target::Dns if remote.port() == 53 => self.resolvers(),
            Target::Dns => {
                return answer_failure(&mut self.wire, guest, remote, h.seq, ECONNREFUSED);
            }
            Target::Not(why) => return self.refuse(d, why),
            Target::Nowhere => return,
        };
        if self.tcp.len() >= limits::TCP {
            return answer_failure(&mut self.wire, guest, remote, h.seq, ECONNREFUSED);
        }
        let hand = Handshake::of(h, &self.tcp_settings());
        let id = self.flows.reserve();
        let mut failure = ECONNREFUSED;
        to.reverse();
        while let Some(a) = to.pop() {
            match self.io.connect(id, a) {
                Ok((sock, done)) => {
                    let f = Box::new(Tcp {
                        guest,
                        remote,
                        sock: Some(sock),
                        stage: Stage::Connecting(hand),
                        readable: false,
                        writable: false,
                        shut: false,
                        eof: false,
                        others: to,
                    });
                    self.tcp.insert(f.key(), id);
                    if done {
                        self.tcp_connected(id, f, &hand, now);
                    } else {
                        self.flows.put(id, Flow::Tcp(f));
                    }
                    return;
                }
                Err(e) => failure = e,
            }
        }
        self.flows.end(id);
        answer_failure(&mut self.wire, guest, remote, h.seq, failure);
    }

    /// The host's side can go on.
    pub(crate) fn tcp_ready(
        &mut self,
        id: Id,
        mut f: Box<Tcp<O::Socket>>,
        readable: bool,
        writable: bool,
        now: Time,
    ) {
        f.readable |= readable;
        f.writable |= writable;
        let Stage::Connecting(hand) = &f.stage else {
            return self.tcp_pump(id, f, now, Out::default());
        };
        let hand = *hand;
        let outcome = match &f.sock {
            Some(s) => self.io.outcome(s),
            None => Err(ECONNREFUSED),
        };
        match outcome {
            Ok(()) => self.tcp_connected(id, f, &hand, now),
            Err(EINPROGRESS) => self.flows.put(id, Flow::Tcp(f)),
            Err(e) => {
                while let Some(a) = f.others.pop() {
                    f.sock = None;
                    if let Ok((s, done)) = self.io.connect(id, a) {
                        f.sock = Some(s);
                        (f.readable, f.writable) = (false, false);
                        if done {
                            return self.tcp_connected(id, f, &hand, now);
                        }
                        return self.flows.put(id, Flow::Tcp(f));
                    }
                }
                answer_failure(&mut self.wire, f.guest, f.remote, hand.irs, e);
                self.tcp.remove(&f.key());
                self.flows.end(id);
            }
        }
    }

    /// The host's connection is there: so is the guest's.
    fn tcp_connected(&mut self, id: Id, mut f: Box<Tcp<O::Socket>>, hand: &Handshake, now: Time) {
        let mut out = Out::default();
        let (set, path) = (self.tcp_settings(), self.tcp_path(f.guest));
        let mut t = Tcb::answer(set, &path, hand, now, &mut out);
        t.receive_settings_changed();
        f.stage = Stage::Open(Box::new(t));
        f.others = Vec::new();
        // Both may be tried, which shows how it is.
        (f.readable, f.writable) = (true, true);
        self.tcp_pump(id, f, now, out);
    }

    /// Connections to a forwarded port of the host.
    pub(crate) fn tcp_incoming(&mut self, id: Id, l: Listener<O::Socket>, now: Time) {
        loop {
            let new = self.flows.reserve();
            let (sock, peer) = match self.io.accept(&l.sock, new) {
                Ok(a) => a,
                Err(e) => {
                    self.flows.end(new);
                    if matches!(e, EINTR | ECONNABORTED) {
                        continue;
                    }
                    break;
                }
            };
            let remote = self.shown(peer, l.guest.ip());
            let key = (l.guest, remote);
            if self.tcp.len() >= limits::TCP || self.tcp.contains_key(&key) {
                self.io.reset(sock);
                self.flows.end(new);
                continue;
            }
            let mut out = Out::default();
            let (set, path) = (self.tcp_settings(), self.tcp_path(l.guest));
            let mut t = Tcb::connect(set, &path, now, &mut out);
            t.receive_settings_changed();
            let f = Tcp {
                guest: l.guest,
                remote,
                sock: Some(sock),
                stage: Stage::Open(Box::new(t)),
                readable: true,
                writable: true,
                shut: false,
                eof: false,
                others: Vec::new(),
            };
            self.tcp.insert(key, new);
            self.tcp_pump(new, Box::new(f), now, out);
        }
        self.flows.put(id, Flow::Listener(l));
    }

    pub(crate) fn tcp_timer(&mut self, id: Id, mut f: Box<Tcp<O::Socket>>, now: Time) {
        let mut out = Out::default();
        if let Stage::Open(t) = &mut f.stage
            && t.deadline().is_some_and(|d| d <= now)
        {
            t.on_timer(now, &mut out);
        }
        self.tcp_pump(id, f, now, out);
    }

    /// Moves what can be moved in both directions, sends what came of it, and ends what is over.
    fn tcp_pump(&mut self, id: Id, mut f: Box<Tcp<O::Socket>>, now: Time, mut out: Out) {
        let Tcp { sock, stage, readable, writable, shut, eof, .. } = &mut *f;
        let Stage::Open(t) = stage else { return self.flows.put(id, Flow::Tcp(f)) };
        if let Some(s) = sock
            && t.error.is_none()
        {
            let r = to_host(&mut self.io, s, t, writable, shut, now, &mut out)
                .and_then(|()| to_guest(&mut self.io, s, t, readable, eof, now, &mut out));
            if r.is_err() {
                // The host's connection is broken: so is the guest's.
                *sock = None;
                t.abort(now, &mut out);
            }
        }
        let over = matches!(t.state, State::Closed | State::TimeWait)
            && (t.readable() == 0 || t.error.is_some() || sock.is_none());
        let deadline = t.deadline();
        let broken = t.error.is_some();
        self.wire.tcp(f.guest, f.remote, out.segments);
        if over {
            if broken && let Some(s) = f.sock.take() {
                self.io.reset(s);
            }
            self.tcp.remove(&f.key());
            self.flows.end(id);
            return;
        }
        self.flows.put(id, Flow::Tcp(f));
        if let Some(at) = deadline {
            self.flows.arm(id, at);
        }
    }
}

/// What the guest sent goes to the host, then the end of it.
fn to_host<O: Outside>(
    io: &mut O,
    s: &O::Socket,
    t: &mut Tcb,
    writable: &mut bool,
    shut: &mut bool,
    now: Time,
    out: &mut Out,
) -> Result<(), Errno> {
    while *writable && t.readable() > 0 {
        let Ok(data) = t.peek(0, SEND) else { break };
        if data.is_empty() {
            break;
        }
        match io.send(s, &data) {
            Ok(n) => t.consume(n, now, out),
            Err(EAGAIN) => *writable = false,
            Err(EINTR) => {}
            Err(e) => return Err(e),
        }
    }
    if t.fin_reached() && t.readable() == 0 && !*shut {
        *shut = true;
        io.finish(s);
    }
    Ok(())
}

/// What the host sent goes to the guest, then the end of it.
fn to_guest<O: Outside>(
    io: &mut O,
    s: &O::Socket,
    t: &mut Tcb,
    readable: &mut bool,
    eof: &mut bool,
    now: Time,
    out: &mut Out,
) -> Result<(), Errno> {
    let mut spare: Option<Slab> = None;
    while *readable && !*eof {
        let Ok(room) = t.room() else { break };
        let mut slab = spare.take().unwrap_or_else(|| Slab::new(SLAB));
        match io.recv(s, &mut slab.bytes_mut()[..room.min(READ)]) {
            Ok(0) => {
                *eof = true;
                t.finish(now, out);
            }
            Ok(n) if n < SLAB / 4 => {
                let mut small = Slab::new(n);
                small.bytes_mut()[..n].copy_from_slice(&slab.bytes_mut()[..n]);
                t.write(vec![Frag::new(small, n)], false, false, now, out);
                spare = Some(slab);
            }
            Ok(n) => t.write(vec![Frag::new(slab, n)], false, false, now, out),
            Err(EAGAIN) => *readable = false,
            Err(EINTR) => spare = Some(slab),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
