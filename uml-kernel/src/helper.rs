//! Other lives of the program: processes that the kernel starts beside itself, and the helper programs of uml-utilities that a
//! stock kernel starts, when this program has their names.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use uml_drivers::console::port_helper;
use uml_drivers::watchdog::helper as watchdog;
use uml_host::{terminal, winch};

/// Carries out a command line (program name first) that asks for a helper; `None` when it asks for something else.
pub fn helper(args: &[OsString]) -> Option<ExitCode> {
    let (name, words) = args.split_first()?;
    let name = Path::new(name).file_name().and_then(OsStr::to_str).unwrap_or_default();
    match (name, words) {
        ("uml_watchdog", words) => Some(count_down(words)),
        ("port-helper", []) => Some(hand_over(None)),
        (_, [word, path]) if word == port_helper::WORD => Some(hand_over(Some(Path::new(path)))),
        (_, [word, words @ ..]) if word == watchdog::WORD => Some(count_down(words)),
        (_, [word, kernel]) if word == winch::HELPER_WORD => Some(follow_sizes(kernel)),
        (_, [word, settings]) if word == terminal::KEEPER_WORD => {
            let kept = terminal::keep(settings.to_str().unwrap_or_default());
            // A terminal that is gone has no settings.
            Some(if kept.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        _ => None,
    }
}

fn count_down(words: &[OsString]) -> ExitCode {
    let words: Option<Vec<&str>> = words.iter().map(|w| w.to_str()).collect();
    ExitCode::from(words.map_or(1, |w| watchdog::run(&w)))
}

fn hand_over(path: Option<&Path>) -> ExitCode {
    match port_helper::run(path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("port-helper: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The helper of a terminal that is not the kernel's own.
fn follow_sizes(kernel: &OsStr) -> ExitCode {
    let kernel = kernel.to_str().and_then(|k| k.parse().ok()).unwrap_or(0);
    if kernel <= 1 {
        eprintln!("linux: {} is for the kernel's own use", winch::HELPER_WORD);
        return ExitCode::FAILURE;
    }
    match winch::follow(kernel) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!(
                "winch_thread : window sizes are not followed: {}",
                uml_formats::strerror(&e)
            );
            ExitCode::FAILURE
        }
    }
}
