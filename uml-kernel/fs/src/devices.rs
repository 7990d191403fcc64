//! The memory devices, major 1 (null(4), full(4), random(4)).

pub mod mem;

use std::sync::Arc;

use uml_abi::Result;
use uml_core::kernel::Kernel;

/// Enters the drivers of major 1 and announces their nodes.
pub fn register(kernel: &Arc<Kernel>) -> Result<()> {
    mem::register(kernel)
}
