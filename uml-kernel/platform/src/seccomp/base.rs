//! What both seccomp backends set up on the [`Foundation`]: the arena of context slots.

use std::ops::Deref;
use std::sync::Arc;

use uml_abi::{Result, errno};

use super::arena::{Arena, Slot};
use super::filter::Insn;
use super::stopped::Place;
pub use crate::foundation::Setup;
use crate::foundation::{Foundation, ReaperStart};
use crate::region::Region;
use crate::zygote::{Filters, Hold};

pub struct Base {
    foundation: Foundation,
    pub arena: Arc<Arena>,
    fsgsbase: bool,
}

impl Deref for Base {
    type Target = Foundation;

    fn deref(&self) -> &Foundation {
        &self.foundation
    }
}

impl Base {
    /// See [`Foundation::new`]. `filters` builds the programs for the region chosen.
    pub fn new(
        setup: &Setup,
        filters: impl FnOnce(&Region) -> Filters<Vec<Insn>>,
    ) -> Result<(Base, ReaperStart)> {
        let mut arena = None;
        let (foundation, start) = Foundation::new(setup, |region| {
            arena = Some(Arena::new()?);
            Ok(Hold::Filters(filters(region)))
        })?;
        let arena = arena.ok_or(errno::EAGAIN)?;
        Ok((Base { foundation, arena, fsgsbase: has_fsgsbase() }, start))
    }

    /// A slot and its surroundings.
    pub fn place<'a>(&self, slot: &'a Slot, addr: u64) -> Place<'a> {
        let flags = if self.fsgsbase { 0 } else { uml_stub::slot::FLAG_NO_FSGSBASE };
        Place { slot, addr, flags }
    }
}

/// AT_HWCAP2 bit 1: the host lets programs use the FSGSBASE instructions.
fn has_fsgsbase() -> bool {
    // SAFETY: reads the auxiliary vector only.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & 2 != 0 }
}
