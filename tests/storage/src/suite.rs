//! Running tests and counting them, in the form that tests/run adds up.

use std::path::{Path, PathBuf};
use std::time::Instant;

/// How a test ended.
pub enum Verdict {
    Passed,
    Failed(String),
    /// What it needs is not here.
    Skipped(String),
}

impl From<Result<(), String>> for Verdict {
    fn from(r: Result<(), String>) -> Verdict {
        match r {
            Ok(()) => Verdict::Passed,
            Err(e) => Verdict::Failed(e),
        }
    }
}

/// Counts.
#[derive(Default)]
pub struct Suite {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Suite {
    /// Runs one test and says how it ended.
    pub fn run(&mut self, name: &str, test: impl FnOnce() -> Verdict) {
        let start = Instant::now();
        let verdict = test();
        let seconds = start.elapsed().as_secs_f64();
        match verdict {
            Verdict::Passed => {
                self.passed += 1;
                println!("ok      {name} ({seconds:.1} s)");
            }
            Verdict::Failed(why) => {
                self.failed += 1;
                println!("FAILED  {name} ({seconds:.1} s): {why}");
            }
            Verdict::Skipped(why) => {
                self.skipped += 1;
                println!("SKIPPED {name}: {why}");
            }
        }
    }

    /// The last line, and whether nothing failed.
    pub fn finish(&self) -> bool {
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped);
        self.failed == 0
    }
}

/// A program: beside this one, or in the places where system programs are.
pub fn program(name: &str) -> Option<PathBuf> {
    let here = std::env::current_exe().ok()?.parent()?.join(name);
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(|d| Path::new(d).join(name));
    std::iter::once(here).chain(system).find(|p| p.exists())
}

/// Skips a test when a program is missing.
#[macro_export]
macro_rules! need {
    ($($name:expr),*) => {
        $(if $crate::suite::program($name).is_none() {
            return $crate::suite::Verdict::Skipped(format!("{} is not installed", $name));
        })*
    };
}
