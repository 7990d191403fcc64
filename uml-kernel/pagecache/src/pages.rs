//! Sets of page numbers.

use std::collections::BTreeMap;

/// A set of page numbers as disjoint ranges `start..end` that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageSet {
    runs: BTreeMap<u64, u64>,
    count: u64,
}

impl PageSet {
    /// Number of pages.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// True without pages.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Pages of `a..b` that are in the set.
    pub fn covered(&self, a: u64, b: u64) -> u64 {
        self.runs(a, b).map(|(s, e)| e - s).sum()
    }

    /// Pages of `a..b` that are not in the set.
    pub fn missing(&self, a: u64, b: u64) -> u64 {
        b.saturating_sub(a) - self.covered(a, b)
    }

    /// True when every page of `a..b` is in the set.
    pub fn covers(&self, a: u64, b: u64) -> bool {
        a >= b || self.run_of(a).is_some_and(|(_, e)| e >= b)
    }

    /// The whole range that contains page `p`.
    pub fn run_of(&self, p: u64) -> Option<(u64, u64)> {
        let (&s, &e) = self.runs.range(..=p).next_back()?;
        (p < e).then_some((s, e))
    }

    /// Ranges of the set inside `a..b`, cut to it, ascending.
    pub fn runs(&self, a: u64, b: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let first = self.run_of(a).map_or(a, |(s, _)| s);
        self.runs
            .range(first..b.max(first))
            .map(move |(&s, &e)| (s.max(a), e.min(b)))
            .filter(|(s, e)| s < e)
    }

    /// The first range inside `a..b` that is not in the set.
    pub fn first_gap(&self, a: u64, b: u64) -> Option<(u64, u64)> {
        let from = self.run_of(a).map_or(a, |(_, e)| e);
        if from >= b {
            return None;
        }
        let to = self.runs.range(from..b).next().map_or(b, |(&s, _)| s);
        Some((from, to))
    }

    /// Every range inside `a..b` that is not in the set.
    pub fn gaps(&self, a: u64, b: u64) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        let mut at = a;
        while let Some((s, e)) = self.first_gap(at, b) {
            out.push((s, e));
            at = e;
        }
        out
    }

    /// Adds `a..b`; returns how many pages are new.
    pub fn add(&mut self, a: u64, b: u64) -> u64 {
        if a >= b {
            return 0;
        }
        let before = self.count;
        let (mut s, mut e) = (a, b);
        // Ranges that touch are joined.
        while let Some((&rs, &re)) = self.runs.range(..=e).next_back() {
            if re < s {
                break;
            }
            s = s.min(rs);
            e = e.max(re);
            self.runs.remove(&rs);
            self.count -= re - rs;
        }
        self.runs.insert(s, e);
        self.count += e - s;
        self.count - before
    }

    /// Removes `a..b`; returns how many pages were in the set.
    pub fn remove(&mut self, a: u64, b: u64) -> u64 {
        if a >= b {
            return 0;
        }
        let before = self.count;
        while let Some((&s, &e)) = self.runs.range(..b).next_back() {
            if e <= a {
                break;
            }
            self.runs.remove(&s);
            self.count -= e - s;
            if e > b {
                self.runs.insert(b, e);
                self.count += e - b;
            }
            if s < a {
                self.runs.insert(s, a);
                self.count += a - s;
                break;
            }
        }
        before - self.count
    }

    /// Empties the set.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::PageSet;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn page_sets_agree_with_plain_sets(
            ops in prop::collection::vec((any::<bool>(), 0u64..64, 0u64..16), 0..60)
        ) {
            let mut set = PageSet::default();
            let mut model = BTreeSet::new();
            for (add, at, len) in ops {
                let end = at + len;
                let have = (at..end).filter(|p| model.contains(p)).count() as u64;
                prop_assert_eq!(set.covered(at, end), have);
                prop_assert_eq!(set.missing(at, end), len - have);
                prop_assert_eq!(set.covers(at, end), have == len);
                let gaps: Vec<u64> = set.gaps(at, end).into_iter().flat_map(|(s, e)| s..e).collect();
                let want: Vec<u64> = (at..end).filter(|p| !model.contains(p)).collect();
                prop_assert_eq!(gaps, want);
                let runs: Vec<u64> = set.runs(at, end).flat_map(|(s, e)| s..e).collect();
                let want: Vec<u64> = (at..end).filter(|p| model.contains(p)).collect();
                prop_assert_eq!(runs, want);
                let changed = if add {
                    model.extend(at..end);
                    set.add(at, end)
                } else {
                    model.retain(|p| !(at..end).contains(p));
                    set.remove(at, end)
                };
                prop_assert_eq!(changed, if add { len - have } else { have });
                prop_assert_eq!(set.count(), model.len() as u64);
            }
        }
    }
}
