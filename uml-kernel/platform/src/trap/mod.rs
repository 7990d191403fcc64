//! The `trap` backend: every guest call is a SIGSYS in the stub, handed over by futex.
//!
//! For hosts without usable seccomp listeners (before Linux 5.19, or under a runtime that
//! has one already). Each guest thread has a worker of its own, which waits on the thread's
//! slot. A guest thread's filter lets it do nothing but report and wait; host calls in its
//! address space are made by the *mapper*, the first thread of the process, from a request
//! page that guest code can read but not write. The mapper uses registers only. Its results
//! are untrusted; a process id among them is believed only after the process shows a nonce
//! that only the new process can have mapped.
//!
//! Key types: [`Machine`], [`space::GuestSpace`], [`context::Cx`].
//! Lock order: `GuestSpace::mapper`; every other lock is a leaf.

mod context;
mod machine;
mod space;

pub use machine::Machine;
