//! The golden rule of the guest tests: two runs on one host print the same, and no case ends badly.
#![forbid(unsafe_code)]

use std::process::Command;

fn run(what: &str) -> String {
    let o = Command::new(env!("CARGO_BIN_EXE_gt")).args(["run", what]).output().expect("gt starts");
    assert!(o.status.success(), "gt failed: {}", String::from_utf8_lossy(&o.stderr));
    String::from_utf8_lossy(&o.stdout).into_owned()
}

/// Names and texts of the cases of a transcript.
fn cases(all: &str) -> Vec<(&str, &str)> {
    all.split("\n[").filter_map(|c| c.trim_start_matches('[').split_once("]\n")).collect()
}

// Whatever differs between two runs is run again: a case that still varies cannot be compared with anything.
#[test]
fn two_runs_print_the_same_transcript() {
    let (a, b) = (run("--all"), run("--all"));
    let (a, b) = (cases(&a), cases(&b));
    assert!(a.len() > 400, "{} cases", a.len());
    let names = |c: &[(&str, &str)]| c.iter().map(|c| c.0.to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&a), names(&b));
    for ((name, x), (_, y)) in a.iter().zip(&b) {
        let ended_badly =
            |t: &str| t.lines().any(|l| l.starts_with("case: ") || l == "panic: true");
        if x == y && !ended_badly(x) {
            continue;
        }
        eprintln!("{name} varied:\n{x}--\n{y}");
        let again: Vec<String> = (0..5).map(|_| run(name)).collect();
        for r in &again {
            assert!(!ended_badly(r), "{name} did not run to its end:\n{r}");
            assert_eq!(*r, again[0], "{name} is not deterministic");
        }
    }
}

#[test]
fn every_family_lists_cases() {
    let list = |args: &[&str]| {
        let o = Command::new(env!("CARGO_BIN_EXE_gt")).args(args).output().expect("gt starts");
        String::from_utf8_lossy(&o.stdout).into_owned()
    };
    let families = list(&["list"]);
    assert!(families.lines().count() >= 20);
    for f in families.lines() {
        let cases = list(&["list", f]);
        assert!(cases.lines().all(|c| c.starts_with(&format!("{f}/"))), "{cases}");
        assert!(cases.lines().count() > 3, "{f} has hardly any case");
    }
}

#[test]
fn wrong_use_is_refused() {
    for args in [&["run"][..], &["run", "no-such-family"], &["run", "--dir"], &["nonsense"]] {
        let o = Command::new(env!("CARGO_BIN_EXE_gt")).args(args).output().expect("gt starts");
        assert_eq!(o.status.code(), Some(2), "{args:?}");
        assert!(!o.stderr.is_empty());
    }
}
