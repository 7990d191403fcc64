//! Changing the ruleset: the messages of a batch, all of which succeed or none.
//!
//! A [`Transaction`] works on a copy that shares what it does not change. [`rules`] and [`sets`] are the parts for rules,
//! and for sets, elements and objects.

mod rules;
mod sets;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use uml_abi::errno::*;
use uml_abi::{Errno, Result};
use uml_net::Time;

use crate::Netfilter;
use crate::attr::{Attr, Attrs, Out, Outcome, Refused};
use crate::dump::{self, To};
use crate::expr::Names;
use crate::machine::DEPTH_MAX;
use crate::message::{flag, kind};
use crate::model::{
    Base, Chain, ChainKind, Counter, NAME_MAX, OBJECTS_MAX, Ruleset, Table, USERDATA_MAX, family,
    fresh_id,
};

/// One message of a batch.
pub struct Change<'a> {
    pub kind: u8,
    pub flags: u16,
    pub family: u8,
    pub seq: u32,
    pub attrs: Attrs<'a>,
}

impl Change<'_> {
    fn has(&self, f: u16) -> bool {
        self.flags & f != 0
    }
}

/// What listeners are told, and whether the asker wants to hear it too.
pub struct Event {
    pub message: Vec<u8>,
    pub echo: bool,
}

/// A change in the making.
pub struct Transaction<'a> {
    nf: &'a Netfilter,
    pub rules: Ruleset,
    pub events: Vec<Event>,
    /// Somebody listens.
    heard: bool,
    to: To,
    now: Time,
    set_ids: Vec<(u32, u64)>,
    chain_ids: Vec<(u32, u64)>,
    /// Rules by the number that messages call them, as handles.
    rule_ids: Vec<(u32, u64)>,
}

/// Data of the user's own.
fn userdata(a: Option<Attr<'_>>) -> Outcome<Option<Vec<u8>>> {
    match a {
        Some(u) if u.data.len() > USERDATA_MAX => Err(EINVAL.into()),
        Some(u) => Ok(Some(u.data.to_vec())),
        None => Ok(None),
    }
}

impl<'a> Transaction<'a> {
    /// Begins with the present rules.
    pub fn new(nf: &'a Netfilter, now: Time, to: To, heard: bool) -> Transaction<'a> {
        Transaction {
            nf,
            rules: (*nf.rules()).clone(),
            events: Vec::new(),
            heard,
            to,
            now,
            set_ids: Vec::new(),
            chain_ids: Vec::new(),
            rule_ids: Vec::new(),
        }
    }

    /// Makes one change.
    pub fn apply(&mut self, c: &Change<'_>) -> Outcome {
        let r = match c.kind {
            kind::NEWTABLE => self.new_table(c),
            kind::DELTABLE | kind::DESTROYTABLE => self.delete_table(c),
            kind::NEWCHAIN => self.new_chain(c),
            kind::DELCHAIN | kind::DESTROYCHAIN => self.delete_chain(c),
            kind::NEWRULE => self.new_rule(c),
            kind::DELRULE | kind::DESTROYRULE => self.delete_rule(c),
            kind::NEWSET => self.new_set(c),
            kind::DELSET | kind::DESTROYSET => self.delete_set(c),
            kind::NEWSETELEM => self.new_elements(c),
            kind::DELSETELEM | kind::DESTROYSETELEM => self.delete_elements(c),
            kind::NEWOBJ => self.new_object(c),
            kind::DELOBJ | kind::DESTROYOBJ => self.delete_object(c),
            // Flow tables offload forwarding to devices, of which none can.
            kind::NEWFLOWTABLE | kind::DELFLOWTABLE => Err(EOPNOTSUPP.into()),
            _ => Err(EINVAL.into()),
        };
        let destroy = (kind::DESTROYTABLE..=kind::DESTROYOBJ).contains(&c.kind);
        match r {
            Err(Refused { errno: ENOENT, .. }) if destroy => Ok(()),
            r => r,
        }
    }

    fn tell(&mut self, c: &Change<'_>, k: u8, fam: u8, f: impl FnOnce(&mut Out, &Ruleset)) {
        let echo = c.has(flag::ECHO);
        if !self.heard && !echo {
            return;
        }
        let to = To { seq: c.seq, ..self.to };
        let flags = if k == kind::NEWRULE { c.flags & (flag::APPEND | flag::CREATE) } else { 0 };
        let mut o = dump::begin(kind::of(k), flags, fam, to);
        f(&mut o, &self.rules);
        self.events.push(Event { message: dump::end(o), echo });
    }

    /// The table that attribute `a` names.
    fn table(&self, fam: u8, a: Option<Attr<'_>>) -> Outcome<Arc<Table>> {
        let a = a.ok_or(EINVAL)?;
        let t = self.rules.table(fam, a.text(NAME_MAX)?).ok_or(a.refuse(ENOENT))?;
        Ok(t.clone())
    }

    fn table_mut(&mut self, t: &Table) -> Result<&mut Table> {
        self.rules.table_mut(t.family, &t.name).ok_or(ENOENT)
    }

    fn names<'b>(&'b self, table: &'b Table, compat: Option<(u32, u32)>) -> Names<'b> {
        Names {
            family: table.family,
            table,
            set_ids: &self.set_ids,
            chain_ids: &self.chain_ids,
            compat,
        }
    }

    // Tables.

    fn new_table(&mut self, c: &Change<'_>) -> Outcome {
        let ip = matches!(c.family, family::INET | family::IPV4 | family::IPV6);
        if !ip && !family::of_frames(c.family) {
            return Err(EOPNOTSUPP.into());
        }
        let name = c.attrs.need(1)?;
        let text = name.text(NAME_MAX)?;
        let flags = c.attrs.be32(2)?.unwrap_or(0);
        if text.is_empty() {
            return Err(name.refuse(EINVAL));
        }
        if flags & !Table::DORMANT != 0 {
            return Err(EOPNOTSUPP.into());
        }
        if self.rules.table(c.family, text).is_some() {
            if c.has(flag::EXCL) {
                return Err(name.refuse(EEXIST));
            }
            if c.has(flag::REPLACE) {
                return Err(EOPNOTSUPP.into());
            }
            if c.attrs.get(2).is_some()
                && let Some(t) = self.rules.table_mut(c.family, text)
            {
                t.flags = flags;
            }
        } else {
            if self.rules.tables.len() >= OBJECTS_MAX {
                return Err(ENOMEM.into());
            }
            let t = Table {
                family: c.family,
                name: text.into(),
                handle: self.nf.next_table(),
                flags,
                userdata: userdata(c.attrs.get(6))?,
                owner: 0,
                handles: Arc::new(AtomicU64::new(0)),
                chains: Vec::new(),
                sets: Vec::new(),
                objects: Vec::new(),
            };
            self.rules.tables.push(Arc::new(t));
        }
        self.tell(c, kind::NEWTABLE, c.family, |o, r| {
            if let Some(t) = r.table(c.family, text) {
                dump::table(o, t);
            }
        });
        Ok(())
    }

    fn delete_table(&mut self, c: &Change<'_>) -> Outcome {
        let wanted: Vec<Arc<Table>> = match (c.attrs.get(4), c.attrs.get(1)) {
            (Some(h), _) => {
                let n = h.be64()?;
                let found =
                    self.rules.tables.iter().find(|t| t.handle == n && t.family == c.family);
                vec![found.ok_or(h.refuse(ENOENT))?.clone()]
            }
            (None, Some(n)) => vec![self.table(c.family, Some(n))?],
            // Without a name all of the family go, or all there are.
            (None, None) => {
                let of = |t: &&Arc<Table>| c.family == family::UNSPEC || t.family == c.family;
                self.rules.tables.iter().filter(of).cloned().collect()
            }
        };
        for t in wanted {
            for chain in &t.chains {
                for r in &chain.rules {
                    self.tell(c, kind::DELRULE, t.family, |o, _| dump::rule(o, &t, chain, r, None));
                }
            }
            for s in &t.sets {
                self.tell(c, kind::DELSET, t.family, |o, _| dump::set(o, &t, s));
            }
            for chain in &t.chains {
                self.tell(c, kind::DELCHAIN, t.family, |o, _| dump::chain(o, &t, chain));
            }
            self.tell(c, kind::DELTABLE, t.family, |o, _| dump::table(o, &t));
            self.rules.tables.retain(|o| o.handle != t.handle);
        }
        Ok(())
    }

    // Chains.

    fn hook(&self, c: &Change<'_>) -> Outcome<Option<Base>> {
        let Some(h) = c.attrs.get(4) else { return Ok(None) };
        let h = h.nested()?;
        let hook = h.need(1)?.be32()?;
        let priority = h.need(2)?.be32()? as i32;
        let kind = match c.attrs.get(7) {
            Some(t) => ChainKind::named(t.text(32)?).ok_or(t.refuse(ENOENT))?,
            None => ChainKind::Filter,
        };
        if family::of_frames(c.family) {
            return self.hook_of_frames(c, kind, (hook, priority), &h);
        }
        let possible = match kind {
            ChainKind::Filter => hook <= 4,
            ChainKind::Route => hook == 3,
            ChainKind::Nat => matches!(hook, 0 | 1 | 3 | 4),
        };
        // Connections must be known before their addresses are translated (NF_IP_PRI_CONNTRACK).
        if !possible || (kind == ChainKind::Nat && priority <= -200) {
            return Err(EOPNOTSUPP.into());
        }
        if h.get(3).is_some() || h.get(4).is_some() {
            return Err(EOPNOTSUPP.into());
        }
        let (devices, list) = (Vec::new(), false);
        Ok(Some(Base { kind, hook, priority, accept: true, counter: None, devices, list }))
    }

    /// Where a chain of frames hangs: `ENOENT` for kinds that are of IP, `EOPNOTSUPP` for places that there are not, and without or with
    /// interfaces where those are not or are named.
    fn hook_of_frames(
        &self,
        c: &Change<'_>,
        kind: ChainKind,
        (hook, priority): (u32, i32),
        h: &Attrs<'_>,
    ) -> Outcome<Option<Base>> {
        /// Interfaces of a chain (NFT_NETDEVICE_MAX).
        const DEVICES: usize = 256;
        /// Longest name of an interface, and its terminator.
        const NAME: usize = 16;
        if kind != ChainKind::Filter {
            return Err(c.attrs.get(7).map_or(ENOENT.into(), |t| t.refuse(ENOENT)));
        }
        let mut devices: Vec<Arc<str>> = Vec::new();
        let list = h.get(4);
        if let Some(d) = h.get(3) {
            devices.push(d.text(NAME)?.into());
        } else if let Some(l) = &list {
            for d in l.nested()?.iter() {
                if d.kind != 1 {
                    return Err(EINVAL.into());
                }
                if devices.len() >= DEVICES {
                    return Err(E2BIG.into());
                }
                devices.push(d.text(NAME)?.into());
            }
        }
        let list = list.is_some();
        let base = Base { kind, hook, priority, accept: true, counter: None, devices, list };
        if base.place(c.family).is_none()
            || (c.family != family::NETDEV && !base.devices.is_empty())
        {
            return Err(EOPNOTSUPP.into());
        }
        if c.family == family::NETDEV && base.devices.is_empty() {
            return Err(EINVAL.into());
        }
        Ok(Some(base))
    }

    fn new_chain(&mut self, c: &Change<'_>) -> Outcome {
        let t = self.table(c.family, c.attrs.get(1))?;
        let name = c.attrs.get(3);
        let text = name.map(|n| n.text(NAME_MAX)).transpose()?;
        let handle = c.attrs.get(2);
        let existing = match (handle, text) {
            (Some(h), _) => {
                let n = h.be64()?;
                Some(t.chains.iter().find(|x| x.handle == n).ok_or(h.refuse(ENOENT))?.clone())
            }
            (None, Some(n)) => t.chain(n).cloned(),
            (None, None) => None,
        };
        let accept = match c.attrs.get(5) {
            Some(p) => match p.be32()? {
                n @ (0 | 1) => Some(n == 1),
                _ => return Err(p.refuse(EINVAL)),
            },
            None => None,
        };
        let base = self.hook(c)?;
        let counters = match c.attrs.get(8) {
            Some(n) => {
                let n = n.nested()?;
                Some(Arc::new(Counter::new(n.need(2)?.be64()?, n.need(1)?.be64()?)))
            }
            None => None,
        };
        let flags = c.attrs.be32(10)?.unwrap_or(0);
        if flags & !(1 | Chain::BINDING) != 0 {
            return Err(EOPNOTSUPP.into());
        }
        let id = match existing {
            Some(old) => {
                if c.has(flag::EXCL) {
                    return Err(name.map_or(EEXIST.into(), |n| n.refuse(EEXIST)));
                }
                if c.has(flag::REPLACE) {
                    return Err(EOPNOTSUPP.into());
                }
                self.change_chain(c, &t, &old, base, accept, counters)?;
                old.id
            }
            None => self.add_chain(c, &t, text, base, accept, counters, flags)?,
        };
        self.tell(c, kind::NEWCHAIN, t.family, |o, r| {
            if let Some(t) = r.table(t.family, &t.name)
                && let Some(x) = t.chains.iter().find(|x| x.id == id)
            {
                dump::chain(o, t, x);
            }
        });
        Ok(())
    }

    fn change_chain(
        &mut self,
        c: &Change<'_>,
        t: &Table,
        old: &Chain,
        base: Option<Base>,
        accept: Option<bool>,
        counters: Option<Arc<Counter>>,
    ) -> Outcome {
        match (&old.base, &base) {
            (Some(o), Some(n)) if (o.kind, o.hook, o.priority) == (n.kind, n.hook, n.priority) => {}
            (_, None) => {}
            _ => return Err(c.attrs.get(4).map_or(EEXIST.into(), |h| h.refuse(EEXIST))),
        }
        if accept.is_some() && old.base.is_none() {
            return Err(EOPNOTSUPP.into());
        }
        if counters.is_some() && old.base.is_none() {
            return Err(EOPNOTSUPP.into());
        }
        // With a handle the name is a new one.
        let new_name = match (c.attrs.get(2), c.attrs.get(3)) {
            (Some(_), Some(n)) => {
                let text = n.text(NAME_MAX)?;
                if t.chain(text).is_some_and(|x| x.id != old.id) {
                    return Err(n.refuse(EEXIST));
                }
                Some(text)
            }
            _ => None,
        };
        let chain = self.table_mut(t)?.chain_mut(old.id).ok_or(ENOENT)?;
        if let Some(b) = &mut chain.base {
            b.accept = accept.unwrap_or(b.accept);
            b.counter = counters.or(b.counter.take());
        }
        if let Some(n) = new_name {
            chain.name = n.into();
        }
        Ok(())
    }

    fn add_chain(
        &mut self,
        c: &Change<'_>,
        t: &Table,
        name: Option<&str>,
        base: Option<Base>,
        accept: Option<bool>,
        counter: Option<Arc<Counter>>,
        flags: u32,
    ) -> Outcome<u64> {
        if t.chains.len() >= OBJECTS_MAX {
            return Err(EOVERFLOW.into());
        }
        if base.is_none() && (accept.is_some() || counter.is_some()) {
            return Err(EOPNOTSUPP.into());
        }
        let binding = flags & Chain::BINDING != 0;
        if binding && base.is_some() {
            return Err(EOPNOTSUPP.into());
        }
        let id = fresh_id();
        let call = c.attrs.be32(11)?;
        let name: Arc<str> = match name {
            Some("") => return Err(EINVAL.into()),
            Some(n) => n.into(),
            None if binding && call.is_some() => format!("__chain{id}").into(),
            None => return Err(EINVAL.into()),
        };
        let base = base.map(|b| Base { accept: accept.unwrap_or(true), counter, ..b });
        let chain = Chain {
            id,
            name,
            handle: t.next_handle(),
            flags: (flags & Chain::BINDING) | u32::from(base.is_some()),
            base,
            userdata: userdata(c.attrs.get(12))?,
            rules: Vec::new(),
        };
        self.table_mut(t)?.chains.push(Arc::new(chain));
        if let Some(n) = call {
            self.chain_ids.push((n, id));
        }
        Ok(id)
    }

    fn delete_chain(&mut self, c: &Change<'_>) -> Outcome {
        let t = self.table(c.family, c.attrs.get(1))?;
        let (a, found) = match (c.attrs.get(2), c.attrs.get(3)) {
            (Some(h), _) => {
                let n = h.be64()?;
                (h, t.chains.iter().find(|x| x.handle == n))
            }
            (None, Some(n)) => (n, t.chain(n.text(NAME_MAX)?)),
            (None, None) => return Err(EINVAL.into()),
        };
        let chain = found.ok_or(a.refuse(ENOENT))?.clone();
        let used = t.jumps_to(chain.id);
        if used > 0 || (c.has(flag::NONREC) && !chain.rules.is_empty()) {
            return Err(a.refuse(EBUSY));
        }
        for r in &chain.rules {
            self.remove_rule(c, &t, &chain, r.handle)?;
        }
        self.tell(c, kind::DELCHAIN, t.family, |o, _| dump::chain(o, &t, &chain));
        self.table_mut(&t)?.chains.retain(|x| x.id != chain.id);
        Ok(())
    }

    /// Whether all rules are allowed where packets can reach them: `EMLINK` when jumps go too deep or round in circles,
    /// what an expression says about its place otherwise.
    pub fn validate_rules(&self) -> Result<()> {
        for t in &self.rules.tables {
            for chain in &t.chains {
                if let Some(b) = &chain.base {
                    let mut seen = std::collections::HashMap::new();
                    walk(t, chain, b, 0, &mut seen)?;
                }
            }
        }
        Ok(())
    }

    /// [`Transaction::validate_rules`], and that every anonymous set belongs to a rule: `EINVAL`.
    pub fn validate(&self) -> Result<()> {
        self.validate_rules()?;
        for t in &self.rules.tables {
            let unbound = |s: &&Arc<crate::set::Set>| s.anonymous() && t.uses_of_set(s.id) == 0;
            if t.sets.iter().any(|s| unbound(&s)) {
                return Err(EINVAL);
            }
        }
        Ok(())
    }
}

/// Looks at a chain and what it jumps to; `seen` has the depths at which chains were looked at.
fn walk(
    t: &Table,
    c: &Chain,
    base: &Base,
    depth: usize,
    seen: &mut std::collections::HashMap<u64, usize>,
) -> std::result::Result<(), Errno> {
    if depth >= DEPTH_MAX {
        return Err(EMLINK);
    }
    if seen.get(&c.id).is_some_and(|d| *d >= depth) {
        return Ok(());
    }
    seen.insert(c.id, depth);
    let into = |id: u64, seen: &mut std::collections::HashMap<u64, usize>| match t
        .chains
        .iter()
        .find(|x| x.id == id)
    {
        Some(next) => walk(t, next, base, depth + 1, seen),
        None => Ok(()),
    };
    for e in c.rules.iter().flat_map(|r| &r.exprs) {
        e.allowed(base, t.family)?;
        if let Some(id) = e.jumps_to() {
            into(id, seen)?;
        }
        if let Some(s) = e.set().and_then(|id| t.sets.iter().find(|s| s.id == id)) {
            for id in s.targets() {
                into(id, seen)?;
            }
        }
    }
    Ok(())
}
