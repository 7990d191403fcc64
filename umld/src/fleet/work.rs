//! Doing something with many instances at a time, in order, with a line of progress each.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use crate::cli::ProgressWhen;
use crate::failure::{Failure, Result};

/// What is to be done with one name, after which others.
pub struct Task {
    /// The instance.
    pub name: String,
    /// Names that must be done first.
    pub after: BTreeSet<String>,
}

enum Outcome {
    Waiting,
    Working,
    Done,
    Failed,
}

/// Does `f` for every task, at most `jobs` at a time, each when those it comes after are done; what comes after a
/// failure is left out. The text `f` returns is shown. The status of the first failure.
pub fn each(
    tasks: &[Task],
    jobs: usize,
    progress: ProgressWhen,
    doing: &str,
    f: impl Fn(&str) -> Result<String> + Sync,
) -> u8 {
    let show = Show::new(tasks, progress, doing);
    let states: Mutex<BTreeMap<&str, Outcome>> =
        Mutex::new(tasks.iter().map(|t| (t.name.as_str(), Outcome::Waiting)).collect());
    let changed = Condvar::new();
    let status = Mutex::new(0);
    let failed = |name: &str, e: &Failure| {
        show.failed(name, e);
        let mut s = status.lock().unwrap_or_else(PoisonError::into_inner);
        if *s == 0 {
            *s = e.code;
        }
    };
    // Takes what may be begun, or what need not be because of a failure.
    let next = || {
        let mut table = states.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let state = |n: &str| table.get(n);
            let waiting: Vec<&Task> =
                tasks.iter().filter(|t| matches!(state(&t.name), Some(Outcome::Waiting))).collect();
            if waiting.is_empty() {
                return None;
            }
            let broken =
                |t: &&&Task| t.after.iter().any(|a| matches!(state(a), Some(Outcome::Failed)));
            let free =
                |t: &&&Task| t.after.iter().all(|a| matches!(state(a), Some(Outcome::Done) | None));
            let found = match waiting.iter().find(broken) {
                Some(t) => {
                    let bad = t.after.iter().find(|a| matches!(state(a), Some(Outcome::Failed)));
                    Some((*t, bad.cloned()))
                }
                None => waiting.iter().find(free).map(|t| (*t, None)),
            };
            if let Some((t, cause)) = found {
                table.insert(&t.name, Outcome::Working);
                return Some((t, cause));
            }
            table = changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    };
    let work = || {
        while let Some((task, cause)) = next() {
            let result = match cause {
                Some(c) => Err(Failure::other(format!("left out, because \"{c}\" failed"))),
                None => {
                    show.begins(&task.name);
                    f(&task.name)
                }
            };
            let outcome = match result {
                Ok(text) => {
                    show.done(&task.name, &text);
                    Outcome::Done
                }
                Err(e) => {
                    failed(&task.name, &e);
                    Outcome::Failed
                }
            };
            states.lock().unwrap_or_else(PoisonError::into_inner).insert(&task.name, outcome);
            changed.notify_all();
        }
    };
    std::thread::scope(|s| {
        for _ in 0..jobs.clamp(1, 256).min(tasks.len().max(1)) {
            s.spawn(work);
        }
    });
    show.end();
    *status.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How progress is shown.
enum Show {
    Bars { _all: MultiProgress, bars: BTreeMap<String, ProgressBar>, doing: String },
    Lines { json: bool },
    Nothing,
}

/// How often a line of progress moves.
const TICK: Duration = Duration::from_millis(100);

impl Show {
    fn new(tasks: &[Task], how: ProgressWhen, doing: &str) -> Show {
        match how {
            ProgressWhen::Auto if std::io::stderr().is_terminal() => {
                let all = MultiProgress::new();
                let width = tasks.iter().map(|t| t.name.len()).max().unwrap_or(0);
                let style = ProgressStyle::with_template(&format!(
                    "{{spinner}} {{prefix:{width}}} {{wide_msg}}"
                ))
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
                let bars = tasks
                    .iter()
                    .map(|t| {
                        let bar = all.add(ProgressBar::new_spinner().with_style(style.clone()));
                        bar.set_prefix(t.name.clone());
                        bar.set_message("waiting");
                        (t.name.clone(), bar)
                    })
                    .collect();
                Show::Bars { _all: all, bars, doing: doing.into() }
            }
            ProgressWhen::Auto | ProgressWhen::Plain => Show::Lines { json: false },
            ProgressWhen::Json => Show::Lines { json: true },
            ProgressWhen::None => Show::Nothing,
        }
    }

    fn begins(&self, name: &str) {
        if let Show::Bars { bars, doing, .. } = self
            && let Some(b) = bars.get(name)
        {
            b.enable_steady_tick(TICK);
            b.set_message(doing.clone());
        }
    }

    fn done(&self, name: &str, text: &str) {
        match self {
            Show::Bars { bars, .. } => {
                if let Some(b) = bars.get(name) {
                    b.finish_with_message(text.to_owned());
                }
            }
            Show::Lines { json: true } => {
                line(&json!({"name": name, "ok": true, "text": text}).to_string())
            }
            Show::Lines { .. } => line(&format!("{name}: {text}")),
            Show::Nothing => {}
        }
    }

    fn failed(&self, name: &str, e: &Failure) {
        match self {
            Show::Bars { bars, .. } => {
                if let Some(b) = bars.get(name) {
                    b.abandon_with_message(format!(
                        "FAILED: {}",
                        e.text.lines().next().unwrap_or_default()
                    ));
                }
            }
            Show::Lines { json: true } => {
                line(
                    &json!({"name": name, "ok": false, "code": e.code, "text": e.text}).to_string(),
                );
            }
            _ => line(&format!("umld: {name}: {e}")),
        }
    }

    fn end(&self) {
        if let Show::Bars { bars, .. } = self {
            bars.values().for_each(ProgressBar::finish);
        }
    }
}

fn line(text: &str) {
    // Nothing can be done when stderr is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_and_failures_stop_what_follows() {
        let task = |name: &str, after: &[&str]| Task {
            name: name.into(),
            after: after.iter().map(|a| (*a).to_owned()).collect(),
        };
        let tasks = [
            task("c", &["b"]),
            task("a", &[]),
            task("b", &["a"]),
            task("x", &[]),
            task("y", &["x"]),
        ];
        let done = Mutex::new(Vec::new());
        let status = each(&tasks, 3, ProgressWhen::None, "", |n| {
            if n == "x" {
                return Err(Failure::new(7, "no"));
            }
            done.lock().unwrap().push(n.to_owned());
            Ok(String::new())
        });
        assert_eq!(status, 7);
        assert_eq!(*done.lock().unwrap(), ["a", "b", "c"]);
    }
}
