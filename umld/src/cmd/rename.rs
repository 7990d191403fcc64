//! `umld rename`.
//!
//! The description that goes with the new name is written beside the directory first. A rename that is killed between the
//! two steps, the directory's and the description's, is completed by the next command ([`complete`]).

use std::path::PathBuf;

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
    let pending = pending(&store, &a.old, &a.new);
    std::fs::write(&pending, text).at("cannot write", &pending)?;
    if let Err(e) = std::fs::rename(&old.path, &new.path).at("cannot rename", &old.path) {
        let _ = std::fs::remove_file(&pending);
        return Err(e);
    }
    std::fs::rename(&pending, new.spec()).at("cannot write", &new.spec())?;
    Ok(0)
}

/// Pending descriptions begin with this.
const PENDING: &str = ".rename.";

/// The description of a rename that is not complete. No name has a colon in it.
fn pending(store: &Store, old: &str, new: &str) -> PathBuf {
    store.base.join(format!("{PENDING}{old}:{new}"))
}

/// Completes, or drops, the renames that were killed.
pub fn complete(store: &Store) {
    for e in std::fs::read_dir(&store.base).into_iter().flatten().flatten() {
        let name = e.file_name();
        let Some((old, new)) = name
            .to_str()
            .and_then(|n| n.strip_prefix(PENDING))
            .and_then(|names| names.split_once(':'))
        else {
            continue;
        };
        let (old, new) = (store.dir(old), store.dir(new));
        let Some(dir) = [&old, &new].into_iter().find(|d| d.exists()) else {
            let _ = std::fs::remove_file(e.path());
            continue;
        };
        // Held by a rename that goes on.
        let Ok(_lock) = dir.take_lock() else { continue };
        let _ = match old.exists() {
            true => std::fs::remove_file(e.path()),
            // Gone when that rename has done it meanwhile.
            false => std::fs::rename(e.path(), new.spec()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renames_that_were_killed_are_completed_or_dropped() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::at(home.path());
        let make = |name: &str| {
            store.dir(name).create().unwrap();
            store.dir(name).replace("vm.toml", name.as_bytes()).unwrap();
        };
        // Killed before the directory moved, and after.
        make("a");
        std::fs::write(pending(&store, "a", "b"), "b").unwrap();
        make("d");
        std::fs::write(pending(&store, "c", "d"), "new").unwrap();
        // One that goes on.
        make("f");
        let lock = store.dir("f").take_lock().unwrap();
        std::fs::write(pending(&store, "e", "f"), "later").unwrap();
        complete(&store);
        let text = |name: &str| std::fs::read_to_string(store.dir(name).spec()).unwrap();
        assert_eq!((text("a").as_str(), text("d").as_str(), text("f").as_str()), ("a", "new", "f"));
        assert!(!store.dir("b").exists());
        assert!(pending(&store, "e", "f").exists());
        drop(lock);
        complete(&store);
        assert_eq!(text("f"), "later");
        let left = |e: std::fs::DirEntry| e.file_name().to_string_lossy().starts_with('.');
        assert!(!std::fs::read_dir(&store.base).unwrap().flatten().any(left));
    }
}
