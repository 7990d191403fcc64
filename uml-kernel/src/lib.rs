//! The kernel as a program: command line in, running machine out.
//!
//! `cmdline` turns words into typed options, `boot` builds the machine from them, `init` enters
//! filesystems and drivers (the list is the map of the architecture), `root` finds the root
//! filesystem, `outside` is the instance's
//! face on the host (directory, management console, signals), `power` ends the machine. Used by the `linux` binary and by `umld`, which contains the
//! kernel.
//!
//! Neighbours: every kernel crate below; nothing above but the two binaries. No behaviour of the guest
//! belongs here.
#![forbid(unsafe_code)]

mod boot;
mod cmdline;
mod help;
mod init;
mod initrd;
mod netconfig;
mod outside;
mod power;
mod root;
mod startup;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// The text of `linux --help`: which options this kernel has.
pub fn help_text() -> String {
    help::text()
}

/// Runs the kernel with `args` (program name first) and returns its exit status.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    if let [_, word, kernel] = &args[..]
        && word == uml_host::winch::HELPER_WORD
    {
        return follow_sizes(kernel);
    }
    match cmdline::parse(args.iter().skip(1).cloned()) {
        cmdline::Action::Print(text) => {
            // A closed stdout is the reader's choice.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        cmdline::Action::Fail(text) => {
            eprint!("{text}");
            ExitCode::FAILURE
        }
        cmdline::Action::Boot(options) => boot::boot(&options, &args),
    }
}

/// The helper of a terminal that is not the kernel's own; see [`uml_host::winch`].
fn follow_sizes(kernel: &OsString) -> ExitCode {
    let kernel = kernel.to_str().and_then(|k| k.parse().ok()).unwrap_or(0);
    if kernel <= 1 {
        eprintln!("linux: {} is for the kernel's own use", uml_host::winch::HELPER_WORD);
        return ExitCode::FAILURE;
    }
    match uml_host::winch::follow(kernel) {
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
