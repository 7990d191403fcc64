//! Commands from a file or pipe on standard input.

use std::io::BufRead;

use uml_formats::strerror;

use crate::session::Session;

/// Carries out each line; empty lines and lines starting with `#` are
/// skipped. Goes on after an error; the status is that of the first command
/// that failed.
pub fn run(session: &mut Session) -> Result<u8, String> {
    let mut status = 0;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| format!("standard input: {}", strerror(&error)))?;
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let outcome = session.execute(&line);
        if status == 0 {
            status = outcome.status;
        }
        if outcome.quit {
            break;
        }
    }
    Ok(status)
}
