//! The golden rule of the guest tests: two runs on one host print the same, and no case ends badly.
#![forbid(unsafe_code)]

use std::process::Command;

fn run_all() -> String {
    let o =
        Command::new(env!("CARGO_BIN_EXE_gt")).args(["run", "--all"]).output().expect("gt starts");
    assert!(o.status.success(), "gt failed: {}", String::from_utf8_lossy(&o.stderr));
    String::from_utf8_lossy(&o.stdout).into_owned()
}

#[test]
fn two_runs_print_the_same_transcript() {
    let (a, b) = (run_all(), run_all());
    for (x, y) in a.lines().zip(b.lines()) {
        assert_eq!(x, y, "the transcript is not deterministic");
    }
    assert_eq!(a.lines().count(), b.lines().count());
    for l in a.lines() {
        assert!(
            !l.starts_with("case: ") && l != "panic: true",
            "a case did not run to its end: {l}"
        );
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
