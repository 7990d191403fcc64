//! `umld`: runs User Mode Linux machines.
//!
//! The program contains the kernel: called under the name `linux` it is the kernel, and inside a guest that `umld`
//! started on the host's userland it is process 1; called `uml_switch` it is that program; the kernel's helper processes are this program too.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use umld::cli::Cli;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if umld::guest_init::wanted(&args) {
        return umld::guest_init::main();
    }
    if let Some(status) = uml_kernel::helper(&args) {
        return status;
    }
    let name = args.first().map(Path::new).and_then(Path::file_name).and_then(OsStr::to_str);
    match name {
        Some("linux") => {
            // The program's file has another name, and who ends all of that name does not mean the machines.
            let _ = nix::sys::prctl::set_name(c"linux");
            uml_kernel::main(args.into_iter())
        }
        // As which umld starts the switches of fleets.
        Some("uml_switch") => uml_switch::main(args.into_iter()),
        // The same, through programs that give what they start no other name.
        _ if args.get(1).is_some_and(|a| a == "uml_switch") => {
            uml_switch::main(args.into_iter().skip(1))
        }
        // systemd calls generators with up to three directories and by their own name.
        Some("umld-generator") => {
            ExitCode::from(umld::cmd::dispatch(umld::cli::Command::Generator {
                dirs: args.iter().skip(1).map(Into::into).collect(),
            }))
        }
        _ => ExitCode::from(umld::cmd::dispatch(Cli::parse().command)),
    }
}
