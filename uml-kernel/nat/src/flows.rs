//! What the router keeps of conversations, by number.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use uml_net::Time;

use crate::ping::Ping;
use crate::tcp::Tcp;
use crate::udp::Udp;

/// A conversation. The number of one that has ended is not used again soon, so that late events miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub u64);

impl Id {
    fn new(index: usize, generation: u32) -> Id {
        Id(u64::from(generation) << 32 | index as u64)
    }

    fn index(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// One conversation.
pub(crate) enum Flow<S> {
    Tcp(Box<Tcp<S>>),
    Udp(Box<Udp<S>>),
    Ping(Box<Ping<S>>),
    /// A forwarded port of the host.
    Listener(Listener<S>),
}

/// A listening socket of the host and where its connections go.
pub(crate) struct Listener<S> {
    pub sock: S,
    pub guest: std::net::SocketAddr,
}

struct Slot<S> {
    generation: u32,
    flow: Option<Flow<S>>,
    /// Earliest entry in the queue of deadlines.
    armed: Time,
}

/// All of them, and their deadlines.
pub(crate) struct Flows<S> {
    slots: Vec<Slot<S>>,
    free: Vec<usize>,
    heap: BinaryHeap<Reverse<(Time, Id)>>,
}

impl<S> Flows<S> {
    pub fn new() -> Flows<S> {
        Flows { slots: Vec::new(), free: Vec::new(), heap: BinaryHeap::new() }
    }

    /// A number for a conversation that [`Flows::put`] will enter.
    pub fn reserve(&mut self) -> Id {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, flow: None, armed: Time::NEVER });
            self.slots.len() - 1
        });
        Id::new(index, self.slots[index].generation)
    }

    fn slot(&mut self, id: Id) -> Option<&mut Slot<S>> {
        self.slots.get_mut(id.index()).filter(|s| s.generation == id.generation())
    }

    /// Takes a conversation out to work on it.
    pub fn take(&mut self, id: Id) -> Option<Flow<S>> {
        self.slot(id)?.flow.take()
    }

    /// Puts it (back) in.
    pub fn put(&mut self, id: Id, flow: Flow<S>) {
        if let Some(s) = self.slot(id) {
            s.flow = Some(flow);
        }
    }

    /// Looks at one.
    pub fn get(&self, id: Id) -> Option<&Flow<S>> {
        let s = self.slots.get(id.index())?;
        if s.generation == id.generation() { s.flow.as_ref() } else { None }
    }

    /// Ends a conversation, whether it is in or taken out.
    pub fn end(&mut self, id: Id) {
        if let Some(s) = self.slot(id) {
            s.flow = None;
            s.generation = s.generation.wrapping_add(1);
            s.armed = Time::NEVER;
            self.free.push(id.index());
        }
    }

    /// The conversation wants to be looked at then.
    pub fn arm(&mut self, id: Id, at: Time) {
        let Some(s) = self.slot(id) else { return };
        if at < s.armed {
            s.armed = at;
            self.heap.push(Reverse((at, id)));
        }
    }

    /// The earliest deadline.
    pub fn deadline(&self) -> Option<Time> {
        self.heap.peek().map(|e| e.0.0)
    }

    /// One whose deadline may have come.
    pub fn due(&mut self, now: Time) -> Option<Id> {
        while let Some(Reverse((at, id))) = self.heap.peek().copied() {
            if at > now {
                return None;
            }
            self.heap.pop();
            if let Some(s) = self.slot(id)
                && s.armed == at
            {
                s.armed = Time::NEVER;
                return Some(id);
            }
        }
        None
    }
}
