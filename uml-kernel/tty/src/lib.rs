//! Terminals: the line discipline, job control, pseudo-terminals and devpts.
//!
//! Key types: [`ldisc::LineDiscipline`] (pure engine), [`termios::Termios`].
//!
//! Neighbours: `uml-core` below; `uml-drivers` (consoles and serial lines) and the binary
//! above. Host descriptors and channel syntax do not belong here.
//!
//! Lock order: a terminal's state (`Rank::TTY`), then the process tree and signals of core.
#![forbid(unsafe_code)]

pub mod devices;
pub mod devpts;
pub mod file;
mod ioctl;
pub mod ldisc;
pub mod pty;
pub mod session;
pub mod termios;
pub mod tty;
