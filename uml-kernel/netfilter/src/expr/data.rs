//! Registers: constants, comparison, ranges, bit operations, byte order.

use uml_abi::errno::*;

use super::{Datum, Names, Operation, Reg, Step, length};
use crate::attr::{Attr, Attrs, Out, Outcome};
use crate::machine::Machine;
use crate::model::Table;

/// A plain value, not a verdict.
fn value(a: &Attr<'_>, names: &Names<'_>) -> Outcome<Vec<u8>> {
    match Datum::parse(a, names)? {
        Datum::Value(v) => Ok(v),
        Datum::Verdict(_) => Err(EINVAL.into()),
    }
}

/// A constant into a register, or a verdict.
pub struct Immediate {
    dreg: Option<Reg>,
    data: Datum,
}

impl Immediate {
    pub fn parse(a: &Attrs<'_>, names: &Names<'_>) -> Outcome<Immediate> {
        let data = Datum::parse(&a.need(2)?, names)?;
        let len = match &data {
            Datum::Value(v) => v.len(),
            Datum::Verdict(_) => 16,
        };
        let dreg = Reg::parse_any(&a.need(1)?, len)?;
        if dreg.is_none() != matches!(data, Datum::Verdict(_)) {
            return Err(EINVAL.into());
        }
        Ok(Immediate { dreg, data })
    }
}

impl Operation for Immediate {
    fn name(&self) -> &'static str {
        "immediate"
    }

    fn dump(&self, o: &mut Out, t: &Table) {
        o.be32(1, self.dreg.map_or(0, Reg::number));
        self.data.dump(2, o, t);
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        match &self.data {
            Datum::Verdict(v) => v.step(),
            Datum::Value(v) => {
                if let Some(r) = self.dreg {
                    m.store(r, v);
                }
                Step::Next
            }
        }
    }

    fn jumps_to(&self) -> Option<u64> {
        self.data.jumps_to()
    }
}

/// A comparison with a constant.
pub struct Cmp {
    sreg: Reg,
    op: u32,
    value: Vec<u8>,
}

impl Cmp {
    pub fn parse(a: &Attrs<'_>, names: &Names<'_>) -> Outcome<Cmp> {
        let value = value(&a.need(3)?, names)?;
        let sreg = Reg::parse(&a.need(1)?, value.len())?;
        let op = a.need(2)?.be32()?;
        if op > 5 { Err(EINVAL.into()) } else { Ok(Cmp { sreg, op, value }) }
    }
}

impl Operation for Cmp {
    fn name(&self) -> &'static str {
        "cmp"
    }

    fn dump(&self, o: &mut Out, t: &Table) {
        o.be32(1, self.sreg.number());
        o.be32(2, self.op);
        Datum::Value(self.value.clone()).dump(3, o, t);
    }

    fn compares(&self) -> Option<(Reg, &[u8], bool)> {
        (self.op <= 1).then_some((self.sreg, &self.value, self.op == 0))
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        let (a, b) = (m.load(self.sreg, self.value.len()), &self.value[..]);
        let holds = match self.op {
            0 => a == b,
            1 => a != b,
            2 => a < b,
            3 => a <= b,
            4 => a > b,
            _ => a >= b,
        };
        if holds { Step::Next } else { Step::Break }
    }
}

/// A comparison with two bounds.
pub struct Range {
    sreg: Reg,
    inverted: bool,
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Range {
    pub fn parse(a: &Attrs<'_>, names: &Names<'_>) -> Outcome<Range> {
        let (from, to) = (value(&a.need(3)?, names)?, value(&a.need(4)?, names)?);
        if from.len() != to.len() {
            return Err(EINVAL.into());
        }
        let sreg = Reg::parse(&a.need(1)?, from.len())?;
        match a.need(2)?.be32()? {
            op @ (0 | 1) => Ok(Range { sreg, inverted: op == 1, from, to }),
            _ => Err(EINVAL.into()),
        }
    }
}

impl Operation for Range {
    fn name(&self) -> &'static str {
        "range"
    }

    fn dump(&self, o: &mut Out, t: &Table) {
        o.be32(1, self.sreg.number());
        o.be32(2, self.inverted.into());
        Datum::Value(self.from.clone()).dump(3, o, t);
        Datum::Value(self.to.clone()).dump(4, o, t);
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        let a = m.load(self.sreg, self.from.len());
        let inside = &self.from[..] <= a && a <= &self.to[..];
        if inside != self.inverted { Step::Next } else { Step::Break }
    }
}

enum BitOp {
    MaskXor(Vec<u8>, Vec<u8>),
    Left(u32),
    Right(u32),
}

/// Masking, exclusive or, shifts.
pub struct Bitwise {
    sreg: Reg,
    dreg: Reg,
    len: usize,
    op: BitOp,
}

impl Bitwise {
    pub fn parse(a: &Attrs<'_>, names: &Names<'_>) -> Outcome<Bitwise> {
        let len = length(&a.need(3)?)?;
        let (sreg, dreg) = (Reg::parse(&a.need(1)?, len)?, Reg::parse(&a.need(2)?, len)?);
        let shift = || {
            let v = value(&a.need(7)?, names)?;
            let b: [u8; 4] = v.try_into().map_err(|_| EINVAL)?;
            match u32::from_ne_bytes(b) {
                n if n < 32 => Ok(n),
                _ => Err(crate::attr::Refused::from(EINVAL)),
            }
        };
        let op = match a.be32(6)?.unwrap_or(0) {
            0 => {
                let (mask, xor) = (value(&a.need(4)?, names)?, value(&a.need(5)?, names)?);
                if mask.len() != len || xor.len() != len {
                    return Err(EINVAL.into());
                }
                BitOp::MaskXor(mask, xor)
            }
            1 => BitOp::Left(shift()?),
            2 => BitOp::Right(shift()?),
            _ => return Err(EOPNOTSUPP.into()),
        };
        Ok(Bitwise { sreg, dreg, len, op })
    }
}

impl Operation for Bitwise {
    fn name(&self) -> &'static str {
        "bitwise"
    }

    fn dump(&self, o: &mut Out, t: &Table) {
        o.be32(1, self.sreg.number());
        o.be32(2, self.dreg.number());
        o.be32(3, self.len as u32);
        let shift = |o: &mut Out, n: u32| Datum::Value(n.to_ne_bytes().to_vec()).dump(7, o, t);
        match &self.op {
            BitOp::MaskXor(m, x) => {
                o.be32(6, 0);
                Datum::Value(m.clone()).dump(4, o, t);
                Datum::Value(x.clone()).dump(5, o, t);
            }
            BitOp::Left(n) => {
                o.be32(6, 1);
                shift(o, *n);
            }
            BitOp::Right(n) => {
                o.be32(6, 2);
                shift(o, *n);
            }
        }
    }

    fn masks(&self) -> Option<(Reg, Reg, &[u8])> {
        match &self.op {
            BitOp::MaskXor(mask, xor) if xor.iter().all(|b| *b == 0) => {
                Some((self.sreg, self.dreg, mask))
            }
            _ => None,
        }
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        let mut v = [0; super::REGISTERS];
        let v = &mut v[..self.len];
        v.copy_from_slice(m.load(self.sreg, self.len));
        match &self.op {
            BitOp::MaskXor(mask, xor) => {
                for ((b, m), x) in v.iter_mut().zip(mask).zip(xor) {
                    *b = (*b & m) ^ x;
                }
            }
            // The words of a register are shifted as one number, the first word being the highest.
            BitOp::Left(n) => {
                let mut carry = 0;
                for w in v.chunks_mut(4).rev() {
                    let x = word(w);
                    put_word(w, x << n | carry);
                    carry = x.checked_shr(32 - n).unwrap_or(0);
                }
            }
            BitOp::Right(n) => {
                let mut carry = 0;
                for w in v.chunks_mut(4) {
                    let x = word(w);
                    put_word(w, x >> n | carry);
                    carry = x.checked_shl(32 - n).unwrap_or(0);
                }
            }
        }
        m.store(self.dreg, v);
        Step::Next
    }
}

fn word(b: &[u8]) -> u32 {
    let mut w = [0; 4];
    w[..b.len()].copy_from_slice(b);
    u32::from_ne_bytes(w)
}

fn put_word(b: &mut [u8], v: u32) {
    let n = b.len();
    b.copy_from_slice(&v.to_ne_bytes()[..n]);
}

/// Between network and host byte order.
pub struct Byteorder {
    sreg: Reg,
    dreg: Reg,
    op: u32,
    len: usize,
    size: usize,
}

impl Byteorder {
    pub fn parse(a: &Attrs<'_>) -> Outcome<Byteorder> {
        let op = a.need(3)?.be32()?;
        let len = length(&a.need(4)?)?;
        let size = a.need(5)?.be32()? as usize;
        if op > 1 || !matches!(size, 2 | 4 | 8) {
            return Err(EINVAL.into());
        }
        Ok(Byteorder {
            sreg: Reg::parse(&a.need(1)?, len)?,
            dreg: Reg::parse(&a.need(2)?, len)?,
            op,
            len,
            size,
        })
    }
}

impl Operation for Byteorder {
    fn name(&self) -> &'static str {
        "byteorder"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        o.be32(1, self.sreg.number());
        o.be32(2, self.dreg.number());
        o.be32(3, self.op);
        o.be32(4, self.len as u32);
        o.be32(5, self.size as u32);
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        let mut v = [0; super::REGISTERS];
        let v = &mut v[..self.len];
        v.copy_from_slice(m.load(self.sreg, self.len));
        // On this machine both directions turn the bytes around.
        for c in v.chunks_exact_mut(self.size) {
            c.reverse();
        }
        m.store(self.dreg, v);
        Step::Next
    }
}
