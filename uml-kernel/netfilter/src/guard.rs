//! What a rule asks first, made ready: most rules do not match, and most say so at their first comparison.
//!
//! A rule that begins with loads of a packet's fields, each with a comparison for equality (perhaps of some bits), has a guard: these
//! comparisons in one array with those of the chain's other rules. A packet's field is loaded once for all of them. A rule is
//! evaluated, from its beginning, when its guard holds; one whose guard fails would have ended there without having done anything.

use crate::expr::{Expr, Reg};
use crate::machine::Machine;
use crate::model::Chain;

/// Different fields of a chain; what further ones are asked for is left to the rules.
const FIELDS_MAX: usize = 16;
/// Bytes that are compared at once.
const WORD: usize = 8;

/// Where a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// After the beginning of the network header, of the transport header.
    Network(usize),
    Transport(usize),
    /// Number of the transport protocol.
    Protocol,
    /// NFPROTO_*.
    Family,
}

/// A part of a packet, or something known about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub place: Place,
    pub len: usize,
}

/// A comparison of a field's bits.
struct Test {
    field: usize,
    mask: u64,
    value: u64,
    equal: bool,
}

/// The guards of a chain's rules.
#[derive(Default)]
pub struct Guards {
    fields: Vec<Field>,
    tests: Vec<Test>,
    /// Where the tests of each rule end.
    ends: Vec<usize>,
}

/// Fields of the present packet; none yet.
#[derive(Default)]
pub struct Loaded {
    /// Bit n for a field n that was looked for, and for one that is there.
    seen: u32,
    there: u32,
    values: [u64; FIELDS_MAX],
}

impl Loaded {
    /// The packet may have changed.
    pub fn forget(&mut self) {
        self.seen = 0;
    }

    fn get(&mut self, n: usize, f: &Field, m: &mut Machine<'_>) -> Option<u64> {
        let bit = 1 << n;
        if self.seen & bit == 0 {
            self.seen |= bit;
            match load(f, m) {
                Some(v) => {
                    self.there |= bit;
                    self.values[n] = v;
                }
                None => self.there &= !bit,
            }
        }
        (self.there & bit != 0).then(|| self.values[n])
    }
}

/// The field's bytes from the highest down.
fn load(f: &Field, m: &mut Machine<'_>) -> Option<u64> {
    let at = match f.place {
        Place::Protocol => return Some(word(&[m.parsed.proto])),
        Place::Family => return Some(word(&[m.family()])),
        Place::Network(at) => at,
        Place::Transport(_) if m.parsed.piece => return None,
        Place::Transport(at) => m.parsed.transport + at,
    };
    if !m.p.pull(at + f.len) {
        return None;
    }
    m.p.net().get(at..at + f.len).map(word)
}

fn word(b: &[u8]) -> u64 {
    let mut w = [0; WORD];
    let n = b.len().min(WORD);
    w[..n].copy_from_slice(&b[..n]);
    u64::from_be_bytes(w)
}

impl Guards {
    /// Those of a chain.
    pub fn new(chain: &Chain) -> Guards {
        let mut g = Guards::default();
        for rule in &chain.rules {
            g.guard(&rule.exprs);
            g.ends.push(g.tests.len());
        }
        g
    }

    /// Adds the tests that a rule begins with.
    fn guard(&mut self, mut exprs: &[Expr]) {
        while let [load, rest @ ..] = exprs {
            let Some((reg, field)) = load.loads() else { return };
            // Some of the bits only.
            let (reg, mask, rest) = match rest {
                [bits, after @ ..] => match bits.masks() {
                    Some((from, to, mask)) if from == reg && mask.len() == field.len => {
                        (to, Some(mask), after)
                    }
                    _ => (reg, None, rest),
                },
                [] => return,
            };
            let [cmp, after @ ..] = rest else { return };
            if !self.test(field, mask, reg, cmp) {
                return;
            }
            exprs = after;
        }
    }

    /// Adds the tests of one comparison; false when it is none that a guard makes.
    fn test(&mut self, field: Field, mask: Option<&[u8]>, reg: Reg, cmp: &Expr) -> bool {
        let Some((sreg, value, equal)) = cmp.compares() else { return false };
        let words = field.len.div_ceil(WORD);
        // "Not equal" of several words is not that of each.
        if sreg != reg || value.len() > field.len || (!equal && words > 1) {
            return false;
        }
        let fields: Vec<Field> = (0..words)
            .map(|w| {
                let (at, len) = (w * WORD, (field.len - w * WORD).min(WORD));
                let place = match field.place {
                    Place::Network(o) => Place::Network(o + at),
                    Place::Transport(o) => Place::Transport(o + at),
                    known => known,
                };
                Field { place, len }
            })
            .collect();
        let new = fields.iter().filter(|f| !self.fields.contains(f)).count();
        if self.fields.len() + new > FIELDS_MAX {
            return false;
        }
        for (w, f) in fields.into_iter().enumerate() {
            let part = |b: &[u8]| b.get(w * WORD..).map_or(0, word);
            let bits = part(&vec![0xff; value.len()]) & mask.map_or(u64::MAX, part);
            let n = self.fields.iter().position(|o| *o == f).unwrap_or_else(|| {
                self.fields.push(f);
                self.fields.len() - 1
            });
            // A value with bits that the mask takes away never fits, as without a guard.
            let value = part(value);
            self.tests.push(Test { field: n, mask: bits, value, equal });
        }
        true
    }

    /// The first rule from `at` on whose guard holds; the number of rules when there is none.
    pub fn next(&self, mut at: usize, m: &mut Machine<'_>, loaded: &mut Loaded) -> usize {
        let mut first = match at {
            0 => 0,
            n => self.ends.get(n - 1).copied().unwrap_or(self.tests.len()),
        };
        while let Some(&end) = self.ends.get(at) {
            let mut tests = self.tests.get(first..end).unwrap_or(&[]).iter();
            let holds = tests.all(|t| match loaded.get(t.field, &self.fields[t.field], m) {
                Some(v) => (v & t.mask == t.value) == t.equal,
                None => false,
            });
            if holds {
                return at;
            }
            (first, at) = (end, at + 1);
        }
        at
    }
}
