//! `/proc/sysrq-trigger`: each byte is a command key (proc_sysrq-trigger(5)).

use uml_abi::Result;
use uml_core::task::Task;

use super::fs::Subject;

pub fn store(s: &Subject, _: &Task, data: &[u8]) -> Result<()> {
    // A leading underscore asks for every byte; otherwise the first one counts.
    let keys = match data.strip_prefix(b"_") {
        Some(rest) => rest,
        None => &data[..data.len().min(1)],
    };
    for key in keys.iter().filter(|k| !k.is_ascii_whitespace()) {
        s.sources.sysrq(*key)?;
    }
    Ok(())
}
