//! Rules of a transaction.

use std::sync::Arc;

use uml_abi::errno::*;

use super::{Change, Transaction, userdata};
use crate::attr::Outcome;
use crate::dump;
use crate::expr::parse_list;
use crate::message::{flag, kind};
use crate::model::{Chain, NAME_MAX, RULES_MAX, Rule, Table};

impl Transaction<'_> {
    /// The chain that a message about rules names.
    fn chain_of(&self, c: &Change<'_>, t: &Table) -> Outcome<Arc<Chain>> {
        match (c.attrs.get(2), c.attrs.get(11)) {
            (Some(n), _) => Ok(t.chain(n.text(NAME_MAX)?).ok_or(n.refuse(ENOENT))?.clone()),
            (None, Some(id)) => {
                let n = id.be32()?;
                let id_of = self.chain_ids.iter().rev().find(|x| x.0 == n).map(|x| x.1);
                let found = t.chains.iter().find(|x| Some(x.id) == id_of);
                Ok(found.ok_or(id.refuse(ENOENT))?.clone())
            }
            (None, None) => Err(EINVAL.into()),
        }
    }

    pub(super) fn new_rule(&mut self, c: &Change<'_>) -> Outcome {
        let t = self.table(c.family, c.attrs.get(1))?;
        let chain = self.chain_of(c, &t)?;
        let place = |handle: u64| chain.rules.iter().position(|r| r.handle == handle);
        let mut old = None;
        if let Some(h) = c.attrs.get(3) {
            let at = place(h.be64()?).ok_or(h.refuse(ENOENT))?;
            if c.has(flag::EXCL) {
                return Err(h.refuse(EEXIST));
            }
            if !c.has(flag::REPLACE) {
                return Err(EOPNOTSUPP.into());
            }
            old = Some(at);
        } else {
            if !c.has(flag::CREATE) || c.has(flag::REPLACE) {
                return Err(EINVAL.into());
            }
            if self.rules.rules() >= RULES_MAX {
                return Err(EMFILE.into());
            }
        }
        let beside = match (c.attrs.get(6), c.attrs.get(10)) {
            (Some(p), _) => Some(place(p.be64()?).ok_or(p.refuse(ENOENT))?),
            (None, Some(id)) => {
                let n = id.be32()?;
                let handle = self.rule_ids.iter().rev().find(|x| x.0 == n).map(|x| x.1);
                Some(handle.and_then(place).ok_or(id.refuse(ENOENT))?)
            }
            (None, None) => None,
        };
        let compat = match c.attrs.get(5) {
            Some(a) => {
                let a = a.nested()?;
                Some((a.need(1)?.be32()?, a.need(2)?.be32()?))
            }
            None => None,
        };
        // What replaces a rule goes by its handle.
        let handle = match old {
            Some(at) => chain.rules[at].handle,
            None => t.next_handle(),
        };
        let exprs = match c.attrs.get(4) {
            Some(l) => parse_list(&l, &self.names(&t, compat))?,
            None => Vec::new(),
        };
        let rule = Arc::new(Rule { handle, exprs, userdata: userdata(c.attrs.get(7))?, compat });
        if let Some(n) = c.attrs.be32(9)? {
            self.rule_ids.push((n, handle));
        }
        let append = c.has(flag::APPEND);
        if let Some(at) = old {
            self.remove_rule(c, &t, &chain, chain.rules[at].handle)?;
        }
        let rules = &mut self.table_mut(&t)?.chain_mut(chain.id).ok_or(ENOENT)?.rules;
        match (old, beside) {
            (Some(at), _) => rules.insert(at, rule),
            (None, Some(at)) if append => rules.insert(at + 1, rule),
            (None, Some(at)) => rules.insert(at, rule),
            (None, None) if append => rules.push(rule),
            (None, None) => rules.insert(0, rule),
        }
        self.tell(c, kind::NEWRULE, t.family, |o, r| {
            let Some(t) = r.table(t.family, &t.name) else { return };
            let Some(x) = t.chains.iter().find(|x| x.id == chain.id) else { return };
            if let Some(at) = x.rules.iter().position(|r| r.handle == handle) {
                let before = at.checked_sub(1).map(|i| x.rules[i].handle);
                dump::rule(o, t, x, &x.rules[at], before);
            }
        });
        Ok(())
    }

    /// Takes a rule away, with the sets and chains that are only its own.
    pub(super) fn remove_rule(
        &mut self,
        c: &Change<'_>,
        t: &Table,
        chain: &Chain,
        handle: u64,
    ) -> Outcome {
        let table = self.table_mut(t)?;
        let rules = &mut table.chain_mut(chain.id).ok_or(ENOENT)?.rules;
        let at = rules.iter().position(|r| r.handle == handle).ok_or(ENOENT)?;
        let gone = rules.remove(at);
        self.tell(c, kind::DELRULE, t.family, |o, _| dump::rule(o, t, chain, &gone, None));
        for e in &gone.exprs {
            if let Some(id) = e.set() {
                let table = self.table_mut(t)?;
                let own = table.sets.iter().any(|s| s.id == id && s.anonymous());
                if own && table.uses_of_set(id) == 0 {
                    if let Some(at) = table.sets.iter().position(|s| s.id == id) {
                        let s = table.sets.remove(at);
                        self.tell(c, kind::DELSET, t.family, |o, _| dump::set(o, t, &s));
                    }
                }
            }
            if let Some(id) = e.jumps_to() {
                let table = self.table_mut(t)?;
                let bound = table
                    .chains
                    .iter()
                    .find(|x| x.id == id && x.flags & Chain::BINDING != 0)
                    .cloned();
                if let Some(b) = bound {
                    for r in &b.rules {
                        self.remove_rule(c, t, &b, r.handle)?;
                    }
                    self.table_mut(t)?.chains.retain(|x| x.id != id);
                }
            }
        }
        Ok(())
    }

    pub(super) fn delete_rule(&mut self, c: &Change<'_>) -> Outcome {
        let t = self.table(c.family, c.attrs.get(1))?;
        let chains = match c.attrs.get(2) {
            Some(_) => vec![self.chain_of(c, &t)?],
            // Without a chain all rules of the table go.
            None => {
                let named = |x: &&Arc<Chain>| x.flags & Chain::BINDING == 0;
                t.chains.iter().filter(named).cloned().collect()
            }
        };
        let wanted = match (c.attrs.get(3), c.attrs.get(9)) {
            (Some(h), _) => Some((h, h.be64()?)),
            (None, Some(id)) => {
                let n = id.be32()?;
                let handle = self.rule_ids.iter().rev().find(|x| x.0 == n).map(|x| x.1);
                Some((id, handle.ok_or(id.refuse(ENOENT))?))
            }
            (None, None) => None,
        };
        for chain in chains {
            match wanted {
                Some((a, h)) => {
                    if !chain.rules.iter().any(|r| r.handle == h) {
                        return Err(a.refuse(ENOENT));
                    }
                    self.remove_rule(c, &t, &chain, h)?;
                }
                None => {
                    for r in &chain.rules {
                        self.remove_rule(c, &t, &chain, r.handle)?;
                    }
                }
            }
        }
        Ok(())
    }
}
