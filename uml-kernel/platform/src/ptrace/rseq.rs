//! Restartable sequences (rseq(2)) of traced threads.
//!
//! The host ends a critical section when it returns to it after a preemption or for a signal. It cannot where a tracer has
//! changed the registers meanwhile: what it sees then is no critical section, and the guest's frame leads back into the middle of
//! one. So that is done here, before anybody sees the registers of a thread that was interrupted.

use crate::api::Regs;

use crate::process::HostProcess;

/// A thread's registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    addr: u64,
    /// What stands before every abort handler.
    signature: u32,
}

/// `struct rseq`: where it names the critical section.
const SECTION: u64 = 8;
/// `struct rseq_cs`: version, flags, start, length, abort handler.
const SECTION_SIZE: usize = 32;
const UNREGISTER: u64 = 1;

/// The registration after a call of rseq(2) that the host has carried out.
pub(super) fn registered(args: &[u64; 6]) -> Option<Area> {
    let [addr, _, flags, signature, ..] = *args;
    (flags & UNREGISTER == 0).then_some(Area { addr, signature: signature as u32 })
}

/// Where a thread at `r.rip` goes on whose critical section ends now; `None` when it is in none. What is wrong with a
/// description is left to the host, which ends the program for it.
pub(super) fn abort(area: Area, process: &HostProcess, r: &Regs) -> Option<u64> {
    let read = |addr: u64, buf: &mut [u8]| process.read(&[(addr, buf.len())], buf) == buf.len();
    let name = area.addr + SECTION;
    let mut at = [0; 8];
    if !read(name, &mut at) || at == [0; 8] {
        return None;
    }
    let mut section = [0; SECTION_SIZE];
    if !read(u64::from_le_bytes(at), &mut section) {
        return None;
    }
    let handler = target(&section, r.rip)?;
    let mut before = [0; 4];
    if !read(handler.checked_sub(4)?, &mut before)
        || u32::from_le_bytes(before) != area.signature
        || process.write(&[(name, 8)], &[0; 8]) != 8
    {
        return None;
    }
    Some(handler)
}

/// The abort handler of a critical section that `ip` is in.
fn target(section: &[u8; SECTION_SIZE], ip: u64) -> Option<u64> {
    let word = |n: usize| {
        let mut w = [0; 8];
        w.copy_from_slice(&section[n * 8..n * 8 + 8]);
        u64::from_le_bytes(w)
    };
    let [_, start, length, handler] = [0, 1, 2, 3].map(word);
    let within = |a: u64| a.wrapping_sub(start) < length;
    (section[..4] == [0; 4] && within(ip) && !within(handler)).then_some(handler)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_place_inside_leads_to_the_handler() {
        let mut s = [0; SECTION_SIZE];
        for (n, v) in [(1, 0x1000u64), (2, 0x20), (3, 0x3000)] {
            s[n * 8..n * 8 + 8].copy_from_slice(&v.to_le_bytes());
        }
        assert_eq!(target(&s, 0x1000), Some(0x3000));
        assert_eq!(target(&s, 0x101f), Some(0x3000));
        assert_eq!(target(&s, 0x1020), None, "its end");
        assert_eq!(target(&s, 0xfff), None);
        let mut inside = s;
        inside[24..32].copy_from_slice(&0x1010u64.to_le_bytes());
        assert_eq!(target(&inside, 0x1000), None, "a handler inside");
        s[0] = 1;
        assert_eq!(target(&s, 0x1000), None, "another version");
    }

    #[test]
    fn the_last_registration_counts() {
        let area = registered(&[0x5000, 32, 0, 0x5305_3053, 0, 0]);
        assert_eq!(area, Some(Area { addr: 0x5000, signature: 0x5305_3053 }));
        assert_eq!(registered(&[0x5000, 32, UNREGISTER, 0x5305_3053, 0, 0]), None);
    }
}
