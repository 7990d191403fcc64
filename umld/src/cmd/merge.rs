//! `umld merge`.

use uml_moo::args::{Action, Options};
use uml_moo::progress::ProgressMode;

use crate::cli::{Merge, ProgressWhen};
use crate::cmd::snapshot::{directory, layers};
use crate::cmd::take_down;
use crate::failure::{Context, Failure, Result, code};
use crate::holder::launch::locked_by;
use crate::spec::{self, VmFile, check::disk_unit, check::disk_units};
use crate::state::{Event, Store, now};

/// uml_moo's word for how to show progress.
pub fn mode(p: ProgressWhen) -> ProgressMode {
    match p {
        ProgressWhen::Auto => ProgressMode::Auto,
        ProgressWhen::Plain => ProgressMode::Plain,
        ProgressWhen::Json => ProgressMode::Json,
        ProgressWhen::None => ProgressMode::None,
    }
}

/// Merges in place, by uml_moo: restartable after a crash. Clones of the backing file would be broken by it, so other
/// instances and snapshots on it are looked for first.
pub fn run(a: &Merge) -> Result<u8> {
    let store = Store::open()?;
    let down = take_down(&store, &a.name, "merged")?;
    let dir = &down.instance.dir;
    let (_, vm): (_, VmFile) = spec::load::read(&dir.spec())?;
    let wanted = match &a.disk {
        Some(d) => Some(disk_unit(d).ok_or_else(|| {
            Failure::new(code::USAGE, format!("no such disk \"{d}\"; expected ubda to ubdp"))
        })?),
        None => None,
    };
    let units = disk_units(&vm);
    let mut merged = 0;
    for (k, d) in layers(&vm)? {
        let unit = units.iter().find(|(_, u)| u.cow == d.cow).map_or(k as u32, |(u, _)| *u);
        if wanted.is_some_and(|w| w != unit) {
            continue;
        }
        let (cow, backing) =
            (d.cow.clone().unwrap_or_default(), d.file.clone().unwrap_or_default());
        if !cow.exists() {
            continue;
        }
        alone(&store, &a.name, &backing)?;
        if std::fs::read_dir(directory(dir)).is_ok_and(|mut e| e.next().is_some()) {
            let text =
                "it has snapshots, which would no longer fit the backing file; delete them first";
            return Err(Failure::new(code::BUSY, format!("instance \"{}\": {text}", a.name)));
        }
        for path in [&cow, &backing] {
            if let Some(who) = locked_by(path, false) {
                return Err(Failure::new(
                    code::BUSY,
                    format!("{} is in use by {who}", path.display()),
                ));
            }
        }
        let options = Options {
            action: Action::InPlace,
            cow: cow.clone(),
            backing: None,
            verify: false,
            json: false,
            progress: mode(a.progress),
        };
        uml_moo::run("umld", &options).map_err(|f| {
            let text = [f.line.clone(), f.detail.clone()].into_iter().flatten().collect::<Vec<_>>();
            Failure::other(format!("merge of {}: {}", cow.display(), text.join(": ")))
        })?;
        // The changes are in the backing file: an empty layer takes the old one's place.
        let mut new = cow.clone().into_os_string();
        new.push(".new");
        let new = std::path::PathBuf::from(new);
        let _ = std::fs::remove_file(&new);
        crate::cmd::clone::new_cow(&new, &backing)?;
        std::fs::rename(&new, &cow).at("cannot replace", &cow)?;
        merged += 1;
    }
    let detail = format!("{merged} disks");
    store.event(&Event { time: now(), name: a.name.clone(), event: "merge".into(), detail });
    if merged == 0 {
        return Err(Failure::other(format!("instance \"{}\": there was nothing to merge", a.name)));
    }
    Ok(0)
}

/// Refuses when another instance has a layer on the same backing file.
fn alone(store: &Store, name: &str, backing: &std::path::Path) -> Result {
    match super::other_user(store, name, backing)? {
        Some(e) => Err(Failure { text: format!("{e}, which the merge would damage"), ..e }),
        None => Ok(()),
    }
}
