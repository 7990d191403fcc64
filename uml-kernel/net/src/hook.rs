//! The places where packets can be judged on their way (Netfilter's hooks), and who judges: five for those of IP, and others for frames.
//!
//! Without a judge, and at hooks that it does not care about, a hook costs one load.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use uml_base::{Rank, RwLock};

use crate::interface::Interface;
use crate::packet::Packet;
use crate::stack::{Cx, Stack};

/// The places, numbered as NF_INET_*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Received, before it is routed.
    Prerouting = 0,
    /// For this host.
    Input = 1,
    /// For another host.
    Forward = 2,
    /// Sent by this host, routed.
    Output = 3,
    /// On its way out.
    Postrouting = 4,
}

impl Hook {
    pub const COUNT: usize = 5;
    pub const ALL: [Hook; Hook::COUNT] =
        [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];
}

/// Where frames are judged, of whatever protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameHook {
    /// Messages of ARP for this host, and by it.
    ArpInput = 0,
    ArpOutput = 1,
    /// On a bridge: received by a port, for this host, for another port, by this host, and sent by a port.
    BridgePrerouting = 2,
    BridgeInput = 3,
    BridgeForward = 4,
    BridgeOutput = 5,
    BridgePostrouting = 6,
    /// Received by an interface, before anybody else, and sent by one.
    Ingress = 7,
    Egress = 8,
}

impl FrameHook {
    pub const COUNT: usize = 9;
    pub const ALL: [FrameHook; FrameHook::COUNT] = [
        FrameHook::ArpInput,
        FrameHook::ArpOutput,
        FrameHook::BridgePrerouting,
        FrameHook::BridgeInput,
        FrameHook::BridgeForward,
        FrameHook::BridgeOutput,
        FrameHook::BridgePostrouting,
        FrameHook::Ingress,
        FrameHook::Egress,
    ];

    /// Its bit in the mask of a judge; those of the hooks come first.
    pub fn bit(self) -> u32 {
        1 << (Hook::COUNT + self as usize)
    }

    /// Frames have their link header here and are counted with it.
    pub fn with_link(self) -> bool {
        matches!(self, FrameHook::ArpOutput | FrameHook::Egress)
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    /// Dropped, and its sender was told.
    Stolen,
}

/// The connection of a packet, which the judge knows.
#[derive(Clone, Default)]
pub enum Track {
    /// Not looked at yet, or part of none.
    #[default]
    None,
    /// Never to be looked at.
    Untracked,
    /// The connection, and how the packet relates to it.
    Conn(Arc<dyn Any + Send + Sync>, u8),
}

/// A judge of packets.
pub trait Filter: Send + Sync {
    /// Judges and may change a packet that begins with its IP header. Sockets may be locked.
    fn judge(
        &self,
        cx: &mut Cx,
        hook: Hook,
        p: &mut Packet,
        input: Option<&Arc<Interface>>,
        output: Option<&Arc<Interface>>,
    ) -> Verdict;

    /// Judges and may change a frame, whose protocol its `kind` is. Sockets may be locked.
    fn judge_frame(
        &self,
        cx: &mut Cx,
        place: FrameHook,
        p: &mut Packet,
        input: Option<&Arc<Interface>>,
        output: Option<&Arc<Interface>>,
    ) -> Verdict;

    /// Pieces must be put together before they are judged.
    fn wants_whole(&self) -> bool;

    /// Where the connection of a TCP socket with these ends was going before it was translated.
    fn original_destination(
        &self,
        stack: &Stack,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Option<SocketAddr>;

    /// An interface lost an address.
    fn address_gone(&self, stack: &Stack, iface: u32);
}

/// The judge of a namespace.
pub struct Hooks {
    /// Bit n for a hook n that is cared about, and those of places.
    mask: AtomicU32,
    filter: RwLock<Option<Arc<dyn Filter>>>,
}

impl Default for Hooks {
    fn default() -> Hooks {
        Hooks { mask: AtomicU32::new(0), filter: RwLock::new(Rank::LEAF, None) }
    }
}

impl Hooks {
    /// Installs a judge that cares about the hooks and places in `mask`.
    pub fn install(&self, filter: Arc<dyn Filter>, mask: u32) {
        *self.filter.write() = Some(filter);
        self.mask.store(mask, Ordering::SeqCst);
    }

    /// Somebody cares about the hook.
    pub fn active(&self, hook: Hook) -> bool {
        self.mask.load(Ordering::Relaxed) & 1 << hook as u8 != 0
    }

    /// Somebody cares about the place.
    pub fn active_at(&self, place: FrameHook) -> bool {
        self.mask.load(Ordering::Relaxed) & place.bit() != 0
    }

    /// Anybody cares about anything.
    pub fn any(&self) -> bool {
        self.mask.load(Ordering::Relaxed) != 0
    }

    /// The judge.
    pub fn filter(&self) -> Option<Arc<dyn Filter>> {
        self.filter.read().clone()
    }

    /// Whether the judge accepts; without one everything passes.
    fn accept(&self, judge: impl FnOnce(&dyn Filter) -> Verdict) -> bool {
        self.filter().is_none_or(|f| judge(&*f) == Verdict::Accept)
    }
}

impl Stack {
    /// Has a packet judged; false when it goes no further.
    pub(crate) fn passes(
        &self,
        cx: &mut Cx,
        hook: Hook,
        p: &mut Packet,
        input: Option<&Arc<Interface>>,
        output: Option<&Arc<Interface>>,
    ) -> bool {
        let judge = |f: &dyn Filter| f.judge(cx, hook, p, input, output);
        !self.hooks.active(hook) || self.hooks.accept(judge)
    }

    /// Has a frame judged; false when it goes no further.
    pub(crate) fn passes_at(
        &self,
        cx: &mut Cx,
        place: FrameHook,
        p: &mut Packet,
        input: Option<&Arc<Interface>>,
        output: Option<&Arc<Interface>>,
    ) -> bool {
        let judge = |f: &dyn Filter| f.judge_frame(cx, place, p, input, output);
        !self.hooks.active_at(place) || self.hooks.accept(judge)
    }

    /// Pieces are put together where packets come in.
    pub(crate) fn wants_whole(&self) -> bool {
        self.hooks.active(Hook::Prerouting) && self.hooks.filter().is_some_and(|f| f.wants_whole())
    }
}
