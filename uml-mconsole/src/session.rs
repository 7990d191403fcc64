//! A command line and the presentation of its answer.

use std::io::{self, IsTerminal, Write};
use std::os::fd::RawFd;
use std::time::Duration;

use uml_formats::mconsole::Reply;

use crate::connection::{ClientError, exchange};
use crate::local;
use crate::target::Target;
use crate::ubd_paths::absolute_paths;
use crate::{EXIT_FAILURE, EXIT_TIMEOUT};

/// What became of a command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Exit status if this were the only command.
    pub status: u8,
    /// The user wants to leave.
    pub quit: bool,
}

impl Outcome {
    pub(crate) fn status(status: u8) -> Self {
        Self { status, quit: false }
    }
}

/// The instance addressed and how to talk to it.
#[derive(Debug)]
pub struct Session {
    pub target: Target,
    timeout: Option<Duration>,
    json: bool,
}

/// The exit status for an error number of the kernel: its low byte, as the
/// stock client has it, but never 0.
fn status_of(err: i32) -> u8 {
    match (err, err as u8) {
        (0, _) => 0,
        (_, 0) => EXIT_FAILURE,
        (_, low) => low,
    }
}

impl Session {
    pub fn new(target: Target, timeout: Option<Duration>, json: bool) -> Self {
        Self { target, timeout, json }
    }

    /// Carries out one line, prints its result and returns its status.
    pub fn execute(&mut self, line: &str) -> Outcome {
        let line = line.trim_end();
        match machine_prefix(line) {
            // `X:command` addresses another machine for this one command.
            Some((name, command)) => {
                let other = match Target::find(name) {
                    Ok(other) => other,
                    Err(message) => return self.fail(line, EXIT_FAILURE, &message),
                };
                let here = std::mem::replace(&mut self.target, other);
                let outcome = self.execute_here(command.trim_start());
                self.target = here;
                outcome
            }
            None => self.execute_here(line),
        }
    }

    fn execute_here(&mut self, line: &str) -> Outcome {
        if line.is_empty() {
            return Outcome::default();
        }
        if let Some(outcome) = local::execute(self, line) {
            return outcome;
        }
        let (command, warnings) = absolute_paths(line);
        for warning in warnings {
            self.warn(&warning);
        }
        self.send(command.as_bytes())
    }

    /// Sends a command to the kernel and prints the answer.
    pub(crate) fn send(&mut self, command: &[u8]) -> Outcome {
        self.send_with(command, None)
    }

    /// The same, with a descriptor attached to the request.
    pub(crate) fn send_with(&mut self, command: &[u8], descriptor: Option<RawFd>) -> Outcome {
        match exchange(&self.target.socket, command, descriptor, self.timeout) {
            Ok(reply) => self.answer(command, &reply),
            Err(error) => {
                let (status, partial) = match &error {
                    ClientError::Timeout { partial, .. } => (EXIT_TIMEOUT, partial.as_slice()),
                    _ => (EXIT_FAILURE, &[][..]),
                };
                let command = String::from_utf8_lossy(command);
                if self.json {
                    let message = error.to_string();
                    let value = failure(Some(&self.target.name), &command, &message, partial);
                    return self.emit(Outcome::status(status), value.as_bytes());
                }
                if !partial.is_empty() {
                    self.emit(Outcome::default(), partial);
                }
                self.fail(&command, status, &error.to_string())
            }
        }
    }

    fn answer(&self, command: &[u8], reply: &Reply) -> Outcome {
        let outcome = Outcome::status(status_of(reply.err));
        if self.json {
            return self.emit(
                outcome,
                serde_json::json!({
                    "name": self.target.name,
                    "command": String::from_utf8_lossy(command),
                    "ok": reply.err == 0,
                    "err": reply.err,
                    "text": String::from_utf8_lossy(&reply.text),
                })
                .to_string()
                .as_bytes(),
            );
        }
        let mut line = if reply.err == 0 { b"OK ".to_vec() } else { b"ERR ".to_vec() };
        line.extend(&reply.text);
        self.emit(outcome, &line)
    }

    /// Prints the result of a local command.
    pub(crate) fn say(&self, command: &str, text: &str) -> Outcome {
        if self.json {
            let value = serde_json::json!({
                "name": self.target.name, "command": command, "ok": true, "err": 0, "text": text,
            });
            return self.emit(Outcome::default(), value.to_string().as_bytes());
        }
        self.emit(Outcome::default(), text.as_bytes())
    }

    /// Reports a command that got no answer.
    pub(crate) fn fail(&self, command: &str, status: u8, message: &str) -> Outcome {
        let outcome = Outcome::status(status);
        if self.json {
            let value = failure(Some(&self.target.name), command, message, &[]);
            return self.emit(outcome, value.as_bytes());
        }
        self.warn(message);
        outcome
    }

    pub(crate) fn warn(&self, message: &str) {
        let _ = writeln!(io::stderr(), "uml_mconsole: {message}");
    }

    fn emit(&self, outcome: Outcome, line: &[u8]) -> Outcome {
        let mut stdout = io::stdout().lock();
        let shown = if stdout.is_terminal() { printable(line) } else { line.to_vec() };
        let result = stdout
            .write_all(&shown)
            .and_then(|()| stdout.write_all(b"\n"))
            .and_then(|()| stdout.flush());
        match result {
            Ok(()) => outcome,
            // The reader has gone: there is nobody to go on for.
            Err(_) => Outcome { status: outcome.status.max(EXIT_FAILURE), quit: true },
        }
    }
}

/// A command that got no answer, or not all of it, as JSON.
fn failure(name: Option<&str>, command: &str, message: &str, partial: &[u8]) -> String {
    let mut value = serde_json::json!({
        "name": name, "command": command, "ok": false, "err": null, "error": message,
    });
    if !partial.is_empty() {
        value["text"] = String::from_utf8_lossy(partial).into();
    }
    value.to_string()
}

/// Prints such a failure when no session came about.
pub(crate) fn print_failure(name: Option<&str>, command: &str, message: &str, partial: &[u8]) {
    // Nothing can be done when stdout is closed.
    let _ = writeln!(io::stdout(), "{}", failure(name, command, message, partial));
}

/// A leading `X:` with a single-character machine name.
fn machine_prefix(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.split_once(':')?;
    (name.chars().count() == 1 && !name.starts_with(char::is_whitespace)).then_some((name, rest))
}

/// Text from a guest made safe for a terminal: control characters other than
/// newline and tab become `^X`, invalid UTF-8 becomes `\xNN`.
pub fn printable(bytes: &[u8]) -> Vec<u8> {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' | '\t' => out.push(c),
                '\r' => {}
                c if c.is_ascii_control() => {
                    out.push('^');
                    out.push(char::from((c as u8) ^ 0x40));
                }
                c if c.is_control() => out.push(char::REPLACEMENT_CHARACTER),
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_the_stock_client() {
        let cases = [(0, 0), (1, 1), (-22, 234), (-16, 240), (-19, 237), (-2, 254), (256, 1)];
        for (err, status) in cases {
            assert_eq!(status_of(err), status, "{err}");
        }
    }

    #[test]
    fn terminals_are_protected() {
        assert_eq!(printable(b"a\x1b]0;evil\x07b\r\n\tc"), b"a^[]0;evil^Gb\n\tc");
        assert_eq!(printable(b"\xff\xc3\xa4"), "\\xff\u{e4}".as_bytes());
        assert_eq!(printable("\u{9b}31m".as_bytes()), "\u{fffd}31m".as_bytes());
    }

    #[test]
    fn only_one_letter_names_address_another_machine() {
        assert_eq!(machine_prefix("a:version"), Some(("a", "version")));
        assert_eq!(machine_prefix("config vec0:transport=tap"), None);
        assert_eq!(machine_prefix(" :x"), None);
    }
}
