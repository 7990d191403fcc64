//! The Linux x86-64 ABI as data: error numbers, structures and constants that
//! cross the boundary between a guest program and the kernel.
//!
//! The guest's ABI is that of Linux on x86-64, which is also the ABI of the
//! host, so plain constants come from `libc`; this crate adds what `libc` lacks
//! and the structures whose kernel layout differs from the C library's.
//!
//! Neighbours: nothing below; every other crate above. No behaviour, no locks.
#![forbid(unsafe_code)]

pub mod errno;

pub use errno::{Errno, Result};
pub use libc;
