//! `umld snapshot`: layers of the copy-on-write disks of a stopped instance.
//!
//! A snapshot is a directory `snapshots/TAG` beside the instance's vm.toml with a copy of every COW file as it is now (by
//! reference where the host's filesystem can, else without holes) and of vm.toml. It appears under its name when it is
//! complete.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::Snapshot;
use crate::cmd::clone::copy_sparse;
use crate::cmd::events::stamp;
use crate::cmd::{print, table, take_down};
use crate::failure::{Context, Failure, Result, code};
use crate::instance;
use crate::spec::values::human;
use crate::spec::vm::Disk;
use crate::spec::{self, VmFile};
use crate::state::{Dir, Event, Store, now};

/// Directory of the snapshots.
pub fn directory(dir: &Dir) -> PathBuf {
    dir.path.join("snapshots")
}

/// The COW disks of an instance, with their position; a failure names those that are none.
pub fn layers(vm: &VmFile) -> Result<Vec<(usize, Disk)>> {
    let mut found = Vec::new();
    for (k, d) in vm.disk.iter().enumerate() {
        if d.cow.is_some() {
            found.push((k, d.clone()));
        } else if d.readonly != Some(true) {
            let file = d.file.clone().unwrap_or_default();
            return Err(Failure::other(format!(
                "disk {} is changed in place; snapshots need a `cow` file for it in vm.toml",
                file.display()
            )));
        }
    }
    if found.is_empty() {
        return Err(Failure::other(
            "there is no disk with a `cow` file, so there is nothing to keep",
        ));
    }
    Ok(found)
}

/// Whether a tag can be a file name.
pub fn check_tag(tag: &str) -> Result {
    spec::check::name(tag)
        .map_err(|e| Failure::new(code::USAGE, e.replace("name", "snapshot name")))
}

/// Makes, lists or deletes.
pub fn run(a: &Snapshot) -> Result<u8> {
    let store = Store::open()?;
    if a.list {
        return list(a, &store);
    }
    if let Some(tag) = &a.delete {
        check_tag(tag)?;
        let down = take_down(&store, &a.name, "changed")?;
        let path = directory(&down.instance.dir).join(tag);
        if !path.is_dir() {
            return Err(no_such(&a.name, tag));
        }
        let grave = directory(&down.instance.dir).join(format!(".{tag}.removed"));
        // Of one that was killed at it.
        let _ = std::fs::remove_dir_all(&grave);
        std::fs::rename(&path, &grave).at("cannot remove", &path)?;
        std::fs::remove_dir_all(&grave).at("cannot remove", &grave)?;
        return Ok(0);
    }
    let down = take_down(&store, &a.name, "snapshot")?;
    let tag = match &a.tag {
        Some(t) => t.clone(),
        None => stamp(now()).replace(' ', "T").replace(':', ""),
    };
    take(&store, &down.instance.dir, &tag)?;
    print(&format!("{tag}\n"))
}

/// The failure for a tag that is not there.
pub fn no_such(name: &str, tag: &str) -> Failure {
    Failure::new(
        code::NO_INSTANCE,
        format!("instance \"{name}\" has no snapshot \"{tag}\"; see: umld snapshot --list {name}"),
    )
}

/// Makes a snapshot; the caller has the instance's lock.
pub fn take(store: &Store, dir: &Dir, tag: &str) -> Result {
    check_tag(tag)?;
    let (_, vm): (_, VmFile) = spec::load::read(&dir.spec())?;
    let path = directory(dir).join(tag);
    if path.exists() {
        return Err(Failure::new(code::BUSY, format!("there is a snapshot \"{tag}\" already")));
    }
    let building = directory(dir).join(format!(".{tag}.new"));
    let _ = std::fs::remove_dir_all(&building);
    std::fs::create_dir_all(&building).at("cannot make", &building)?;
    for (k, d) in layers(&vm)? {
        let cow = d.cow.clone().unwrap_or_default();
        if !cow.exists() {
            // Never started: its first state is that of the backing file.
            crate::cmd::clone::new_cow(&cow, &d.file.clone().unwrap_or_default())?;
        }
        if let Some(who) = crate::holder::launch::locked_by(&cow, true) {
            return Err(Failure::new(code::BUSY, format!("{} is in use by {who}", cow.display())));
        }
        copy_sparse(&cow, &building.join(format!("disk{k}.cow")))?;
    }
    std::fs::copy(dir.spec(), building.join("vm.toml")).at("cannot copy", &dir.spec())?;
    std::fs::rename(&building, &path).at("cannot make", &path)?;
    store.event(&Event {
        time: now(),
        name: dir.name.clone(),
        event: "snapshot".into(),
        detail: tag.into(),
    });
    Ok(())
}

fn list(a: &Snapshot, store: &Store) -> Result<u8> {
    use std::os::unix::fs::MetadataExt;
    let i = instance::find(store, &a.name)?;
    let mut found = Vec::new();
    for e in std::fs::read_dir(directory(&i.dir)).into_iter().flatten().flatten() {
        let Ok(tag) = e.file_name().into_string() else { continue };
        if tag.starts_with('.') {
            continue;
        }
        let files = std::fs::read_dir(e.path()).into_iter().flatten().flatten();
        let bytes: u64 = files.filter_map(|f| Some(f.metadata().ok()?.blocks() * 512)).sum();
        let time = e.metadata().map_or(0.0, |m| m.mtime() as f64);
        found.push((time, tag, bytes));
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    if a.json {
        let all: Vec<_> =
            found.iter().map(|(t, tag, b)| json!({"tag": tag, "time": t, "bytes": b})).collect();
        return print(&format!("{}\n", json!(all)));
    }
    if a.quiet {
        return print(&found.iter().map(|f| format!("{}\n", f.1)).collect::<String>());
    }
    let rows: Vec<Vec<String>> =
        found.into_iter().map(|(t, tag, b)| vec![tag, stamp(t), human(b)]).collect();
    print(&table(&["SNAPSHOT", "TIME", "SIZE"], &rows))
}
