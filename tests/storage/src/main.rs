//! `storage [--runs N] [--seed S] [--large MB] [TEST...]`: system tests of disks; without names all of them.
//!
//! A failing kill run names its seed; `--seed` with `--runs 1` repeats it as far as a kill can be repeated.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use storage_tests::suite::{Suite, Verdict};
use storage_tests::{asynchronous, broken_hosts, interchange, kill, memory, mounted, need, trees};

struct Options {
    runs: u64,
    seed: u64,
    /// Megabytes of the file that does not fit into memory.
    large: u64,
    names: Vec<String>,
}

fn options() -> Result<Options, String> {
    let mut o = Options { runs: 10, seed: 1, large: 2048, names: Vec::new() };
    let mut args = std::env::args().skip(1);
    while let Some(a) = args.next() {
        let mut number = |what: &str| -> Result<u64, String> {
            let v = args.next().ok_or(format!("{what} needs a number"))?;
            v.parse().map_err(|_| format!("{what}: {v} is not a number"))
        };
        match a.as_str() {
            "--runs" => o.runs = number("--runs")?,
            "--seed" => o.seed = number("--seed")?,
            "--large" => o.large = number("--large")?,
            "--help" | "-h" => {
                return Err("usage: storage [--runs N] [--seed S] [--large MB] [TEST...]".into());
            }
            n if n.starts_with('-') => {
                return Err(format!("unknown option {n}; known: --runs, --seed, --large"));
            }
            n => o.names.push(n.to_owned()),
        }
    }
    Ok(o)
}

fn main() -> ExitCode {
    let o = match options() {
        Ok(o) => o,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::from(2);
        }
    };
    let mut suite = Suite::default();
    let wanted = |n: &str| o.names.is_empty() || o.names.iter().any(|w| w == n);
    if wanted("kill") {
        for n in 0..o.runs {
            let seed = o.seed + n;
            suite.run(&format!("kill of {} (seed {seed})", kill::kind(seed)), || {
                need!("linux", "storage-load", "uml_moo", "mke2fs", "e2fsck");
                in_directory(|d| kill::once(d, seed, seed))
            });
        }
    }
    let tools = ["linux", "uml_moo", "mke2fs", "e2fsck"];
    let mut case = |name: &str,
                    root: bool,
                    also: &[&str],
                    test: &dyn Fn(&Path) -> Result<(), String>| {
        if !wanted(name) {
            return;
        }
        suite.run(name, || {
                let missing = broken_hosts::have(&tools).and_then(|()| broken_hosts::have(also));
                match missing {
                    Err(e) => Verdict::Skipped(e),
                    Ok(()) if root && !broken_hosts::is_root() => {
                        Verdict::Skipped("it needs root".into())
                    }
                    Ok(()) if name.starts_with("stock") && interchange::stock_root().is_none() => {
                        Verdict::Skipped("no stock UML: UML_STOCK_ROOT is to be a root with Debian's package user-mode-linux".into())
                    }
                    Ok(()) => in_directory(test),
                }
            });
    };
    case("programs", false, &["sfdisk", "lsblk", "blkid"], &broken_hosts::programs);
    case("mounted", false, &["tune2fs", "chattr"], &broken_hosts::mounted);
    case("handles", false, &["python3"], &mounted::handles);
    case("counted", false, &["python3"], &mounted::counted);
    case("limited", false, &["python3"], &mounted::limited);
    case("resized", false, &["resize2fs", "tune2fs"], &mounted::resized);
    case("converted", false, &["resize2fs", "dumpe2fs"], &mounted::converted);
    case("journaled", false, &["fallocate", "cmp"], &mounted::journaled);
    case("ownership", true, &["chattr", "lsattr", "setpriv", "tune2fs"], &mounted::ownership);
    case("multi-mount", false, &["debugfs"], &mounted::multi_mount);
    case("errors", false, &["debugfs", "tune2fs"], &mounted::errors);
    case("asynchronous", false, &["fio", "timeout"], &asynchronous::in_flight);
    case("full-disk", true, &[], &|d| broken_hosts::full_disk(d, false));
    case("full-disk-cow", true, &[], &|d| broken_hosts::full_disk(d, true));
    case("truncated-backing", false, &[], &broken_hosts::truncated_backing);
    case("read-only-directory", true, &[], &broken_hosts::read_only_directory);
    case("two-instances", false, &[], &broken_hosts::two_instances);
    case("page-cache", false, &["perl", "md5sum"], &memory::page_cache);
    case("more-than-memory", false, &[], &|d| broken_hosts::more_than_memory(d, o.large));
    let makers: Vec<&str> = trees::FORMATS.iter().flat_map(|(_, p)| p.iter().copied()).collect();
    case("read-only-formats", false, &makers, &trees::mounted);
    case("read-only-root", false, &makers, &trees::root);
    for (name, mkfs) in [
        ("host-4k", &["-t", "ext4", "-b", "4096"][..]),
        ("host-1k", &["-t", "ext4", "-b", "1024"]),
        ("host-ext3", &["-t", "ext3"]),
        ("host-inline", &["-t", "ext4", "-O", "inline_data,metadata_csum_seed"]),
    ] {
        case(name, true, &["getfattr", "setfattr"], &|d| interchange::host(d, mkfs));
    }
    for (name, cow) in [("stock", false), ("stock-cow", true)] {
        case(name, true, &["unshare", "getfattr", "setfattr"], &|d| {
            interchange::with_stock(d, cow)
        });
    }
    if suite.finish() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a test in a directory of its own, which stays when it fails.
fn in_directory(test: impl FnOnce(&std::path::Path) -> Result<(), String>) -> Verdict {
    let dir = match tempfile::Builder::new().prefix("uml-storage-").tempdir() {
        Ok(d) => d,
        Err(e) => return Verdict::Failed(format!("no temporary directory: {e}")),
    };
    match test(dir.path()) {
        Ok(()) => Verdict::Passed,
        Err(e) => {
            let kept = dir.keep();
            Verdict::Failed(format!("{e} (files are in {})", kept.display()))
        }
    }
}
