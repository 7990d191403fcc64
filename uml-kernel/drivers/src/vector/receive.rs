//! Taking frames from the host side.
//!
//! Whoever has the [`Reception`] of an interface takes its frames and brings them through the stack: most of the time the
//! receiving thread, now and then a thread that has just sent something ([`VectorDevice::look`]). So frames of a connection
//! stay in order without a lock being held.

use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use uml_base::{Mutex, Rank, pr_err};
use uml_host::netdev::{self, Signal};
use uml_net::gro::Joiner;
use uml_net::interface::Interface;
use uml_net::packet::{Data, Frag, Packet, SLAB, Slab};
use uml_net::stack::{Cx, Stack};
use uml_net::wire::vnet::{self, Vnet};

use super::device::VectorDevice;
use super::frame::{self, Encap};
use super::open::{Endpoint, Helper};

/// Frames shorter than this are copied out of the receive buffer, so that it can be used again.
const COPY_BREAK: usize = 2048;
/// Frames shorter than this become one block of memory with their headers.
const CONTIGUOUS: usize = 256;
/// Frames that a sending thread takes at most.
const ANSWERS: usize = 16;
/// So often in a row a sending thread looks in vain before it looks rarely, once in [`RARELY`] times.
const MISSES: u32 = 8;
const RARELY: u32 = 16;
/// As many frames, half of them dropped for readers that lag behind, are a flood.
const FLOOD: usize = 32;
/// How long frames of a flood gather in the host's queue, once that was emptied, before they are taken together: taking each as it
/// comes costs several times as much, of the CPU that the reader needs. The reader has at least 128 datagrams for that
/// time, the queue room for more than a million frames a second, and the frames of others wait no longer.
const PAUSE: Duration = Duration::from_micros(500);

/// What a thread needs to receive.
pub struct Reception {
    /// A buffer for each frame of a batch.
    slabs: Vec<Slab>,
    lens: Vec<usize>,
    joiner: Joiner,
}

/// What the threads of an interface share while it is up.
pub struct Shared {
    pub stop: Signal,
    pub stopping: AtomicBool,
    /// Transmission waits for room.
    pub blocked: AtomicBool,
    /// A hard error: nothing moves until the interface is opened again.
    pub dead: AtomicBool,
    /// Not there while somebody receives.
    reception: Mutex<Option<Reception>>,
    /// The receiving thread waits for the reception.
    wanted: AtomicBool,
    /// How often sending threads looked in vain since an answer was there.
    misses: AtomicU32,
}

impl Shared {
    /// For an interface that is opened, with buffers for `many` frames; only what frames fill is ever touched.
    pub fn new(many: usize) -> std::io::Result<Shared> {
        let reception = Reception {
            slabs: (0..many).map(|_| Slab::new(SLAB)).collect(),
            lens: Vec::new(),
            joiner: Joiner::default(),
        };
        Ok(Shared {
            stop: Signal::new()?,
            stopping: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            reception: Mutex::new(Rank::LEAF, Some(reception)),
            wanted: AtomicBool::new(false),
            misses: AtomicU32::new(0),
        })
    }

    /// The right to receive, unless another thread has it.
    fn take(&self) -> Option<Taken<'_>> {
        let own = self.reception.lock().take()?;
        Some(Taken { shared: self, own: Some(own) })
    }

    /// As [`Shared::take`]; whoever has it will raise the signal.
    fn take_or_ask(&self) -> Option<Taken<'_>> {
        self.take().or_else(|| {
            self.wanted.store(true, Ordering::SeqCst);
            // It may have been given back before that was seen.
            self.take()
        })
    }

    /// Whether a sending thread is to look for an answer.
    fn worth_looking(&self) -> bool {
        let misses = self.misses.load(Ordering::Relaxed);
        if misses < MISSES {
            return true;
        }
        self.misses.store(misses.wrapping_add(1).max(MISSES), Ordering::Relaxed);
        misses % RARELY == 0
    }

    fn looked(&self, found: bool) {
        if found {
            self.misses.store(0, Ordering::Relaxed);
        } else if self.misses.load(Ordering::Relaxed) < MISSES {
            self.misses.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The right to receive, until it is dropped.
struct Taken<'a> {
    shared: &'a Shared,
    own: Option<Reception>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.shared.reception.lock() = self.own.take();
        if self.shared.wanted.swap(false, Ordering::SeqCst) {
            self.shared.stop.raise();
        }
    }
}

/// Frames that were taken together.
#[derive(Default)]
struct Batch {
    packets: Vec<Packet>,
    /// There may be more.
    more: bool,
    /// An error that ends reception.
    hard: Option<Error>,
}

impl Taken<'_> {
    /// Takes up to `most` frames, as many with one call as there are buffers and `many` allows, and joins what can be.
    fn batch(&mut self, device: &VectorDevice, end: &Endpoint, most: usize, many: bool) -> Batch {
        let Some(r) = &mut self.own else { return Batch::default() };
        let all = r.frames(device, end, most, many);
        let (more, hard) = match all {
            Ok(more) => (more, None),
            Err(e) => (false, Some(e)),
        };
        Batch { packets: r.joiner.finish(), more, hard }
    }
}

impl Reception {
    /// Takes frames; true when there may be more.
    fn frames(
        &mut self,
        device: &VectorDevice,
        end: &Endpoint,
        most: usize,
        many: bool,
    ) -> Result<bool, Error> {
        let Reception { slabs, lens, joiner } = self;
        let count = if many { slabs.len() } else { slabs.len().min(1) };
        let slabs = &mut slabs[..count];
        let mut seen = 0;
        while seen < most {
            let r = match &mut *slabs {
                [one] => netdev::recv(&end.rx, one.bytes_mut(), end.rx_socket).map(|n| {
                    lens.clear();
                    lens.push(n);
                }),
                all => netdev::recv_many(&end.rx, all.iter_mut().map(Slab::bytes_mut), lens),
            };
            match r {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                // What a datagram of ours met (ICMP) is no reason to stop.
                Err(e) if e.raw_os_error() == Some(libc::ECONNREFUSED) => continue,
                Err(e) => return Err(e),
            }
            for (slab, n) in slabs.iter_mut().zip(lens.iter().copied()) {
                if n == 0 && end.ends {
                    return Err(Error::from(ErrorKind::UnexpectedEof));
                }
                take_frame(device, end, slab, n, joiner);
            }
            seen += lens.len();
            // Fewer than there was room for: nothing is left.
            if lens.len() < slabs.len() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A received frame without what stood in front of it; the slab is replaced when the frame keeps it.
fn take_frame(
    device: &VectorDevice,
    end: &Endpoint,
    slab: &mut Slab,
    n: usize,
    joiner: &mut Joiner,
) {
    let bytes = &slab.bytes_mut()[..n];
    let skip = match end.encap.check(bytes) {
        Ok(s) if s <= n => s,
        Ok(_) => return,
        Err(e) => {
            device.stats.rx_encaps_errors.fetch_add(1, Ordering::Relaxed);
            if !device.complained.swap(true, Ordering::Relaxed) {
                pr_err!("{}: {}", device.shape.name, e.0);
            }
            return;
        }
    };
    // A host that knows what it joined says so; what others bring is joined here.
    if !matches!(end.encap, Encap::Vnet) && joiner.frame(&bytes[skip..]) {
        return;
    }
    let head = if matches!(end.encap, Encap::Vnet) { Vnet::parse(bytes).ok() } else { None };
    // Of what the host joined, the contiguous part is the headers alone.
    let plain = head.as_ref().is_none_or(|v| v.gso_type == vnet::GSO_NONE);
    let mut p = if plain && n - skip < CONTIGUOUS {
        Packet::contiguous(&bytes[skip..])
    } else if n - skip < COPY_BREAK {
        Packet::new(Data::copy_of(&bytes[skip..]))
    } else {
        let full = std::mem::replace(slab, Slab::new(SLAB));
        let mut f = Frag::new(full, n);
        f.advance(skip);
        let mut d = Data::new();
        d.push(f);
        Packet::new(d)
    };
    if let Some(v) = head {
        frame::apply(&v, &mut p);
    }
    joiner.packet(p);
}

impl VectorDevice {
    /// The receiving thread.
    pub(super) fn receive(
        &self,
        end: &Endpoint,
        shared: &Shared,
        iface: &Arc<Interface>,
        stack: &Arc<Stack>,
    ) {
        use std::os::fd::AsFd;
        let mut elsewhere = false;
        // Packets since the host's queue was empty, and those of them that nobody misses.
        let (mut all, mut surplus) = (0, 0);
        loop {
            let blocked = shared.blocked.load(Ordering::SeqCst);
            // Only a transmit side that is the receive side can be waited for here; others are tried
            // again with the next frame.
            let ready = if elsewhere {
                netdev::pause(shared.stop.fd(), None).map(|s| (false, false, s))
            } else {
                netdev::wait(end.rx.as_fd(), shared.stop.fd(), blocked)
            };
            let Ok((readable, writable, signalled)) = ready else { return };
            elsewhere = false;
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
            let Some(mut taken) = shared.take_or_ask() else {
                elsewhere = true;
                continue;
            };
            let batch = taken.batch(self, end, self.shape.depth, true);
            all += batch.packets.len();
            if !batch.packets.is_empty() {
                stack.enter(|cx| {
                    for p in batch.packets {
                        stack.receive(cx, iface, p);
                    }
                    surplus += cx.surplus();
                });
            }
            drop(taken);
            if let Some(e) = batch.hard {
                self.died(end, shared, &e);
                return;
            }
            if batch.more {
                continue;
            }
            if all >= FLOOD && surplus >= all / 2 {
                let _ = netdev::pause(shared.stop.fd(), Some(PAUSE));
            }
            (all, surplus) = (0, 0);
        }
    }

    /// A thread has sent something: what the other end has answered in the same moment, as the host itself does, is taken
    /// here. Otherwise the answer would wait for two changes of thread, to the receiving one and back.
    pub(super) fn look(
        &self,
        end: &Endpoint,
        shared: &Shared,
        cx: &mut Cx,
        iface: &Arc<Interface>,
    ) {
        if shared.dead.load(Ordering::Relaxed) || !shared.worth_looking() {
            return;
        }
        let Some(mut taken) = shared.take() else { return };
        let batch = taken.batch(self, end, ANSWERS, false);
        shared.looked(!batch.packets.is_empty());
        let stack = cx.stack().clone();
        for p in batch.packets {
            stack.receive(cx, iface, p);
        }
        drop(taken);
        if let Some(e) = batch.hard {
            self.died(end, shared, &e);
        }
    }

    pub(super) fn died(&self, end: &Endpoint, shared: &Shared, e: &Error) {
        if !shared.dead.swap(true, Ordering::SeqCst) {
            let why = end.helper.as_ref().map_or_else(|| e.to_string(), Helper::ended);
            pr_err!(
                "{}: host side failed: {why}; set the interface down and up again",
                self.shape.name
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_receives_and_the_one_that_waits_is_told() {
        let shared = Shared::new(2).unwrap();
        let first = shared.take_or_ask().unwrap();
        assert!(shared.take().is_none());
        assert!(!netdev::pause(shared.stop.fd(), Some(Duration::ZERO)).unwrap());
        assert!(shared.take_or_ask().is_none());
        drop(first);
        assert!(netdev::pause(shared.stop.fd(), None).unwrap());
        assert!(shared.take().is_some());
    }

    #[test]
    fn senders_look_rarely_where_nothing_answers() {
        let shared = Shared::new(1).unwrap();
        let looks = |times: u32| {
            let look = |_: &u32| shared.worth_looking();
            (0..times).filter(look).map(|_| shared.looked(false)).count() as u32
        };
        assert_eq!(looks(MISSES), MISSES);
        let n = looks(160);
        assert!((160 / RARELY - 1..=160 / RARELY + 1).contains(&n), "{n}");
        shared.looked(true);
        assert!(shared.worth_looking());
    }
}
