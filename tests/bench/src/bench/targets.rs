//! What the project wants to reach, for each metric.

use crate::collect::Figures;

/// A bound on a metric of this kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// At most this part of stock UML's best with seccomp.
    Stock(f64),
    /// At most this many times the native figure.
    Native(f64),
    /// At most this much, in the metric's unit.
    Most(f64),
    /// At least this much, in the metric's unit.
    Least(f64),
}
use Target::*;

const TARGETS: &[(&str, &[Target])] = &[
    ("getppid", &[Stock(0.6)]),
    ("clock_gettime", &[Native(3.0)]),
    ("read_write_1", &[Stock(0.6)]),
    ("stat", &[Stock(0.6)]),
    ("open_read_close", &[Stock(0.6)]),
    ("pipe_pingpong", &[Stock(0.6)]),
    ("futex_pingpong", &[Stock(0.6)]),
    ("fork_exit", &[Stock(0.6)]),
    ("vfork_exec", &[Stock(0.6)]),
    ("thread_create_join", &[Stock(0.6)]),
    ("page_fault", &[Native(1.5)]),
    ("mmap_munmap", &[Stock(0.6)]),
    ("signal_self", &[Stock(0.6)]),
    ("compute_scalar", &[Native(1.02)]),
    ("compute_vector", &[Native(1.02)]),
    ("compute_two_threads", &[Least(1.7)]),
    ("boot_to_init", &[Most(100.0), Stock(0.2)]),
    ("idle_kernel_rss", &[Most(16.0)]),
    ("workload_forks", &[Stock(0.5)]),
    ("workload_configure", &[Stock(0.5)]),
    ("workload_compile", &[Stock(0.5), Native(2.0)]),
    ("workload_pipeline", &[Stock(0.5)]),
    ("workload_python", &[Stock(0.5)]),
];

/// Whether more is better.
pub fn more_is_better(unit: &str) -> bool {
    matches!(unit, "MB/s" | "x")
}

/// Each target of a metric in words, with whether this kernel's figure meets it.
pub fn judge(
    metric: &str,
    ours: f64,
    native: Option<f64>,
    stock: Option<f64>,
) -> Vec<(String, Option<bool>)> {
    let list = TARGETS.iter().find(|(n, _)| *n == metric).map_or(&[][..], |(_, t)| *t);
    list.iter()
        .map(|t| match *t {
            Stock(r) => (format!("<= {r} x stock"), stock.map(|s| ours <= r * s)),
            Native(r) => (format!("<= {r} x native"), native.map(|n| ours <= r * n)),
            Most(v) => (format!("<= {v}"), Some(ours <= v)),
            Least(v) => (format!(">= {v}"), Some(ours >= v)),
        })
        .collect()
}

/// The better of stock UML's two figures with seccomp.
pub fn stock_best(metric: &str, unit: &str, results: &[(String, Figures)]) -> Option<f64> {
    let values = results
        .iter()
        .filter(|(n, _)| n.starts_with("stock-seccomp"))
        .filter_map(|(_, f)| f.median(metric));
    if more_is_better(unit) { values.reduce(f64::max) } else { values.reduce(f64::min) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_target() {
        assert_eq!(judge("getppid", 1.0, None, Some(2.0)), [("<= 0.6 x stock".into(), Some(true))]);
        assert_eq!(
            judge("clock_gettime", 1.0, Some(0.1), None),
            [("<= 3 x native".into(), Some(false))]
        );
        let b = judge("boot_to_init", 90.0, None, Some(1000.0));
        assert_eq!(b[0], ("<= 100".into(), Some(true)));
        assert_eq!(b[1], ("<= 0.2 x stock".into(), Some(true)));
        assert_eq!(judge("compute_two_threads", 1.5, None, None), [(">= 1.7".into(), Some(false))]);
        assert!(judge("unix_stream", 1.0, None, None).is_empty());
    }
}
