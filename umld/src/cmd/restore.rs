//! `umld restore`.

use crate::cli::Restore;
use crate::cmd::clone::copy_sparse;
use crate::cmd::snapshot::{check_tag, directory, layers, no_such};
use crate::cmd::take_down;
use crate::failure::{Context, Result};
use crate::spec::{self, VmFile};
use crate::state::{Event, Store, now};

/// Puts the copy-on-write files of a snapshot back. Each is prepared beside its place and moved there whole.
pub fn run(a: &Restore) -> Result<u8> {
    let store = Store::open()?;
    check_tag(&a.tag)?;
    let down = take_down(&store, &a.name, "restored")?;
    let dir = &down.instance.dir;
    let path = directory(dir).join(&a.tag);
    if !path.is_dir() {
        return Err(no_such(&a.name, &a.tag));
    }
    let (_, vm): (_, VmFile) = spec::load::read(&path.join("vm.toml"))?;
    let mut ready = Vec::new();
    for (k, d) in layers(&vm)? {
        let cow = d.cow.unwrap_or_default();
        let mut beside = cow.clone().into_os_string();
        beside.push(".restoring");
        let beside = std::path::PathBuf::from(beside);
        let _ = std::fs::remove_file(&beside);
        copy_sparse(&path.join(format!("disk{k}.cow")), &beside)?;
        ready.push((beside, cow));
    }
    for (beside, cow) in ready {
        std::fs::rename(&beside, &cow).at("cannot restore", &cow)?;
    }
    let name = a.name.clone();
    store.event(&Event { time: now(), name, event: "restore".into(), detail: a.tag.clone() });
    Ok(0)
}
