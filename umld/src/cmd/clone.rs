//! `umld clone`: new instances on the same disks, in milliseconds.

use std::path::Path;

use uml_formats::cow;

use crate::cli::CloneArgs;
use crate::cmd::{create, start};
use crate::failure::{Context, Failure, Result, code};
use crate::holder::launch::locked_by;
use crate::instance;
use crate::spec::{self, VmFile};
use crate::state::{Dir, Store};

/// Makes each clone.
pub fn run(a: &CloneArgs) -> Result<u8> {
    let store = Store::open()?;
    let source = instance::find(&store, &a.name)?;
    if !source.dir.exists() {
        let text = format!("instance \"{}\" was started by hand: it has no vm.toml", a.name);
        return Err(Failure::other(text));
    }
    let loaded = spec::load(&source.dir.spec())?;
    super::each(&a.new, |store, name| {
        spec::check::name(name).map_err(|e| Failure::new(code::USAGE, e))?;
        if instance::all(store)?.iter().any(|i| i.name == name) {
            return Err(Failure::new(
                code::BUSY,
                format!("there is an instance \"{name}\" already"),
            ));
        }
        let mut new = loaded.clone();
        create::rename(&mut new, name)?;
        let dir = store.dir(name);
        dir.create()?;
        let made = disks(&mut new.vm, &dir).and_then(|()| {
            for n in &mut new.vm.net {
                n.mac = None;
                let ports = std::mem::take(&mut n.ports);
                if !ports.is_empty() {
                    let ports = ports.join(", ");
                    eprintln!(
                        "umld: {name}: without the ports {ports}, which lead to \"{}\"",
                        a.name
                    );
                }
            }
            new.vm.guest.hostname = new.vm.guest.hostname.take().map(|_| name.to_owned());
            create::define(store, &new, None)
        });
        if let Err(e) = made {
            let _ = std::fs::remove_dir_all(&dir.path);
            return Err(e);
        }
        if a.start {
            start::start(store, name, None, None)?;
        }
        super::print(&format!("{name}\n")).map(|_| ())
    })
}

/// Gives each writable disk a copy-on-write file of its own in `dir`.
fn disks(vm: &mut VmFile, dir: &Dir) -> Result {
    for (k, d) in vm.disk.iter_mut().enumerate() {
        if d.readonly == Some(true) || d.shared == Some(true) {
            continue;
        }
        let target = dir.path.join(format!("disk{k}.cow"));
        let file = d.file.clone().unwrap_or_default();
        match &d.cow {
            // What the source changed is copied, in blocks the host's filesystem shares where it can.
            Some(old) if old.exists() => {
                if let Some(who) = locked_by(old, true) {
                    let text = format!(
                        "{} is in use by {who}; stop it first, its changes are to be copied",
                        old.display()
                    );
                    return Err(Failure::new(code::BUSY, text));
                }
                copy_sparse(old, &target)?;
            }
            _ => {
                if d.cow.is_none()
                    && let Some(who) = locked_by(&file, true)
                {
                    let text = format!(
                        "{} is in use by {who}, which writes to it; give that disk a `cow` file, or stop it",
                        file.display()
                    );
                    return Err(Failure::new(code::BUSY, text));
                }
                new_cow(&target, &file)?;
            }
        }
        d.cow = Some(target);
    }
    Ok(())
}

/// Makes an empty copy-on-write file.
pub fn new_cow(path: &Path, backing: &Path) -> Result {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .at("cannot make", path)?;
    cow::create(&file, backing).map_err(|e| Failure::other(format!("{}: {e}", path.display())))?;
    Ok(())
}

/// Copies a file by reference where the filesystem can, else its data without the holes.
pub fn copy_sparse(from: &Path, to: &Path) -> Result {
    use std::os::unix::fs::FileExt;
    let source = std::fs::File::open(from).at("cannot read", from)?;
    let target = std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(to)
        .at("cannot make", to)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let len = source.metadata().at("cannot read", from)?.len();
    target.set_len(len).at("cannot write", to)?;
    let mut at = 0;
    let mut buf = vec![0; 1 << 20];
    while at < len {
        let data = match rustix::fs::seek(&source, rustix::fs::SeekFrom::Data(at)) {
            Ok(d) => d,
            // Only a hole is left.
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => at,
        };
        let hole = rustix::fs::seek(&source, rustix::fs::SeekFrom::Hole(data)).unwrap_or(len);
        at = data;
        while at < hole {
            let want = buf.len().min((hole - at) as usize);
            let n = source.read_at(&mut buf[..want], at).at("cannot read", from)?;
            if n == 0 {
                break;
            }
            target.write_all_at(&buf[..n], at).at("cannot write", to)?;
            at += n as u64;
        }
        if at < hole {
            break;
        }
    }
    target.sync_data().at("cannot write", to)
}
