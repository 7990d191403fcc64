//! The router's sockets and threads: [`uml_nat::Nat`] over sockets of the host.
//!
//! Lock order: the router's state (`Rank::DEVICE`), then the queue of frames (leaf). Frames go to the stack
//! without any lock held, one thread at a time, so that they stay in order.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::{Errno, Result};
use uml_base::{Mutex, Rank};
use uml_host::inet::{self, Poller};
use uml_host::netdev::Signal;
use uml_nat::{Config, Id, Nat, Outside, Trouble};
use uml_net::Time;
use uml_net::interface::Interface;
use uml_net::packet::{Data, Packet};
use uml_net::stack::{Cx, Stack};
use uml_net::timer::{Armed, Expire};

use super::resolvers::Resolvers;

/// Token of the signal to stop.
const STOP: u64 = u64::MAX;
/// Frames that wait for the stack; beyond that they are lost, as on a wire.
const QUEUE: usize = 8192;
/// Pieces of data in one call.
const PIECES: usize = 64;
/// A time to live that needs no mention: packets of ordinary programs.
const TTL_USUAL: u8 = 32;

/// A socket of the host.
pub struct HostSocket {
    fd: OwnedFd,
    id: Id,
    v6: bool,
    ttl: Cell<Option<u8>>,
    /// Changes to writable are watched: only once it was not, as most connections always are.
    watched: Cell<bool>,
}

/// The host's sockets.
pub struct HostSide {
    poller: Arc<Poller>,
    resolvers: Resolvers,
}

fn slices(data: &Data) -> Vec<IoSlice<'_>> {
    data.frags().take(PIECES).map(|f| IoSlice::new(f.bytes())).collect()
}

fn plain(fd: OwnedFd, id: Id, v6: bool) -> HostSocket {
    HostSocket { fd, id, v6, ttl: Cell::new(None), watched: Cell::new(false) }
}

impl Outside for HostSide {
    type Socket = HostSocket;

    fn connect(&mut self, id: Id, to: SocketAddr) -> Result<(HostSocket, bool)> {
        let fd = inet::connect(to)?;
        // On the host itself the connection is made within the call.
        let done = match inet::connected(&fd) {
            Ok(()) => true,
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => false,
            Err(e) => return Err(e.into()),
        };
        self.poller.add_edges(&fd, id.0, !done)?;
        let s = plain(fd, id, to.is_ipv6());
        s.watched.set(!done);
        Ok((s, done))
    }

    fn outcome(&mut self, s: &HostSocket) -> Result<()> {
        Ok(inet::connected(&s.fd)?)
    }

    fn send(&mut self, s: &HostSocket, data: &Data) -> Result<usize> {
        match inet::send(&s.fd, &slices(data)) {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock && !s.watched.replace(true) => {
                self.poller.watch_writing(&s.fd, s.id.0)?;
                Err(e.into())
            }
            r => Ok(r?),
        }
    }

    fn recv(&mut self, s: &HostSocket, buf: &mut [u8]) -> Result<usize> {
        Ok(inet::recv(&s.fd, buf)?)
    }

    fn finish(&mut self, s: &HostSocket) {
        inet::finish(&s.fd);
    }

    fn reset(&mut self, s: HostSocket) {
        inet::reset(s.fd);
    }

    fn listen(&mut self, id: Id, at: SocketAddr) -> Result<HostSocket> {
        let fd = inet::listen(at)?;
        // Edges: where no descriptor is left for a connection, it waits for the next one to come.
        self.poller.add_edges(&fd, id.0, false)?;
        Ok(plain(fd, id, at.is_ipv6()))
    }

    fn accept(&mut self, listener: &HostSocket, id: Id) -> Result<(HostSocket, SocketAddr)> {
        let (fd, peer) = inet::accept(&listener.fd)?;
        self.poller.add_edges(&fd, id.0, false)?;
        Ok((plain(fd, id, peer.is_ipv6()), peer))
    }

    fn datagrams(&mut self, id: Id, at: SocketAddr) -> Result<HostSocket> {
        let fd = inet::datagrams(at)?;
        self.poller.add_reading(&fd, id.0)?;
        Ok(plain(fd, id, at.is_ipv6()))
    }

    fn ping(&mut self, id: Id, v6: bool) -> Result<HostSocket> {
        let fd = inet::ping(v6)?;
        self.poller.add_reading(&fd, id.0)?;
        Ok(plain(fd, id, v6))
    }

    fn send_to(&mut self, s: &HostSocket, data: &Data, to: SocketAddr, ttl: u8) -> Result<()> {
        let ttl = (ttl < TTL_USUAL).then_some(ttl);
        if s.ttl.get() != ttl {
            inet::set_ttl(&s.fd, s.v6, ttl)?;
            s.ttl.set(ttl);
        }
        if data.pieces() > PIECES {
            return Ok(inet::send_to(&s.fd, &[IoSlice::new(&data.to_vec())], to)?);
        }
        Ok(inet::send_to(&s.fd, &slices(data), to)?)
    }

    fn recv_from(&mut self, s: &HostSocket, buf: &mut [u8]) -> Result<(usize, SocketAddr)> {
        Ok(inet::recv_from(&s.fd, buf)?)
    }

    fn trouble(&mut self, s: &HostSocket) -> Option<Trouble> {
        let n = inet::noted_error(&s.fd)?;
        Some(Trouble {
            errno: Errno::from_raw(n.errno),
            kind: n.kind,
            code: n.code,
            info: n.info,
            from: n.from,
            to: n.to,
            quoted: n.data,
        })
    }

    fn resolvers(&mut self) -> Vec<SocketAddr> {
        self.resolvers.now().to_vec()
    }
}

/// A running router.
pub struct Router {
    me: Weak<Router>,
    nat: Mutex<Nat<HostSide>>,
    poller: Arc<Poller>,
    stop: Signal,
    stopping: AtomicBool,
    frames: Mutex<VecDeque<Packet>>,
    delivering: AtomicBool,
    armed: Armed,
    iface: Arc<Interface>,
    stack: Arc<Stack>,
}

impl Router {
    /// A router for an interface, with its forwarded ports open. The error is for the log.
    pub fn new(
        config: Config,
        iface: &Arc<Interface>,
        stack: &Arc<Stack>,
    ) -> std::result::Result<Arc<Router>, String> {
        let failed = |e: std::io::Error| format!("no descriptors for the router: {e}");
        let poller = Arc::new(Poller::new().map_err(failed)?);
        let stop = Signal::new().map_err(failed)?;
        poller.add_reading(&stop.fd(), STOP).map_err(failed)?;
        let side = HostSide { poller: poller.clone(), resolvers: Resolvers::default() };
        let nat = Nat::new(config, side, stack.random()).map_err(|(f, e)| {
            let kind = if f.udp { "udp" } else { "tcp" };
            format!("hostfwd={kind}:{}: the host's port cannot be had: {e}", f.host)
        })?;
        Ok(Arc::new_cyclic(|me| Router {
            me: me.clone(),
            nat: Mutex::new(Rank::DEVICE, nat),
            poller,
            stop,
            stopping: AtomicBool::new(false),
            frames: Mutex::new(Rank::LEAF, VecDeque::new()),
            delivering: AtomicBool::new(false),
            armed: Armed::default(),
            iface: iface.clone(),
            stack: stack.clone(),
        }))
    }

    /// Ends [`Router::serve`].
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.stop.raise();
    }

    /// One step of the router, and everything that follows from it.
    fn step(&self, f: impl FnOnce(&mut Nat<HostSide>, Time)) {
        let deadline = {
            let mut nat = self.nat.lock();
            f(&mut nat, self.stack.now());
            let new = nat.take_frames();
            if !new.is_empty() {
                let mut q = self.frames.lock();
                let room = QUEUE.saturating_sub(q.len());
                q.extend(new.into_iter().take(room));
            }
            nat.deadline()
        };
        if let Some(at) = deadline {
            self.armed.arm(&self.stack.timers, at, || self.me.clone());
        }
        self.deliver();
    }

    /// Hands frames to the stack, unless somebody else does: then that one takes these, too.
    fn deliver(&self) {
        loop {
            if self.frames.lock().is_empty() || self.delivering.swap(true, Ordering::SeqCst) {
                return;
            }
            loop {
                let batch = std::mem::take(&mut *self.frames.lock());
                if batch.is_empty() {
                    break;
                }
                self.stack.enter(|cx| {
                    for p in batch {
                        self.stack.receive(cx, &self.iface, p);
                    }
                });
            }
            self.delivering.store(false, Ordering::SeqCst);
        }
    }

    /// Bytes of the guest that the host's sockets have not taken yet.
    pub fn undelivered(&self) -> u64 {
        self.nat.lock().undelivered()
    }

    /// Takes frames of the guest.
    pub fn take(&self, batch: &mut VecDeque<Packet>) {
        let (mac, mtu) = (self.iface.mac(), self.iface.mtu());
        self.step(|nat, now| {
            nat.guest_changed(mac, mtu);
            for p in batch.drain(..) {
                nat.frame(p, now);
            }
        });
    }

    /// Waits for the host's sockets until [`Router::stop`].
    pub fn serve(&self) {
        let mut ready = Vec::new();
        while self.poller.wait(&mut ready).is_ok() {
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            self.step(|nat, now| {
                for r in ready.iter().filter(|r| r.token != STOP) {
                    nat.ready(Id(r.token), r.readable, r.writable, now);
                }
            });
        }
    }
}

impl Expire for Router {
    fn expired(self: Arc<Self>, cx: &mut Cx) {
        if self.armed.due(cx.now) && !self.stopping.load(Ordering::SeqCst) {
            self.step(|nat, now| nat.expire(now));
        }
    }
}
