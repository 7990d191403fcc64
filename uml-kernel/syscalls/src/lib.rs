//! The system-call table and its handlers.
//!
//! Each family file holds its handlers and, beside them, their lines of the table; [`table`] joins the
//! lines and is what dispatch, the strace printer, the counters and the manual's support table read.
//!
//! Adding a call: one line in its family's `TABLE`, one handler, one guest test that also passes on
//! the host.
//!
//! Neighbours: everything in the kernel below; only the binary above. No state lives here.
#![forbid(unsafe_code)]

pub mod aio;
pub mod dispatch;
mod dnotify;
mod epoll;
mod event_fds;
mod fcntl;
mod file_io;
mod futex;
mod getdents;
mod handle;
mod identity;
mod inotify;
mod inspect;
mod landlock;
mod memory;
mod mount;
mod mount_fd;
mod mqueue;
mod namespaces;
mod open;
mod path;
pub mod pipe;
mod poll;
mod prctl;
mod process;
mod ptrace;
mod sched;
mod seccomp;
mod set_mm;
mod signals;
mod socket;
mod stat;
mod system;
mod sysv;
pub mod table;
mod time;
pub mod timespec;
pub mod trace;
mod xattr;

pub use table::{Arg, Entry, RestartRule, Support};
