//! When packets leave: what sockets that asked for it are told (SO_TIMESTAMPING; Documentation/networking/timestamping.rst).
//!
//! A packet carries a [`Stamp`]; a queue notes the moment it takes the packet, and whoever hands the packet to the device
//! tells both moments, with no lock held.

use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::packet::Packet;
use crate::sock::QueuedError;
use crate::stack::Cx;
use crate::wire::ethernet;
use uml_abi::errno::ENOMSG;

/// Bits of SO_TIMESTAMPING (linux/net_tstamp.h) that concern a packet that is sent.
pub mod flag {
    pub const TX_HARDWARE: u32 = 1;
    pub const TX_SOFTWARE: u32 = 1 << 1;
    pub const RX_SOFTWARE: u32 = 1 << 3;
    pub const SOFTWARE: u32 = 1 << 4;
    pub const OPT_ID: u32 = 1 << 7;
    pub const TX_SCHED: u32 = 1 << 8;
    pub const TX_ACK: u32 = 1 << 9;
    pub const OPT_CMSG: u32 = 1 << 10;
    pub const OPT_TSONLY: u32 = 1 << 11;
    pub const BIND_PHC: u32 = 1 << 15;
    pub const OPT_ID_TCP: u32 = 1 << 16;
    pub const TX_COMPLETION: u32 = 1 << 18;
    /// Every bit there is.
    pub const ALL: u32 = (1 << 19) - 1;
}

/// SO_EE_ORIGIN_TIMESTAMPING (linux/errqueue.h).
pub const ORIGIN: u8 = 4;
/// SCM_TSTAMP_SND and SCM_TSTAMP_SCHED.
const SENT: u32 = 0;
const QUEUED: u32 = 1;

/// A socket that wants to know.
pub(crate) trait Hear: Send + Sync {
    /// An entry for its error queue.
    fn stamped(&self, cx: &mut Cx, e: QueuedError);
}

/// What a sender asked for: flags, and the number of the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Bits of [`flag`].
    pub flags: u32,
    pub id: u32,
}

/// What a packet carries whose sender wants to know when it leaves.
pub struct Stamp {
    to: Weak<dyn Hear>,
    asked: Asked,
    queued: AtomicU64,
    told: AtomicBool,
}

impl Stamp {
    /// A stamp for a packet of the socket; `None` when only hardware could make it.
    pub(crate) fn new(to: Weak<dyn Hear>, asked: Option<Asked>) -> Option<Box<Stamp>> {
        let asked = asked?;
        let wanted = asked.flags & (flag::TX_SOFTWARE | flag::TX_SCHED) != 0;
        let (queued, told) = (AtomicU64::new(0), AtomicBool::new(false));
        wanted.then(|| Box::new(Stamp { to, asked, queued, told }))
    }

    /// A queue took the packet, at this many nanoseconds since the epoch.
    pub(crate) fn queued_at(&self, ns: u64) {
        self.queued.store(ns, Ordering::Relaxed);
    }

    /// The packet goes to its device now.
    pub(crate) fn leaves(&self, cx: &mut Cx, p: &Packet) {
        let Some(to) = self.to.upgrade().filter(|_| !self.told.swap(true, Ordering::Relaxed))
        else {
            return;
        };
        let now = cx.stack().realtime();
        let payload = if self.asked.flags & flag::OPT_TSONLY == 0 { whole(p) } else { Vec::new() };
        for (bit, what, at) in [
            (flag::TX_SCHED, QUEUED, self.queued.load(Ordering::Relaxed)),
            (flag::TX_SOFTWARE, SENT, now),
        ] {
            if self.asked.flags & bit == 0 {
                continue;
            }
            let (Some(src), Some(dst)) = (crate::ip::source(p), crate::ip::destination(p)) else {
                return;
            };
            let e = QueuedError {
                errno: ENOMSG,
                origin: ORIGIN,
                kind: 0,
                code: 0,
                info: what,
                data: if self.asked.flags & flag::OPT_ID != 0 { self.asked.id } else { 0 },
                stamp: at,
                offender: (!payload.is_empty()).then_some(src),
                dst: std::net::SocketAddr::new(dst, 0),
                payload: payload.clone(),
            };
            to.stamped(cx, e);
        }
    }
}

/// The packet with its link header, which on the loopback is an empty one.
fn whole(p: &Packet) -> Vec<u8> {
    if p.link_len() > 0 {
        return p.to_vec();
    }
    let mut v = vec![0; ethernet::HEADER];
    v[12..14].copy_from_slice(&p.kind.to_be_bytes());
    v.extend(p.to_vec());
    v
}
