//! Classic packet filters on sockets (socket(7) SO_ATTACH_FILTER; the machine of bpf(4)).

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::task::Task;
use uml_core::user;

/// Longest program (BPF_MAXINSNS).
const MAX_LEN: usize = 4096;
/// Scratch words (BPF_MEMWORDS).
const SCRATCH: usize = 16;

/// One instruction: `struct sock_filter`.
#[derive(Clone, Copy, Debug)]
struct Insn {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

/// A checked program: every jump leads forward to an instruction, the last one returns.
#[derive(Debug)]
pub struct Filter(Vec<Insn>);

// Instruction classes and fields of `code`.
const LD: u16 = 0;
const LDX: u16 = 1;
const ST: u16 = 2;
const STX: u16 = 3;
const ALU: u16 = 4;
const JMP: u16 = 5;
const RET: u16 = 6;
const MISC: u16 = 7;
const K: u16 = 0;
const X: u16 = 8;
const A: u16 = 0x10;
const W: u16 = 0;
const H: u16 = 0x08;
const B: u16 = 0x10;
const IMM: u16 = 0;
const ABS: u16 = 0x20;
const IND: u16 = 0x40;
const MEM: u16 = 0x60;
const LEN: u16 = 0x80;
const MSH: u16 = 0xa0;

impl Filter {
    /// Reads the `struct sock_fprog` that an option's value holds. `EINVAL` for a program that could leave
    /// its bounds or does not return.
    pub fn from_option(task: &Task, value: &[u8]) -> Result<Filter> {
        if value.len() < 16 {
            return Err(EINVAL);
        }
        let len = usize::from(u16::from_le_bytes([value[0], value[1]]));
        let mut at = [0; 8];
        at.copy_from_slice(&value[8..16]);
        if len == 0 || len > MAX_LEN {
            return Err(EINVAL);
        }
        Filter::parse(&user::read_bytes(task, u64::from_le_bytes(at), len * 8)?)
    }

    /// From instructions as they are in memory, eight bytes each.
    pub fn parse(bytes: &[u8]) -> Result<Filter> {
        let insn = |b: &[u8]| Insn {
            code: u16::from_le_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
        };
        let prog: Vec<Insn> = bytes.chunks_exact(8).map(insn).collect();
        let returns = prog.last().is_some_and(|i| i.code & 7 == RET);
        if !returns || !prog.iter().enumerate().all(|(at, i)| valid(i, prog.len() - at - 1)) {
            return Err(EINVAL);
        }
        Ok(Filter(prog))
    }

    /// How many bytes of `packet` the socket gets; 0 drops it. Loads beyond the packet drop it too.
    pub fn run(&self, packet: &[u8]) -> usize {
        self.execute(packet).unwrap_or(0) as usize
    }

    fn execute(&self, p: &[u8]) -> Option<u32> {
        let (mut a, mut x) = (0u32, 0u32);
        let mut mem = [0u32; SCRATCH];
        let mut pc = 0;
        loop {
            let i = *self.0.get(pc)?;
            pc += 1;
            let operand = if i.code & X != 0 { x } else { i.k };
            match i.code & 7 {
                LD => a = load(p, &i, x, &mem)?,
                LDX => x = load(p, &i, x, &mem)?,
                ST => mem[i.k as usize] = a,
                STX => mem[i.k as usize] = x,
                ALU => a = arithmetic(i.code & 0xf0, a, operand)?,
                JMP => {
                    let skip = match i.code & 0xf0 {
                        0x00 => i.k as usize,
                        op => {
                            let yes = match op {
                                0x10 => a == operand,
                                0x20 => a > operand,
                                0x30 => a >= operand,
                                _ => a & operand != 0,
                            };
                            usize::from(if yes { i.jt } else { i.jf })
                        }
                    };
                    pc += skip;
                }
                RET => return Some(if i.code & 0x18 == A { a } else { i.k }),
                _ => match i.code & 0xf8 {
                    0 => x = a,
                    _ => a = x,
                },
            }
        }
    }
}

/// Whether an instruction with `left` ones behind it is one of the machine's and stays in bounds.
fn valid(i: &Insn, left: usize) -> bool {
    let in_scratch = (i.k as usize) < SCRATCH;
    match i.code & 7 {
        LD => match i.code & 0xf8 {
            c if c == IMM | W || c == LEN | W => true,
            c if c == MEM | W => in_scratch,
            c => [ABS, IND].contains(&(c & 0xe0)) && [W, H, B].contains(&(c & 0x18)),
        },
        LDX => match i.code & 0xf8 {
            c if c == IMM | W || c == LEN | W || c == MSH | B => true,
            c if c == MEM | W => in_scratch,
            _ => false,
        },
        ST | STX => i.code & 0xf8 == 0 && in_scratch,
        ALU => match i.code & 0xf0 {
            // Division by a constant zero.
            0x30 | 0x90 => i.code & X != 0 || i.k != 0,
            0x60 | 0x70 => i.code & X != 0 || i.k < 32,
            op => op <= 0xa0,
        },
        JMP => match i.code & 0xf0 {
            0x00 => i.code & X == 0 && (i.k as usize) < left,
            op => op <= 0x40 && usize::from(i.jt.max(i.jf)) < left,
        },
        RET => [K, A].contains(&(i.code & 0xf8)),
        MISC => [0, 0x80].contains(&(i.code & 0xf8)),
        _ => false,
    }
}

fn load(p: &[u8], i: &Insn, x: u32, mem: &[u32; SCRATCH]) -> Option<u32> {
    let at = match i.code & 0xe0 {
        IMM => return Some(i.k),
        LEN => return Some(p.len() as u32),
        MEM => return Some(mem[i.k as usize]),
        // The length of an IPv4 header: the low nibble counts words.
        MSH => return Some(u32::from(*p.get(i.k as usize)? & 0xf) << 2),
        ABS => i.k,
        _ => x.checked_add(i.k)?,
    } as usize;
    // Network byte order, as bpf(4) says.
    match i.code & 0x18 {
        W => p.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])),
        H => p.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]).into()),
        _ => p.get(at).map(|b| u32::from(*b)),
    }
}

fn arithmetic(op: u16, a: u32, b: u32) -> Option<u32> {
    Some(match op {
        0x00 => a.wrapping_add(b),
        0x10 => a.wrapping_sub(b),
        0x20 => a.wrapping_mul(b),
        0x30 => a.checked_div(b)?,
        0x40 => a | b,
        0x50 => a & b,
        0x60 => a.checked_shl(b).unwrap_or(0),
        0x70 => a.checked_shr(b).unwrap_or(0),
        0x80 => a.wrapping_neg(),
        0x90 => a.checked_rem(b)?,
        _ => a ^ b,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn program(insns: &[(u16, u8, u8, u32)]) -> Vec<u8> {
        let bytes = |(c, t, f, k): &(u16, u8, u8, u32)| {
            [&c.to_le_bytes()[..], &[*t, *f], &k.to_le_bytes()].concat()
        };
        insns.iter().flat_map(bytes).collect()
    }

    #[test]
    fn a_magic_number_is_compared_in_network_order() {
        // ld [8]; jeq #0xfeedcafe, 0, 1; ret #-1; ret #0: how udev knows its own messages.
        let f = Filter::parse(&program(&[
            (0x20, 0, 0, 8),
            (0x15, 0, 1, 0xfeed_cafe),
            (0x06, 0, 0, u32::MAX),
            (0x06, 0, 0, 0),
        ]));
        let f = f.unwrap();
        let mut p = vec![0; 12];
        assert_eq!(f.run(&p), 0);
        p[8..].copy_from_slice(&0xfeed_cafe_u32.to_be_bytes());
        assert_eq!(f.run(&p), u32::MAX as usize);
        assert_eq!(f.run(&p[..11]), 0, "a load beyond the packet drops it");
    }

    #[test]
    fn programs_that_leave_their_bounds_are_refused() {
        let bad: &[&[(u16, u8, u8, u32)]] = &[
            &[],
            &[(0x20, 0, 0, 0)],
            &[(0x05, 0, 0, 1), (0x06, 0, 0, 0)],
            &[(0x15, 1, 0, 0), (0x06, 0, 0, 0)],
            &[(0x02, 0, 0, 16), (0x06, 0, 0, 0)],
            &[(0x34, 0, 0, 0), (0x06, 0, 0, 0)],
        ];
        for b in bad {
            assert_eq!(Filter::parse(&program(b)).err(), Some(EINVAL), "{b:?}");
        }
    }

    proptest! {
        #[test]
        fn any_accepted_program_ends(code in proptest::collection::vec(any::<u8>(), 8..256), p in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(f) = Filter::parse(&code) {
                f.run(&p);
            }
        }
    }
}
