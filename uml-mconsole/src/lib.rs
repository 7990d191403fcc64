//! `uml_mconsole`: talks to the management console of a running instance.
//!
//! * [`args`] – command line. [`target`] – which instance.
//! * [`connection`] – one request and its answer. [`session`] – a command
//!   line, local or sent to the kernel, and how its answer is shown.
//! * [`local`] – commands carried out here; [`ubd_paths`] – file names made
//!   absolute in `config ubd`.
//! * [`repl`], [`completion`], [`script`] – lines from a person or a file.
//! * [`notify`] – notifications from the kernel. [`list`] – all instances.
//!
//! Protocol and directories come from `uml_formats`. The stock client's
//! output is kept (`OK ...`, `ERR ...`). No locks.
#![forbid(unsafe_code)]

pub mod args;
pub mod completion;
pub mod connection;
pub mod list;
pub mod local;
pub mod notify;
pub mod repl;
pub mod script;
pub mod session;
pub mod target;
pub mod ubd_paths;

use std::io::{IsTerminal, Write};
use std::path::Path;

use args::Args;
use session::Session;
use target::Target;

/// Exit status when the tool itself failed.
pub const EXIT_FAILURE: u8 = 1;
/// Exit status when the kernel did not answer in time, as timeout(1) has it.
pub const EXIT_TIMEOUT: u8 = 124;

/// Runs with a parsed command line; returns the exit status.
pub fn run(args: Args) -> u8 {
    let asked = (args.json, args.name.clone(), args.command.join(" "));
    match dispatch(args) {
        Ok(status) => status,
        Err(message) if asked.0 => {
            let (_, name, command) = asked;
            session::print_failure(name.as_deref(), &command, &message, &[]);
            EXIT_FAILURE
        }
        Err(message) => {
            // Nothing can be done when stderr is closed.
            let _ = writeln!(std::io::stderr(), "uml_mconsole: {message}");
            EXIT_FAILURE
        }
    }
}

fn dispatch(args: Args) -> Result<u8, String> {
    let Some(name) = args.name.as_deref() else {
        if let Some(path) = &args.notify {
            return notify::follow(Path::new(path), args.json);
        }
        return list::print(args.json);
    };
    let target = Target::find(name)?;
    let mut session = Session::new(target, args.timeout(), args.json);
    if !args.command.is_empty() {
        let line = args.command.join(" ");
        return Ok(session.execute(&line).status);
    }
    let listener = args.notify.as_deref().map(|path| notify::Listener::bind(Path::new(path)));
    let listener = listener.transpose()?;
    if std::io::stdin().is_terminal() {
        repl::run(&mut session, listener)
    } else {
        let socket = listener.map(|listener| listener.print_in_background(args.json));
        let result = script::run(&mut session);
        if let Some(socket) = socket {
            // The listening thread ends with the process and cannot do it.
            let _ = std::fs::remove_file(socket);
        }
        result
    }
}
