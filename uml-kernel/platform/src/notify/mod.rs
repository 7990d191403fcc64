//! The `notify` backend: guest calls arrive as seccomp notifications.
//!
//! Key types: [`machine::Machine`] (the platform), [`group::Group`] (a filter with its
//! listener, the workers serving it, and the contexts under it), [`context::Cx`] (a context
//! being served).
//!
//! Lock order: `Group::births`, then `Group::st`; every other lock is a leaf. Nothing here
//! calls into the kernel above with a lock held, except `births` while `fork`'s `prepare` runs.

mod confirm;
mod context;
mod group;
mod machine;
mod park;
mod serve;
mod space;

pub use machine::{FILTER_FLAGS, Machine};
