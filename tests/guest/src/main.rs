//! `gt`: one program per system call family, run on Linux and in the guest; both must print the same transcript.
//!
//! A family is a list of cases; a case is a function that says `name: value` lines ([`sys::say`]). The [`runner`] runs
//! each case in a fresh process with its own directory, default signal actions, a watchdog, and (when started as root)
//! as an ordinary user unless the case asks for root.
//!
//! Rules for cases: nothing host-dependent, no pids, addresses, inode numbers or times: say relations instead. Wait on
//! events (pipes, futexes, wait, task states), never on a clock. Two runs on one host print the same.
//!
//! Neighbours: `tests/src` (the harness that compares transcripts) and `tests/run`. Benchmarks do not belong here, nor do
//! attacks on the stub.

mod families;
mod runner;
mod sys;

use std::process::ExitCode;

const USAGE: &str = "\
usage: gt list [FAMILY]                 list families, or the cases of one
       gt run [OPTIONS] FAMILY[/CASE]... run families or single cases
       gt run [OPTIONS] --all           run every family

options:
  --privilege all|user|root  which cases to run (default: all when root, else user)
  --dir DIR                  make the working directories below DIR (default: $TMPDIR or /tmp)
  --timeout SECONDS          end a case that takes longer (default 60)
";

fn fail(text: &str) -> ExitCode {
    eprintln!("gt: {text}");
    ExitCode::from(2)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let all = families::all();
    match args.first().map(String::as_str) {
        Some("list") => match args.get(1) {
            None => {
                for f in &all {
                    println!("{}", f.name);
                }
                ExitCode::SUCCESS
            }
            Some(name) => match all.iter().find(|f| f.name == *name) {
                Some(f) => {
                    for c in f.cases {
                        let who = if c.root { " (root)" } else { "" };
                        println!("{}/{}{who}", f.name, c.name);
                    }
                    ExitCode::SUCCESS
                }
                None => fail(&format!("no family '{name}'; `gt list` names them")),
            },
        },
        Some("run") => run(&args[1..], &all),
        // Entry points for the exec family: the program runs itself with a role.
        Some("--role") => families::role(&args[1..]),
        Some("--help" | "-h") => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &[String], all: &[runner::Family]) -> ExitCode {
    let root = unsafe { libc::geteuid() } == 0;
    let mut opt = runner::Options {
        user: true,
        root,
        dir: std::env::var("TMPDIR").unwrap_or_else(|_| "/tmp".into()),
        timeout: 60,
    };
    let mut wanted = Vec::new();
    let mut everything = false;
    let mut it = args.iter();
    while let Some(a) = it.next() {
        match a.as_str() {
            "--all" => everything = true,
            "--privilege" => match it.next().map(String::as_str) {
                Some("all") => (opt.user, opt.root) = (true, root),
                Some("user") => (opt.user, opt.root) = (true, false),
                Some("root") if root => (opt.user, opt.root) = (false, true),
                Some("root") => return fail("--privilege root needs to be started as root"),
                _ => return fail("--privilege takes all, user or root"),
            },
            "--dir" => match it.next() {
                Some(d) => opt.dir = d.clone(),
                None => return fail("--dir needs a directory"),
            },
            "--timeout" => match it.next().and_then(|n| n.parse().ok()) {
                Some(n) => opt.timeout = n,
                None => return fail("--timeout needs a number of seconds"),
            },
            w if w.starts_with('-') => return fail(&format!("unknown option '{w}'")),
            w => wanted.push(w.to_string()),
        }
    }
    if everything != wanted.is_empty() {
        return fail("name families or cases, or give --all");
    }
    let mut picked = Vec::new();
    for f in all {
        for c in f.cases {
            let full = format!("{}/{}", f.name, c.name);
            let named = wanted.iter().any(|w| *w == f.name || *w == full);
            if everything || named {
                picked.push((f, c));
            }
        }
    }
    for w in &wanted {
        let known =
            picked.iter().any(|(f, c)| *w == f.name || *w == format!("{}/{}", f.name, c.name));
        if !known {
            return fail(&format!("no family or case '{w}'; `gt list` names them"));
        }
    }
    match runner::run(&picked, &opt) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&e),
    }
}
