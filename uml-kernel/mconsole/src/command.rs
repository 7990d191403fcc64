//! The commands. Reply texts are those of the stock kernel, which scripts parse.

mod capture;
mod device;
mod log;
mod mem;
mod net;
mod power;
mod proc;
mod ps;
mod stack;
mod stop;
mod strace;
mod sysrq;
mod version;

use uml_formats::mconsole::{Command, HELP, HELP_MORE};

use crate::server::Client;

/// Carries out `command`; `rest` is what follows its name.
pub fn run(command: Command, rest: &[u8], client: &Client<'_>) {
    match command {
        Command::Version => version::run(client),
        Command::Help => client.ok(format!("{HELP}{HELP_MORE}")),
        Command::Halt => power::halt(client),
        Command::Reboot => power::reboot(client),
        Command::Cad => power::cad(client),
        Command::Config => device::config(rest, client),
        Command::Remove => device::remove(rest, client),
        Command::Sysrq => sysrq::run(rest, client),
        Command::Stop => stop::stop(client),
        Command::Go => stop::go(client),
        Command::Log => log::run(rest, client),
        Command::Proc => proc::run(rest, client),
        Command::Stack => stack::run(rest, client),
        Command::Ps => ps::run(client),
        Command::Mem => mem::run(client),
        Command::Strace => strace::run(rest, client),
        Command::Net => net::run(client),
        Command::Capture => capture::run(rest, client),
    }
}
