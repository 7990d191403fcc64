//! Where the messages of a kernel panic go.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

/// Boots with the host's files as root and an init that fails; returns the signal that ended the
/// kernel, and its standard output.
fn panicking(con0: &str, init_args: &[&str]) -> (Option<i32>, String) {
    let uml_dir = tempfile::tempdir().expect("directory");
    let run = Command::new(env!("CARGO_BIN_EXE_linux"))
        .arg(format!("uml_dir={}", uml_dir.path().display()))
        .args([
            "mem=64M",
            "root=/dev/root",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            "con=null",
            con0,
        ])
        .args(["init=/bin/false"])
        .args(init_args)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .expect("run");
    (run.status.signal(), String::from_utf8_lossy(&run.stdout).into_owned())
}

const TEXT: &str = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100";

#[test]
fn without_a_console_that_shows_it_the_log_goes_to_standard_output() {
    let (signal, out) = panicking("con0=null", &[]);
    assert_eq!(signal, Some(6), "{out}");
    assert!(out.contains("kmsg_dump:\n<"), "{out}");
    assert!(out.contains(&format!("] {TEXT}\n")), "{out}");
}

#[test]
fn a_console_shows_it_once() {
    let (signal, out) = panicking("con0=fd:0,fd:1", &[]);
    assert_eq!(signal, Some(6), "{out}");
    assert!(!out.contains("kmsg_dump:"), "{out}");
    assert_eq!(out.matches(TEXT).count(), 1, "{out}");
}

/// The words that the kernel adds to its command line come after `--` and reach init instead (command-line.md): the
/// first console is the kernel's all the same.
#[test]
fn arguments_for_init_do_not_take_the_console_away() {
    let (_, out) = panicking("con0=fd:0,fd:1", &["--", "x"]);
    assert_eq!(out.matches(TEXT).count(), 1, "{out}");
}
