//! Entry point of `uml_switch`; see the library.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use uml_switch::args::{self, Parsed};
use uml_switch::manage;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let program = words.next().unwrap_or_else(|| "uml_switch".into());
    let program = program.to_string_lossy().into_owned();
    let result = match args::parse(words) {
        Parsed::Serve(options) => uml_switch::run(&program, &options),
        Parsed::Ask { control, ask } => manage::ask(&control, &ask).map(|text| print!("{text}")),
        Parsed::Help => {
            let name = Path::new(&program).file_name().unwrap_or_default();
            print!("{}", args::help(&name.to_string_lossy()));
            Ok(())
        }
        Parsed::Version => {
            println!("uml_switch {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Parsed::Usage(reason) => {
            eprint!("{}", args::usage(&program));
            match reason {
                Some(reason) => Err(reason),
                None => return ExitCode::FAILURE,
            }
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}
