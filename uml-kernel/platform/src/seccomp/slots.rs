//! The slots of one guest process, by position.

use std::sync::Arc;

use super::arena::Slot;
use crate::region::POSITIONS;

#[derive(Default)]
pub struct Slots {
    /// Every slot the process has mapped; they stay its own until it is dead.
    mapped: Vec<Arc<Slot>>,
    /// Those without a context.
    free: Vec<(usize, Arc<Slot>)>,
    /// First position never used.
    next: usize,
}

impl Slots {
    /// The slots of a process that has one, at `position`.
    pub fn with(position: usize, slot: &Arc<Slot>) -> Slots {
        Slots { mapped: vec![slot.clone()], free: Vec::new(), next: position + 1 }
    }

    /// A free slot that `usable` accepts.
    pub fn take_free(&mut self, usable: impl Fn(&Slot) -> bool) -> Option<(usize, Arc<Slot>)> {
        let i = self.free.iter().rposition(|(_, s)| usable(s))?;
        Some(self.free.swap_remove(i))
    }

    /// Every slot the process may have mapped.
    pub fn all(&self) -> Vec<Arc<Slot>> {
        self.mapped.clone()
    }

    /// A position for a new slot.
    pub fn reserve(&mut self) -> Option<usize> {
        (self.next < POSITIONS).then(|| {
            self.next += 1;
            self.next - 1
        })
    }

    /// Records a slot that may be mapped in the process from now on.
    pub fn add(&mut self, slot: &Arc<Slot>) {
        self.mapped.push(slot.clone());
    }

    /// Gives back a slot whose thread will not touch it any more, or not for long.
    pub fn release(&mut self, position: usize, slot: Arc<Slot>) {
        self.free.push((position, slot));
    }

    /// Declares positions below `end` used.
    pub fn raise_end(&mut self, end: usize) {
        self.next = self.next.max(end);
    }

    /// Positions that may be mapped are below this.
    pub fn end(&self) -> usize {
        self.next
    }
}
