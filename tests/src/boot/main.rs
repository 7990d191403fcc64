//! `boot`: starts the kernel as its users do, on real images, and checks what it says, how it ends and what it leaves behind.
//!
//! Machines run on a pty and are driven by what they print. Images are made by debootstrap (as root) below
//! `$UML_TEST_CACHE`, `tests/cache` by default, and kept there.
#![forbid(unsafe_code)]

mod cases;
mod images;
mod machine;
mod packages;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
usage: boot [--linux FILE] [--list] [CASE...]

Boots the kernel (default: target/release/linux) and checks it; without names every case is run.
Exit status: 0 when no case failed, 1 otherwise, 2 on wrong use.
";

/// What a case found.
pub enum Outcome {
    Passed,
    Skipped(String),
}

fn main() -> ExitCode {
    let mut linux = PathBuf::from("target/release/linux");
    let mut names = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(a) = args.next() {
        match a.as_str() {
            "--linux" => match args.next() {
                Some(f) => linux = f.into(),
                None => {
                    eprint!("{USAGE}");
                    return ExitCode::from(2);
                }
            },
            "--list" => {
                for (name, _) in cases::ALL {
                    println!("{name}");
                }
                return ExitCode::SUCCESS;
            }
            "--help" | "-h" => {
                print!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            n if cases::ALL.iter().any(|c| c.0 == n) => names.push(n.to_string()),
            n => {
                eprintln!("boot: no case '{n}'; --list names them");
                return ExitCode::from(2);
            }
        }
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, case) in cases::ALL {
        if !names.is_empty() && !names.iter().any(|n| n == name) {
            continue;
        }
        let result = machine::Bench::new(&linux, name).and_then(|b| {
            let found = case(&b)?;
            b.check_leftovers()?;
            Ok(found)
        });
        match result {
            Ok(Outcome::Passed) => {
                println!("ok      {name}");
                passed += 1;
            }
            Ok(Outcome::Skipped(why)) => {
                println!("skipped {name}: {why}");
                skipped += 1;
            }
            Err(why) => {
                println!("FAILED  {name}: {why}");
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
