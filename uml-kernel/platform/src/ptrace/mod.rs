//! The `ptrace` backend: guest threads are traced with PTRACE_SYSEMU.
//!
//! For hosts without usable seccomp filters. Each guest thread has a worker of its own, which
//! is its tracer, because the host takes requests from the tracing thread only. Registers
//! and extended state go through ptrace(2), so nothing that decides about a guest is in
//! memory that guest code can write. Host calls in the guest's address space are made by the
//! guest thread itself at the stub's `syscall` instruction, with registers that the tracer
//! sets and a breakpoint after it. Guest code that jumps there makes an ordinary, emulated
//! call.
//!
//! The host keeps the x86 error code of an exception from tracers, but writes it into signal
//! frames: for each exception the frame is built in a piece of private memory of the process
//! and the registers are put back.
//!
//! A new thread or process waits in the stub, untraced, until its worker attaches. The first
//! thread of a process is parked there again when it exits before the others, because the
//! process's memory is reached through it.
//!
//! Needs PTRACE_GET_SYSCALL_INFO (Linux 5.3) and the right to trace its own children (Yama's
//! `ptrace_scope` 0 or 1).
//!
//! Key types: [`Machine`], [`space::GuestSpace`], [`context::Cx`], [`tracee::Tracee`].
//! Lock order: `GuestSpace::frame`; every other lock is a leaf.

mod context;
mod machine;
mod rseq;
mod space;
pub mod tracee;

pub use machine::Machine;
