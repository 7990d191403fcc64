//! Rounds, medians and their output.

use std::process::{Command, ExitCode};
use std::time::Instant;

/// How to measure.
pub struct Bench {
    pub rounds: usize,
    /// Least time of one round.
    pub millis: u64,
    /// Directory for the file metrics.
    pub dir: String,
}

impl Default for Bench {
    fn default() -> Self {
        Bench {
            rounds: 5,
            millis: 60,
            dir: std::env::var("TMPDIR").unwrap_or_else(|_| "/tmp".into()),
        }
    }
}

/// Prints a metric from the values of its rounds.
pub fn emit(name: &str, unit: &str, mut values: Vec<f64>) {
    if values.is_empty() {
        return fail(name, "no value");
    }
    values.sort_by(f64::total_cmp);
    let median = values[values.len() / 2];
    let (min, max) = (values[0], values[values.len() - 1]);
    println!(
        r#"{{"metric":"{name}","unit":"{unit}","median":{median:.4},"min":{min:.4},"max":{max:.4},"rounds":{}}}"#,
        values.len()
    );
}

/// Prints that a metric could not be measured.
pub fn fail(name: &str, why: &str) {
    let why = why.replace(['"', '\\'], "'");
    println!(r#"{{"metric":"{name}","error":"{why}"}}"#);
}

impl Bench {
    /// Microseconds per operation; `op` does `n` of them.
    pub fn per_op(&self, name: &str, mut op: impl FnMut(u64)) {
        // As many as fill a round, found by doubling.
        let mut n = 1u64;
        loop {
            let t = Instant::now();
            op(n);
            let ms = t.elapsed().as_millis() as u64;
            if ms * 4 >= self.millis || n >= 1 << 26 {
                let f = self.millis as f64 / (t.elapsed().as_secs_f64() * 1000.0).max(0.001);
                n = ((n as f64 * f) as u64).clamp(1, 1 << 27);
                break;
            }
            n *= 2;
        }
        let values = (0..self.rounds)
            .map(|_| {
                let t = Instant::now();
                op(n);
                t.elapsed().as_secs_f64() * 1e6 / n as f64
            })
            .collect();
        emit(name, "us", values);
    }

    /// One value a round, from `f`.
    pub fn rounds(&self, name: &str, unit: &str, mut f: impl FnMut() -> Result<f64, String>) {
        let mut values = Vec::new();
        for _ in 0..self.rounds {
            match f() {
                Ok(v) => values.push(v),
                Err(e) => return fail(name, &e),
            }
        }
        emit(name, unit, values);
    }
}

/// Wall time of a whole command, in milliseconds; its output is dropped, its failure is an error.
pub fn time_command(name: &str, rounds: usize, cmd: &[&str]) -> ExitCode {
    let mut values = Vec::new();
    for _ in 0..rounds.max(1) {
        let t = Instant::now();
        let status = Command::new(cmd[0])
            .args(&cmd[1..])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .status();
        match status {
            Ok(s) if s.success() => values.push(t.elapsed().as_secs_f64() * 1000.0),
            Ok(s) => {
                fail(name, &format!("{}: {s}", cmd.join(" ")));
                return ExitCode::FAILURE;
            }
            Err(e) => {
                fail(name, &format!("{}: {e}", cmd[0]));
                return ExitCode::FAILURE;
            }
        }
    }
    emit(name, "ms", values);
    ExitCode::SUCCESS
}

/// The error of the last call, named by what was tried.
pub fn os_error(what: &str) -> String {
    format!("{what}: {}", std::io::Error::last_os_error())
}
