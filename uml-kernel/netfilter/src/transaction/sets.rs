//! Sets, elements and named objects of a transaction.

use std::sync::Arc;

use uml_abi::errno::*;
use uml_net::time::MS;

use super::{Change, Transaction, userdata};
use crate::attr::{Attr, Attrs, Outcome, Refused};
use crate::dump;
use crate::expr::{self, Datum, Expr, Names, Operation, VALUE_MAX, state};
use crate::message::{flag as nlm, kind};
use crate::model::{NAME_MAX, OBJECTS_MAX, Object, Table, fresh_id};
use crate::set::{Element, Set, Spec, elem, flag, instances};

/// NFT_DATA_VERDICT.
const VERDICT: u32 = 0xffff_ff00;

/// What a message about a set says of it.
fn spec(a: &Attrs<'_>) -> Outcome<Spec> {
    let flags = a.be32(3)?.unwrap_or(0);
    if flags & !flag::ALL != 0 {
        return Err(EINVAL.into());
    }
    // Maps of objects change while packets pass, so they map nothing else.
    if flags & (flag::MAP | flag::OBJECT) == flag::MAP | flag::OBJECT {
        return Err(EOPNOTSUPP.into());
    }
    if flags & flag::CONSTANT != 0 && flags & (flag::TIMEOUT | flag::EVAL) != 0 {
        return Err(EOPNOTSUPP.into());
    }
    let key_len = a.need(5)?.be32()? as usize;
    if key_len == 0 || key_len > VALUE_MAX {
        return Err(EINVAL.into());
    }
    let data = match a.get(6) {
        Some(t) => {
            if flags & flag::MAP == 0 {
                return Err(EINVAL.into());
            }
            match t.be32()? {
                VERDICT => Some((VERDICT, 16)),
                n if n & 0xffff_ff00 == 0xffff_ff00 => return Err(EINVAL.into()),
                n => {
                    let len = a.need(7)?.be32()? as usize;
                    if len == 0 || len > VALUE_MAX {
                        return Err(EINVAL.into());
                    }
                    Some((n, len))
                }
            }
        }
        None if flags & flag::MAP != 0 => return Err(EINVAL.into()),
        None => None,
    };
    let object_kind = a.be32(15)?;
    if object_kind.is_some() != (flags & flag::OBJECT != 0) {
        return Err(EINVAL.into());
    }
    let timeout = a.be64(11)?.filter(|t| *t != 0);
    let gc_interval = a.be32(12)?;
    if (a.get(11).is_some() || gc_interval.is_some()) && flags & flag::TIMEOUT == 0 {
        return Err(EINVAL.into());
    }
    let (mut size, mut fields) = (0, Vec::new());
    if let Some(d) = a.get(9) {
        let d = d.nested()?;
        size = d.be32(1)?.unwrap_or(0);
        if let Some(c) = d.get(2) {
            let mut whole = 0;
            for f in c.nested()?.iter() {
                let len = f.nested()?.need(1)?.be32()?;
                if len == 0 || len > 64 || fields.len() >= 16 {
                    return Err(E2BIG.into());
                }
                whole += len.next_multiple_of(4) as usize;
                fields.push(len as u8);
            }
            if whole != key_len.next_multiple_of(4) {
                return Err(EINVAL.into());
            }
        }
    }
    if (flags & flag::CONCAT != 0) != (fields.len() > 1) && flags & flag::INTERVAL != 0 {
        return Err(EINVAL.into());
    }
    Ok(Spec {
        flags,
        key_type: a.be32(4)?.unwrap_or(0),
        key_len,
        data,
        object_kind,
        policy: a.be32(8)?.unwrap_or(0),
        size,
        fields,
        timeout,
        gc_interval,
        userdata: userdata(a.get(13))?,
    })
}

/// Stateful expressions of a set or an element.
fn expressions(a: &Attrs<'_>, one: u16, many: u16, names: &Names<'_>) -> Outcome<Vec<Expr>> {
    let v = match (a.get(one), a.get(many)) {
        (Some(e), _) => vec![expr::parse(&e, names)?],
        (None, Some(l)) => expr::parse_list(&l, names)?,
        (None, None) => Vec::new(),
    };
    if v.len() > 2 || v.iter().any(|e| e.fresh().is_none()) {
        return Err(EOPNOTSUPP.into());
    }
    Ok(v)
}

/// The name of an anonymous set: the pattern with the lowest number that is free.
fn numbered(t: &Table, pattern: &str) -> Outcome<String> {
    let Some((before, after)) = pattern.split_once("%d") else { return Err(EINVAL.into()) };
    if after.contains('%') {
        return Err(EINVAL.into());
    }
    let free = (0..OBJECTS_MAX).map(|n| format!("{before}{n}{after}")).find(|n| t.set(n).is_none());
    free.ok_or(ENFILE.into())
}

impl Transaction<'_> {
    pub(super) fn new_set(&mut self, c: &Change<'_>) -> Outcome {
        let t = self.table(c.family, c.attrs.get(1))?;
        let name = c.attrs.need(2)?;
        let text = name.text(NAME_MAX)?;
        let call = c.attrs.be32(10)?;
        let s = spec(&c.attrs)?;
        if let Some(old) = t.set(text) {
            if c.has(nlm::EXCL) {
                return Err(name.refuse(EEXIST));
            }
            if c.has(nlm::REPLACE) {
                return Err(EOPNOTSUPP.into());
            }
            let same =
                (old.spec.flags, old.spec.key_len, old.spec.data) == (s.flags, s.key_len, s.data);
            if !same {
                return Err(name.refuse(EEXIST));
            }
            if let Some(n) = call {
                self.set_ids.push((n, old.id));
            }
            return Ok(());
        }
        if !c.has(nlm::CREATE) {
            return Err(name.refuse(ENOENT));
        }
        if t.sets.len() >= OBJECTS_MAX {
            return Err(EOVERFLOW.into());
        }
        let exprs = expressions(&c.attrs, 17, 18, &self.names(&t, None))?;
        let full = match s.flags & flag::ANONYMOUS != 0 {
            true => numbered(&t, text)?,
            false if text.is_empty() || text.contains('%') => return Err(name.refuse(EINVAL)),
            false => text.to_owned(),
        };
        let id = fresh_id();
        let set = Set::new(id, full.as_str().into(), t.next_handle(), s, exprs);
        self.table_mut(&t)?.sets.push(Arc::new(set));
        if let Some(n) = call {
            self.set_ids.push((n, id));
        }
        self.tell(c, kind::NEWSET, t.family, |o, r| {
            if let Some(t) = r.table(t.family, &t.name)
                && let Some(s) = t.sets.iter().find(|s| s.id == id)
            {
                dump::set(o, t, s);
            }
        });
        Ok(())
    }

    pub(super) fn delete_set(&mut self, c: &Change<'_>) -> Outcome {
        let t = self.table(c.family, c.attrs.get(1))?;
        let (a, found) = match (c.attrs.get(16), c.attrs.get(2)) {
            (Some(h), _) => {
                let n = h.be64()?;
                (h, t.sets.iter().find(|s| s.handle == n))
            }
            (None, Some(n)) => (n, t.set(n.text(NAME_MAX)?)),
            (None, None) => return Err(EINVAL.into()),
        };
        let s = found.ok_or(a.refuse(ENOENT))?.clone();
        if t.uses_of_set(s.id) > 0 || (c.has(nlm::NONREC) && !s.is_empty()) {
            return Err(a.refuse(EBUSY));
        }
        self.tell(c, kind::DELSET, t.family, |o, _| dump::set(o, &t, &s));
        self.table_mut(&t)?.sets.retain(|x| x.id != s.id);
        Ok(())
    }

    /// The set that a message about elements names.
    fn set_of(&self, c: &Change<'_>, t: &Table) -> Outcome<Arc<Set>> {
        let n = c.attrs.need(2)?;
        if let Some(s) = t.set(n.text(NAME_MAX)?) {
            return Ok(s.clone());
        }
        let call = c.attrs.be32(4)?;
        let id = self.set_ids.iter().rev().find(|x| Some(x.0) == call).map(|x| x.1);
        Ok(t.sets.iter().find(|s| Some(s.id) == id).ok_or(n.refuse(ENOENT))?.clone())
    }

    pub(super) fn new_elements(&mut self, c: &Change<'_>) -> Outcome {
        let t = self.table(c.family, c.attrs.get(1))?;
        let s = self.set_of(c, &t)?;
        let list = c.attrs.need(3)?;
        if s.spec.flags & flag::CONSTANT != 0 && t.uses_of_set(s.id) > 0 {
            return Err(EBUSY.into());
        }
        let mut added = Vec::new();
        for a in list.nested()?.iter() {
            let e = element(a, &s, &self.names(&t, None), self.now, true)
                .map_err(|e| Refused { at: Some(a.at), ..e })?;
            added.push((a.at, e));
        }
        let (now, exclusive) = (self.now, c.has(nlm::EXCL));
        let mine = self.table_mut(&t)?.set_mut(s.id).ok_or(ENOENT)?;
        let mut news = Vec::new();
        for (at, e) in added {
            match mine.add(e.clone(), exclusive, now) {
                Ok(true) => news.push(e),
                Ok(false) => {}
                Err(errno) => return Err(Refused { errno, at: Some(at) }),
            }
        }
        self.tell_elements(c, kind::NEWSETELEM, &t, &s, &news);
        Ok(())
    }

    pub(super) fn delete_elements(&mut self, c: &Change<'_>) -> Outcome {
        let t = self.table(c.family, c.attrs.get(1))?;
        let s = self.set_of(c, &t)?;
        if s.spec.flags & flag::CONSTANT != 0 && t.uses_of_set(s.id) > 0 {
            return Err(EBUSY.into());
        }
        let Some(list) = c.attrs.get(3) else {
            let gone = s.list(self.now);
            self.table_mut(&t)?.set_mut(s.id).ok_or(ENOENT)?.flush();
            self.tell_elements(c, kind::DELSETELEM, &t, &s, &gone);
            return Ok(());
        };
        let mut gone = Vec::new();
        for a in list.nested()?.iter() {
            let e = element(a, &s, &self.names(&t, None), self.now, false)
                .map_err(|e| Refused { at: Some(a.at), ..e })?;
            let mine = self.table_mut(&t)?.set_mut(s.id).ok_or(ENOENT)?;
            match mine.remove(&e) {
                Ok(e) => gone.push(e),
                Err(_) if c.kind == kind::DESTROYSETELEM => {}
                Err(errno) => return Err(a.refuse(errno)),
            }
        }
        self.tell_elements(c, kind::DELSETELEM, &t, &s, &gone);
        Ok(())
    }

    fn tell_elements(&mut self, c: &Change<'_>, k: u8, t: &Table, s: &Set, list: &[Element]) {
        let now = self.now;
        // Short enough for the buffers of programs.
        for part in list.chunks(24) {
            self.tell(c, k, t.family, |o, _| dump::element_list(o, t, s, part, now));
        }
    }

    pub(super) fn new_object(&mut self, c: &Change<'_>) -> Outcome {
        let t = self.table(c.family, c.attrs.get(1))?;
        let name = c.attrs.need(2)?;
        let text = name.text(NAME_MAX)?;
        let k = c.attrs.need(3)?.be32()?;
        let data = c.attrs.need(4)?.nested()?;
        if t.objects.iter().any(|o| o.kind == k && &*o.name == text) {
            if c.has(nlm::EXCL) {
                return Err(name.refuse(EEXIST));
            }
            return if c.has(nlm::REPLACE) { Err(EOPNOTSUPP.into()) } else { Ok(()) };
        }
        if t.objects.len() >= OBJECTS_MAX {
            return Err(EOVERFLOW.into());
        }
        let state: Arc<dyn Operation> = match k {
            1 => Arc::new(state::Count::parse(&data)?),
            2 => Arc::new(state::Quota::parse(&data)?),
            4 => Arc::new(state::Limit::parse(&data)?),
            // Helpers, timeouts, expectations, marks and tunnels are not offered.
            _ => return Err(ENOENT.into()),
        };
        let id = fresh_id();
        let o = Object {
            id,
            name: text.into(),
            handle: t.next_handle(),
            kind: k,
            state,
            userdata: userdata(c.attrs.get(8))?,
        };
        self.table_mut(&t)?.objects.push(Arc::new(o));
        self.tell(c, kind::NEWOBJ, t.family, |o, r| {
            if let Some(t) = r.table(t.family, &t.name)
                && let Some(x) = t.objects.iter().find(|x| x.id == id)
            {
                dump::object(o, t, x);
            }
        });
        Ok(())
    }

    pub(super) fn delete_object(&mut self, c: &Change<'_>) -> Outcome {
        let t = self.table(c.family, c.attrs.get(1))?;
        let k = c.attrs.need(3)?.be32()?;
        let (a, found) = match (c.attrs.get(6), c.attrs.get(2)) {
            (Some(h), _) => {
                let n = h.be64()?;
                (h, t.objects.iter().find(|o| o.kind == k && o.handle == n))
            }
            (None, Some(n)) => {
                let text = n.text(NAME_MAX)?;
                (n, t.objects.iter().find(|o| o.kind == k && &*o.name == text))
            }
            (None, None) => return Err(EINVAL.into()),
        };
        let x = found.ok_or(a.refuse(ENOENT))?.clone();
        if t.uses_of_object(x.id) > 0 {
            return Err(a.refuse(EBUSY));
        }
        self.tell(c, kind::DELOBJ, t.family, |o, _| dump::object(o, &t, &x));
        self.table_mut(&t)?.objects.retain(|o| o.id != x.id);
        Ok(())
    }
}

/// A key of the set's length.
fn key(a: &Attr<'_>, s: &Set, names: &Names<'_>) -> Outcome<Vec<u8>> {
    match Datum::parse(a, names)? {
        Datum::Value(v) if v.len() == s.spec.key_len => Ok(v),
        _ => Err(EINVAL.into()),
    }
}

/// Reads an element; one that is to be added must be complete.
pub fn element(
    a: &Attr<'_>,
    s: &Set,
    names: &Names<'_>,
    now: uml_net::Time,
    complete: bool,
) -> Outcome<Element> {
    let x = a.nested()?;
    let flags = x.be32(3)?.unwrap_or(0);
    if flags & !(elem::INTERVAL_END | elem::CATCHALL) != 0 {
        return Err(EOPNOTSUPP.into());
    }
    let interval = s.spec.flags & flag::INTERVAL != 0 && s.spec.fields.len() <= 1;
    if flags & elem::INTERVAL_END != 0 && !interval {
        return Err(EINVAL.into());
    }
    let k = match (x.get(1), flags & elem::CATCHALL != 0) {
        (Some(k), false) => key(&k, s, names)?,
        (None, true) => Vec::new(),
        _ => return Err(EINVAL.into()),
    };
    let mut e = Element::new(k);
    e.flags = flags;
    if let Some(k) = x.get(10) {
        if s.spec.flags & flag::INTERVAL == 0 || s.spec.fields.len() <= 1 {
            return Err(EINVAL.into());
        }
        e.key_end = Some(key(&k, s, names)?);
    }
    if !complete {
        return Ok(e);
    }
    let end = flags & elem::INTERVAL_END != 0;
    e.data = match (x.get(2), s.spec.data) {
        (Some(_), _) if end => return Err(EINVAL.into()),
        (Some(d), Some((kind, len))) => {
            let d = Datum::parse(&d, names)?;
            match &d {
                Datum::Verdict(_) if kind == VERDICT => {}
                Datum::Value(v) if kind != VERDICT && v.len() == len => {}
                _ => return Err(EINVAL.into()),
            }
            Some(d)
        }
        (None, Some(_)) if !end => return Err(EINVAL.into()),
        (Some(_), None) => return Err(EINVAL.into()),
        _ => None,
    };
    if let Some(n) = x.get(9) {
        let Some(kind) = s.spec.object_kind else { return Err(EINVAL.into()) };
        let text = n.text(NAME_MAX)?;
        let o = names
            .table
            .objects
            .iter()
            .find(|o| o.kind == kind && &*o.name == text)
            .ok_or(ENOENT)?;
        e.object = Some((o.id, o.name.clone()));
    }
    if s.spec.flags & flag::TIMEOUT != 0 {
        e.timeout = x.be64(4)?.or(s.spec.timeout).filter(|t| *t != 0 && !end);
        let left = x.be64(5)?.or(e.timeout);
        e.expires = left.filter(|_| e.timeout.is_some()).map(|ms| now + ms.saturating_mul(MS));
    } else if x.get(4).is_some() {
        return Err(EINVAL.into());
    }
    e.userdata = userdata(x.get(6))?;
    e.exprs = match (x.get(7).is_some() || x.get(11).is_some(), end) {
        (_, true) => Vec::new(),
        (true, _) => expressions(&x, 7, 11, names)?,
        (false, _) => instances(&s.exprs),
    };
    Ok(e)
}
