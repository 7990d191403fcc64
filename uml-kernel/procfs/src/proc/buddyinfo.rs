//! `/proc/buddyinfo`: free memory by order.

use uml_abi::Result;
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::Text;

/// Orders 0 to 10, as Linux has them.
const ORDERS: u32 = 11;

/// The machine's memory is the host's and knows no fragmentation: free pages in the largest blocks
/// that hold them.
pub fn show(_: &Subject, task: &Task, out: &mut Text) -> Result<()> {
    let mut pages = task.kernel().memory_info().free / 4096;
    let mut counts = [0u64; ORDERS as usize];
    for order in (0..ORDERS).rev() {
        counts[order as usize] = pages >> order;
        pages &= (1 << order) - 1;
    }
    write!(out, "Node 0, zone {:>8} ", "Normal");
    for c in counts {
        write!(out, "{c:6} ");
    }
    out.raw(b"\n");
    Ok(())
}
