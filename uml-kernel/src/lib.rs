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
mod helper;
mod init;
mod initrd;
mod netconfig;
mod outside;
mod power;
mod root;
mod startup;

pub use helper::helper;

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
    if let Some(status) = helper(&args) {
        return status;
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
        cmdline::Action::Boot(options) => {
            uml_host::terminal::use_keepers();
            boot::boot(&options, &args)
        }
    }
}
