//! The list of cases that are known to differ. It may only shrink: a listed case that agrees is named so that it
//! can be taken out.

use std::collections::BTreeMap;

/// Known differences: by platform (`*` for all) and case, with the reason.
#[derive(Debug, Default)]
pub struct Known {
    entries: BTreeMap<(String, String), String>,
}

impl Known {
    /// Reads lines `PLATFORM FAMILY/CASE REASON`; `#` starts a comment. Errors name the line.
    pub fn parse(text: &str) -> Result<Known, String> {
        let mut k = Known::default();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut w = line.splitn(3, char::is_whitespace);
            match (w.next(), w.next(), w.next().map(str::trim)) {
                (Some(p), Some(c), Some(r)) if !r.is_empty() => {
                    k.entries.insert((p.into(), c.into()), r.into());
                }
                _ => {
                    return Err(format!(
                        "line {}: expected PLATFORM CASE REASON, got '{line}'",
                        i + 1
                    ));
                }
            }
        }
        Ok(k)
    }

    /// The reason why a case is expected to differ on a platform.
    pub fn reason(&self, platform: &str, case: &str) -> Option<&str> {
        let get = |p: &str| self.entries.get(&(p.to_string(), case.to_string()));
        get(platform).or_else(|| get("*")).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platform_and_star() {
        let k = Known::parse("# list\n* a/x everywhere\ntrap a/y only there\n").unwrap();
        assert_eq!(k.reason("notify", "a/x"), Some("everywhere"));
        assert_eq!(k.reason("trap", "a/y"), Some("only there"));
        assert_eq!(k.reason("notify", "a/y"), None);
    }

    #[test]
    fn a_reason_is_required() {
        assert_eq!(
            Known::parse("* a/x").unwrap_err(),
            "line 1: expected PLATFORM CASE REASON, got '* a/x'"
        );
    }
}
