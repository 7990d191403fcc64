//! `/proc/consoles`: where kernel messages go.

use uml_abi::Result;
use uml_core::task::Task;

use super::fs::Subject;
use crate::synth::Text;

pub fn show(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    for c in s.sources.consoles() {
        // Operations: no read of its own, write, unblank; flags: enabled, preferred ("C"), printk buffer.
        let flags = if c.preferred { "EC p  " } else { "E  p  " };
        writeln!(out, "{:<21}-W- ({flags}) {:4}:{}", c.name, c.dev.major, c.dev.minor);
    }
    Ok(())
}
