//! Entry point of `uml_mkcow`; see the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = uml_moo::args::program_name(arguments.next(), "uml_mkcow");
    ExitCode::from(uml_moo::mkcow::run(&program, arguments.collect()))
}
