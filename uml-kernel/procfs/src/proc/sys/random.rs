//! `/proc/sys/kernel/random` (random(4)). The generator is the host's: its pool is always full.

use uml_abi::Result;

use super::{Setting, show};
use crate::synth::Text;

/// Bits in the pool.
const POOL: u32 = 256;

/// A random UUID, version 4 (RFC 9562).
pub fn uuid() -> String {
    let mut b = [0u8; 16];
    uml_host::random::fill(&mut b);
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex: String = b.iter().map(|b| format!("{b:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn value(out: &mut Text, v: u32) -> Result<()> {
    writeln!(out, "{v}");
    Ok(())
}

pub static ROWS: &[Setting] = &[
    show("boot_id", |s, _, out| {
        writeln!(out, "{}", s.sources.boot_id());
        Ok(())
    }),
    show("entropy_avail", |_, _, out| value(out, POOL)),
    show("poolsize", |_, _, out| value(out, POOL)),
    show("urandom_min_reseed_secs", |_, _, out| value(out, 60)),
    show("uuid", |_, _, out| {
        writeln!(out, "{}", uuid());
        Ok(())
    }),
    show("write_wakeup_threshold", |_, _, out| value(out, POOL)),
];
