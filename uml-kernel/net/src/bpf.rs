//! Classic BPF: socket filters (bpf(4) of the BSDs, Documentation/networking/filter.rst).

use uml_abi::Result;
use uml_abi::errno::EINVAL;

/// One instruction (`struct sock_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// Most instructions of a program (BPF_MAXINSNS).
pub const MAX: usize = 4096;

/// A checked program: it ends, and every jump and memory slot is inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program(Vec<Insn>);

/// What a filter can ask for beyond the bytes (SKF_AD_*).
#[derive(Clone, Copy, Debug, Default)]
pub struct Aux {
    pub protocol: u16,
    pub pkttype: u8,
    pub ifindex: u32,
    pub vlan: Option<u16>,
    pub mark: u32,
    pub hatype: u16,
    /// Where the network header begins (SKF_NET_OFF).
    pub net: usize,
}

const AD_OFF: u32 = 0xffff_f000;
const NET_OFF: u32 = 0xfff0_0000;
const LL_OFF: u32 = 0xffe0_0000;

impl Program {
    /// Checks instructions: `EINVAL` for an unknown one, a jump or slot outside, division by a constant
    /// zero, or a program that does not end in a return.
    pub fn new(insns: Vec<Insn>) -> Result<Program> {
        let n = insns.len();
        if n == 0 || n > MAX {
            return Err(EINVAL);
        }
        for (i, ins) in insns.iter().enumerate() {
            let left = n - i - 1;
            let ok = match ins.code {
                // Loads: immediate, absolute, indirect, length.
                0x00 | 0x01 | 0x80 | 0x81 | 0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50 | 0xb1 => true,
                0x60 | 0x61 | 0x02 | 0x03 => ins.k < 16,
                0x04 | 0x0c | 0x14 | 0x1c | 0x24 | 0x2c | 0x3c | 0x44 | 0x4c | 0x54 | 0x5c
                | 0x84 | 0x9c | 0xa4 | 0xac => true,
                0x64 | 0x74 => ins.k < 32,
                0x6c | 0x7c => true,
                0x34 | 0x94 => ins.k != 0,
                0x05 => (ins.k as usize) < left,
                0x15 | 0x1d | 0x25 | 0x2d | 0x35 | 0x3d | 0x45 | 0x4d => {
                    usize::from(ins.jt) < left && usize::from(ins.jf) < left
                }
                0x06 | 0x16 | 0x07 | 0x87 => true,
                _ => false,
            };
            if !ok {
                return Err(EINVAL);
            }
        }
        match insns[n - 1].code {
            0x06 | 0x16 => Ok(Program(insns)),
            _ => Err(EINVAL),
        }
    }

    /// Keeps the first `len` bytes of everything: `EINVAL` for 0.
    pub fn accept(len: u32) -> Result<Program> {
        if len == 0 {
            return Err(EINVAL);
        }
        Program::new(vec![Insn { code: 0x06, jt: 0, jf: 0, k: len }])
    }

    /// From the bytes of a filter file: eight for each instruction, the host's byte order.
    pub fn from_bytes(b: &[u8]) -> Result<Program> {
        if b.len() % 8 != 0 {
            return Err(EINVAL);
        }
        let insns = b.chunks_exact(8).map(|c| Insn {
            code: u16::from_ne_bytes([c[0], c[1]]),
            jt: c[2],
            jf: c[3],
            k: u32::from_ne_bytes([c[4], c[5], c[6], c[7]]),
        });
        Program::new(insns.collect())
    }

    /// The instructions.
    pub fn instructions(&self) -> &[Insn] {
        &self.0
    }

    /// Runs the filter over a packet; returns how many bytes to keep, 0 to drop. A load outside the packet
    /// drops.
    pub fn run(&self, data: &[u8], aux: &Aux) -> u32 {
        let (mut a, mut x) = (0u32, 0u32);
        let mut mem = [0u32; 16];
        let mut pc = 0;
        let load = |at: u32, size: usize| -> Option<u32> {
            if at >= AD_OFF {
                return Some(ancillary(at - AD_OFF, aux));
            }
            let at = match at {
                _ if at >= NET_OFF => aux.net + (at - NET_OFF) as usize,
                _ if at >= LL_OFF => (at - LL_OFF) as usize,
                _ => at as usize,
            };
            let b = data.get(at..at.checked_add(size)?)?;
            Some(b.iter().fold(0, |v, x| v << 8 | u32::from(*x)))
        };
        while let Some(ins) = self.0.get(pc) {
            pc += 1;
            let k = ins.k;
            let value = match ins.code {
                0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50 => {
                    let size = match ins.code & 0x18 {
                        0x00 => 4,
                        0x08 => 2,
                        _ => 1,
                    };
                    let at = if ins.code & 0x40 != 0 { x.wrapping_add(k) } else { k };
                    match load(at, size) {
                        Some(v) => a = v,
                        None => return 0,
                    }
                    continue;
                }
                0xb1 => {
                    match load(k, 1) {
                        Some(v) => x = (v & 15) * 4,
                        None => return 0,
                    }
                    continue;
                }
                _ if ins.code & 0x08 != 0 => x,
                _ => k,
            };
            match ins.code {
                0x00 => a = k,
                0x01 => x = k,
                0x80 => a = data.len() as u32,
                0x81 => x = data.len() as u32,
                0x60 => a = mem[k as usize & 15],
                0x61 => x = mem[k as usize & 15],
                0x02 => mem[k as usize & 15] = a,
                0x03 => mem[k as usize & 15] = x,
                0x04 | 0x0c => a = a.wrapping_add(value),
                0x14 | 0x1c => a = a.wrapping_sub(value),
                0x24 | 0x2c => a = a.wrapping_mul(value),
                0x34 | 0x3c => match a.checked_div(value) {
                    Some(v) => a = v,
                    None => return 0,
                },
                0x94 | 0x9c => match a.checked_rem(value) {
                    Some(v) => a = v,
                    None => return 0,
                },
                0x44 | 0x4c => a |= value,
                0x54 | 0x5c => a &= value,
                0xa4 | 0xac => a ^= value,
                0x64 | 0x6c => a = a.checked_shl(value).unwrap_or(0),
                0x74 | 0x7c => a = a.checked_shr(value).unwrap_or(0),
                0x84 => a = a.wrapping_neg(),
                0x05 => pc += k as usize,
                0x15 | 0x1d => pc += usize::from(if a == value { ins.jt } else { ins.jf }),
                0x25 | 0x2d => pc += usize::from(if a > value { ins.jt } else { ins.jf }),
                0x35 | 0x3d => pc += usize::from(if a >= value { ins.jt } else { ins.jf }),
                0x45 | 0x4d => pc += usize::from(if a & value != 0 { ins.jt } else { ins.jf }),
                0x06 => return k,
                0x16 => return a,
                0x07 => x = a,
                0x87 => a = x,
                _ => return 0,
            }
        }
        0
    }
}

fn ancillary(what: u32, aux: &Aux) -> u32 {
    match what {
        0 => u32::from(aux.protocol),
        4 => u32::from(aux.pkttype),
        8 => aux.ifindex,
        20 => aux.mark,
        28 => u32::from(aux.hatype),
        44 => u32::from(aux.vlan.unwrap_or(0)),
        48 => u32::from(aux.vlan.is_some()),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn i(code: u16, jt: u8, jf: u8, k: u32) -> Insn {
        Insn { code, jt, jf, k }
    }

    #[test]
    fn a_filter_for_arp_keeps_arp() {
        // tcpdump -dd arp
        let p = Program::new(vec![
            i(0x28, 0, 0, 12),
            i(0x15, 0, 1, 0x806),
            i(0x06, 0, 0, 262_144),
            i(0x06, 0, 0, 0),
        ]);
        let p = p.unwrap();
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(p.run(&frame, &Aux::default()), 262_144);
        frame[13] = 0;
        assert_eq!(p.run(&frame, &Aux::default()), 0);
        assert_eq!(p.run(&frame[..13], &Aux::default()), 0);
    }

    #[test]
    fn bad_programs_are_refused() {
        assert!(Program::new(vec![]).is_err());
        assert!(Program::new(vec![i(0x28, 0, 0, 12)]).is_err(), "no return");
        assert!(Program::new(vec![i(0x05, 0, 0, 1), i(0x06, 0, 0, 0)]).is_err(), "jump outside");
        assert!(Program::new(vec![i(0x02, 0, 0, 16), i(0x06, 0, 0, 0)]).is_err(), "slot outside");
        assert!(
            Program::new(vec![i(0x34, 0, 0, 0), i(0x06, 0, 0, 0)]).is_err(),
            "division by zero"
        );
        assert!(Program::new(vec![i(0xffff, 0, 0, 0), i(0x06, 0, 0, 0)]).is_err());
        assert!(Program::from_bytes(&[0; 7]).is_err());
    }

    proptest! {
        #[test]
        fn any_accepted_program_ends(
            insns in proptest::collection::vec((any::<u16>(), 0u8..8, 0u8..8, prop_oneof![0u32..100, any::<u32>()]), 1..30),
            codes in proptest::collection::vec(any::<proptest::sample::Index>(), 30),
            data in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            const KNOWN: [u16; 30] = [0x00, 0x01, 0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xb1, 0x60, 0x61, 0x02, 0x03, 0x04,
                0x0c, 0x1c, 0x2c, 0x3c, 0x9c, 0x6c, 0x7c, 0x84, 0x05, 0x15, 0x1d, 0x25, 0x35, 0x45, 0x07, 0x87];
            let mut v: Vec<Insn> = insns.iter().enumerate()
                .map(|(n, (_, jt, jf, k))| i(KNOWN[codes[n].index(30)], *jt, *jf, *k)).collect();
            v.push(i(0x16, 0, 0, 0));
            if let Ok(p) = Program::new(v) {
                let _ = p.run(&data, &Aux::default());
            }
        }
    }
}
