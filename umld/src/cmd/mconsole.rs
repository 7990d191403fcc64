//! `umld mconsole`.

use crate::cli::Mconsole;
use crate::failure::{Failure, Result, code};
use crate::state::Store;
use crate::{instance, mconsole};

/// Sends a command, or starts uml_mconsole's dialogue.
pub fn run(a: &Mconsole) -> Result<u8> {
    let store = Store::open()?;
    let socket = instance::find(&store, &a.name)?.console()?;
    mconsole::admitted(&socket)?;
    let name = socket.to_string_lossy().into_owned();
    let mut words = vec!["uml_mconsole".to_owned()];
    if a.json {
        words.push("--json".into());
    }
    words.push(name);
    words.extend(a.command.iter().cloned());
    let args = <uml_mconsole::args::Args as clap::Parser>::try_parse_from(words)
        .map_err(|e| Failure::new(code::USAGE, e.to_string()))?;
    Ok(match uml_mconsole::run(args) {
        uml_mconsole::EXIT_TIMEOUT => code::TIMEOUT,
        status => status,
    })
}
