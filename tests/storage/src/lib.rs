//! System tests of storage, run with real disks images, the real `linux` program and e2fsprogs as the judge.
//!
//! [`ops`] is the load both sides know: the program in the guest carries it out and says what is durable, the host
//! computes what must then be on the disk. [`machine`] starts and kills the kernel, [`image`] makes, checks and reads
//! images, [`suite`] runs tests and counts. The tests themselves are modules named after what they try.
//!
//! Neighbours: `uml-ext4` reads images for the checks. Does not belong here: unit tests of crates, anything timed.
#![forbid(unsafe_code)]

pub mod asynchronous;
pub mod broken_hosts;
pub mod fuzzing;
pub mod image;
pub mod interchange;
pub mod kill;
pub mod machine;
pub mod memory;
pub mod mounted;
pub mod ops;
pub mod suite;
pub mod trees;
