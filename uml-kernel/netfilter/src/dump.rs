//! The ruleset as messages.

use uml_net::Time;
use uml_net::time::MS;

use crate::attr::Out;
use crate::expr::{self, Datum};
use crate::model::{Chain, Object, Rule, Table};
use crate::set::{Element, Set, flag};

/// Bytes of `struct nlmsghdr` and `struct nfgenmsg`.
pub const FIXED: usize = 20;

/// Who is written to, and about which version.
#[derive(Clone, Copy)]
pub struct To {
    pub seq: u32,
    pub portid: u32,
    pub generation: u32,
}

/// Begins a message: subsystem and kind, flags, family.
pub fn begin(kind: u16, flags: u16, family: u8, to: To) -> Out {
    let mut b = vec![0; FIXED];
    b[4..6].copy_from_slice(&kind.to_le_bytes());
    b[6..8].copy_from_slice(&flags.to_le_bytes());
    b[8..12].copy_from_slice(&to.seq.to_le_bytes());
    b[12..16].copy_from_slice(&to.portid.to_le_bytes());
    b[16] = family;
    b[18..20].copy_from_slice(&(to.generation as u16).to_be_bytes());
    Out(b)
}

/// Ends a message.
pub fn end(mut o: Out) -> Vec<u8> {
    let len = o.0.len() as u32;
    o.0[..4].copy_from_slice(&len.to_le_bytes());
    o.0
}

/// A table.
pub fn table(o: &mut Out, t: &Table) {
    o.text(1, &t.name);
    o.be32(2, t.flags);
    o.be32(3, (t.chains.len() + t.sets.len() + t.objects.len()) as u32);
    o.be64(4, t.handle);
    if t.owner != 0 {
        o.be32(7, t.owner);
    }
    if let Some(u) = &t.userdata {
        o.put(6, u);
    }
}

/// A chain.
pub fn chain(o: &mut Out, t: &Table, c: &Chain) {
    o.text(1, &t.name);
    o.be64(2, c.handle);
    o.text(3, &c.name);
    if let Some(b) = &c.base {
        o.nest(4, |o| {
            o.be32(1, b.hook);
            o.be32(2, b.priority as u32);
            match &*b.devices {
                [one] if !b.list => o.text(3, one),
                [] => {}
                all => o.nest(4, |o| all.iter().for_each(|d| o.text(1, d))),
            }
        });
        o.be32(5, b.accept.into());
        o.text(7, b.kind.name());
        if let Some(n) = &b.counter {
            let (packets, bytes) = n.get();
            o.nest(8, |o| {
                o.be64(2, packets);
                o.be64(1, bytes);
            });
        }
    }
    if c.flags != 0 {
        o.be32(10, c.flags);
    }
    o.be32(6, (c.rules.len() + t.jumps_to(c.id)) as u32);
    if let Some(u) = &c.userdata {
        o.put(12, u);
    }
}

/// A rule, and the one before it.
pub fn rule(o: &mut Out, t: &Table, c: &Chain, r: &Rule, before: Option<u64>) {
    o.text(1, &t.name);
    o.text(2, &c.name);
    o.be64(3, r.handle);
    if let Some(h) = before {
        o.be64(6, h);
    }
    expr::dump_list(&r.exprs, 4, o, t);
    if let Some(u) = &r.userdata {
        o.put(7, u);
    }
}

/// A set, without its elements.
pub fn set(o: &mut Out, t: &Table, s: &Set) {
    let p = &s.spec;
    o.text(1, &t.name);
    o.text(2, &s.name);
    o.be64(16, s.handle);
    if p.flags != 0 {
        o.be32(3, p.flags);
    }
    o.be32(4, p.key_type);
    o.be32(5, p.key_len as u32);
    if let Some((kind, len)) = p.data {
        o.be32(6, kind);
        o.be32(7, len as u32);
    }
    if let Some(k) = p.object_kind {
        o.be32(15, k);
    }
    if let Some(ms) = p.timeout {
        o.be64(11, ms);
    }
    if let Some(ms) = p.gc_interval {
        o.be32(12, ms);
    }
    if p.policy != 0 {
        o.be32(8, p.policy);
    }
    if let Some(u) = &p.userdata {
        o.put(13, u);
    }
    o.nest(9, |o| {
        if p.size != 0 {
            o.be32(1, p.size);
        }
        if p.fields.len() > 1 {
            o.nest(2, |o| {
                for f in &p.fields {
                    o.nest(1, |o| o.be32(1, u32::from(*f)));
                }
            });
        }
    });
    match &s.exprs[..] {
        [] => {}
        [e] => expr::dump(e, 17, o, t),
        many => expr::dump_list(many, 18, o, t),
    }
}

/// An element, as one of a list.
pub fn element(o: &mut Out, t: &Table, s: &Set, e: &Element, now: Time) {
    o.nest(1, |o| {
        if e.flags & crate::set::elem::CATCHALL == 0 {
            Datum::Value(e.key.clone()).dump(1, o, t);
        }
        if let Some(k) = &e.key_end {
            Datum::Value(k.clone()).dump(10, o, t);
        }
        if let Some(d) = &e.data {
            d.dump(2, o, t);
        }
        match &e.exprs[..] {
            [] => {}
            [x] => expr::dump(x, 7, o, t),
            many => expr::dump_list(many, 11, o, t),
        }
        if let Some((_, name)) = &e.object {
            o.text(9, name);
        }
        if e.flags != 0 {
            o.be32(3, e.flags);
        }
        if s.spec.flags & flag::TIMEOUT != 0
            && let Some(ms) = e.timeout.filter(|_| e.timeout != s.spec.timeout)
        {
            o.be64(4, ms);
        }
        if let Some(at) = e.expires {
            o.be64(5, at.since(now) / MS);
        }
        if let Some(u) = &e.userdata {
            o.put(6, u);
        }
    });
}

/// The part of a message about elements that says whose.
pub fn element_list(o: &mut Out, t: &Table, s: &Set, elements: &[Element], now: Time) {
    o.text(1, &t.name);
    o.text(2, &s.name);
    o.nest(3, |o| {
        for e in elements {
            element(o, t, s, e, now);
        }
    });
}

/// A named object.
pub fn object(o: &mut Out, t: &Table, x: &Object) {
    o.text(1, &t.name);
    o.text(2, &x.name);
    o.be32(3, x.kind);
    o.be32(5, t.uses_of_object(x.id) as u32);
    o.nest(4, |o| x.state.dump(o, t));
    o.be64(6, x.handle);
    if let Some(u) = &x.userdata {
        o.put(8, u);
    }
}
