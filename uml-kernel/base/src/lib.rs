//! Small building blocks used by every kernel crate: locks with ranks, wait queues, the machine's clock,
//! the kernel log.
//!
//! Neighbours: `uml-abi` below; everything else above. Nothing here knows tasks,
//! files, devices or the host.
//!
//! Lock order: [`lock::Rank`] values must increase as a thread takes locks; debug builds
//! assert it. `WaitQueue`'s own lock is a leaf.
#![forbid(unsafe_code)]

pub mod clock;
pub mod klog;
pub mod lock;
pub mod poll;
pub mod pressure;
pub mod storage;
pub mod wait;

pub use klog::Level;
pub use lock::{Mutex, MutexGuard, Rank, RwLock};
pub use poll::{Events, PollRegistrar};
pub use wait::{WaitQueue, Wakeable};
