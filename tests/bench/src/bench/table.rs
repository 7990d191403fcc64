//! The table and the JSON file.

use crate::collect::{Figure, Figures};
use crate::targets;
use std::fmt::Write;
use std::path::Path;

/// Metrics in the order of the table; others follow by name.
const ORDER: &[&str] = &[
    "getppid",
    "clock_gettime",
    "read_write_1",
    "stat",
    "open_read_close",
    "pipe_pingpong",
    "futex_pingpong",
    "fork_exit",
    "vfork_exec",
    "thread_create_join",
    "page_fault",
    "mmap_munmap",
    "signal_self",
    "unix_stream",
    "file_write",
    "file_write_fsync",
    "file_read_hot",
    "create_write_unlink",
    "write4k_fsync",
    "compute_scalar",
    "compute_vector",
    "compute_two_threads",
    "tasks_4096",
    "workload_forks",
    "workload_configure",
    "workload_compile",
    "workload_pipeline",
    "workload_python",
    "boot_to_init",
    "idle_kernel_rss",
    "idle_total_pss",
    "idle_processes",
];

fn names(results: &[(String, Figures)]) -> Vec<String> {
    let mut all: Vec<String> =
        results.iter().flat_map(|(_, f)| f.by_name.keys().cloned()).collect();
    let place = |n: &str| ORDER.iter().position(|o| *o == n).unwrap_or(ORDER.len());
    all.sort_by(|a, b| place(a).cmp(&place(b)).then(a.cmp(b)));
    all.dedup();
    all
}

fn number(v: f64) -> String {
    match v.abs() {
        x if x >= 1000.0 => format!("{v:.0}"),
        x if x >= 10.0 => format!("{v:.1}"),
        x if x >= 1.0 => format!("{v:.2}"),
        _ => format!("{v:.3}"),
    }
}

/// Medians by subject, the ratio to the native figure in brackets, and for this kernel whether the targets are met.
pub fn render(results: &[(String, Figures)]) -> String {
    let native = results.iter().find(|(n, _)| n == "native").map(|(_, f)| f);
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut head = vec!["metric".to_string(), "unit".to_string()];
    head.extend(results.iter().map(|(n, _)| n.clone()));
    head.push("target".into());
    rows.push(head);
    let mut errors = String::new();
    for m in names(results) {
        let unit = results.iter().find_map(|(_, f)| match f.by_name.get(&m) {
            Some(Figure::Value { unit, .. }) => Some(unit.clone()),
            _ => None,
        });
        let unit = unit.unwrap_or_default();
        let mut row = vec![m.clone(), unit.clone()];
        let base = native.and_then(|f| f.median(&m));
        let mut verdict = Vec::new();
        for (name, f) in results {
            row.push(match f.by_name.get(&m) {
                Some(Figure::Value { median, .. }) => {
                    if name == "ours-default" {
                        let stock = targets::stock_best(&m, &unit, results);
                        verdict = targets::judge(&m, *median, base, stock);
                    }
                    match base {
                        Some(b) if name != "native" && b > 0.0 => {
                            format!("{} ({:.1}x)", number(*median), median / b)
                        }
                        _ => number(*median),
                    }
                }
                Some(Figure::Error(e)) => {
                    let _ = writeln!(errors, "{name}: {m}: {e}");
                    "failed".into()
                }
                None => "-".into(),
            });
        }
        let words: Vec<String> = verdict
            .into_iter()
            .map(|(t, ok)| match ok {
                Some(true) => format!("{t} ok"),
                Some(false) => format!("{t} MISSED"),
                None => format!("{t} ?"),
            })
            .collect();
        row.push(words.join(", "));
        rows.push(row);
    }
    let columns = rows[0].len();
    let width: Vec<usize> =
        (0..columns).map(|c| rows.iter().map(|r| r[c].len()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for r in rows {
        let line: Vec<String> = r.iter().zip(&width).map(|(v, w)| format!("{v:<w$}")).collect();
        let _ = writeln!(out, "{}", line.join("  ").trim_end());
    }
    out + &errors
}

/// All figures as one JSON object: subject, metric, figure.
pub fn write_json(path: &Path, results: &[(String, Figures)]) -> std::io::Result<()> {
    use serde_json::{Map, Value, json};
    let mut all = Map::new();
    for (name, f) in results {
        let mut one = Map::new();
        for (m, fig) in &f.by_name {
            let v = match fig {
                Figure::Value { unit, median, min, max } => {
                    json!({"unit": unit, "median": median, "min": min, "max": max})
                }
                Figure::Error(e) => json!({"error": e}),
            };
            one.insert(m.clone(), v);
        }
        all.insert(name.clone(), Value::Object(one));
    }
    if let Some(d) = path.parent() {
        std::fs::create_dir_all(d)?;
    }
    std::fs::write(path, format!("{:#}\n", Value::Object(all)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_shows_ratios_and_verdicts() {
        let fig = |v: f64| {
            let mut f = Figures::default();
            f.value("getppid", "us", vec![v]);
            f
        };
        let r = [
            ("native".into(), fig(0.1)),
            ("ours-default".into(), fig(0.5)),
            ("stock-seccomp-pinned".into(), fig(4.0)),
        ];
        let t = render(&r);
        assert!(t.contains("0.500 (5.0x)"), "{t}");
        assert!(t.contains("<= 0.6 x stock ok"), "{t}");
    }

    #[test]
    fn failures_are_listed() {
        let mut f = Figures::default();
        f.error("tasks_4096", "fork: no memory");
        let t = render(&[("native".into(), f)]);
        assert!(t.contains("native: tasks_4096: fork: no memory"), "{t}");
    }
}
