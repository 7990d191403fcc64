//! The commands, one module per verb.

pub mod capture;
pub mod check;
pub mod clone;
pub mod completions;
pub mod console;
pub mod cp;
pub mod create;
pub mod doctor;
pub mod events;
pub mod exec;
pub mod explain;
pub mod export;
pub mod import;
pub mod kill;
pub mod list;
pub mod logs;
pub mod manual;
pub mod mconsole;
pub mod merge;
pub mod metrics;
pub mod net;
pub mod pause;
pub mod rename;
pub mod restart;
pub mod restore;
pub mod rm;
pub mod show;
pub mod snapshot;
pub mod start;
pub mod status;
pub mod stop;
pub mod top;

use std::io::{self, Write};
use std::path::Path;

use crate::cli::Command;
use crate::failure::{Failure, Result, code};
use crate::spec::vm::Disk;
use crate::spec::{self, VmFile};
use crate::state::{Dir, Store};

/// Runs a command; the exit status.
pub fn dispatch(command: Command) -> u8 {
    let result = match command {
        Command::Run(a) => crate::run::run(&a).map(|()| 0),
        Command::Start(a) => start::run(&a),
        Command::Stop(a) => stop::run(&a),
        Command::Restart(a) => restart::run(&a),
        Command::Kill(a) => kill::run(&a),
        Command::Pause(a) => pause::run(&a.names, true),
        Command::Resume(a) => pause::run(&a.names, false),
        Command::List(a) => list::run(&a),
        Command::Status(a) => status::run(&a),
        Command::Show(a) => show::run(&a),
        Command::Console(a) => console::run(&a),
        Command::Logs(a) => logs::run(&a),
        Command::Exec(a) => exec::run(&a),
        Command::Cp(a) => cp::run(&a),
        Command::Mconsole(a) => mconsole::run(&a),
        Command::Capture(a) => capture::run(&a),
        Command::Create(a) => create::run(&a),
        Command::Clone(a) => clone::run(&a),
        Command::Snapshot(a) => snapshot::run(&a),
        Command::Restore(a) => restore::run(&a),
        Command::Merge(a) => merge::run(&a),
        Command::Export(a) => export::run(&a),
        Command::Import(a) => import::run(&a),
        Command::Rename(a) => rename::run(&a),
        Command::Rm(a) => rm::run(&a),
        Command::Events(a) => events::run(&a),
        Command::Top(a) => top::run(&a),
        Command::Metrics => metrics::run(),
        Command::Doctor(a) => doctor::run(&a),
        Command::Net(c) => net::run(&c),
        Command::Check(a) => check::run(&a),
        Command::Explain(a) => explain::run(&a),
        Command::Schema => print(&(crate::spec::schema::json() + "\n")),
        Command::Completions(a) => completions::run(&a),
        Command::Image(a) => crate::image::run(&a),
        Command::Up(a) => crate::fleet::up(&a),
        Command::Down(a) => crate::fleet::down(&a),
        Command::Daemon(a) => crate::daemon::run(&a),
        Command::Manual { page } => manual::run(&page),
        Command::Holder { name, adopt, kept, foreground } => {
            return crate::holder::main(&name, adopt, kept, foreground);
        }
        Command::Generator { dirs } => crate::fleet::generator::run(&dirs),
    };
    match result {
        Ok(status) => status,
        Err(e) => {
            complain(&e);
            e.code
        }
    }
}

/// Says on standard error why something failed.
pub fn complain(e: &Failure) {
    // Nothing can be done when stderr is closed.
    let _ = writeln!(io::stderr(), "umld: {e}");
}

/// Writes to standard output. A reader that went away (`| head`) is no failure.
pub fn print(text: &str) -> Result<u8> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::other(format!("standard output: {}", uml_formats::strerror(&e))))
        }
        _ => Ok(0),
    }
}

/// Does something for each name, going on after failures; the status of the first one.
pub fn each(names: &[String], mut f: impl FnMut(&Store, &str) -> Result) -> Result<u8> {
    let store = Store::open()?;
    let mut status = 0;
    for name in names {
        if let Err(e) = f(&store, name) {
            complain(&e);
            if status == 0 {
                status = e.code;
            }
        }
    }
    Ok(status)
}

/// An instance that umld knows and that is down, with its lock held: nobody starts it meanwhile.
pub struct Down {
    /// The instance.
    pub instance: crate::instance::Instance,
    _lock: nix::fcntl::Flock<std::fs::File>,
}

/// Takes a stopped instance for changing it: status 5 while it runs, 1 when umld does not know it.
pub fn take_down(store: &Store, name: &str, what: &str) -> Result<Down> {
    let instance = crate::instance::find(store, name)?;
    if let Some(pid) = instance.pid {
        let text =
            format!("instance \"{name}\" is running (pid {pid}); stop it before it is {what}");
        return Err(Failure::new(code::BUSY, text));
    }
    let _lock = instance.dir.take_lock()?;
    Ok(Down { instance, _lock })
}

/// The refusal when another instance has a disk that is, or lies on, this file.
pub fn other_user(store: &Store, name: &str, file: &Path) -> Result<Option<Failure>> {
    let Ok(wanted) = file.canonicalize() else { return Ok(None) };
    let same =
        |d: &Disk| d.file.as_deref().is_some_and(|p| p.canonicalize().is_ok_and(|p| p == wanted));
    for other in store.names()?.into_iter().filter(|n| n != name) {
        let Ok((_, vm)) = spec::load::read::<VmFile>(&store.dir(&other).spec()) else { continue };
        if vm.disk.iter().any(same) {
            let text = format!("{} is also the disk of instance \"{other}\"", file.display());
            return Ok(Some(Failure::new(code::BUSY, text)));
        }
    }
    Ok(None)
}

/// Refuses to move or delete the directory of an instance (one that was imported) whose disk in it others are made on.
pub fn nobody_needs(store: &Store, dir: &Dir) -> Result {
    let Ok((_, vm)) = spec::load::read::<VmFile>(&dir.spec()) else { return Ok(()) };
    let own = vm.disk.iter().filter_map(|d| d.file.as_deref()).filter(|f| f.starts_with(&dir.path));
    for file in own {
        if let Some(refusal) = other_user(store, &dir.name, file)? {
            return Err(refusal);
        }
    }
    Ok(())
}

/// A table with aligned columns.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for r in rows {
        for (w, c) in widths.iter_mut().zip(r) {
            *w = (*w).max(c.chars().count());
        }
    }
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (c, w) in cells.zip(&widths) {
            text += c;
            text += &" ".repeat(w - c.chars().count() + 2);
        }
        out += text.trim_end();
        out.push('\n');
    };
    line(&mut head.iter().copied());
    for r in rows {
        line(&mut r.iter().map(String::as_str));
    }
    out
}

/// Seconds for people: `12s`, `3m 20s`, `5h 2m`, `4d 3h`.
pub fn span(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    match s {
        0..=59 => format!("{s}s"),
        60..=3599 => format!("{}m {}s", s / 60, s % 60),
        3600..=86399 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86400, s % 86400 / 3600),
    }
}
