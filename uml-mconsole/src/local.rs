//! Commands carried out by the client. Their names are tried as prefixes, in
//! this order, before anything is sent.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uml_formats::strerror;

use crate::EXIT_FAILURE;
use crate::session::{Outcome, Session};
use crate::target::Target;

/// Names of the local commands, in the order in which they are tried.
pub const NAMES: [&str; 7] = ["quit", "help", "switch", "log", "umlfs", "mconsole-version", "int"];

/// What `help` adds to the kernel's text.
pub const HELP: &str = "Additional local mconsole commands:
    quit - Quit mconsole
    switch <socket-name> - Switch control to the given machine
    log -f <filename> - use contents of <filename> as UML log messages
    mconsole-version - version of this mconsole program
    int  - Interrupt UML session";

/// Longest text that fits in one `log` request.
const LOG_PIECE: usize = 506;

/// Carries out a local command; `None` when the line is for the kernel.
pub fn execute(session: &mut Session, line: &str) -> Option<Outcome> {
    let (name, rest) =
        NAMES.iter().find_map(|name| line.strip_prefix(name).map(|rest| (*name, rest)))?;
    Some(match name {
        "quit" => Outcome { status: 0, quit: true },
        "help" => {
            let outcome = session.send(b"help");
            let local = session.say(line, HELP);
            Outcome { status: outcome.status, quit: local.quit }
        }
        "switch" => switch(session, line, rest.trim()),
        "log" => log(session, line, rest),
        "umlfs" => umlfs(session, line, rest.trim()),
        "mconsole-version" => session.say(line, "uml_mconsole client version 2"),
        _ => interrupt(session, line),
    })
}

fn switch(session: &mut Session, line: &str, name: &str) -> Outcome {
    if name.is_empty() {
        return session.fail(line, EXIT_FAILURE, "switch needs a name: switch <umid or socket>");
    }
    match Target::find(name) {
        Ok(target) => {
            session.target = target;
            session.say(line, &format!("Switched to '{name}'"))
        }
        Err(message) => session.fail(line, EXIT_FAILURE, &message),
    }
}

fn log(session: &mut Session, line: &str, rest: &str) -> Outcome {
    let rest = rest.trim_start();
    if let Some(name) = rest.strip_prefix("-f") {
        let path = Path::new(name.trim());
        return match File::open(path) {
            Ok(file) => log_pieces(session, file, Some(path)),
            Err(error) => {
                let message =
                    format!("opening file: {} (\"{}\")", strerror(&error), path.display());
                session.fail(line, EXIT_FAILURE, &message)
            }
        };
    }
    log_pieces(session, rest.as_bytes(), None)
}

/// Sends text as a series of requests and ends it with a newline.
fn log_pieces(session: &mut Session, mut text: impl Read, path: Option<&Path>) -> Outcome {
    // A text of nothing still is a line.
    let mut newline = path.is_some();
    loop {
        let mut piece = Vec::with_capacity(LOG_PIECE);
        if let Err(error) = text.by_ref().take(LOG_PIECE as u64).read_to_end(&mut piece) {
            let name = path.map(|path| path.display().to_string()).unwrap_or_default();
            let message = format!("reading \"{name}\": {}", strerror(&error));
            return session.fail("log", EXIT_FAILURE, &message);
        }
        let Some(last) = piece.last() else { break };
        newline = *last == b'\n';
        // A NUL would end the text early in the kernel.
        piece.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
        let outcome = session.send(&[b"log ".as_slice(), &piece].concat());
        if outcome.status != 0 || outcome.quit {
            return outcome;
        }
    }
    if newline { Outcome::default() } else { session.send(b"log \n") }
}

/// Passes a descriptor inherited by this process. Historic: current kernels
/// do not know the command.
fn umlfs(session: &mut Session, line: &str, number: &str) -> Outcome {
    let open =
        |fd: &i32| Path::new("/proc/self/fd").join(fd.to_string()).symlink_metadata().is_ok();
    match number.parse::<i32>().ok().filter(open) {
        Some(descriptor) => session.send_with(line.as_bytes(), Some(descriptor)),
        None => {
            let message = format!("umlfs needs the number of an open descriptor, not \"{number}\"");
            session.fail(line, EXIT_FAILURE, &message)
        }
    }
}

fn interrupt(session: &mut Session, line: &str) -> Outcome {
    let Some(pid) = session.target.pid else {
        let text = "Cannot determine the PID of your UML session, not sending signal.";
        return session.say(line, text);
    };
    match kill(Pid::from_raw(pid), Signal::SIGINT) {
        Ok(()) => Outcome::default(),
        Err(errno) => {
            let message = format!("sending SIGINT to process {pid}: {}", errno.desc());
            session.fail(line, EXIT_FAILURE, &message)
        }
    }
}
