//! Errors in TOML files that show the place: file, line, caret, what was expected, the nearest name.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::failure::{Failure, code};

/// A TOML file with its text.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it was read.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

/// One step from the root of a document to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A key of a table.
    Key(String),
    /// An element of an array.
    Index(usize),
}

/// Reads `vm.name` and `disk[1].file`.
pub fn steps(path: &str) -> Vec<Step> {
    let mut out = Vec::new();
    for part in path.split('.') {
        let (key, index) = match part.split_once('[') {
            Some((k, rest)) => (k, rest.trim_end_matches(']').parse().ok()),
            None => (part, None),
        };
        out.push(Step::Key(key.to_owned()));
        out.extend(index.map(Step::Index));
    }
    out
}

impl Source {
    /// Where the value at `path` is, if this file has it; else where its nearest table is.
    pub fn locate(&self, path: &str) -> Option<Range<usize>> {
        let table = DeTable::parse(&self.text).ok()?;
        let mut found = None;
        let mut value: Option<&DeValue<'_>> = None;
        for step in steps(path) {
            let next = match (&step, value) {
                (Step::Key(k), None) => table.get_ref().get(k.as_str()),
                (Step::Key(k), Some(DeValue::Table(t))) => t.get(k.as_str()),
                (Step::Index(i), Some(DeValue::Array(a))) => a.get(*i),
                _ => None,
            };
            let Some(v) = next else { break };
            found = Some(v.span());
            value = Some(v.get_ref());
        }
        found
    }

    /// Whether this file has the value at `path` itself.
    pub fn has(&self, path: &str) -> bool {
        let Ok(table) = self.text.parse::<toml::Table>() else { return false };
        let mut value = toml::Value::Table(table);
        for step in steps(path) {
            let next = match (&step, &value) {
                (Step::Key(k), toml::Value::Table(t)) => t.get(k).cloned(),
                (Step::Index(i), toml::Value::Array(a)) => a.get(*i).cloned(),
                _ => None,
            };
            let Some(v) = next else { return false };
            value = v;
        }
        true
    }

    /// A message with the place, as compilers print it.
    pub fn report(&self, span: Option<Range<usize>>, message: &str) -> Failure {
        Failure::new(code::CONFIG, render(&self.path, &self.text, span, message))
    }

    /// The message for an error of the TOML reader.
    pub fn toml_error(&self, e: &toml::de::Error) -> Failure {
        self.report(e.span(), &with_nearest(e.message()))
    }
}

/// Adds the nearest name to serde's "unknown field" and "unknown variant".
fn with_nearest(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let Some(wrong) = quoted.next().filter(|_| unknown) else { return message.to_owned() };
    let known: Vec<&str> = quoted.collect();
    let kind = if message.starts_with("unknown field") { "key" } else { "value" };
    let mut text = format!("unknown {kind} `{wrong}`");
    if let Some(near) = nearest(wrong, &known) {
        text += &format!("; did you mean `{near}`?");
    }
    text + &format!("\nexpected one of {}", known.join(", "))
}

/// The most similar of `known`, if any is similar at all.
pub fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|k| (strsim::jaro_winkler(wrong, k), *k))
        .filter(|(score, _)| *score > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

fn render(path: &Path, text: &str, span: Option<Range<usize>>, message: &str) -> String {
    let shown = path.display();
    let Some(span) = span.filter(|s| s.start <= text.len() && text.is_char_boundary(s.start))
    else {
        return format!("{shown}: {message}");
    };
    let line_start = text[..span.start].rfind('\n').map_or(0, |n| n + 1);
    let line_no = text[..span.start].matches('\n').count() + 1;
    let line = text[line_start..].lines().next().unwrap_or_default();
    let column = text[line_start..span.start].chars().count();
    let end = span.end.min(line_start + line.len()).max(span.start);
    let width = text.get(span.start..end).map_or(1, |s| s.chars().count()).max(1);
    let gutter = line_no.to_string();
    let blank = " ".repeat(gutter.len());
    let (first, rest) = message.split_once('\n').unwrap_or((message, ""));
    let mut out = format!(
        "{shown}:{line_no}:{}: {first}\n{blank} |\n{gutter} | {line}\n{blank} | {}{}",
        column + 1,
        " ".repeat(column),
        "^".repeat(width)
    );
    for more in rest.lines() {
        out += &format!("\n{blank} = {more}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found() {
        let text =
            "[vm]\nname = \"a\"\n[[disk]]\nfile = \"x\"\n[[disk]]\nfile = \"y\"\n".to_owned();
        let s = Source { path: "vm.toml".into(), text };
        let at = |p: &str| s.locate(p).map(|r| s.text[r].to_owned());
        assert_eq!(at("vm.name").as_deref(), Some("\"a\""));
        assert_eq!(at("disk[1].file").as_deref(), Some("\"y\""));
        assert!(s.has("disk[0].file") && !s.has("disk[0].cow"));
        let shown = s.report(s.locate("disk[1].file"), "bad\nexpected z").text;
        assert_eq!(
            shown,
            "vm.toml:6:8: bad\n  |\n6 | file = \"y\"\n  |        ^^^\n  = expected z"
        );
    }

    #[test]
    fn near_names() {
        assert_eq!(nearest("memm", &["mem", "name"]), Some("mem"));
        assert_eq!(nearest("zzz", &["mem", "name"]), None);
    }
}
