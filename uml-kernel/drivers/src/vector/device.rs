//! A vector interface as a device of the stack: one receiving thread while it is up, transmission in the
//! sender's thread.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank, pr_err};
use uml_host::netdev::{self, Signal};
use uml_net::gro::Joiner;
use uml_net::interface::{Device, Features, Interface, Sent};
use uml_net::packet::{Data, Frag, Packet, SLAB, Slab};
use uml_net::stack::Stack;
use uml_net::wire::ethernet::Mac;
use uml_net::wire::vnet::Vnet;

use super::frame::{self, Encap};
use super::open::{Endpoint, Failed};

/// Frames shorter than this are copied out of the receive buffer, so that it can be used again.
const COPY_BREAK: usize = 2048;

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
    shape: Shape,
    host: Box<dyn HostSide>,
    mac: Mutex<Mac>,
    open: Mutex<Option<Open>>,
    pub stats: Stats,
    complained: AtomicBool,
}

struct Open {
    end: Arc<Endpoint>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    stop: Signal,
    stopping: AtomicBool,
    /// Transmission waits for room.
    blocked: AtomicBool,
    /// A hard error: nothing moves until the interface is opened again.
    dead: AtomicBool,
}

impl VectorDevice {
    /// A device, closed.
    pub fn new(shape: Shape, host: Box<dyn HostSide>, mac: Mac) -> Arc<VectorDevice> {
        Arc::new_cyclic(|me| VectorDevice {
            me: me.clone(),
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

    fn receive(&self, end: &Endpoint, shared: &Shared, iface: &Arc<Interface>, stack: &Arc<Stack>) {
        use std::os::fd::AsFd;
        // Batches need a buffer for each frame; only what frames fill is ever touched.
        let many = if self.shape.batches && end.rx_socket { self.shape.depth } else { 1 };
        let mut slabs: Vec<Slab> = (0..many).map(|_| Slab::new(SLAB)).collect();
        let mut lens = Vec::new();
        let mut joiner = Joiner::default();
        loop {
            let blocked = shared.blocked.load(Ordering::SeqCst);
            // Only a transmit side that is the receive side can be waited for here; others are tried
            // again with the next frame.
            let ready = netdev::wait(end.rx.as_fd(), shared.stop.fd(), blocked);
            let Ok((readable, writable, signalled)) = ready else { return };
            if signalled {
                shared.stop.clear();
                if shared.stopping.load(Ordering::SeqCst) {
                    return;
                }
            }
            if blocked && writable {
                shared.blocked.store(false, Ordering::SeqCst);
                iface.resume(stack);
            }
            if !readable {
                continue;
            }
            let hard = self.receive_batch(end, &mut slabs, &mut lens, &mut joiner);
            let batch = joiner.finish();
            if !batch.is_empty() {
                stack.enter(|cx| {
                    for p in batch {
                        stack.receive(cx, iface, p);
                    }
                });
            }
            if let Some(e) = hard {
                self.died(shared, &e);
                return;
            }
        }
    }

    /// Takes up to `depth` frames; the error is one that ends reception.
    fn receive_batch(
        &self,
        end: &Endpoint,
        slabs: &mut [Slab],
        lens: &mut Vec<usize>,
        joiner: &mut Joiner,
    ) -> Option<std::io::Error> {
        let mut seen = 0;
        while seen < self.shape.depth {
            let r = match &mut *slabs {
                [one] => netdev::recv(&end.rx, one.bytes_mut(), end.rx_socket).map(|n| {
                    lens.clear();
                    lens.push(n);
                }),
                all => netdev::recv_many(&end.rx, all.iter_mut().map(Slab::bytes_mut), lens),
            };
            match r {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return None,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                // What a datagram of ours met (ICMP) is no reason to stop.
                Err(e) if e.raw_os_error() == Some(libc::ECONNREFUSED) => continue,
                Err(e) => return Some(e),
            }
            for (slab, n) in slabs.iter_mut().zip(lens.iter().copied()) {
                if n == 0 && end.ends {
                    return Some(std::io::Error::from(ErrorKind::UnexpectedEof));
                }
                self.frame(end, slab, n, joiner);
            }
            seen += lens.len();
            // Fewer than there was room for: nothing is left.
            if lens.len() < slabs.len() {
                return None;
            }
        }
        None
    }

    /// A received frame without what stood in front of it; the slab is replaced when the frame keeps it.
    fn frame(&self, end: &Endpoint, slab: &mut Slab, n: usize, joiner: &mut Joiner) {
        let bytes = &slab.bytes_mut()[..n];
        let skip = match end.encap.check(bytes) {
            Ok(s) if s <= n => s,
            Ok(_) => return,
            Err(e) => {
                self.stats.rx_encaps_errors.fetch_add(1, Ordering::Relaxed);
                if !self.complained.swap(true, Ordering::Relaxed) {
                    pr_err!("{}: {}", self.shape.name, e.0);
                }
                return;
            }
        };
        // A host that knows what it joined says so; what others bring is joined here.
        if !matches!(end.encap, Encap::Vnet) && joiner.frame(&bytes[skip..]) {
            return;
        }
        let head = if matches!(end.encap, Encap::Vnet) { Vnet::parse(bytes).ok() } else { None };
        let data = if n - skip < COPY_BREAK {
            Data::copy_of(&bytes[skip..])
        } else {
            let full = std::mem::replace(slab, Slab::new(SLAB));
            let mut f = Frag::new(full, n);
            f.advance(skip);
            let mut d = Data::new();
            d.push(f);
            d
        };
        let mut p = Packet::new(data);
        if let Some(v) = head {
            frame::apply(&v, &mut p);
        }
        joiner.packet(p);
    }

    fn died(&self, shared: &Shared, e: &std::io::Error) {
        if !shared.dead.swap(true, Ordering::SeqCst) {
            pr_err!(
                "{}: host side failed: {e}; set the interface down and up again",
                self.shape.name
            );
        }
    }
}

/// Sends frames from the front of a queue, up to `many` with one call; how many were taken.
fn send(end: &Endpoint, queue: &VecDeque<Packet>, many: usize) -> std::io::Result<usize> {
    let n = queue.len().min(many);
    let headers: Vec<Vec<u8>> = queue.iter().take(n).map(|p| end.encap.header(p)).collect();
    let frames: Vec<Vec<IoSlice<'_>>> = queue
        .iter()
        .zip(&headers)
        .map(|(p, header)| {
            let mut parts = Vec::with_capacity(2 + p.data.pieces());
            if !header.is_empty() {
                parts.push(IoSlice::new(header));
            }
            parts.push(IoSlice::new(p.head()));
            parts.extend(p.data.frags().map(|f| IoSlice::new(f.bytes())));
            parts
        })
        .collect();
    let taken = match frames.as_slice() {
        [one] => netdev::send(&end.tx, one, end.to.as_ref(), end.tx_socket).map(|()| 1),
        all => netdev::send_many(&end.tx, all, end.to.as_ref()),
    };
    end.encap.take_back(n - taken.as_ref().map_or(0, |t| *t).min(n));
    taken
}

impl Device for VectorDevice {
    fn features(&self) -> Features {
        // What the host was asked for when the transport has the header.
        let offload = match self.current() {
            Some((e, _)) => e.offload,
            None => self.shape.offload,
        };
        Features { tx_csum: offload, tso4: offload, tso6: offload, uso: false }
    }

    fn open(&self, iface: &Arc<Interface>, stack: &Arc<Stack>) -> Result<()> {
        let mac = *self.mac.lock();
        let end = self.host.open(mac).map_err(|_| EINVAL)?;
        let stop = Signal::new().map_err(|_| EMFILE)?;
        let end = Arc::new(end);
        let shared = Arc::new(Shared {
            stop,
            stopping: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            dead: AtomicBool::new(false),
        });
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
        o.shared.stopping.store(true, Ordering::SeqCst);
        o.shared.stop.raise();
        if let Some(t) = o.thread.take()
            && t.thread().id() != std::thread::current().id()
        {
            let _ = t.join();
        }
        if let Some(end) = Arc::into_inner(o.end)
            && let Some(mut child) = end.helper
        {
            let _ = child.kill();
            let _ = child.wait();
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
                        self.died(&shared, &e);
                    }
                },
            }
            batch.pop_front();
        }
        sent
    }

    fn set_mac(&self, mac: Mac) -> Result<()> {
        *self.mac.lock() = mac;
        Ok(())
    }

    fn driver(&self) -> (&'static str, String) {
        self.shape.driver.clone()
    }
}
