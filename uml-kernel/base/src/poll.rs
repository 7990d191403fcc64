//! Readiness: event masks and how a poller attaches itself to what it watches.

use std::sync::Arc;

use crate::wait::WaitQueue;

/// A set of poll(2)/epoll(7) event bits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Hash)]
pub struct Events(pub u32);

impl Events {
    pub const NONE: Events = Events(0);
    pub const IN: Events = Events(0x001);
    pub const PRI: Events = Events(0x002);
    pub const OUT: Events = Events(0x004);
    pub const ERR: Events = Events(0x008);
    pub const HUP: Events = Events(0x010);
    pub const NVAL: Events = Events(0x020);
    pub const RDNORM: Events = Events(0x040);
    pub const RDBAND: Events = Events(0x080);
    pub const WRNORM: Events = Events(0x100);
    pub const WRBAND: Events = Events(0x200);
    pub const MSG: Events = Events(0x400);
    pub const RDHUP: Events = Events(0x2000);
    /// What a readable ordinary file reports.
    pub const READABLE: Events = Events(0x041);
    /// What a writable ordinary file reports.
    pub const WRITABLE: Events = Events(0x104);
    pub const ALL: Events = Events(u32::MAX);

    /// True when the two sets share a bit.
    pub const fn intersects(self, other: Events) -> bool {
        self.0 & other.0 != 0
    }

    /// True when `other` is a subset.
    pub const fn contains(self, other: Events) -> bool {
        self.0 & other.0 == other.0
    }

    /// True when no bit is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// `self` when `cond`, else nothing: for building masks.
    pub const fn when(self, cond: bool) -> Events {
        if cond { self } else { Events::NONE }
    }
}

impl std::ops::BitOr for Events {
    type Output = Events;
    fn bitor(self, rhs: Events) -> Events {
        Events(self.0 | rhs.0)
    }
}

impl std::ops::BitOrAssign for Events {
    fn bitor_assign(&mut self, rhs: Events) {
        self.0 |= rhs.0;
    }
}

impl std::ops::BitAnd for Events {
    type Output = Events;
    fn bitand(self, rhs: Events) -> Events {
        Events(self.0 & rhs.0)
    }
}

/// Collects the wait queues of a polled object. A `poll` method registers every
/// queue that may signal a change *before* it computes the readiness it returns, so that no
/// change between the two is lost.
pub trait PollRegistrar {
    /// Watch `queue` for as long as the poller lives.
    fn register(&mut self, queue: &Arc<WaitQueue>);
}
