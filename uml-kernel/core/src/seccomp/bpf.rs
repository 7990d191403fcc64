//! The filter machine of seccomp(2): classic BPF over `struct seccomp_data`, with the checks that the host's kernel
//! makes before it accepts a program.

use uml_abi::Result;
use uml_abi::errno::*;

/// Longest program (BPF_MAXINSNS).
pub const MAX_LEN: usize = 4096;
/// Scratch words (BPF_MEMWORDS).
const SCRATCH: usize = 16;
/// Bytes of `struct seccomp_data`.
pub const DATA_SIZE: usize = 64;

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Insn {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

/// A checked program: every jump leads forward to an instruction, every path returns, no scratch word is read before it
/// was written.
#[derive(Debug)]
pub struct Program(Vec<Insn>);

const LD_ABS: u16 = 0x20;
const LD_LEN: u16 = 0x80;
const LDX_LEN: u16 = 0x81;
const LD_IMM: u16 = 0x00;
const LDX_IMM: u16 = 0x01;
const LD_MEM: u16 = 0x60;
const LDX_MEM: u16 = 0x61;
const ST: u16 = 0x02;
const STX: u16 = 0x03;
const JA: u16 = 0x05;
const RET_K: u16 = 0x06;
const RET_A: u16 = 0x16;
const TAX: u16 = 0x07;
const TXA: u16 = 0x87;
const NEG: u16 = 0x84;
/// Operand is X instead of the constant.
const X: u16 = 0x08;

/// Arithmetic and comparisons that filters may use; MOD is not among them.
fn is_alu(code: u16) -> bool {
    code & 7 == 4
        && matches!(
            code & !X & 0xfff8,
            0x00 | 0x10 | 0x20 | 0x30 | 0x40 | 0x50 | 0x60 | 0x70 | 0xa0
        )
}

fn is_branch(code: u16) -> bool {
    code & 7 == 5 && matches!(code & !X & 0xfff8, 0x10 | 0x20 | 0x30 | 0x40)
}

impl Program {
    /// From instructions as they are in memory, eight bytes each. `EINVAL` for what Linux refuses.
    pub fn parse(bytes: &[u8]) -> Result<Program> {
        let prog: Vec<Insn> = bytes
            .chunks_exact(8)
            .map(|b| Insn {
                code: u16::from_le_bytes([b[0], b[1]]),
                jt: b[2],
                jf: b[3],
                k: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
            })
            .collect();
        let ends = prog.last().is_some_and(|i| matches!(i.code, RET_K | RET_A));
        if prog.len() > MAX_LEN || !ends {
            return Err(EINVAL);
        }
        for (at, i) in prog.iter().enumerate() {
            check(i, prog.len() - at - 1)?;
        }
        check_scratch(&prog)?;
        Ok(Program(prog))
    }

    /// Instructions.
    /// The program as [`Program::parse`] takes it.
    pub fn bytes(&self) -> Vec<u8> {
        let insn = |i: &Insn| {
            let (code, k) = (i.code.to_le_bytes(), i.k.to_le_bytes());
            [code[0], code[1], i.jt, i.jf, k[0], k[1], k[2], k[3]]
        };
        self.0.iter().flat_map(insn).collect()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: a program has at least its return.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value the program returns for `data`. Division by zero ends it with 0.
    pub fn run(&self, data: &[u8; DATA_SIZE]) -> u32 {
        let (mut a, mut x) = (0u32, 0u32);
        let mut mem = [0u32; SCRATCH];
        let mut pc = 0;
        while let Some(&i) = self.0.get(pc) {
            pc += 1;
            let operand = if i.code & X != 0 { x } else { i.k };
            match i.code {
                LD_ABS => a = load(data, i.k),
                LD_LEN => a = DATA_SIZE as u32,
                LDX_LEN => x = DATA_SIZE as u32,
                LD_IMM => a = i.k,
                LDX_IMM => x = i.k,
                LD_MEM => a = mem[i.k as usize % SCRATCH],
                LDX_MEM => x = mem[i.k as usize % SCRATCH],
                ST => mem[i.k as usize % SCRATCH] = a,
                STX => mem[i.k as usize % SCRATCH] = x,
                JA => pc += i.k as usize,
                RET_K => return i.k,
                RET_A => return a,
                TAX => x = a,
                TXA => a = x,
                NEG => a = a.wrapping_neg(),
                c if is_branch(c) => {
                    let yes = match c & 0xf0 {
                        0x10 => a == operand,
                        0x20 => a > operand,
                        0x30 => a >= operand,
                        _ => a & operand != 0,
                    };
                    pc += usize::from(if yes { i.jt } else { i.jf });
                }
                c => match arithmetic(c & 0xf0, a, operand) {
                    Some(v) => a = v,
                    None => return 0,
                },
            }
        }
        0
    }
}

/// Whether an instruction with `left` ones behind it is allowed.
fn check(i: &Insn, left: usize) -> Result<()> {
    let k = i.k as usize;
    let good = match i.code {
        LD_ABS => k < DATA_SIZE && k % 4 == 0,
        LD_LEN | LDX_LEN | LD_IMM | LDX_IMM | RET_K | RET_A | TAX | TXA | NEG => true,
        LD_MEM | LDX_MEM | ST | STX => k < SCRATCH,
        JA => k < left,
        c if is_branch(c) => usize::from(i.jt.max(i.jf)) < left,
        c if is_alu(c) => match c {
            // A constant divisor of zero, a constant shift of the whole word.
            0x34 => k != 0,
            0x64 | 0x74 => k < 32,
            _ => true,
        },
        _ => false,
    };
    if good { Ok(()) } else { Err(EINVAL) }
}

/// Scratch words must have been written on every path that reads them.
fn check_scratch(prog: &[Insn]) -> Result<()> {
    let mut known = vec![u16::MAX; prog.len()];
    let mut valid = 0u16;
    for (pc, i) in prog.iter().enumerate() {
        valid &= known[pc];
        match i.code {
            ST | STX => valid |= 1 << i.k,
            LD_MEM | LDX_MEM if valid & 1 << i.k == 0 => return Err(EINVAL),
            JA => {
                known[pc + 1 + i.k as usize] &= valid;
                valid = u16::MAX;
            }
            c if is_branch(c) => {
                known[pc + 1 + usize::from(i.jt)] &= valid;
                known[pc + 1 + usize::from(i.jf)] &= valid;
                valid = u16::MAX;
            }
            _ => {}
        }
    }
    Ok(())
}

fn load(data: &[u8; DATA_SIZE], at: u32) -> u32 {
    let at = (at as usize % DATA_SIZE) & !3;
    u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}

fn arithmetic(op: u16, a: u32, b: u32) -> Option<u32> {
    Some(match op {
        0x00 => a.wrapping_add(b),
        0x10 => a.wrapping_sub(b),
        0x20 => a.wrapping_mul(b),
        0x30 => a.checked_div(b)?,
        0x40 => a | b,
        0x50 => a & b,
        0x60 => a.wrapping_shl(b),
        0x70 => a.wrapping_shr(b),
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
    fn what_linux_refuses_is_refused() {
        let ret = (RET_K, 0, 0, 0);
        let bad: &[&[(u16, u8, u8, u32)]] = &[
            &[],
            &[(LD_ABS, 0, 0, 0)],
            &[(LD_ABS, 0, 0, 64), ret],
            &[(LD_ABS, 0, 0, 2), ret],
            &[(0x28, 0, 0, 0), ret],
            &[(JA, 0, 0, 1), ret],
            &[(0x15, 1, 0, 0), ret],
            &[(LD_MEM, 0, 0, 3), ret],
            &[(0x15, 0, 1, 0), (ST, 0, 0, 1), (LD_MEM, 0, 0, 1), ret],
            &[(0x34, 0, 0, 0), ret],
            &[(0x64, 0, 0, 32), ret],
            &[(0x94, 0, 0, 3), ret],
            &[(ST, 0, 0, 16), ret],
        ];
        for b in bad {
            assert_eq!(Program::parse(&program(b)).err(), Some(EINVAL), "{b:?}");
        }
    }

    #[test]
    fn a_call_number_selects_the_action() {
        let p = program(&[(LD_ABS, 0, 0, 0), (0x15, 0, 1, 39), (RET_K, 0, 0, 7), (RET_K, 0, 0, 9)]);
        let p = Program::parse(&p).unwrap();
        let mut d = [0; DATA_SIZE];
        assert_eq!(p.run(&d), 9);
        d[0] = 39;
        assert_eq!(p.run(&d), 7);
    }

    #[test]
    fn division_by_an_empty_register_ends_with_zero() {
        let p = program(&[(LD_IMM, 0, 0, 5), (0x3c, 0, 0, 0), (RET_K, 0, 0, 1)]);
        assert_eq!(Program::parse(&p).unwrap().run(&[0; DATA_SIZE]), 0);
    }

    proptest! {
        #[test]
        fn any_accepted_program_ends(code in proptest::collection::vec(any::<u8>(), 8..256), fill in any::<u8>()) {
            if let Ok(p) = Program::parse(&code) {
                p.run(&[fill; DATA_SIZE]);
            }
        }
    }
}
