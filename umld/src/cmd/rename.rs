//! `umld rename`.

use crate::cli::Rename;
use crate::cmd::take_down;
use crate::failure::{Context, Failure, Result, code};
use crate::spec;
use crate::state::Store;

/// Renames a stopped instance; its own files move along.
pub fn run(a: &Rename) -> Result<u8> {
    let store = Store::open()?;
    spec::check::name(&a.new).map_err(|e| Failure::new(code::USAGE, e))?;
    let down = take_down(&store, &a.old, "renamed")?;
    if crate::instance::all(&store)?.iter().any(|i| i.name == a.new) {
        return Err(Failure::new(
            code::BUSY,
            format!("there is an instance \"{}\" already", a.new),
        ));
    }
    super::nobody_needs(&store, &down.instance.dir)?;
    let (old, new) = (&down.instance.dir, store.dir(&a.new));
    let (_, mut vm): (_, spec::VmFile) = spec::load::read(&old.spec())?;
    vm.vm.name = Some(a.new.clone());
    // Its own copy-on-write files, and the disks that came with an import.
    for path in vm.disk.iter_mut().flat_map(|d| [d.cow.as_mut(), d.file.as_mut()]).flatten() {
        if let Ok(rest) = path.strip_prefix(&old.path) {
            *path = new.path.join(rest);
        }
    }
    let text = toml::to_string_pretty(&vm).map_err(|e| Failure::other(e.to_string()))?;
    std::fs::rename(&old.path, &new.path).at("cannot rename", &old.path)?;
    new.replace("vm.toml", text.as_bytes())?;
    Ok(0)
}
