//! `linux`: the User Mode Linux kernel. Everything is in the library, which `umld` contains too.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    uml_kernel::main(std::env::args_os())
}
