//! The kernel's side of the management console (mconsole(7)), and the SysRq commands.
//!
//! * [`Server`] – the socket and the thread that answers requests; `command/NAME.rs` is the command NAME.
//! * [`Notifier`] – messages to the socket of `mconsole=notify:`.
//! * [`Sysrq`] – the commands of SysRq keys, for the console and for /proc/sysrq-trigger; `sysrq/` has them
//!   by subject.
//! * [`Captures`] – packets of interfaces on their way to files of the host.
//! * [`describe`] – tasks as lines of text, shared by `ps`, `stack` and the SysRq dumps.
//!
//! The server runs outside the guest's control: it never sleeps for a guest task, takes only locks that are
//! held briefly, and answers while every task is stuck or the machine is stopped. What may wait for storage (an emergency
//! sync) and what ends the machine goes on in a thread of its own.
//!
//! Neighbours: `uml-formats` (the protocol), `uml-procfs` and `uml-syscalls` (for `proc` and `strace`) and `uml-core` below;
//! the binary above, which owns the instance's directory and knows how the machine ends. Devices are not known here:
//! their drivers register with [`uml_core::configure`].
//!
//! Lock order: the locks of this crate are leaves.
#![forbid(unsafe_code)]

mod capture;
mod command;
pub mod describe;
mod notify;
mod server;
mod sysrq;
mod traffic;

pub use notify::Notifier;
pub use server::{Counters, Parts, Server};
pub use sysrq::Sysrq;
pub use traffic::{Captures, Wanted};
