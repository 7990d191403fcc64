//! Expressions: what rules are made of (nft(8), "EXPRESSIONS"), one type each, which reads itself from attributes, writes
//! itself back and judges packets.
//!
//! [`data`] moves and compares registers, [`packet`] reads and writes packets, [`state`] counts and limits, [`sets`]
//! looks up, [`nat`] tracks and translates, [`reject`] answers, [`compat`] are the extensions of iptables.

pub mod compat;
pub mod data;
pub mod nat;
pub mod packet;
pub mod reject;
pub mod sets;
pub mod state;

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;

use crate::attr::{Attr, Attrs, Out, Outcome, Refused};
use crate::guard::Field;
use crate::machine::Machine;
use crate::model::{Base, Counter, Table};

/// One expression.
pub type Expr = Arc<dyn Operation>;

/// Most expressions of a rule (NFT_RULE_MAXEXPRS).
pub const EXPRS_MAX: usize = 128;
/// Bytes of all data registers.
pub const REGISTERS: usize = 64;
/// Longest value in a register.
pub const VALUE_MAX: usize = 64;

/// How judging goes on after an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Next,
    /// The rule does not match.
    Break,
    Accept,
    Drop,
    /// Taken out of the way without being dropped: it was answered.
    Stolen,
    Return,
    Jump(u64),
    Goto(u64),
}

/// What expressions have in common.
pub trait Operation: Send + Sync {
    /// Its name in messages.
    fn name(&self) -> &'static str;

    /// Writes its attributes.
    fn dump(&self, o: &mut Out, t: &Table);

    /// Judges a packet.
    fn eval(&self, m: &mut Machine<'_>) -> Step;

    /// The chain that it jumps to.
    fn jumps_to(&self) -> Option<u64> {
        None
    }

    /// The set that it uses.
    fn set(&self) -> Option<u64> {
        None
    }

    /// The object that it uses.
    fn object(&self) -> Option<u64> {
        None
    }

    /// Whether it may be reached from such a base chain.
    fn allowed(&self, base: &Base, family: u8) -> Result<()> {
        let _ = (base, family);
        Ok(())
    }

    /// The register and the field of a packet that it loads, when that is all it does and it does it to every packet.
    fn loads(&self) -> Option<(Reg, Field)> {
        None
    }

    /// The registers from and to which it takes bits, and which, when that is all it does.
    fn masks(&self) -> Option<(Reg, Reg, &[u8])> {
        None
    }

    /// The register and the value that it compares, and whether the rule goes on when they are equal or when they are not; when that is
    /// all it does.
    fn compares(&self) -> Option<(Reg, &[u8], bool)> {
        None
    }

    /// Connections must be tracked for it.
    fn tracks(&self) -> bool {
        false
    }

    /// A new instance with a state of its own, of those that have one.
    fn fresh(&self) -> Option<Expr> {
        None
    }

    /// What it counts.
    fn counter(&self) -> Option<&Counter> {
        None
    }
}

/// What names in expressions refer to while a message is read.
pub struct Names<'a> {
    pub family: u8,
    pub table: &'a Table,
    /// Sets of this transaction by the number that messages call them.
    pub set_ids: &'a [(u32, u64)],
    pub chain_ids: &'a [(u32, u64)],
    /// Protocol and flags for extensions of iptables.
    pub compat: Option<(u32, u32)>,
}

/// A verdict as registers and maps hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Continue,
    Break,
    Return,
    Jump(u64),
    Goto(u64),
}

impl Verdict {
    /// What follows from it.
    pub fn step(self) -> Step {
        match self {
            Verdict::Accept => Step::Accept,
            Verdict::Drop => Step::Drop,
            Verdict::Continue => Step::Next,
            Verdict::Break => Step::Break,
            Verdict::Return => Step::Return,
            Verdict::Jump(c) => Step::Jump(c),
            Verdict::Goto(c) => Step::Goto(c),
        }
    }
}

/// A value or a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datum {
    Value(Vec<u8>),
    Verdict(Verdict),
}

impl Datum {
    /// Reads NFTA_DATA_*.
    pub fn parse(a: &Attr<'_>, names: &Names<'_>) -> Outcome<Datum> {
        let inner = a.nested()?;
        if let Some(v) = inner.get(1) {
            if v.data.is_empty() || v.data.len() > VALUE_MAX {
                return Err(v.refuse(EINVAL));
            }
            return Ok(Datum::Value(v.data.to_vec()));
        }
        let v = inner.need(2)?.nested()?;
        let code = v.need(1)?.be32()? as i32;
        let chain = || -> Outcome<u64> {
            let found = match (v.get(2), v.get(3)) {
                (Some(n), _) => {
                    let name = n.text(crate::model::NAME_MAX)?;
                    // A chain that waits for its rule is only known by number.
                    names.table.chain(name).filter(|c| c.flags & crate::model::Chain::BINDING == 0)
                }
                (None, Some(id)) => {
                    let wanted = id.be32()?;
                    let id = names.chain_ids.iter().find(|c| c.0 == wanted).map(|c| c.1);
                    names.table.chains.iter().find(|c| Some(c.id) == id)
                }
                (None, None) => return Err(EINVAL.into()),
            };
            let c = found.ok_or(ENOENT)?;
            if c.base.is_some() { Err(EOPNOTSUPP.into()) } else { Ok(c.id) }
        };
        Ok(Datum::Verdict(match code {
            0 => Verdict::Drop,
            1 => Verdict::Accept,
            -1 => Verdict::Continue,
            -2 => Verdict::Break,
            -5 => Verdict::Return,
            -3 => Verdict::Jump(chain()?),
            -4 => Verdict::Goto(chain()?),
            // Queueing to programs is not offered.
            _ => return Err(EINVAL.into()),
        }))
    }

    /// Writes NFTA_DATA_* as attribute `kind`.
    pub fn dump(&self, kind: u16, o: &mut Out, t: &Table) {
        o.nest(kind, |o| match self {
            Datum::Value(v) => o.put(1, v),
            Datum::Verdict(v) => o.nest(2, |o| {
                let (code, chain) = match v {
                    Verdict::Drop => (0i32, None),
                    Verdict::Accept => (1, None),
                    Verdict::Continue => (-1, None),
                    Verdict::Break => (-2, None),
                    Verdict::Return => (-5, None),
                    Verdict::Jump(c) => (-3, Some(*c)),
                    Verdict::Goto(c) => (-4, Some(*c)),
                };
                o.be32(1, code as u32);
                if let Some(c) = t.chains.iter().find(|c| Some(c.id) == chain) {
                    o.text(2, &c.name);
                }
            }),
        });
    }

    /// The chain that it jumps to.
    pub fn jumps_to(&self) -> Option<u64> {
        match self {
            Datum::Verdict(Verdict::Jump(c) | Verdict::Goto(c)) => Some(*c),
            _ => None,
        }
    }
}

/// A data register: where it begins, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg(pub usize);

impl Reg {
    /// A register for `len` bytes; `None` is the verdict's. `ERANGE` where there are none.
    pub fn parse_any(a: &Attr<'_>, len: usize) -> Outcome<Option<Reg>> {
        let n = a.be32()? as usize;
        let at = match n {
            0 => return Ok(None),
            1..=4 => (n - 1) * 16,
            8..=23 => (n - 8) * 4,
            _ => return Err(ERANGE.into()),
        };
        if len == 0 {
            return Err(EINVAL.into());
        }
        if at + len > REGISTERS {
            return Err(ERANGE.into());
        }
        Ok(Some(Reg(at)))
    }

    /// A data register for `len` bytes.
    pub fn parse(a: &Attr<'_>, len: usize) -> Outcome<Reg> {
        Reg::parse_any(a, len)?.ok_or(EINVAL.into())
    }

    /// Its number in messages.
    pub fn number(self) -> u32 {
        if self.0 % 16 == 0 { (self.0 / 16 + 1) as u32 } else { (self.0 / 4 + 8) as u32 }
    }
}

/// A length of 1 to 64 bytes.
pub fn length(a: &Attr<'_>) -> Outcome<usize> {
    match a.be32()? as usize {
        0 => Err(EINVAL.into()),
        n if n > 255 => Err(ERANGE.into()),
        n => Ok(n),
    }
}

/// Reads an expression; `ENOENT` for one that is not known, as a kernel without it has it.
pub fn parse(a: &Attr<'_>, names: &Names<'_>) -> Outcome<Expr> {
    let outer = a.nested()?;
    let name = outer.need(1)?.text(32)?;
    let at = outer.get(1).map(|n| n.at);
    let body = match outer.get(2) {
        Some(d) => d.nested()?,
        None => Attrs::default(),
    };
    let b = &body;
    if crate::model::family::of_frames(names.family) {
        of_frames(name, names.family).map_err(|e| Refused { errno: e, at })?;
    }
    Ok(match name {
        "immediate" => Arc::new(data::Immediate::parse(b, names)?),
        "cmp" => Arc::new(data::Cmp::parse(b, names)?),
        "range" => Arc::new(data::Range::parse(b, names)?),
        "bitwise" => Arc::new(data::Bitwise::parse(b, names)?),
        "byteorder" => Arc::new(data::Byteorder::parse(b)?),
        "payload" => packet::payload(b)?,
        "meta" => packet::meta(b)?,
        "exthdr" => packet::exthdr(b)?,
        "fib" => Arc::new(packet::Fib::parse(b)?),
        "rt" => Arc::new(packet::Rt::parse(b)?),
        "lookup" => Arc::new(sets::Lookup::parse(b, names)?),
        "dynset" => Arc::new(sets::Dynset::parse(b, names)?),
        "objref" => sets::objref(b, names)?,
        "counter" => Arc::new(state::Count::parse(b)?),
        "limit" => Arc::new(state::Limit::parse(b)?),
        "quota" => Arc::new(state::Quota::parse(b)?),
        "log" => Arc::new(state::Log::parse(b)?),
        "connlimit" => Arc::new(nat::Connlimit::parse(b)?),
        "numgen" => Arc::new(state::Numgen::parse(b)?),
        "last" => Arc::new(state::Last::parse(b)?),
        "ct" => nat::ct(b, names)?,
        "notrack" => Arc::new(nat::Notrack),
        "nat" => Arc::new(nat::Nat::parse(b, names)?),
        "masq" => Arc::new(nat::Masq::parse(b)?),
        "redir" => Arc::new(nat::Redir::parse(b)?),
        "reject" => Arc::new(reject::Reject::parse(b, names)?),
        "match" => Arc::new(compat::Match::parse(b, names)?),
        "target" => Arc::new(compat::Target::parse(b, names)?),
        _ => return Err(Refused { errno: ENOENT, at }),
    })
}

/// Whether rules about frames can have the expression: `EPROTO` for connections, which nobody tracks there; else `ENOENT`, as without
/// a module for the family.
fn of_frames(name: &str, of: u8) -> Result<()> {
    let netdev = of == crate::model::family::NETDEV;
    match name {
        "ct" | "connlimit" => Err(EPROTO),
        "reject" | "fib" if netdev => Ok(()),
        "reject" | "fib" | "rt" | "nat" | "masq" | "redir" | "match" | "target" => Err(ENOENT),
        _ => Ok(()),
    }
}

/// Reads a list of expressions (NFTA_LIST_ELEM).
pub fn parse_list(a: &Attr<'_>, names: &Names<'_>) -> Outcome<Vec<Expr>> {
    let mut v = Vec::new();
    for e in a.nested()?.iter() {
        if e.kind != 1 || v.len() >= EXPRS_MAX {
            return Err(EINVAL.into());
        }
        v.push(parse(e, names).map_err(|r| Refused { at: Some(e.at), ..r })?);
    }
    Ok(v)
}

/// Writes an expression as attribute `kind`.
pub fn dump(e: &Expr, kind: u16, o: &mut Out, t: &Table) {
    o.nest(kind, |o| {
        o.text(1, e.name());
        o.nest(2, |o| e.dump(o, t));
    });
}

/// Writes a list of expressions as attribute `kind`.
pub fn dump_list(exprs: &[Expr], kind: u16, o: &mut Out, t: &Table) {
    o.nest(kind, |o| {
        for e in exprs {
            dump(e, 1, o, t);
        }
    });
}
