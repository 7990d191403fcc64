//! Looking up in sets and maps, adding to them, and named objects.

use std::sync::Arc;

use uml_abi::errno::*;

use super::{Datum, Expr, Names, Operation, Reg, Step, parse, parse_list};
use crate::attr::{Attrs, Out, Outcome};
use crate::machine::Machine;
use crate::model::{NAME_MAX, Table};
use crate::set::{Element, Set, flag, instances};

/// The set that a message names, or calls by number.
fn named_set<'a>(a: &Attrs<'_>, name: u16, id: u16, names: &'a Names<'_>) -> Outcome<&'a Arc<Set>> {
    let n = a.need(name)?;
    if let Some(s) = names.table.set(n.text(NAME_MAX)?) {
        return Ok(s);
    }
    let wanted = a.be32(id)?;
    let found = names.set_ids.iter().rev().find(|s| Some(s.0) == wanted).map(|s| s.1);
    names.table.sets.iter().find(|s| Some(s.id) == found).ok_or(ENOENT.into())
}

/// NFT_LOOKUP_F_INV.
const INVERTED: u32 = 1;

/// A look-up, of which a map gives the data or verdict.
pub struct Lookup {
    set: u64,
    name: Arc<str>,
    sreg: Reg,
    key_len: usize,
    /// Register of the data; the inner `None` is the verdict.
    dreg: Option<Option<Reg>>,
    flags: u32,
}

impl Lookup {
    pub fn parse(a: &Attrs<'_>, names: &Names<'_>) -> Outcome<Lookup> {
        let s = named_set(a, 1, 4, names)?;
        let key_len = s.spec.key_len;
        let sreg = Reg::parse(&a.need(2)?, key_len)?;
        let flags = a.be32(5)?.unwrap_or(0);
        if flags & !INVERTED != 0 || (flags != 0 && s.spec.flags & flag::MAP != 0) {
            return Err(EINVAL.into());
        }
        let dreg = match (a.get(3), s.spec.data) {
            (Some(_), _) if flags != 0 => return Err(EINVAL.into()),
            (Some(d), Some((_, len))) => Some(Reg::parse_any(&d, len.max(1))?),
            (Some(_), None) => return Err(EINVAL.into()),
            (None, _) if s.spec.flags & flag::MAP != 0 => return Err(EINVAL.into()),
            (None, _) => None,
        };
        Ok(Lookup { set: s.id, name: s.name.clone(), sreg, key_len, dreg, flags })
    }
}

impl Operation for Lookup {
    fn name(&self) -> &'static str {
        "lookup"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        o.text(1, &self.name);
        o.be32(2, self.sreg.number());
        if let Some(d) = self.dreg {
            o.be32(3, d.map_or(0, Reg::number));
        }
        o.be32(5, self.flags);
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        let Some(set) = m.set(self.set) else { return Step::Break };
        let key = m.load(self.sreg, self.key_len).to_vec();
        let found = set.find(&key, m.now(), |e| (e.data.clone(), e.exprs.clone()));
        let Some((data, exprs)) = found else {
            return if self.flags & INVERTED != 0 { Step::Next } else { Step::Break };
        };
        if self.flags & INVERTED != 0 {
            return Step::Break;
        }
        for e in &exprs {
            match e.eval(m) {
                Step::Next => {}
                s => return s,
            }
        }
        match (data, self.dreg) {
            (Some(Datum::Verdict(v)), Some(None)) => v.step(),
            (Some(Datum::Value(v)), Some(Some(r))) => {
                m.store(r, &v);
                Step::Next
            }
            (None, Some(_)) => Step::Break,
            _ => Step::Next,
        }
    }

    fn set(&self) -> Option<u64> {
        Some(self.set)
    }
}

/// Packets that add to a set, make elements live longer, or delete them.
pub struct Dynset {
    set: u64,
    name: Arc<str>,
    op: u32,
    sreg_key: Reg,
    key_len: usize,
    sreg_data: Option<(Reg, usize)>,
    timeout: Option<u64>,
    inverted: bool,
    exprs: Vec<Expr>,
}

impl Dynset {
    pub fn parse(a: &Attrs<'_>, names: &Names<'_>) -> Outcome<Dynset> {
        let s = named_set(a, 1, 2, names)?;
        if s.spec.flags & flag::CONSTANT != 0 {
            return Err(EBUSY.into());
        }
        let op = a.need(3)?.be32()?;
        let timeout = a.be64(6)?.filter(|t| *t != 0);
        let flags = a.be32(9)?.unwrap_or(0);
        if op > 2 || s.spec.flags & flag::INTERVAL != 0 || flags & !3 != 0 {
            return Err(EOPNOTSUPP.into());
        }
        if (op == 1 || timeout.is_some()) && s.spec.flags & flag::TIMEOUT == 0 {
            // An update without timeouts only runs expressions.
            if timeout.is_some() || s.spec.flags & flag::EVAL == 0 {
                return Err(EOPNOTSUPP.into());
            }
        }
        let sreg_key = Reg::parse(&a.need(4)?, s.spec.key_len)?;
        let sreg_data = match (a.get(5), s.spec.data) {
            (Some(d), Some((_, len))) if len != 0 => Some((Reg::parse(&d, len)?, len)),
            (None, _) if s.spec.flags & flag::MAP == 0 => None,
            (None, _) if op == 2 => None,
            _ => return Err(EINVAL.into()),
        };
        let exprs = match (a.get(7), a.get(10)) {
            (Some(e), _) => vec![parse(&e, names)?],
            (None, Some(l)) => parse_list(&l, names)?,
            (None, None) => instances(&s.exprs),
        };
        if exprs.iter().any(|e| e.fresh().is_none()) || exprs.len() > 2 {
            return Err(EOPNOTSUPP.into());
        }
        Ok(Dynset {
            set: s.id,
            name: s.name.clone(),
            op,
            sreg_key,
            key_len: s.spec.key_len,
            sreg_data,
            timeout,
            inverted: flags & 1 != 0,
            exprs,
        })
    }
}

impl Operation for Dynset {
    fn name(&self) -> &'static str {
        "dynset"
    }

    fn dump(&self, o: &mut Out, t: &Table) {
        o.be32(4, self.sreg_key.number());
        if let Some((r, _)) = self.sreg_data {
            o.be32(5, r.number());
        }
        o.be32(3, self.op);
        o.text(1, &self.name);
        o.be64(6, self.timeout.unwrap_or(0));
        match &self.exprs[..] {
            [] => {}
            [e] => super::dump(e, 7, o, t),
            many => super::dump_list(many, 10, o, t),
        }
        o.be32(9, u32::from(self.inverted) | if self.exprs.is_empty() { 0 } else { 2 });
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        let Some(set) = m.set(self.set) else { return Step::Break };
        let now = m.now();
        let mut e = Element::new(m.load(self.sreg_key, self.key_len).to_vec());
        if self.op == 2 {
            let gone = set.remove(&e).is_ok();
            return if gone != self.inverted { Step::Next } else { Step::Break };
        }
        e.data = self.sreg_data.map(|(r, n)| Datum::Value(m.load(r, n).to_vec()));
        if set.spec.flags & flag::TIMEOUT != 0 {
            e.timeout = self.timeout.or(set.spec.timeout).filter(|t| *t != 0);
            e.expires = e.timeout.map(|ms| now + ms.saturating_mul(uml_net::time::MS));
        }
        e.exprs = instances(&self.exprs);
        match set.update(e, self.op == 1, now, |e| e.exprs.clone()) {
            Some(exprs) => {
                for e in &exprs {
                    match e.eval(m) {
                        Step::Next => {}
                        s => return s,
                    }
                }
                if self.inverted { Step::Break } else { Step::Next }
            }
            None if self.inverted => Step::Next,
            None => Step::Break,
        }
    }

    fn set(&self) -> Option<u64> {
        Some(self.set)
    }
}

/// A named object, or a map of them.
enum ObjRef {
    Named { id: u64, kind: u32, name: Arc<str> },
    Mapped { set: u64, name: Arc<str>, sreg: Reg, key_len: usize },
}

/// Reads a reference to a named object.
pub fn objref(a: &Attrs<'_>, names: &Names<'_>) -> Outcome<Expr> {
    if a.get(4).is_some() {
        let s = named_set(a, 4, 5, names)?;
        if s.spec.flags & flag::OBJECT == 0 {
            return Err(EINVAL.into());
        }
        let sreg = Reg::parse(&a.need(3)?, s.spec.key_len)?;
        let (set, name, key_len) = (s.id, s.name.clone(), s.spec.key_len);
        return Ok(Arc::new(ObjRef::Mapped { set, name, sreg, key_len }));
    }
    let kind = a.need(1)?.be32()?;
    let name = a.need(2)?;
    let wanted = name.text(NAME_MAX)?;
    let o = names.table.objects.iter().find(|o| o.kind == kind && &*o.name == wanted);
    let o = o.ok_or(name.refuse(ENOENT))?;
    Ok(Arc::new(ObjRef::Named { id: o.id, kind, name: o.name.clone() }))
}

impl Operation for ObjRef {
    fn name(&self) -> &'static str {
        "objref"
    }

    fn dump(&self, o: &mut Out, _: &Table) {
        match self {
            ObjRef::Named { kind, name, .. } => {
                o.be32(1, *kind);
                o.text(2, name);
            }
            ObjRef::Mapped { name, sreg, .. } => {
                o.be32(3, sreg.number());
                o.text(4, name);
            }
        }
    }

    fn eval(&self, m: &mut Machine<'_>) -> Step {
        let id = match self {
            ObjRef::Named { id, .. } => Some(*id),
            ObjRef::Mapped { set, sreg, key_len, .. } => {
                let key = m.load(*sreg, *key_len).to_vec();
                let now = m.now();
                m.set(*set)
                    .and_then(|s| s.find(&key, now, |e| e.object.as_ref().map(|o| o.0)))
                    .flatten()
            }
        };
        match id.and_then(|id| m.object(id)) {
            Some(state) => state.eval(m),
            None => Step::Break,
        }
    }

    fn set(&self) -> Option<u64> {
        match self {
            ObjRef::Mapped { set, .. } => Some(*set),
            ObjRef::Named { .. } => None,
        }
    }

    fn object(&self) -> Option<u64> {
        match self {
            ObjRef::Named { id, .. } => Some(*id),
            ObjRef::Mapped { .. } => None,
        }
    }
}
