//! What `gt` prints: a line `[family/case]`, then the case's lines.

use std::collections::BTreeMap;

/// Lines by case, in the order of the cases' names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    pub cases: BTreeMap<String, Vec<String>>,
}

impl Transcript {
    /// Splits the output of `gt`. Lines before the first heading belong to the case `""`.
    pub fn parse(text: &str) -> Transcript {
        let mut t = Transcript::default();
        let mut name = String::new();
        for line in text.lines() {
            match line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                Some(n) if n.contains('/') && !n.contains(' ') => {
                    name = n.to_string();
                    t.cases.entry(name.clone()).or_default();
                }
                _ => t.cases.entry(name.clone()).or_default().push(line.to_string()),
            }
        }
        t
    }

    /// The cases that both have, and for each how it differs (nothing when it is the same).
    pub fn compare(&self, guest: &Transcript) -> Vec<(String, Vec<String>)> {
        let names: std::collections::BTreeSet<_> =
            self.cases.keys().chain(guest.cases.keys()).collect();
        names
            .into_iter()
            .map(|n| {
                let d = match (self.cases.get(n), guest.cases.get(n)) {
                    (Some(h), Some(g)) => differences(h, g),
                    (Some(_), None) => vec!["the guest did not run this case".into()],
                    _ => vec!["only the guest ran this case".into()],
                };
                (n.clone(), d)
            })
            .collect()
    }
}

/// The lines that differ, as pairs of `host` and `guest`, matched by a longest common subsequence.
pub fn differences(host: &[String], guest: &[String]) -> Vec<String> {
    if host == guest {
        return Vec::new();
    }
    let (n, m) = (host.len(), guest.len());
    let mut len = vec![vec![0usize; m + 1]; n + 1];
    for i in (0..n).rev() {
        for j in (0..m).rev() {
            len[i][j] = if host[i] == guest[j] {
                len[i + 1][j + 1] + 1
            } else {
                len[i + 1][j].max(len[i][j + 1])
            };
        }
    }
    let mut out = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < n || j < m {
        if i < n && j < m && host[i] == guest[j] {
            i += 1;
            j += 1;
        } else if i < n && j < m && key(&host[i]) == key(&guest[j]) {
            out.push(format!("host:  {}\nguest: {}", host[i], guest[j]));
            i += 1;
            j += 1;
        } else if j >= m || (i < n && len[i + 1][j] >= len[i][j + 1]) {
            out.push(format!("host:  {}\nguest: (no such line)", host[i]));
            i += 1;
        } else {
            out.push(format!("host:  (no such line)\nguest: {}", guest[j]));
            j += 1;
        }
    }
    out
}

/// The name of a check line.
fn key(line: &str) -> &str {
    line.rsplit_once(": ").map_or(line, |(k, _)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(s: &str) -> Vec<String> {
        s.lines().map(String::from).collect()
    }

    #[test]
    fn splits_by_heading() {
        let t = Transcript::parse("[a/x]\none: 1\n[b/y]\n[not a heading]\n");
        assert_eq!(t.cases["a/x"], ["one: 1"]);
        assert_eq!(t.cases["b/y"], ["[not a heading]"]);
    }

    #[test]
    fn equal_transcripts_do_not_differ() {
        let t = Transcript::parse("[a/x]\none: 1\n");
        assert!(t.compare(&t).iter().all(|(_, d)| d.is_empty()));
    }

    #[test]
    fn a_changed_value_is_one_difference() {
        let d = differences(&lines("a: 1\nb: 2\nc: 3"), &lines("a: 1\nb: EINVAL\nc: 3"));
        assert_eq!(d, ["host:  b: 2\nguest: b: EINVAL"]);
    }

    #[test]
    fn missing_and_extra_lines_are_named() {
        let d = differences(&lines("a: 1\nb: 2\nc: 3"), &lines("a: 1\nc: 3\nx: 9"));
        assert_eq!(d, ["host:  b: 2\nguest: (no such line)", "host:  (no such line)\nguest: x: 9"]);
    }

    #[test]
    fn a_case_that_one_side_lacks_differs() {
        let h = Transcript::parse("[a/x]\n1\n[a/y]\n2\n");
        let g = Transcript::parse("[a/x]\n1\n");
        let d = h.compare(&g);
        assert!(d[0].1.is_empty());
        assert_eq!(d[1], ("a/y".into(), vec!["the guest did not run this case".into()]));
    }
}
