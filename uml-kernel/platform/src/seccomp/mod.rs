//! What the seccomp backends share: context slots, signal frames and the filter.

pub mod arena;
pub mod base;
pub mod filter;
pub mod frame;
pub mod notif;
pub mod slots;
pub mod stopped;

pub(crate) use crate::zygote;
