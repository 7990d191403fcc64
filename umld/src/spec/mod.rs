//! vm.toml: its keys ([`vm`]), their values ([`values`]), reading with diagnostics ([`load`], [`diagnose`]), checks of what
//! the keys mean together ([`check`]), network interfaces ([`net`]), the kernel's command line they stand for ([`cmdline`]), and the JSON Schema
//! ([`schema`]).
//!
//! Text becomes types here; nothing behind this module looks at TOML.

pub mod check;
pub mod cmdline;
pub mod diagnose;
pub mod load;
pub mod net;
pub mod schema;
pub mod values;
pub mod vm;

pub use load::{Loaded, load};
pub use vm::VmFile;
