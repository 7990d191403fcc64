//! Counts results and prints them so that a difference can be read.

/// Passed, failed and skipped tests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

impl Tally {
    pub fn pass(&mut self) {
        self.passed += 1;
    }

    /// Counts and prints a failure; each detail is one difference, possibly of several lines.
    pub fn fail(&mut self, name: &str, details: &[String]) {
        self.failed += 1;
        println!("FAIL {name}");
        const SHOWN: usize = 20;
        for d in details.iter().take(SHOWN) {
            for line in d.lines() {
                println!("    {line}");
            }
        }
        if details.len() > SHOWN {
            println!("    ... and {} more differences", details.len() - SHOWN);
        }
    }

    /// Counts as skipped a case that differed once and not again, and tells how.
    pub fn unsteady(&mut self, name: &str, why: &str, details: &[String]) {
        self.skip(name, &format!("UNSTEADY, {why}"));
        for line in details.iter().flat_map(|d| d.lines()) {
            println!("    {line}");
        }
    }

    pub fn skip(&mut self, name: &str, why: &str) {
        self.skipped += 1;
        println!("SKIP {name}: {why}");
    }

    /// The closing line that `tests/run` adds up.
    pub fn line(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// How two outputs differ, line by line, for a stream's name.
pub fn stream(name: &str, host: &[u8], guest: &[u8]) -> Vec<String> {
    let lines = |b: &[u8]| String::from_utf8_lossy(b).lines().map(String::from).collect::<Vec<_>>();
    let mut d = crate::transcript::differences(&lines(host), &lines(guest));
    if !d.is_empty() {
        d.insert(0, format!("{name} differs:"));
    } else if host != guest {
        d.push(format!("{name} differs in bytes that are not text or in its last newline"));
    }
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_streams_say_nothing() {
        assert!(stream("stdout", b"a\n", b"a\n").is_empty());
    }

    #[test]
    fn a_missing_last_newline_is_a_difference() {
        assert_eq!(stream("stdout", b"a\n", b"a").len(), 1);
    }
}
