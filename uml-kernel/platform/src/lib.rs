//! Runs guest code in host processes.
//!
//! Key types: [`api::Platform`], [`api::Space`], [`api::Context`], [`api::Runner`]; [`boot()`]
//! starts the machine. Neighbours: `uml-stub` below, `uml-mm` and `uml-core` above. Nothing
//! here knows tasks, files or the guest's view of its memory. Whatever comes from a guest
//! process, the slot of a thread included, is untrusted: the worst a guest may achieve is
//! the end of its own host process.
//!
//! Lock order: see each backend's module.

pub mod api;
pub mod boot;
mod children;
mod debug;
mod foundation;
mod hostcall;
mod notify;
mod paired;
pub mod placement;
mod pool;
mod probe;
mod process;
mod ptrace;
mod region;
mod seat;
mod seccomp;
mod sys;
mod trap;
mod vdso;
pub mod view;
mod warm;
mod watch;
mod zygote;

pub use api::*;
pub use boot::{Backend, BootError, Config, Report, boot};
