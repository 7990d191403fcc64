//! Devices with a side in the host: consoles, serial lines, block devices.
//!
//! Key types: [`door::Door`] (runs programs for the owner), [`console::Consoles`] (every `conN` and `sslN`), [`ubd::Ubd`] (every disk), [`console::spec`] and [`ubd::spec`]
//! (their options, typed), [`vector::Vectors`] and [`legacy::Legacy`] (network interfaces).
//!
//! Neighbours: `uml-tty` (terminals), `uml-formats` (COW images), `uml-host` (host calls) and `uml-core` below; the
//! binary above, which parses the command line and hands the options over. The network and the management
//! console's protocol do not belong here; the latter calls the `config` methods.
//!
//! Lock order: a line's input (`Rank::TTY_INPUT`), the line (`Rank::TTY_LINE`), then its terminal.
#![forbid(unsafe_code)]

pub mod configure;
pub mod console;
pub mod door;
pub mod interfaces;
pub mod legacy;
mod memory;
pub mod number;
pub mod stdio;
#[cfg(test)]
mod testing;
pub mod ubd;
pub mod vector;
pub mod watchdog;
