//! The initial stack of a program: strings, auxiliary vector, environment, arguments (the System V
//! ABI for x86-64, "Process Initialization"; getauxval(3)).

use uml_abi::Result;
use uml_abi::errno::*;
use uml_mm::Mm;

/// What goes on the stack.
pub struct Contents<'a> {
    /// Name of the executed file (AT_EXECFN).
    pub filename: &'a [u8],
    pub args: &'a [Vec<u8>],
    pub env: &'a [Vec<u8>],
    /// Auxiliary vector without the entries that point into the stack.
    pub auxv: &'a [(u64, u64)],
    pub random: [u8; 16],
}

/// Where things came to lie.
pub struct Placed {
    pub sp: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    pub auxv: Vec<u8>,
}

const AT_NULL: u64 = 0;
const AT_PLATFORM: u64 = 15;
const AT_RANDOM: u64 = 25;
const AT_EXECFN: u64 = 31;

/// Writes the stack below `top` and returns the stack pointer. `E2BIG` when it does not fit in `room`
/// bytes.
pub fn build(mm: &Mm, top: u64, room: u64, c: &Contents<'_>) -> Result<Placed> {
    // From the top: an empty word, the file name, environment, arguments, then what points at them.
    let mut strings: Vec<u8> = Vec::new();
    let mut arg_offsets = Vec::with_capacity(c.args.len());
    let mut env_offsets = Vec::with_capacity(c.env.len());
    for a in c.args {
        arg_offsets.push(strings.len() as u64);
        strings.extend_from_slice(a);
        strings.push(0);
    }
    let env_at = strings.len() as u64;
    for e in c.env {
        env_offsets.push(strings.len() as u64);
        strings.extend_from_slice(e);
        strings.push(0);
    }
    let env_end = strings.len() as u64;
    strings.extend_from_slice(c.filename);
    strings.push(0);
    strings.extend_from_slice(&[0; 8]);
    let strings_at = top.checked_sub(strings.len() as u64).ok_or(E2BIG)?;

    // Random bytes and platform name below, 16-byte aligned.
    let extra_at = (strings_at.checked_sub(32).ok_or(E2BIG)?) & !15;
    let mut extra = [0u8; 32];
    extra[..16].copy_from_slice(&c.random);
    extra[16..22].copy_from_slice(b"x86_64");

    let mut auxv = Vec::with_capacity((c.auxv.len() + 4) * 16);
    let own = [
        (AT_RANDOM, extra_at),
        (AT_EXECFN, strings_at + env_end),
        (AT_PLATFORM, extra_at + 16),
        (AT_NULL, 0),
    ];
    for (k, v) in c.auxv.iter().chain(&own) {
        auxv.extend_from_slice(&k.to_le_bytes());
        auxv.extend_from_slice(&v.to_le_bytes());
    }

    let mut words: Vec<u64> = Vec::with_capacity(c.args.len() + c.env.len() + 3);
    words.push(c.args.len() as u64);
    words.extend(arg_offsets.iter().map(|o| strings_at + o));
    words.push(0);
    words.extend(env_offsets.iter().map(|o| strings_at + o));
    words.push(0);
    let mut block: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    block.extend_from_slice(&auxv);
    // The stack pointer is 16-byte aligned at the entry.
    let sp = (extra_at.checked_sub(block.len() as u64).ok_or(E2BIG)?) & !15;
    if top - sp > room {
        return Err(E2BIG);
    }
    mm.write(sp, &block).map_err(|_| E2BIG)?;
    mm.write(extra_at, &extra).map_err(|_| E2BIG)?;
    mm.write(strings_at, &strings).map_err(|_| E2BIG)?;
    Ok(Placed {
        sp,
        arg_start: strings_at,
        arg_end: strings_at + env_at,
        env_start: strings_at + env_at,
        env_end: strings_at + env_end,
        auxv,
    })
}
