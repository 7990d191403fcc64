//! Entry point of `uml_switch`; see the library.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    uml_switch::main(std::env::args_os())
}
