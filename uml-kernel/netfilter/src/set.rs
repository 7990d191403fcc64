//! Sets and maps: exact keys, intervals, concatenations of ranges, timeouts (nft(8), SETS and MAPS).

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Rank, RwLock};
use uml_net::Time;

use crate::expr::{Datum, Expr};
use crate::model::ELEMENTS_MAX;

/// NFT_SET_*.
pub mod flag {
    pub const ANONYMOUS: u32 = 0x1;
    pub const CONSTANT: u32 = 0x2;
    pub const INTERVAL: u32 = 0x4;
    pub const MAP: u32 = 0x8;
    pub const TIMEOUT: u32 = 0x10;
    pub const EVAL: u32 = 0x20;
    pub const OBJECT: u32 = 0x40;
    pub const CONCAT: u32 = 0x80;
    pub const EXPR: u32 = 0x100;
    pub const ALL: u32 = 0x1ff;
}

/// NFT_SET_ELEM_*.
pub mod elem {
    pub const INTERVAL_END: u32 = 1;
    pub const CATCHALL: u32 = 2;
}

/// An element.
#[derive(Clone)]
pub struct Element {
    pub key: Vec<u8>,
    /// The last key of a concatenation of ranges.
    pub key_end: Option<Vec<u8>>,
    pub data: Option<Datum>,
    pub flags: u32,
    /// Milliseconds that it lives, and when that ends.
    pub timeout: Option<u64>,
    pub expires: Option<Time>,
    pub userdata: Option<Vec<u8>>,
    pub exprs: Vec<Expr>,
    /// Number and name of the object that it maps to.
    pub object: Option<(u64, Arc<str>)>,
}

impl Element {
    /// An element with this key alone.
    pub fn new(key: Vec<u8>) -> Element {
        Element {
            key,
            key_end: None,
            data: None,
            flags: 0,
            timeout: None,
            expires: None,
            userdata: None,
            exprs: Vec::new(),
            object: None,
        }
    }

    /// Still there.
    pub fn lives(&self, now: Time) -> bool {
        self.expires.is_none_or(|t| t > now)
    }

    fn is_end(&self) -> bool {
        self.flags & elem::INTERVAL_END != 0
    }
}

#[derive(Clone)]
enum Store {
    Exact(HashMap<Vec<u8>, Element>),
    /// Starts and ends of intervals in order; an end and a start at the same place are two.
    Interval(BTreeMap<(Vec<u8>, bool), Element>),
    Ranges(Vec<Element>),
}

/// The elements of a set.
#[derive(Clone)]
struct Elements {
    store: Store,
    /// Matches what nothing else does.
    catchall: Option<Element>,
}

/// What a set was made with.
#[derive(Clone, Default)]
pub struct Spec {
    pub flags: u32,
    pub key_type: u32,
    pub key_len: usize,
    /// Type and length of what a map maps to.
    pub data: Option<(u32, usize)>,
    pub object_kind: Option<u32>,
    pub policy: u32,
    /// Most elements; 0 for no limit of its own.
    pub size: u32,
    /// Lengths of the parts of a concatenation.
    pub fields: Vec<u8>,
    /// Milliseconds.
    pub timeout: Option<u64>,
    pub gc_interval: Option<u32>,
    pub userdata: Option<Vec<u8>>,
}

/// A set or map.
pub struct Set {
    pub id: u64,
    pub name: Arc<str>,
    pub handle: u64,
    pub spec: Spec,
    /// Evaluated for each element that matches.
    pub exprs: Vec<Expr>,
    elements: RwLock<Elements>,
}

impl Clone for Set {
    /// A copy with elements of its own.
    fn clone(&self) -> Set {
        Set {
            id: self.id,
            name: self.name.clone(),
            handle: self.handle,
            spec: self.spec.clone(),
            exprs: self.exprs.clone(),
            elements: RwLock::new(Rank::LEAF, self.elements.read().clone()),
        }
    }
}

impl Set {
    /// An empty set.
    pub fn new(id: u64, name: Arc<str>, handle: u64, spec: Spec, exprs: Vec<Expr>) -> Set {
        let store = match spec.flags & flag::INTERVAL != 0 {
            true if spec.fields.len() > 1 => Store::Ranges(Vec::new()),
            true => Store::Interval(BTreeMap::new()),
            false => Store::Exact(HashMap::new()),
        };
        let elements = RwLock::new(Rank::LEAF, Elements { store, catchall: None });
        Set { id, name, handle, spec, exprs, elements }
    }

    /// Belongs to one rule.
    pub fn anonymous(&self) -> bool {
        self.spec.flags & flag::ANONYMOUS != 0
    }

    /// Runs `f` on the element that matches `key`.
    pub fn find<R>(&self, key: &[u8], now: Time, f: impl FnOnce(&Element) -> R) -> Option<R> {
        let e = self.elements.read();
        let found = match &e.store {
            Store::Exact(m) => m.get(key).filter(|e| e.lives(now)),
            Store::Interval(m) => {
                let probe = (key.to_vec(), true);
                m.range((Bound::Unbounded, Bound::Included(probe)))
                    .next_back()
                    .map(|(_, e)| e)
                    .filter(|e| !e.is_end() && e.lives(now))
            }
            Store::Ranges(v) => {
                v.iter().find(|e| e.lives(now) && in_ranges(e, key, &self.spec.fields))
            }
        };
        found.or(e.catchall.as_ref().filter(|e| e.lives(now))).map(f)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        let e = self.elements.read();
        let n = match &e.store {
            Store::Exact(m) => m.len(),
            Store::Interval(m) => m.len(),
            Store::Ranges(v) => v.len(),
        };
        n + usize::from(e.catchall.is_some())
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an element; false when the very same is there already. `EEXIST` when one with its key says otherwise, when there is one and
    /// `exclusive`, and for an interval that overlaps; `ENFILE` when the set is full.
    pub fn add(&self, e: Element, exclusive: bool, now: Time) -> Result<bool> {
        let mut all = self.elements.write();
        let limit = match self.spec.size {
            0 => ELEMENTS_MAX,
            n => (n as usize).min(ELEMENTS_MAX),
        };
        let existing = match &mut all.store {
            _ if e.flags & elem::CATCHALL != 0 => all.catchall.as_ref(),
            Store::Exact(m) => m.get(&e.key),
            Store::Interval(m) => m.get(&(e.key.clone(), !e.is_end())),
            Store::Ranges(v) => v.iter().find(|o| o.key == e.key && o.key_end == e.key_end),
        };
        if let Some(o) = existing.filter(|o| o.lives(now)) {
            let same = o.data == e.data
                && o.object.as_ref().map(|x| x.0) == e.object.as_ref().map(|x| x.0);
            return if exclusive || !same { Err(EEXIST) } else { Ok(false) };
        }
        let n = match &all.store {
            Store::Exact(m) => m.len(),
            Store::Interval(m) => m.len() / 2,
            Store::Ranges(v) => v.len(),
        };
        if n >= limit {
            // Those whose time is over make room.
            match &mut all.store {
                Store::Exact(m) => m.retain(|_, e| e.lives(now)),
                Store::Interval(_) => {}
                Store::Ranges(v) => v.retain(|e| e.lives(now)),
            }
            let left = match &all.store {
                Store::Exact(m) => m.len(),
                Store::Interval(_) => n,
                Store::Ranges(v) => v.len(),
            };
            if left >= limit {
                return Err(ENFILE);
            }
        }
        if e.flags & elem::CATCHALL != 0 {
            all.catchall = Some(e);
            return Ok(true);
        }
        match &mut all.store {
            Store::Exact(m) => {
                m.insert(e.key.clone(), e);
            }
            Store::Interval(m) => {
                if !e.is_end() {
                    // A start inside of another interval, whose end is there too: one that is still to come says nothing.
                    let here = (e.key.clone(), false);
                    let before = m.range(..=here.clone()).next_back();
                    let inside = before.is_some_and(|(_, o)| !o.is_end());
                    let closed = m.range(here..).next().is_some_and(|(_, o)| o.is_end());
                    if inside && closed {
                        return Err(EEXIST);
                    }
                }
                m.insert((e.key.clone(), !e.is_end()), e);
            }
            Store::Ranges(v) => {
                let last = e.key_end.as_ref().unwrap_or(&e.key);
                let overlaps = |o: &Element| {
                    let end = o.key_end.as_ref().unwrap_or(&o.key);
                    fields(&self.spec.fields, e.key.len())
                        .all(|r| e.key[r.clone()] <= end[r.clone()] && o.key[r.clone()] <= last[r])
                };
                if v.iter().any(|o| o.lives(now) && overlaps(o)) {
                    return Err(EEXIST);
                }
                v.push(e);
            }
        }
        Ok(true)
    }

    /// Takes the element with the key of `e` away: `ENOENT` when there is none.
    pub fn remove(&self, e: &Element) -> Result<Element> {
        let mut all = self.elements.write();
        if e.flags & elem::CATCHALL != 0 {
            return all.catchall.take().ok_or(ENOENT);
        }
        match &mut all.store {
            Store::Exact(m) => m.remove(&e.key),
            Store::Interval(m) => m.remove(&(e.key.clone(), !e.is_end())),
            Store::Ranges(v) => {
                let end = e.key_end.as_ref().unwrap_or(&e.key);
                let at = v
                    .iter()
                    .position(|o| o.key == e.key && o.key_end.as_ref().unwrap_or(&o.key) == end);
                at.map(|i| v.remove(i))
            }
        }
        .ok_or(ENOENT)
    }

    /// Takes all away.
    pub fn flush(&self) {
        let mut all = self.elements.write();
        all.catchall = None;
        match &mut all.store {
            Store::Exact(m) => m.clear(),
            Store::Interval(m) => m.clear(),
            Store::Ranges(v) => v.clear(),
        }
    }

    /// What is there, intervals from the highest down.
    pub fn list(&self, now: Time) -> Vec<Element> {
        let all = self.elements.read();
        let mut v: Vec<Element> = match &all.store {
            Store::Exact(m) => m.values().cloned().collect(),
            Store::Interval(m) => m.values().rev().cloned().collect(),
            Store::Ranges(v) => v.clone(),
        };
        if let Store::Exact(_) = all.store {
            v.sort_by(|a, b| a.key.cmp(&b.key));
        }
        v.extend(all.catchall.clone());
        v.retain(|e| e.lives(now));
        v
    }

    /// The element with exactly this key (an interval's start or end, a range).
    pub fn get(&self, e: &Element, now: Time) -> Option<Element> {
        let all = self.elements.read();
        if e.flags & elem::CATCHALL != 0 {
            return all.catchall.clone();
        }
        match &all.store {
            Store::Exact(m) => m.get(&e.key),
            // The interval around the key: its start, or the end that follows.
            Store::Interval(m) if e.is_end() => m
                .range((Bound::Excluded((e.key.clone(), false)), Bound::Unbounded))
                .map(|(_, e)| e)
                .find(|o| o.is_end())
                .or_else(|| m.get(&(e.key.clone(), false))),
            Store::Interval(m) => m
                .range((Bound::Unbounded, Bound::Included((e.key.clone(), true))))
                .next_back()
                .map(|(_, e)| e)
                .filter(|o| !o.is_end()),
            Store::Ranges(v) => v.iter().find(|o| in_ranges(o, &e.key, &self.spec.fields)),
        }
        .filter(|e| e.lives(now))
        .cloned()
    }

    /// A packet adds the element, or makes it live longer; `f` then runs on it. `None` when the set is full.
    pub fn update<R>(
        &self,
        e: Element,
        refresh: bool,
        now: Time,
        f: impl FnOnce(&Element) -> R,
    ) -> Option<R> {
        {
            let mut all = self.elements.write();
            if let Store::Exact(m) = &mut all.store
                && let Some(o) = m.get_mut(&e.key)
            {
                if o.lives(now) {
                    if refresh && e.expires.is_some() {
                        o.expires = e.expires;
                        o.timeout = e.timeout;
                    }
                    return Some(f(o));
                }
                m.remove(&e.key);
            }
        }
        let key = e.key.clone();
        self.add(e, false, now).ok()?;
        self.find(&key, now, f)
    }

    /// How many elements jump to the chain.
    pub fn jumps_to(&self, chain: u64) -> usize {
        if self.spec.flags & flag::MAP == 0 {
            return 0;
        }
        self.count(|e| e.data.as_ref().and_then(Datum::jumps_to) == Some(chain))
    }

    /// How many elements refer to the object.
    pub fn uses_of_object(&self, id: u64) -> usize {
        if self.spec.flags & flag::OBJECT == 0 {
            return 0;
        }
        self.count(|e| e.object.as_ref().is_some_and(|o| o.0 == id))
    }

    /// Every chain that elements jump to.
    pub fn targets(&self) -> Vec<u64> {
        if self.spec.flags & flag::MAP == 0 {
            return Vec::new();
        }
        let all = self.elements.read();
        let jump = |e: &Element| e.data.as_ref().and_then(Datum::jumps_to);
        let mut v: Vec<u64> = match &all.store {
            Store::Exact(m) => m.values().filter_map(jump).collect(),
            Store::Interval(m) => m.values().filter_map(jump).collect(),
            Store::Ranges(v) => v.iter().filter_map(jump).collect(),
        };
        v.extend(all.catchall.as_ref().and_then(jump));
        v
    }

    fn count(&self, f: impl Fn(&Element) -> bool) -> usize {
        let all = self.elements.read();
        let n = match &all.store {
            Store::Exact(m) => m.values().filter(|e| f(e)).count(),
            Store::Interval(m) => m.values().filter(|e| f(e)).count(),
            Store::Ranges(v) => v.iter().filter(|e| f(e)).count(),
        };
        n + usize::from(all.catchall.as_ref().is_some_and(f))
    }
}

/// Places of the parts of a key; each part fills whole words.
fn fields(lens: &[u8], whole: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut at = 0;
    lens.iter().map_while(move |l| {
        let r = at..at + usize::from(*l);
        at = r.end.next_multiple_of(4);
        (r.end <= whole).then_some(r)
    })
}

fn in_ranges(e: &Element, key: &[u8], lens: &[u8]) -> bool {
    let last = e.key_end.as_ref().unwrap_or(&e.key);
    let n = e.key.len().min(last.len()).min(key.len());
    fields(lens, n).all(|r| e.key[r.clone()] <= key[r.clone()] && key[r.clone()] <= last[r])
}

/// New instances of stateful expressions, as each element has its own.
pub fn instances(exprs: &[Expr]) -> Vec<Expr> {
    exprs.iter().map(|e| e.fresh().unwrap_or_else(|| e.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Time = Time(1);

    fn set(flags: u32, key_len: usize, fields: &[u8]) -> Set {
        let spec = Spec { flags, key_len, fields: fields.to_vec(), ..Spec::default() };
        Set::new(1, "s".into(), 1, spec, Vec::new())
    }

    fn end(key: Vec<u8>) -> Element {
        Element { flags: elem::INTERVAL_END, ..Element::new(key) }
    }

    proptest! {
        #[test]
        fn intervals_hold_what_lies_between(mut cuts in proptest::collection::btree_set(0u16..2000, 2..20), probe in 0u16..2100) {
            if cuts.len() % 2 == 1 {
                cuts.pop_last();
            }
            let cuts: Vec<u16> = cuts.into_iter().collect();
            let s = set(flag::INTERVAL, 2, &[]);
            for c in cuts.chunks(2) {
                s.add(Element::new(c[0].to_be_bytes().to_vec()), true, NOW).unwrap();
                s.add(end(c[1].to_be_bytes().to_vec()), true, NOW).unwrap();
            }
            let want = cuts.chunks(2).any(|c| (c[0]..c[1]).contains(&probe));
            prop_assert_eq!(s.find(&probe.to_be_bytes(), NOW, |_| ()).is_some(), want);
        }
    }

    #[test]
    fn intervals_may_touch_but_not_overlap() {
        let s = set(flag::INTERVAL, 1, &[]);
        for (a, b) in [(10, 20), (20, 30)] {
            s.add(Element::new(vec![a]), true, NOW).unwrap();
            s.add(end(vec![b]), true, NOW).unwrap();
        }
        assert_eq!(s.add(Element::new(vec![15]), true, NOW), Err(EEXIST));
        assert!(s.find(&[20], NOW, |_| ()).is_some());
        assert!(s.find(&[30], NOW, |_| ()).is_none());
    }

    #[test]
    fn concatenated_ranges_match_part_by_part() {
        let s = set(flag::INTERVAL | flag::CONCAT, 8, &[4, 2]);
        let mut e = Element::new(vec![10, 0, 0, 0, 0, 80, 0, 0]);
        e.key_end = Some(vec![10, 0, 0, 255, 0, 90, 0, 0]);
        s.add(e, true, NOW).unwrap();
        assert!(s.find(&[10, 0, 0, 7, 0, 85, 0, 0], NOW, |_| ()).is_some());
        assert!(s.find(&[10, 0, 0, 7, 0, 95, 0, 0], NOW, |_| ()).is_none());
        assert!(s.find(&[10, 0, 1, 7, 0, 85, 0, 0], NOW, |_| ()).is_none());
    }

    #[test]
    fn elements_whose_time_is_over_are_gone() {
        let s = set(flag::TIMEOUT, 1, &[]);
        let e = Element { expires: Some(Time(5)), ..Element::new(vec![1]) };
        s.update(e.clone(), true, NOW, |_| ()).unwrap();
        assert!(s.find(&[1], Time(4), |_| ()).is_some());
        assert!(s.find(&[1], Time(5), |_| ()).is_none());
        s.update(Element { expires: Some(Time(9)), ..e }, true, Time(6), |_| ()).unwrap();
        assert_eq!(s.list(Time(8)).len(), 1);
    }
}
