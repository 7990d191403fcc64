//! Host system calls as safe, typed functions: files, terminals, memory files, randomness.
//!
//! Neighbours: `uml-abi` below; filesystems, drivers and the binary above. What runs guest code
//! (processes, seccomp, ptrace) is the platform's. No policy here: a function makes its call and reports the
//! host's errno.

pub mod activation;
pub mod auxv;
pub mod clock;
pub mod datagram;
pub mod fdpass;
pub mod frames;
pub mod fs;
pub mod inet;
pub mod limits;
pub mod memfd;
pub mod netdev;
pub mod process;
pub mod procinfo;
pub mod pty;
pub mod random;
pub mod reactor;
pub mod sched;
pub mod standard;
pub mod stream;
pub mod tap;
pub mod terminal;
pub mod termination;
pub mod ticker;
pub mod wait;
pub mod winch;
