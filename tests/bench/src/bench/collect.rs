//! Runs a subject and reads its JSON lines.

use crate::subject::Subject;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// One metric's result.
#[derive(Clone, Debug, PartialEq)]
pub enum Figure {
    Value { unit: String, median: f64, min: f64, max: f64 },
    Error(String),
}

/// Results by the metric's name.
#[derive(Default, Clone, Debug)]
pub struct Figures {
    pub by_name: BTreeMap<String, Figure>,
}

impl Figures {
    /// Takes a line of output when it is a metric; an error recorded earlier stays.
    pub fn take(&mut self, line: &str) {
        let Ok(v) = serde_json::from_str::<serde_json::Value>(line.trim()) else { return };
        let Some(name) = v["metric"].as_str() else { return };
        let figure = match (v["median"].as_f64(), v["error"].as_str()) {
            (Some(median), _) => Figure::Value {
                unit: v["unit"].as_str().unwrap_or("").into(),
                median,
                min: v["min"].as_f64().unwrap_or(median),
                max: v["max"].as_f64().unwrap_or(median),
            },
            (None, e) => Figure::Error(e.unwrap_or("no value").into()),
        };
        let old = self.by_name.get(name);
        if !matches!(old, Some(Figure::Error(_))) {
            self.by_name.insert(name.into(), figure);
        }
    }

    pub fn value(&mut self, name: &str, unit: &str, mut values: Vec<f64>) {
        values.sort_by(f64::total_cmp);
        if let (Some(min), Some(max)) = (values.first(), values.last()) {
            let f = Figure::Value {
                unit: unit.into(),
                median: values[values.len() / 2],
                min: *min,
                max: *max,
            };
            self.by_name.insert(name.into(), f);
        }
    }

    pub fn error(&mut self, name: &str, why: &str) {
        self.by_name.insert(name.into(), Figure::Error(why.into()));
    }

    pub fn median(&self, name: &str) -> Option<f64> {
        match self.by_name.get(name) {
            Some(Figure::Value { median, .. }) => Some(*median),
            _ => None,
        }
    }
}

/// A started command whose lines arrive with a deadline; dropping it ends its whole process group.
pub struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    pub fn start(mut c: Command) -> Result<Running, String> {
        let name = c.get_program().to_string_lossy().into_owned();
        let mut child = c
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|e| format!("cannot start {name}: {e}"))?;
        let (tx, lines) = mpsc::channel();
        if let Some(out) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut r = BufReader::new(out);
                let mut b = Vec::new();
                // Kernel messages need not be text.
                while matches!(r.read_until(b'\n', &mut b), Ok(n) if n > 0) {
                    if tx.send(String::from_utf8_lossy(&b).into_owned()).is_err() {
                        return;
                    }
                    b.clear();
                }
            });
        }
        Ok(Running { child, lines })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line, unless none comes in time or the output has ended.
    pub fn line(&self, limit: Duration) -> Result<Option<String>, String> {
        match self.lines.recv_timeout(limit) {
            Ok(l) => Ok(Some(l)),
            Err(mpsc::RecvTimeoutError::Disconnected) => Ok(None),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(format!("nothing for {} s", limit.as_secs()))
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let group = format!("-{}", self.pid());
        // Gone already is as good.
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        crate::memory::kill_tree(self.pid());
        let _ = self.child.wait();
    }
}

/// Longest silence between two lines: one metric of the slowest subject.
const SILENCE: Duration = Duration::from_secs(300);

/// Runs all groups of words, in one guest where the subject boots one.
pub fn run(s: &Subject, groups: &[Vec<String>], f: &mut Figures) {
    if s.as_init {
        run_words(s, &groups.join(&"++".to_string()), f);
    } else {
        for g in groups {
            run_words(s, g, f);
        }
    }
}

fn run_words(s: &Subject, words: &[String], f: &mut Figures) {
    let running = match Running::start(s.command(words)) {
        Ok(r) => r,
        Err(e) => return f.error("start", &e),
    };
    let mut last = String::new();
    loop {
        match running.line(SILENCE) {
            Ok(Some(l)) => {
                if l.starts_with("UBENCH DONE") {
                    return;
                }
                f.take(&l);
                if !l.trim().is_empty() {
                    last = l;
                }
            }
            Ok(None) => {
                if f.by_name.is_empty() {
                    f.error("start", &format!("no figure came; last line: {}", last.trim()));
                }
                return;
            }
            Err(e) => return f.error("run", &format!("{e}; last line: {}", last.trim())),
        }
    }
}

/// Time from the start of the kernel's command to the first words of init, in milliseconds.
pub fn boot(s: &Subject, f: &mut Figures) {
    let mut values = Vec::new();
    for _ in 0..7 {
        let t = Instant::now();
        let r = match Running::start(s.command(&["boot".into()])) {
            Ok(r) => r,
            Err(e) => return f.error("boot_to_init", &e),
        };
        loop {
            match r.line(Duration::from_secs(60)) {
                Ok(Some(l)) if l.contains("UBENCH INIT RUNS") => {
                    values.push(t.elapsed().as_secs_f64() * 1000.0);
                    break;
                }
                Ok(Some(_)) => {}
                Ok(None) => return f.error("boot_to_init", "init said nothing"),
                Err(e) => return f.error("boot_to_init", &e),
            }
        }
    }
    f.value("boot_to_init", "ms", values);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_metrics_out_of_noise() {
        let mut f = Figures::default();
        f.take("[    0.1] some kernel line");
        f.take("{\"metric\":\"a\",\"unit\":\"us\",\"median\":1.5,\"min\":1.0,\"max\":2.0,\"rounds\":3}\r\n");
        f.take("{\"metric\":\"b\",\"error\":\"no fork\"}");
        f.take("{\"metric\":\"b\",\"unit\":\"us\",\"median\":1.5}");
        assert_eq!(f.median("a"), Some(1.5));
        assert_eq!(f.by_name["b"], Figure::Error("no fork".into()));
        assert_eq!(f.by_name.len(), 2);
    }

    #[test]
    fn a_command_ends_with_its_group() {
        let mut c = Command::new("sh");
        c.args(["-c", "echo started; sleep 1000 & sleep 1000"]);
        let r = Running::start(c).unwrap();
        assert_eq!(r.line(Duration::from_secs(20)).unwrap().as_deref(), Some("started\n"));
        let pid = r.pid();
        drop(r);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
