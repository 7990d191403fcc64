//! `umld create`: an instance that is not started yet.

use std::path::Path;

use crate::cli::Create;
use crate::failure::{Context, Failure, Result, code};
use crate::spec::{self, Loaded};
use crate::state::{Dir, Event, Status, Store, now};

/// Defines it.
pub fn run(a: &Create) -> Result<u8> {
    let store = Store::open()?;
    let mut loaded = spec::load(&a.file)?;
    if let Some(n) = &a.name {
        rename(&mut loaded, n)?;
    }
    define(&store, &loaded, a.name.is_none().then_some(a.file.as_path()))?;
    super::print(&format!("{}\n", loaded.name))
}

/// Gives a machine that was read another name.
pub fn rename(loaded: &mut Loaded, name: &str) -> Result {
    spec::check::name(name).map_err(|e| Failure::new(code::USAGE, e))?;
    loaded.name = name.to_owned();
    loaded.vm.vm.name = Some(name.to_owned());
    Ok(())
}

/// Keeps the complete vm.toml of an instance; status 5 while it runs. `source` is read again at later starts.
pub fn define(store: &Store, loaded: &Loaded, source: Option<&Path>) -> Result {
    let dir = store.dir(&loaded.name);
    dir.create()?;
    if let Some(pid) = running(store, &loaded.name)? {
        return Err(Failure::new(
            code::BUSY,
            format!("instance \"{}\" is running already (pid {pid})", loaded.name),
        ));
    }
    let _lock = dir.take_lock()?;
    write(store, &dir, loaded, source)
}

/// The same for who has the lock of the directory.
pub fn write(store: &Store, dir: &Dir, loaded: &Loaded, source: Option<&Path>) -> Result {
    let new = !dir.exists();
    let text = toml::to_string_pretty(&loaded.vm)
        .map_err(|e| Failure::other(format!("instance \"{}\": {e}", loaded.name)))?;
    match source {
        Some(s) => {
            let absolute = std::path::absolute(s).at("cannot find", s)?;
            dir.replace("source", absolute.as_os_str().as_encoded_bytes())?;
        }
        None => drop(std::fs::remove_file(dir.source())),
    }
    dir.replace("vm.toml", text.as_bytes())?;
    if new {
        dir.save_status(&Status::default())?;
        let name = loaded.name.clone();
        store.event(&Event { time: now(), name, event: "create".into(), detail: String::new() });
    }
    Ok(())
}

/// The pid of the running kernel of this name.
fn running(store: &Store, name: &str) -> Result<Option<i32>> {
    Ok(crate::instance::all(store)?.into_iter().find(|i| i.name == name).and_then(|i| i.pid))
}
