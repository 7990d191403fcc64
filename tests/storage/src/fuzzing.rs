//! What fuzzing programs have in common: their words, rounds that follow from a seed, and the count that `tests/run` adds up.
//!
//! A round fails when it says so, panics, or works longer than [`SLOW`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A round that works longer hangs. Of a processor's time, so that what else the host does makes no round slow.
const SLOW: Duration = Duration::from_secs(20);

/// What the command line `[--seconds N] [--seed S] [TARGET...]` asks for.
pub struct Plan {
    length: Duration,
    seed: u64,
    pub targets: Vec<String>,
}

/// Time this process has had a processor.
fn worked() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec.unsigned_abs(), t.tv_nsec as u32)
}

impl Plan {
    /// Reads the command line of `program`, which knows `targets`; without words it is all of them. Wrong use is told, and the
    /// exit status for it is the error.
    pub fn read(program: &str, targets: &[&str]) -> Result<Plan, ExitCode> {
        let usage = |why: &str| {
            eprintln!("{program}: {why}\nusage: {program} [--seconds N] [--seed S] [TARGET...]");
            ExitCode::from(2)
        };
        let (mut seconds, mut seed, mut names) = (5u64, 1u64, Vec::new());
        let mut args = std::env::args().skip(1);
        while let Some(a) = args.next() {
            let mut number = || args.next().and_then(|v| v.parse().ok());
            match a.as_str() {
                "--seconds" | "--seed" => match number() {
                    Some(n) if a == "--seed" => seed = n,
                    Some(n) => seconds = n,
                    None => return Err(usage(&format!("{a} needs a number"))),
                },
                t if targets.contains(&t) => names.push(t.to_owned()),
                w => {
                    let known = targets.join(", ");
                    return Err(usage(&format!("unknown word {w}; targets: {known}")));
                }
            }
        }
        if names.is_empty() {
            names = targets.iter().map(ToString::to_string).collect();
        }
        Ok(Plan { length: Duration::from_secs(seconds), seed, targets: names })
    }

    /// Runs rounds of each target, at least one, with seeds that count up; tells the outcome.
    pub fn run(&self, mut round: impl FnMut(&str, u64) -> Result<(), String>) -> ExitCode {
        let mut failed = 0;
        for t in &self.targets {
            match self.rounds(|seed| round(t, seed)) {
                Ok(rounds) => println!("ok      fuzzing of {t}: {rounds} rounds"),
                Err(why) => {
                    failed += 1;
                    println!("FAILED  fuzzing of {t}: {why}");
                }
            }
        }
        println!("{} passed, {failed} failed, 0 skipped", self.targets.len() - failed);
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn rounds(&self, mut round: impl FnMut(u64) -> Result<(), String>) -> Result<u64, String> {
        let end = Instant::now() + self.length;
        let mut rounds = 0;
        while rounds == 0 || Instant::now() < end {
            let s = self.seed + rounds;
            let start = worked();
            catch_unwind(AssertUnwindSafe(|| round(s)))
                .map_err(|_| format!("panic with seed {s}"))?
                .map_err(|e| format!("seed {s}: {e}"))?;
            let took = worked().saturating_sub(start);
            if took > SLOW {
                return Err(format!("seed {s} took {took:?}"));
            }
            rounds += 1;
        }
        Ok(rounds)
    }
}
