//! Entry point of `uml_moo`; see the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use uml_moo::args::{self, Parsed};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = args::program_name(arguments.next(), "uml_moo");
    match args::parse(arguments) {
        Parsed::Run(options) => match uml_moo::run(&program, &options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                failure.print(&program);
                ExitCode::FAILURE
            }
        },
        Parsed::Help => {
            print!("{}", args::help(&program));
            ExitCode::SUCCESS
        }
        Parsed::Version => {
            println!("uml_moo {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Parsed::Usage(reason) => {
            eprint!("{}", args::usage(&program));
            if let Some(reason) = reason {
                eprintln!("{program}: {reason}");
            }
            ExitCode::FAILURE
        }
    }
}
