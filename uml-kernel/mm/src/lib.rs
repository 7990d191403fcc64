//! Guest address spaces.
//!
//! The set of vmas ([`Mm`]) is the truth about what the guest may touch; host mappings in the guest's
//! process are made from it, at once or when first touched. Objects that can be mapped implement
//! [`Mappable`].
//!
//! Neighbours: `uml-platform` below (makes the host mappings), `uml-core` above (system calls, files).
//! Lock order: the map lock of an [`Mm`] (rank MM) is taken before anything of the platform. Nothing here knows
//! tasks, files or system calls.

pub mod commit;
mod mappable;
mod mm;
pub mod vma;

pub use mappable::{MapAccess, Mappable, PAGE};
pub use mm::{Fault, HostCall, Layout, Map, MapRequest, Mm, Placed};
