//! A vector interface as a device of the stack: one receiving thread while it is up, transmission in the
//! sender's thread.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_host::netdev;
use uml_net::interface::{Device, Features, Interface, Sent};
use uml_net::packet::Packet;
use uml_net::stack::{Cx, Stack};
use uml_net::wire::ethernet::Mac;

use super::frame::Header;
use super::open::{Endpoint, Failed};
use super::receive::Shared;

/// Counters of ethtool.
#[derive(Default)]
pub struct Stats {
    pub rx_encaps_errors: AtomicU64,
    pub rx_csum_good: AtomicU64,
}

/// What opens the host side of an interface; the interface's end closes it.
pub trait HostSide: Send + Sync {
    /// Opens it for an interface with the address `mac`; what was wrong is logged.
    fn open(&self, mac: Mac) -> std::result::Result<Endpoint, Failed>;
}

/// What the data path needs to know about an interface.
pub struct Shape {
    /// Its name in messages, such as `vec0`.
    pub name: String,
    /// Driver and bus name of ethtool.
    pub driver: (&'static str, String),
    /// Packets of a batch.
    pub depth: usize,
    /// Frames are moved in batches where the host side is a socket.
    pub batches: bool,
    /// The host cuts and sums, before it is known from an open host side.
    pub offload: bool,
}

/// An interface with a host side.
pub struct VectorDevice {
    me: Weak<VectorDevice>,
    pub(super) shape: Shape,
    host: Box<dyn HostSide>,
    mac: Mutex<Mac>,
    open: Mutex<Option<Open>>,
    /// What the host was asked for when the transport has the header, and what it does while the interface is up.
    offload: AtomicBool,
    pub stats: Stats,
    pub(super) complained: AtomicBool,
}

struct Open {
    end: Arc<Endpoint>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl VectorDevice {
    /// A device, closed.
    pub fn new(shape: Shape, host: Box<dyn HostSide>, mac: Mac) -> Arc<VectorDevice> {
        Arc::new_cyclic(|me| VectorDevice {
            me: me.clone(),
            offload: AtomicBool::new(shape.offload),
            shape,
            host,
            mac: Mutex::new(Rank::LEAF, mac),
            open: Mutex::new(Rank::LEAF, None),
            stats: Stats::default(),
            complained: AtomicBool::new(false),
        })
    }

    fn current(&self) -> Option<(Arc<Endpoint>, Arc<Shared>)> {
        self.open.lock().as_ref().map(|o| (o.end.clone(), o.shared.clone()))
    }
}

/// Pieces of most frames: the transport's header, the frame's, data.
const PIECES: usize = 4;

/// Sends frames from the front of a queue, up to `many` with one call; how many were taken.
fn send(end: &Endpoint, queue: &VecDeque<Packet>, many: usize) -> std::io::Result<usize> {
    let n = queue.len().min(many);
    let taken = match queue.front() {
        Some(p) if n == 1 => send_one(end, p).map(|()| 1),
        _ => send_many(end, queue, n),
    };
    end.encap.take_back(n - taken.as_ref().map_or(0, |t| *t).min(n));
    taken
}

fn send_one(end: &Endpoint, p: &Packet) -> std::io::Result<()> {
    let header = end.encap.header(p);
    let pieces = pieces(header.bytes(), p);
    let mut few = [IoSlice::new(&[]); PIECES];
    let (all, n);
    let parts = if p.data.pieces() + 2 <= PIECES {
        n = few.iter_mut().zip(pieces).map(|(to, from)| *to = from).count();
        &few[..n]
    } else {
        all = pieces.collect::<Vec<_>>();
        &all[..]
    };
    netdev::send(&end.tx, parts, end.to.as_ref(), end.tx_socket)
}

fn send_many(end: &Endpoint, queue: &VecDeque<Packet>, n: usize) -> std::io::Result<usize> {
    let headers: Vec<Header> = queue.iter().take(n).map(|p| end.encap.header(p)).collect();
    let frames: Vec<Vec<IoSlice<'_>>> =
        queue.iter().zip(&headers).map(|(p, h)| pieces(h.bytes(), p).collect()).collect();
    netdev::send_many(&end.tx, &frames, end.to.as_ref())
}

/// What a frame consists of.
fn pieces<'a>(header: &'a [u8], p: &'a Packet) -> impl Iterator<Item = IoSlice<'a>> {
    let front = (!header.is_empty()).then_some(header).into_iter();
    front.chain([p.head()]).chain(p.data.frags().map(|f| f.bytes())).map(IoSlice::new)
}

impl Device for VectorDevice {
    fn features(&self) -> Features {
        let offload = self.offload.load(Ordering::Relaxed);
        Features { tx_csum: offload, tso4: offload, tso6: offload, uso: false }
    }

    fn open(&self, iface: &Arc<Interface>, stack: &Arc<Stack>) -> Result<()> {
        let mac = *self.mac.lock();
        let end = self.host.open(mac).map_err(|_| EINVAL)?;
        // Batches need a buffer for each frame.
        let many = if self.shape.batches && end.rx_socket { self.shape.depth } else { 1 };
        let shared = Arc::new(Shared::new(many).map_err(|_| EMFILE)?);
        self.offload.store(end.offload, Ordering::Relaxed);
        let end = Arc::new(end);
        let me = self.me.upgrade().ok_or(ENODEV)?;
        let (e, s, i, st) = (end.clone(), shared.clone(), iface.clone(), stack.clone());
        let thread = std::thread::Builder::new()
            .name(format!("{} rx", self.shape.name))
            .spawn(move || me.receive(&e, &s, &i, &st))
            .map_err(|_| EAGAIN)?;
        *self.open.lock() = Some(Open { end, shared, thread: Some(thread) });
        Ok(())
    }

    fn close(&self) {
        let Some(mut o) = self.open.lock().take() else { return };
        self.offload.store(self.shape.offload, Ordering::Relaxed);
        o.shared.stopping.store(true, Ordering::SeqCst);
        o.shared.stop.raise();
        if let Some(t) = o.thread.take()
            && t.thread().id() != std::thread::current().id()
        {
            let _ = t.join();
        }
    }

    fn transmit(&self, batch: &mut VecDeque<Packet>) -> Sent {
        let mut sent = Sent::default();
        let Some((end, shared)) = self.current() else {
            sent.dropped += batch.len() as u64;
            batch.clear();
            return sent;
        };
        let many = if self.shape.batches && end.tx_socket { self.shape.depth } else { 1 };
        while !batch.is_empty() {
            if shared.dead.load(Ordering::Relaxed) {
                sent.dropped += batch.len() as u64;
                batch.clear();
                break;
            }
            if end.receive_only {
                sent.dropped += batch.len() as u64;
                batch.clear();
                break;
            }
            match send(&end, batch, many) {
                Ok(n) => {
                    for p in batch.drain(..n.clamp(1, batch.len())) {
                        sent.packets += 1;
                        sent.bytes += p.len() as u64;
                    }
                    continue;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    shared.blocked.store(true, Ordering::SeqCst);
                    // The receiving thread waits for room, too.
                    shared.stop.raise();
                    return sent;
                }
                Err(e) => match e.raw_os_error() {
                    // Full for a moment, about this frame alone, or a switch that is gone and may come back.
                    Some(
                        libc::ENOTCONN
                        | libc::ENOBUFS
                        | libc::ENOMEM
                        | libc::ECONNREFUSED
                        | libc::EMSGSIZE
                        | libc::ENETUNREACH
                        | libc::EHOSTUNREACH
                        | libc::EIO
                        | libc::EINVAL
                        | libc::EPERM,
                    ) => sent.dropped += 1,
                    _ => {
                        sent.errors += 1;
                        self.died(&end, &shared, &e);
                    }
                },
            }
            batch.pop_front();
        }
        sent
    }

    fn answers(&self, cx: &mut Cx, iface: &Arc<Interface>) {
        if let Some((end, shared)) = self.current() {
            self.look(&end, &shared, cx, iface);
        }
    }

    fn set_mac(&self, mac: Mac) -> Result<()> {
        *self.mac.lock() = mac;
        Ok(())
    }

    fn driver(&self) -> (&'static str, String) {
        self.shape.driver.clone()
    }
}
