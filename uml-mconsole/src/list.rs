//! The running instances.

use std::io::{self, Write};

use serde::Serialize;
use uml_formats::strerror;
use uml_formats::umid::UmlDir;

use crate::connection::is_listening;

/// A line of the list; the JSON field names are stable.
#[derive(Debug, Serialize)]
struct Entry {
    umid: String,
    pid: Option<i32>,
    /// `running`, `no-console` (alive but nobody listens) or `dead`.
    state: &'static str,
    directory: String,
    socket: Option<String>,
}

fn entries(dir: &UmlDir) -> io::Result<Vec<Entry>> {
    let entry = |instance: uml_formats::umid::Instance| {
        let listening = instance.socket.as_deref().is_some_and(is_listening);
        Entry {
            umid: instance.umid,
            pid: instance.pid,
            state: match (listening, instance.alive) {
                (true, _) => "running",
                (false, true) => "no-console",
                (false, false) => "dead",
            },
            directory: instance.directory.display().to_string(),
            socket: instance.socket.map(|path| path.display().to_string()),
        }
    };
    Ok(dir.list()?.into_iter().map(entry).collect())
}

/// Directories in which clients look for instances.
pub fn directories() -> Vec<UmlDir> {
    let home = UmlDir::from_environment().ok();
    let shared = UmlDir::resolve(Some("/tmp/uml".as_ref()), None).ok();
    home.into_iter().chain(shared).collect()
}

/// Prints the instances of this user (`~/.uml`) and those in `/tmp/uml`.
/// Leftovers of dead instances are listed too, marked as such.
pub fn print(json: bool) -> Result<u8, String> {
    let mut found = Vec::new();
    for dir in directories() {
        found.extend(entries(&dir).map_err(|error| {
            format!("\"{}\": {}; check its permissions", dir.path().display(), strerror(&error))
        })?);
    }
    let mut text = String::new();
    if json {
        for entry in &found {
            text += &serde_json::to_string(entry).map_err(|error| error.to_string())?;
            text.push('\n');
        }
    } else if found.is_empty() {
        let _ = writeln!(io::stderr(), "no instances in ~/.uml or /tmp/uml");
    } else {
        let width = found.iter().map(|entry| entry.umid.len()).max().unwrap_or(0).max(4);
        text += &format!("{:<width$}  {:>7}  {:<10}  SOCKET\n", "UMID", "PID", "STATE");
        for entry in &found {
            let pid = entry.pid.map_or("-".to_owned(), |pid| pid.to_string());
            let socket = entry.socket.as_deref().unwrap_or("-");
            let (umid, state) = (&entry.umid, entry.state);
            text += &format!("{umid:<width$}  {pid:>7}  {state:<10}  {socket}\n");
        }
    }
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| format!("standard output: {}", strerror(&error)))?;
    Ok(0)
}
