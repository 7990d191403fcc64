//! Lines typed by a person.

use std::path::PathBuf;
use std::sync::PoisonError;

use rustyline::config::{CompletionType, Config};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Editor, ExternalPrinter};

use crate::completion::{Addressed, ConsoleHelper};
use crate::notify::{Listener, describe};
use crate::session::Session;

const HISTORY_LINES: usize = 1000;

/// Where typed lines are remembered between sessions.
fn history_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = set("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".local/state")))?;
    Some(base.join("uml_mconsole").join("history"))
}

fn open_editor(addressed: Addressed) -> rustyline::Result<Editor<ConsoleHelper, FileHistory>> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .max_history_size(HISTORY_LINES)?
        .history_ignore_dups(true)?
        .history_ignore_space(true)
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(ConsoleHelper::new(addressed)));
    Ok(editor)
}

/// Reads and carries out lines until end of file or `quit`; status 0, as
/// errors were seen by the person typing.
pub fn run(session: &mut Session, listener: Option<Listener>) -> Result<u8, String> {
    let failed = |error: ReadlineError| format!("terminal: {error}");
    let addressed = Addressed::default();
    let mut editor = open_editor(addressed.clone()).map_err(failed)?;
    let history = history_file();
    if let Some(path) = &history {
        // No history yet is the normal first start.
        let _ = editor.load_history(path);
    }
    let socket = listener.as_ref().map(|listener| listener.path().to_owned());
    if let Some(listener) = listener {
        let mut printer = editor.create_external_printer().map_err(failed)?;
        std::thread::spawn(move || {
            while let Ok(event) = listener.next_event() {
                if printer.print(format!("{}\n", describe(&event, false))).is_err() {
                    break;
                }
            }
        });
    }
    let result = read_lines(session, &mut editor, &addressed).map_err(failed);
    if let Some(path) = &history {
        let saved = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .map_err(ReadlineError::from)
            .and_then(|()| editor.save_history(path));
        if let Err(error) = saved {
            session.warn(&format!("history \"{}\" not saved: {error}", path.display()));
        }
    }
    if let Some(socket) = socket {
        // The listening thread ends with the process and cannot do it.
        let _ = std::fs::remove_file(socket);
    }
    result.map(|()| 0)
}

fn read_lines(
    session: &mut Session,
    editor: &mut Editor<ConsoleHelper, FileHistory>,
    addressed: &Addressed,
) -> rustyline::Result<()> {
    loop {
        addressed.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&session.target.socket);
        let line = match editor.readline(&format!("({}) ", session.target.name)) {
            Ok(line) => line,
            // Ctrl-C drops the line, as in a shell.
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => {
                println!();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if line.trim().is_empty() {
            continue;
        }
        editor.add_history_entry(line.as_str())?;
        if session.execute(&line).quit {
            return Ok(());
        }
    }
}
