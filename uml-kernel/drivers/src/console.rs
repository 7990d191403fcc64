//! Consoles (`conN`) and serial lines (`sslN`): terminals whose other side is a channel of the host.

pub mod channel;
mod driver;
pub mod line;
mod log;
mod open;
mod port;
pub mod port_helper;
mod sizes;
pub mod spec;
mod telnet;
#[cfg(test)]
mod tests;
mod xterm;

pub use driver::{ConfigError, ConsoleOptions, Consoles};
pub use log::{StderrConsole, dump_log};
