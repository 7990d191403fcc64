//! Messages as programs send them, against the whole of a namespace's filters.

use std::sync::Arc;

use proptest::prelude::*;
use uml_net::stack::Stack;
use uml_net::{Clock, Time};

use crate::Netfilter;
use crate::attr::Out;
use crate::dump::{self, To};
use crate::message::{Asker, flag, kind};
use crate::model::family;

struct Still;

impl Clock for Still {
    fn now(&self) -> Time {
        Time(1_000_000_000)
    }
}

pub(crate) fn namespace() -> (Arc<Netfilter>, Arc<Stack>) {
    (Netfilter::new(), Stack::new(Arc::new(Still), [7; 32]))
}

const TO: To = To { seq: 5, portid: 9, generation: 0 };

pub(crate) fn asker() -> Asker {
    Asker { portid: 9, extended: true, ..Asker::default() }
}

pub(crate) fn batch(messages: &[Vec<u8>]) -> Vec<u8> {
    let mark = |k: u16| {
        let mut o = dump::begin(k, flag::REQUEST, 0, TO);
        o.0[18..20].copy_from_slice(&10u16.to_be_bytes());
        dump::end(o)
    };
    let mut all = mark(0x10);
    for m in messages {
        all.extend_from_slice(m);
    }
    all.extend_from_slice(&mark(0x11));
    all
}

pub(crate) fn message(k: u8, flags: u16, f: impl FnOnce(&mut Out)) -> Vec<u8> {
    let mut o = dump::begin(kind::of(k), flag::REQUEST | flags, family::IPV4, TO);
    f(&mut o);
    dump::end(o)
}

pub(crate) fn table(name: &str) -> Vec<u8> {
    message(kind::NEWTABLE, flag::CREATE, |o| o.text(1, name))
}

pub(crate) fn chain(table: &str, name: &str) -> Vec<u8> {
    message(kind::NEWCHAIN, flag::CREATE, |o| {
        o.text(1, table);
        o.text(3, name);
        o.nest(4, |o| {
            o.be32(1, 1);
            o.be32(2, 0);
        });
        o.text(7, "filter");
    })
}

/// A rule that jumps.
fn jump(table: &str, chain: &str, to: &str) -> Vec<u8> {
    message(kind::NEWRULE, flag::CREATE | flag::APPEND, |o| {
        o.text(1, table);
        o.text(2, chain);
        o.nest(4, |o| {
            o.nest(1, |o| {
                o.text(1, "immediate");
                o.nest(2, |o| {
                    o.be32(1, 0);
                    o.nest(2, |o| {
                        o.nest(2, |o| {
                            o.be32(1, -3i32 as u32);
                            o.text(2, to);
                        })
                    });
                });
            });
        });
    })
}

fn plain_chain(table: &str, name: &str) -> Vec<u8> {
    message(kind::NEWCHAIN, flag::CREATE, |o| {
        o.text(1, table);
        o.text(3, name);
    })
}

/// Error number and place of an answer's only message.
fn error(b: &[u8]) -> (i32, Option<u32>) {
    let word = |i: usize| u32::from_le_bytes(b[i..i + 4].try_into().unwrap());
    let flags = u16::from_le_bytes([b[6], b[7]]);
    let at = (flags & flag::ACK_TLVS != 0).then(|| word(b.len() - 4));
    (-(word(16) as i32), at)
}

#[test]
fn a_batch_succeeds_as_a_whole_or_not_at_all() {
    let (nf, stack) = namespace();
    let before = nf.generation();
    let bad = jump("t", "c", "nowhere");
    let a = nf.request(&stack, &asker(), &batch(&[table("t"), chain("t", "c"), bad]));
    assert_eq!(a.replies.len(), 1);
    let (errno, at) = error(&a.replies[0]);
    // The expression is the third attribute's first element.
    assert_eq!((errno, at), (libc_enoent(), Some(40)));
    assert!(nf.rules().tables.is_empty());
    assert_eq!(nf.generation(), before);
    let a = nf.request(&stack, &asker(), &batch(&[table("t"), chain("t", "c")]));
    assert!(a.replies.is_empty());
    assert_eq!(nf.rules().tables.len(), 1);
    assert_ne!(nf.generation(), before);
}

fn libc_enoent() -> i32 {
    uml_abi::errno::ENOENT.raw()
}

#[test]
fn jumps_that_go_round_in_circles_are_refused() {
    let (nf, stack) = namespace();
    let all = [
        table("t"),
        chain("t", "c"),
        plain_chain("t", "a"),
        plain_chain("t", "b"),
        jump("t", "a", "b"),
        jump("t", "b", "a"),
    ];
    // Nothing reaches the circle.
    assert!(nf.request(&stack, &asker(), &batch(&all)).replies.is_empty());
    let a = nf.request(&stack, &asker(), &batch(&[jump("t", "c", "a")]));
    assert_eq!(error(&a.replies[0]).0, uml_abi::errno::EMLINK.raw());
    assert!(nf.rules().tables[0].chain("c").unwrap().rules.is_empty());
}

#[test]
fn a_batch_without_its_end_changes_nothing() {
    let (nf, stack) = namespace();
    let mut b = batch(&[table("t")]);
    b.truncate(b.len() - 20);
    nf.request(&stack, &asker(), &b);
    assert!(nf.rules().tables.is_empty());
}

#[test]
fn hooks_are_active_only_while_there_are_chains() {
    let (nf, stack) = namespace();
    assert!(!stack.hooks.any());
    nf.request(&stack, &asker(), &batch(&[table("t"), chain("t", "c")]));
    assert!(stack.hooks.active(uml_net::hook::Hook::Input));
    assert!(!stack.hooks.active(uml_net::hook::Hook::Forward));
    nf.request(&stack, &asker(), &batch(&[message(kind::DELTABLE, 0, |o| o.text(1, "t"))]));
    assert!(!stack.hooks.any());
}

/// The names of expressions and the attributes they may have, so that random bytes get far.
fn expression() -> impl Strategy<Value = (usize, Vec<(u16, Vec<u8>)>)> {
    let attr = (
        0u16..12,
        prop_oneof![
            (0u32..24).prop_map(|n| n.to_be_bytes().to_vec()),
            any::<u32>().prop_map(|n| n.to_be_bytes().to_vec()),
            proptest::collection::vec(any::<u8>(), 0..70),
            // Data with a value.
            proptest::collection::vec(any::<u8>(), 1..20).prop_map(|v| {
                let mut o = Out::default();
                o.put(1, &v);
                o.0
            }),
        ],
    );
    (0usize..NAMES.len(), proptest::collection::vec(attr, 0..8))
}

const NAMES: &[&str] = &[
    "immediate",
    "cmp",
    "range",
    "bitwise",
    "byteorder",
    "payload",
    "meta",
    "exthdr",
    "fib",
    "rt",
    "lookup",
    "dynset",
    "objref",
    "counter",
    "limit",
    "quota",
    "log",
    "numgen",
    "last",
    "ct",
    "notrack",
    "nat",
    "masq",
    "redir",
    "reject",
    "match",
    "target",
];

proptest! {
    #[test]
    fn any_request_is_survived(b in proptest::collection::vec(any::<u8>(), 0..300), k in 0u8..35, sub in 0u8..4, as_batch: bool, dumps: bool) {
        let (nf, stack) = namespace();
        let mut o = Out(vec![0; 16]);
        o.0[4] = k;
        o.0[5] = [1, 10, 11, 12][usize::from(sub)];
        o.0[6..8].copy_from_slice(&(1u16 | if dumps { flag::DUMP } else { flag::CREATE }).to_le_bytes());
        o.0.extend_from_slice(&b);
        let m = dump::end(o);
        nf.request(&stack, &asker(), &b);
        if as_batch {
            nf.request(&stack, &asker(), &batch(&[table("t"), m]));
        } else {
            nf.request(&stack, &asker(), &m);
        }
    }

    #[test]
    fn any_expressions_are_survived_and_come_back(exprs in proptest::collection::vec(expression(), 0..4), packet in proptest::collection::vec(any::<u8>(), 0..80)) {
        let (nf, stack) = namespace();
        let rule = message(kind::NEWRULE, flag::CREATE, |o| {
            o.text(1, "t");
            o.text(2, "c");
            o.nest(4, |o| {
                for (n, attrs) in &exprs {
                    o.nest(1, |o| {
                        o.text(1, NAMES[*n]);
                        o.nest(2, |o| {
                            for (k, v) in attrs {
                                o.put(*k, v);
                            }
                        });
                    });
                }
            });
        });
        nf.request(&stack, &asker(), &batch(&[table("t"), chain("t", "c")]));
        let made = nf.request(&stack, &asker(), &batch(&[rule])).replies.is_empty();
        let list = message(kind::GETRULE, flag::DUMP, |_| {});
        let shown = nf.request(&stack, &asker(), &list).replies.concat();
        prop_assert_eq!(shown.len() > 20, made);
        // A packet may meet it.
        let mut b = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1];
        b.extend_from_slice(&packet);
        let len = b.len() as u16;
        b[2..4].copy_from_slice(&len.to_be_bytes());
        let mut p = uml_net::packet::Packet::new(uml_net::packet::Data::copy_of(&b));
        stack.enter(|cx| {
            use uml_net::hook::{Filter, Hook};
            let lo = stack.loopback();
            let _ = nf.judge(cx, Hook::Input, &mut p, lo.as_ref(), None);
        });
    }
}
