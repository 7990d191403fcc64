//! Guards change nothing but the time that judging takes.

use std::sync::Arc;

use proptest::prelude::*;
use uml_net::hook::{Hook, Verdict};
use uml_net::packet::{Data, Packet};
use uml_net::stack::Stack;
use uml_net::wire::ipv4::Ipv4;

use crate::Netfilter;
use crate::attr::Out;
use crate::machine::{Compiled, judge};
use crate::message::{flag, kind};
use crate::tests::{batch, chain, message, namespace, table};

/// An expression as a program describes it.
#[derive(Clone, Debug)]
enum Step {
    /// A header, offset and length.
    Payload(u32, u32, u32),
    Protocol,
    Mask(Vec<u8>),
    /// Operation and value.
    Cmp(u32, Vec<u8>),
    Count,
    /// The mark changes, which later rules may see.
    Mark(u32),
    Verdict(i32),
}

fn value(o: &mut Out, kind: u16, v: &[u8]) {
    o.nest(kind, |o| o.put(1, v));
}

fn expression(o: &mut Out, step: &Step) {
    let name = match step {
        Step::Payload(..) => "payload",
        Step::Protocol | Step::Mark(_) => "meta",
        Step::Mask(_) => "bitwise",
        Step::Cmp(..) => "cmp",
        Step::Count => "counter",
        Step::Verdict(_) => "immediate",
    };
    if let Step::Mark(n) = step {
        o.nest(1, |o| {
            o.text(1, "immediate");
            o.nest(2, |o| {
                o.be32(1, 9);
                value(o, 2, &n.to_ne_bytes());
            });
        });
    }
    o.nest(1, |o| {
        o.text(1, name);
        o.nest(2, |o| match step {
            Step::Payload(from, at, len) => {
                o.be32(1, 1);
                o.be32(2, *from);
                o.be32(3, *at);
                o.be32(4, *len);
            }
            Step::Protocol => {
                o.be32(1, 1);
                o.be32(2, 16);
            }
            Step::Mark(_) => {
                o.be32(2, 3);
                o.be32(3, 9);
            }
            Step::Mask(m) => {
                o.be32(1, 1);
                o.be32(2, 1);
                o.be32(3, m.len() as u32);
                value(o, 4, m);
                value(o, 5, &vec![0; m.len()]);
            }
            Step::Cmp(op, v) => {
                o.be32(1, 1);
                o.be32(2, *op);
                value(o, 3, v);
            }
            Step::Count => {}
            Step::Verdict(v) => {
                o.be32(1, 0);
                o.nest(2, |o| o.nest(2, |o| o.be32(1, *v as u32)));
            }
        });
    });
}

fn rule(steps: &[Step]) -> Vec<u8> {
    message(kind::NEWRULE, flag::CREATE | flag::APPEND, |o| {
        o.text(1, "t");
        o.text(2, "c");
        o.nest(4, |o| steps.iter().for_each(|s| expression(o, s)));
    })
}

fn filters(rules: &[Vec<Step>]) -> (Arc<Netfilter>, Arc<Stack>) {
    let (nf, stack) = namespace();
    let mut all = vec![table("t"), chain("t", "c")];
    all.extend(rules.iter().map(|r| rule(r)));
    let answer = nf.request(&stack, &crate::tests::asker(), &batch(&all));
    assert!(answer.replies.is_empty(), "{:?}", answer.replies);
    (nf, stack)
}

fn packet(bytes: &[u8]) -> Packet {
    let mut b = Vec::new();
    Ipv4::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), bytes[0] % 3 * 5 + 1, 64, bytes.len())
        .write(&[], &mut b);
    b.extend_from_slice(bytes);
    Packet::new(Data::copy_of(&b))
}

/// Matches on few bytes with few values, so that they often hold.
fn match_() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![Just(1u32), Just(2), Just(4), Just(16)];
    let field = prop_oneof![
        1 => Just((Step::Protocol, 1)),
        4 => (1u32..3, 0u32..18, len).prop_map(|(f, at, l)| (Step::Payload(f, at, l), l as usize)),
    ];
    (field, any::<bool>(), 0u32..6, proptest::collection::vec(0u8..3, 16)).prop_map(
        |((load, len), mask, op, v)| {
            let mut all = vec![load];
            if mask {
                all.push(Step::Mask(v.iter().rev().take(len).map(|b| b | 2).collect()));
            }
            // Most are for equality, or for no equality at all of what differs.
            all.push(Step::Cmp(op % 4 % 3, v[..len].to_vec()));
            all
        },
    )
}

fn rules() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let end = prop_oneof![
        3 => Just(vec![Step::Count]),
        2 => (0u32..3).prop_map(|n| vec![Step::Mark(n)]),
        1 => (0i32..2).prop_map(|v| vec![Step::Verdict(v)]),
    ];
    let one = (proptest::collection::vec(match_(), 0..3), end)
        .prop_map(|(m, e)| [m.concat(), e].concat());
    proptest::collection::vec(one, 1..12)
}

proptest! {
    #[test]
    fn judging_with_guards_is_judging(
        rules in rules(), packets in proptest::collection::vec(proptest::collection::vec(0u8..3, 1..30), 1..8),
    ) {
        let outcome = |guards: bool| {
            let (nf, stack) = filters(&rules);
            let compiled = Compiled::new(&nf.rules());
            let compiled = if guards { compiled } else { compiled.without_guards() };
            let verdicts: Vec<(Verdict, u32)> = packets
                .iter()
                .map(|b| {
                    let mut p = packet(b);
                    let v = stack.enter(|cx| judge(&nf, &compiled, cx, Hook::Input, &mut p, None, None));
                    (v, p.mark)
                })
                .collect();
            let all = nf.rules();
            let chain = all.tables[0].chain("c").unwrap().clone();
            let counts: Vec<(u64, u64)> = chain
                .rules
                .iter()
                .flat_map(|r| r.exprs.iter().filter_map(|e| e.counter().map(|c| c.get())))
                .collect();
            (verdicts, counts)
        };
        prop_assert_eq!(outcome(true), outcome(false));
    }
}
