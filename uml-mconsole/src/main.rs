//! Entry point of `uml_mconsole`; see the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ExitCode::from(uml_mconsole::run(uml_mconsole::args::Args::parse()))
}
