//! Requests of programs (nfnetlink): batches that change the ruleset, questions about it, and the answers.

use std::sync::Arc;

use uml_abi::Errno;
use uml_abi::errno::*;
use uml_net::Time;
use uml_net::stack::Stack;

use crate::attr::{Attrs, Out, Outcome, Refused};
use crate::dump::{self, FIXED, To};
use crate::expr::{Datum, Names, compat};
use crate::model::{Chain, NAME_MAX, Ruleset, Table};
use crate::set::Element;
use crate::transaction::{Change, Transaction};
use crate::{Netfilter, ctnetlink};

/// NFNL_SUBSYS_*.
pub mod subsystem {
    pub const CTNETLINK: u8 = 1;
    pub const NFTABLES: u8 = 10;
    pub const COMPAT: u8 = 11;
}

/// NFT_MSG_*.
pub mod kind {
    pub const NEWTABLE: u8 = 0;
    pub const GETTABLE: u8 = 1;
    pub const DELTABLE: u8 = 2;
    pub const NEWCHAIN: u8 = 3;
    pub const GETCHAIN: u8 = 4;
    pub const DELCHAIN: u8 = 5;
    pub const NEWRULE: u8 = 6;
    pub const GETRULE: u8 = 7;
    pub const DELRULE: u8 = 8;
    pub const NEWSET: u8 = 9;
    pub const GETSET: u8 = 10;
    pub const DELSET: u8 = 11;
    pub const NEWSETELEM: u8 = 12;
    pub const GETSETELEM: u8 = 13;
    pub const DELSETELEM: u8 = 14;
    pub const NEWGEN: u8 = 15;
    pub const GETGEN: u8 = 16;
    pub const NEWOBJ: u8 = 18;
    pub const GETOBJ: u8 = 19;
    pub const DELOBJ: u8 = 20;
    pub const GETOBJ_RESET: u8 = 21;
    pub const NEWFLOWTABLE: u8 = 22;
    pub const GETFLOWTABLE: u8 = 23;
    pub const DELFLOWTABLE: u8 = 24;
    pub const GETRULE_RESET: u8 = 25;
    pub const DESTROYTABLE: u8 = 26;
    pub const DESTROYCHAIN: u8 = 27;
    pub const DESTROYRULE: u8 = 28;
    pub const DESTROYSET: u8 = 29;
    pub const DESTROYSETELEM: u8 = 30;
    pub const DESTROYOBJ: u8 = 31;

    /// The whole number of a message.
    pub fn of(k: u8) -> u16 {
        u16::from(super::subsystem::NFTABLES) << 8 | u16::from(k)
    }
}

/// NLM_F_*.
pub mod flag {
    pub const REQUEST: u16 = 0x1;
    pub const MULTI: u16 = 0x2;
    pub const ACK: u16 = 0x4;
    pub const ECHO: u16 = 0x8;
    pub const REPLACE: u16 = 0x100;
    pub const NONREC: u16 = 0x100;
    pub const EXCL: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
    pub const APPEND: u16 = 0x800;
    pub const DUMP: u16 = 0x300;
    /// Of acknowledgements: the request is cut to its header; attributes follow.
    pub const CAPPED: u16 = 0x100;
    pub const ACK_TLVS: u16 = 0x200;
}

/// Multicast groups (NFNLGRP_*).
pub mod group {
    pub const CONNTRACK_DESTROY: u32 = 3;
    pub const NFTABLES: u32 = 7;
    /// The last one there is.
    pub const LAST: u32 = 9;
}

const ERROR: u16 = 2;
const DONE: u16 = 3;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of a datagram of a dump, which the smallest buffers of programs hold.
const DATAGRAM: usize = 3776;
/// Elements of a message of a dump.
const ELEMENTS: usize = 24;

/// Who asks.
#[derive(Clone, Debug, Default)]
pub struct Asker {
    pub portid: u32,
    pub pid: u32,
    pub name: String,
    /// Errors come without the request (NETLINK_CAP_ACK), and with attributes (NETLINK_EXT_ACK).
    pub capped: bool,
    pub extended: bool,
    /// Somebody listens to the group of changes.
    pub heard: bool,
}

/// What a request leads to.
#[derive(Default)]
pub struct Answer {
    /// Datagrams for the asker.
    pub replies: Vec<Vec<u8>>,
    /// Messages for multicast groups.
    pub notices: Vec<(u32, Vec<u8>)>,
}

impl Answer {
    fn push(&mut self, m: Vec<u8>) {
        match self.replies.last_mut() {
            Some(last) if last.len() + m.len() <= DATAGRAM => last.extend_from_slice(&m),
            _ => self.replies.push(m),
        }
    }
}

/// One message of a request.
struct Message<'a> {
    kind: u16,
    flags: u16,
    seq: u32,
    whole: &'a [u8],
}

impl<'a> Message<'a> {
    /// The message at the start of `b`, and what follows it.
    fn split(b: &'a [u8]) -> Option<(Message<'a>, &'a [u8])> {
        let h = b.get(..HEADER)?;
        let len = u32::from_le_bytes([h[0], h[1], h[2], h[3]]) as usize;
        if len < HEADER || len > b.len() {
            return None;
        }
        let m = Message {
            kind: u16::from_le_bytes([h[4], h[5]]),
            flags: u16::from_le_bytes([h[6], h[7]]),
            seq: u32::from_le_bytes([h[8], h[9], h[10], h[11]]),
            whole: &b[..len],
        };
        Some((m, &b[len.next_multiple_of(4).min(b.len())..]))
    }

    fn subsystem(&self) -> u8 {
        (self.kind >> 8) as u8
    }

    /// Family and attributes: `EINVAL` when there is not even room for the family.
    fn body(&self) -> Outcome<(u8, Attrs<'a>)> {
        let b = self.whole.get(HEADER..FIXED).ok_or(EINVAL)?;
        Ok((b[0], Attrs::parse(&self.whole[FIXED..], FIXED)?))
    }

    fn dumps(&self) -> bool {
        self.flags & flag::DUMP == flag::DUMP
    }
}

/// The answer that a message failed, or with `None` that it did not.
fn acknowledgement(m: &Message<'_>, who: &Asker, e: Option<Refused>) -> Vec<u8> {
    let errno = e.map_or(0, |e| e.errno.raw());
    let mut b = vec![0; HEADER];
    b.extend_from_slice(&(-errno).to_le_bytes());
    let mut flags = 0;
    if errno == 0 || who.capped {
        b.extend_from_slice(&m.whole[..HEADER]);
        flags |= flag::CAPPED;
    } else {
        b.extend_from_slice(m.whole);
        b.resize(b.len().next_multiple_of(4), 0);
    }
    if let Some(at) = e.and_then(|e| e.at)
        && who.extended
    {
        flags |= flag::ACK_TLVS;
        let mut o = Out(b);
        // NLMSGERR_ATTR_OFFS, in host byte order.
        o.put(2, &(at as u32).to_le_bytes());
        b = o.0;
    }
    let len = b.len() as u32;
    b[..4].copy_from_slice(&len.to_le_bytes());
    b[4..6].copy_from_slice(&ERROR.to_le_bytes());
    b[6..8].copy_from_slice(&flags.to_le_bytes());
    b[8..12].copy_from_slice(&m.seq.to_le_bytes());
    b[12..16].copy_from_slice(&who.portid.to_le_bytes());
    b
}

/// Extensions and named attributes a question may carry.
struct Question<'a> {
    kind: u8,
    family: u8,
    attrs: Attrs<'a>,
    dump: bool,
    to: To,
    now: Time,
}

impl Netfilter {
    /// Serves what a program sent; it may do so.
    pub fn request(self: &Arc<Self>, stack: &Arc<Stack>, who: &Asker, data: &[u8]) -> Answer {
        let mut answer = Answer::default();
        let Some((first, _)) = Message::split(data) else { return answer };
        if first.kind == BATCH_BEGIN {
            self.batch(stack, who, data, &mut answer);
            return answer;
        }
        let mut rest = data;
        while let Some((m, next)) = Message::split(rest) {
            rest = next;
            if m.flags & flag::REQUEST == 0 || m.kind < 16 {
                continue;
            }
            let before = answer.replies.len();
            match self.single(stack, who, &m, &mut answer) {
                Err(e) => {
                    answer.replies.truncate(before.max(1).min(answer.replies.len()));
                    answer.replies.push(acknowledgement(&m, who, Some(e)));
                }
                Ok(()) if m.dumps() => {
                    let to = To { seq: m.seq, portid: who.portid, generation: 0 };
                    let mut o = dump::begin(DONE, flag::MULTI, 0, to);
                    o.0.truncate(HEADER);
                    o.0.extend_from_slice(&0i32.to_le_bytes());
                    answer.push(dump::end(o));
                }
                Ok(()) if m.flags & flag::ACK != 0 => {
                    answer.replies.push(acknowledgement(&m, who, None));
                }
                Ok(()) => {}
            }
        }
        answer
    }

    /// All messages of a batch, or none.
    fn batch(self: &Arc<Self>, stack: &Arc<Stack>, who: &Asker, data: &[u8], answer: &mut Answer) {
        let Some((begin, rest)) = Message::split(data) else { return };
        let refuse = |e: Errno| acknowledgement(&begin, who, Some(e.into()));
        let head = match begin.whole.get(HEADER..FIXED) {
            Some(h) => h,
            None => return answer.replies.push(refuse(EINVAL)),
        };
        if u16::from_be_bytes([head[2], head[3]]) != u16::from(subsystem::NFTABLES) {
            answer.replies.push(refuse(EOPNOTSUPP));
            return;
        }
        // A program that knows an older ruleset looks again first (ERESTART).
        let known = begin.body().ok().and_then(|(_, a)| a.be32(1).ok()).flatten();
        let _one = self.changing.lock();
        if known.is_some_and(|g| g != 0 && g != self.generation()) {
            answer.replies.push(refuse(Errno::from_raw(85)));
            return;
        }
        let (mut tx, mut acks, mut failed) = self.attempt(stack, who, &begin, rest, false);
        if !failed && tx.validate().is_err() {
            // Which message it was is found out by looking after each.
            (tx, acks, failed) = self.attempt(stack, who, &begin, rest, true);
            if !failed && let Err(e) = tx.validate() {
                acks.push(refuse(e));
                failed = true;
            }
        }
        if !failed {
            let Transaction { rules, events, .. } = tx;
            let changed = !events.is_empty() || who.heard;
            let generation = self.commit(stack, rules, (who.pid, who.name.clone()));
            let echo = events.iter().any(|e| e.echo);
            for e in events {
                if e.echo {
                    answer.push(e.message.clone());
                }
                answer.notices.push((group::NFTABLES, e.message));
            }
            if changed {
                let to = To { seq: begin.seq, portid: who.portid, generation };
                let m = self.generation_message(to);
                if echo {
                    answer.push(m.clone());
                }
                answer.notices.push((group::NFTABLES, m));
            }
        }
        answer.replies.extend(acks);
    }

    /// Makes the changes of a batch to a copy; what is to be answered, and whether something failed.
    fn attempt<'n>(
        &'n self,
        stack: &Stack,
        who: &Asker,
        begin: &Message<'_>,
        mut rest: &[u8],
        check: bool,
    ) -> (Transaction<'n>, Vec<Vec<u8>>, bool) {
        let to = To { seq: 0, portid: who.portid, generation: self.generation().wrapping_add(1) };
        let mut tx = Transaction::new(self, stack.now(), to, who.heard);
        let (mut acks, mut failed, mut ended) = (Vec::new(), false, false);
        if begin.flags & flag::ACK != 0 {
            acks.push(acknowledgement(begin, who, None));
        }
        while let Some((m, next)) = Message::split(rest) {
            rest = next;
            if m.kind == BATCH_END {
                ended = true;
                if m.flags & flag::ACK != 0 {
                    acks.push(acknowledgement(&m, who, None));
                }
                break;
            }
            let outcome = change_of(&m).and_then(|c| tx.apply(&c)).and_then(|()| {
                if check { tx.validate_rules().map_err(Refused::from) } else { Ok(()) }
            });
            match outcome {
                Err(e) => {
                    failed = true;
                    acks.push(acknowledgement(&m, who, Some(e)));
                }
                Ok(()) if m.flags & flag::ACK != 0 => acks.push(acknowledgement(&m, who, None)),
                Ok(()) => {}
            }
        }
        // Without its end a batch was cut off.
        (tx, acks, failed || !ended)
    }

    fn generation_message(&self, to: To) -> Vec<u8> {
        let (generation, pid, name) = {
            let p = self.present.read();
            (p.generation, p.by.0, p.by.1.clone())
        };
        let mut o = dump::begin(kind::of(kind::NEWGEN), 0, 0, To { generation, ..to });
        o.be32(1, generation);
        o.be32(2, pid);
        o.text(3, &name);
        dump::end(o)
    }

    /// A message of its own: a question, or one about connections.
    fn single(
        self: &Arc<Self>,
        stack: &Arc<Stack>,
        who: &Asker,
        m: &Message<'_>,
        out: &mut Answer,
    ) -> Outcome {
        let (family, attrs) = m.body()?;
        let to = To { seq: m.seq, portid: who.portid, generation: self.generation() };
        match m.subsystem() {
            subsystem::NFTABLES => {
                let k = m.kind as u8;
                let q = Question { kind: k, family, attrs, dump: m.dumps(), to, now: stack.now() };
                self.question(&q, out)
            }
            subsystem::COMPAT if m.kind as u8 == 0 => {
                let name = attrs.need(1)?.text(29)?;
                let rev = attrs.need(2)?.be32()?;
                let target = attrs.need(3)?.be32()?;
                compat::revision(name, rev, target == 1)?;
                let mut o = dump::begin(m.kind, 0, family, to);
                o.text(1, name);
                o.be32(2, rev);
                o.be32(3, target);
                out.push(dump::end(o));
                Ok(())
            }
            subsystem::CTNETLINK => {
                let dump = m.dumps();
                for r in ctnetlink::serve(self, stack, m.kind as u8, family, &attrs, dump, to)? {
                    out.push(r);
                }
                Ok(())
            }
            _ => Err(EINVAL.into()),
        }
    }

    fn question(&self, q: &Question<'_>, out: &mut Answer) -> Outcome {
        let rules = self.rules();
        match q.kind {
            kind::GETGEN => {
                out.push(self.generation_message(q.to));
                Ok(())
            }
            kind::GETTABLE => get_tables(q, &rules, out),
            kind::GETCHAIN => get_chains(q, &rules, out),
            kind::GETRULE | kind::GETRULE_RESET => get_rules(q, &rules, out),
            kind::GETSET => get_sets(q, &rules, out),
            kind::GETSETELEM => get_elements(q, &rules, out),
            kind::GETOBJ | kind::GETOBJ_RESET => get_objects(q, &rules, out),
            // There are none.
            kind::GETFLOWTABLE if q.dump => Ok(()),
            kind::GETFLOWTABLE => Err(ENOENT.into()),
            _ => Err(EINVAL.into()),
        }
    }
}

fn change_of<'a>(m: &Message<'a>) -> Outcome<Change<'a>> {
    if m.subsystem() != subsystem::NFTABLES || m.flags & flag::REQUEST == 0 {
        return Err(EINVAL.into());
    }
    let (family, attrs) = m.body()?;
    Ok(Change { kind: m.kind as u8, flags: m.flags, family, seq: m.seq, attrs })
}

impl Question<'_> {
    fn begin(&self, k: u8, fam: u8) -> Out {
        dump::begin(kind::of(k), if self.dump { flag::MULTI } else { 0 }, fam, self.to)
    }

    /// The tables that are asked about.
    fn tables<'r>(&self, r: &'r Ruleset, name: u16) -> Outcome<Vec<&'r Arc<Table>>> {
        let wanted = self.attrs.get(name);
        let text = wanted.map(|a| a.text(NAME_MAX)).transpose()?;
        let fits = |t: &&Arc<Table>| {
            (self.family == 0 || t.family == self.family) && text.is_none_or(|n| &*t.name == n)
        };
        let v: Vec<_> = r.tables.iter().filter(fits).collect();
        match wanted {
            Some(a) if v.is_empty() && !self.dump => Err(a.refuse(ENOENT)),
            None if !self.dump => Err(EINVAL.into()),
            _ => Ok(v),
        }
    }
}

fn get_tables(q: &Question<'_>, r: &Ruleset, out: &mut Answer) -> Outcome {
    for t in q.tables(r, 1)? {
        let mut o = q.begin(kind::NEWTABLE, t.family);
        dump::table(&mut o, t);
        out.push(dump::end(o));
    }
    Ok(())
}

fn get_chains(q: &Question<'_>, r: &Ruleset, out: &mut Answer) -> Outcome {
    let wanted = q.attrs.get(3);
    let text = wanted.map(|a| a.text(NAME_MAX)).transpose()?;
    let mut any = false;
    for t in q.tables(r, 1)? {
        for c in t.chains.iter().filter(|c| text.is_none_or(|n| &*c.name == n)) {
            any = true;
            let mut o = q.begin(kind::NEWCHAIN, t.family);
            dump::chain(&mut o, t, c);
            out.push(dump::end(o));
        }
    }
    match wanted {
        Some(a) if !any && !q.dump => Err(a.refuse(ENOENT)),
        _ => Ok(()),
    }
}

fn get_rules(q: &Question<'_>, r: &Ruleset, out: &mut Answer) -> Outcome {
    let chain = q.attrs.get(2);
    let chain_name = chain.map(|a| a.text(NAME_MAX)).transpose()?;
    let handle = q.attrs.get(3).map(|h| h.be64()).transpose()?;
    let mut any = false;
    for t in q.tables(r, 1)? {
        for c in t.chains.iter().filter(|c| chain_name.is_none_or(|n| &*c.name == n)) {
            let mut before = None;
            for rule in &c.rules {
                if handle.is_none_or(|h| h == rule.handle) {
                    any = true;
                    let mut o = q.begin(kind::NEWRULE, t.family);
                    dump::rule(&mut o, t, c, rule, before);
                    out.push(dump::end(o));
                    if q.kind == kind::GETRULE_RESET {
                        reset(c, rule.handle);
                    }
                }
                before = Some(rule.handle);
            }
        }
    }
    if any || q.dump { Ok(()) } else { Err(ENOENT.into()) }
}

/// Sets the counters of a rule to zero.
fn reset(c: &Chain, handle: u64) {
    let counters = c.rules.iter().filter(|r| r.handle == handle).flat_map(|r| &r.exprs);
    for n in counters.filter_map(|e| e.counter()) {
        n.reset();
    }
}

fn get_sets(q: &Question<'_>, r: &Ruleset, out: &mut Answer) -> Outcome {
    let wanted = q.attrs.get(2);
    let text = wanted.map(|a| a.text(NAME_MAX)).transpose()?;
    let mut any = false;
    for t in q.tables(r, 1)? {
        for s in t.sets.iter().filter(|s| text.is_none_or(|n| &*s.name == n)) {
            any = true;
            let mut o = q.begin(kind::NEWSET, t.family);
            dump::set(&mut o, t, s);
            out.push(dump::end(o));
        }
    }
    match wanted {
        Some(a) if !any && !q.dump => Err(a.refuse(ENOENT)),
        _ => Ok(()),
    }
}

fn get_elements(q: &Question<'_>, r: &Ruleset, out: &mut Answer) -> Outcome {
    let t = q.attrs.need(1)?;
    let table = r.table(q.family, t.text(NAME_MAX)?).ok_or(t.refuse(ENOENT))?;
    let s = q.attrs.need(2)?;
    let set = table.set(s.text(NAME_MAX)?).ok_or(s.refuse(ENOENT))?;
    let mut elements: Vec<Element> = Vec::new();
    if q.dump {
        elements = set.list(q.now);
    } else {
        let names = Names { family: q.family, table, set_ids: &[], chain_ids: &[], compat: None };
        for a in q.attrs.need(3)?.nested()?.iter() {
            let probe = probe(a, set, &names)?;
            elements.push(set.get(&probe, q.now).ok_or(ENOENT)?);
        }
    }
    // A list without elements still says that there is the set.
    let parts: Vec<&[Element]> = match elements.is_empty() {
        true => Vec::new(),
        false => elements.chunks(ELEMENTS).collect(),
    };
    for part in parts {
        let mut o = q.begin(kind::NEWSETELEM, table.family);
        dump::element_list(&mut o, table, set, part, q.now);
        out.push(dump::end(o));
    }
    Ok(())
}

/// The key that a question names.
fn probe(a: &crate::attr::Attr<'_>, set: &crate::set::Set, names: &Names<'_>) -> Outcome<Element> {
    let x = a.nested()?;
    let value = |k: u16| match x.get(k) {
        Some(v) => match Datum::parse(&v, names)? {
            Datum::Value(v) if v.len() == set.spec.key_len => Ok(Some(v)),
            _ => Err(Refused::from(EINVAL)),
        },
        None => Ok(None),
    };
    let mut e = Element::new(value(1)?.unwrap_or_default());
    e.flags = x.be32(3)?.unwrap_or(0);
    e.key_end = value(10)?;
    Ok(e)
}

fn get_objects(q: &Question<'_>, r: &Ruleset, out: &mut Answer) -> Outcome {
    let wanted = q.attrs.get(2);
    let text = wanted.map(|a| a.text(NAME_MAX)).transpose()?;
    let k = q.attrs.be32(3)?.filter(|k| *k != 0);
    let mut any = false;
    for t in q.tables(r, 1)? {
        let fits = |o: &&Arc<crate::model::Object>| {
            text.is_none_or(|n| &*o.name == n) && k.is_none_or(|k| k == o.kind)
        };
        for x in t.objects.iter().filter(fits) {
            any = true;
            let mut o = q.begin(kind::NEWOBJ, t.family);
            dump::object(&mut o, t, x);
            out.push(dump::end(o));
            if q.kind == kind::GETOBJ_RESET
                && let Some(c) = x.state.counter()
            {
                c.reset();
            }
        }
    }
    match wanted {
        Some(a) if !any && !q.dump => Err(a.refuse(ENOENT)),
        _ => Ok(()),
    }
}
