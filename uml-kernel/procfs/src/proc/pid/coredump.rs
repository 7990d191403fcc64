//! `/proc/<pid>/coredump_filter` (core(5), "Controlling which mappings are written to the core dump").

use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::Task;

use super::Target;
use crate::synth::{Text, words};

/// Bits that exist.
const KNOWN: u32 = 0x1ff;

pub fn show(t: &Target, reader: &Task, out: &mut Text) -> Result<()> {
    let task = t.inspect(reader)?;
    if task.mm().is_ok() {
        writeln!(out, "{:08x}", task.process.coredump_filter.load(Ordering::Relaxed));
    }
    Ok(())
}

pub fn store(t: &Target, writer: &Task, data: &[u8]) -> Result<()> {
    let w = words(data)?;
    let [word] = w[..] else { return Err(EINVAL) };
    let (digits, radix) = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if word.len() > 1 && word.starts_with('0') => (&word[1..], 8),
        None => (word, 10),
    };
    let v = u32::from_str_radix(digits, radix).map_err(|_| EINVAL)?;
    t.inspect(writer)?.process.coredump_filter.store(v & KNOWN, Ordering::Relaxed);
    Ok(())
}
