//! What uname(2) says the kernel is.

/// Release: the Linux interface level that is offered, then our own version.
pub const RELEASE: &str = "6.12.0-uml";
/// Version, as `uname -v`.
pub const VERSION: &str = concat!("#1 SMP PREEMPT_DYNAMIC Rust ", env!("CARGO_PKG_VERSION"));
