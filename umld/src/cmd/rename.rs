//! `umld rename`.

use crate::cli::Rename;
use crate::cmd::take_down;
use crate::failure::{Context, Failure, Result, code};
use crate::spec;
use crate::state::Store;

/// Renames a stopped instance; its own copy-on-write files move along.
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
    let (old, new) = (&down.instance.dir, store.dir(&a.new));
    let (_, mut vm): (_, spec::VmFile) = spec::load::read(&old.spec())?;
    vm.vm.name = Some(a.new.clone());
    for d in &mut vm.disk {
        if let Some(c) = d.cow.as_mut()
            && let Ok(rest) = c.strip_prefix(&old.path)
        {
            *c = new.path.join(rest);
        }
    }
    let text = toml::to_string_pretty(&vm).map_err(|e| Failure::other(e.to_string()))?;
    std::fs::rename(&old.path, &new.path).at("cannot rename", &old.path)?;
    new.replace("vm.toml", text.as_bytes())?;
    Ok(0)
}
