//! `umld cp`: files in and out. A running guest's own tar(1) does its side, started through the door; a stopped
//! instance's disk is read and written by the ext4 library.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use uml_formats::door::Request;

use crate::cli::Cp;
use crate::cmd::exec::run_in;
use crate::disk_fs::DiskFs;
use crate::failure::{Context, Failure, Result, code};
use crate::guest_files::root_disk;
use crate::instance::{self, Instance};
use crate::spec::{self, VmFile};
use crate::state::Store;

enum Place {
    Host(PathBuf),
    Guest(Box<Instance>, String),
}

fn place(store: &Store, text: &str) -> Result<Place> {
    match text.split_once(':') {
        Some((name, path)) if !name.contains('/') && !name.is_empty() => {
            if !path.starts_with('/') {
                let m = format!("{text}: expected an absolute path in the guest, as {name}:/root");
                return Err(Failure::new(code::USAGE, m));
            }
            Ok(Place::Guest(Box::new(instance::find(store, name)?), path.to_owned()))
        }
        _ => Ok(Place::Host(text.into())),
    }
}

/// Copies.
pub fn run(a: &Cp) -> Result<u8> {
    let store = Store::open()?;
    match (place(&store, &a.source)?, place(&store, &a.target)?) {
        (Place::Host(from), Place::Guest(i, to)) => {
            from.symlink_metadata().at("cannot read", &from)?;
            if i.pid.is_some() {
                into_running(&i, &from, &to)?
            } else {
                on_disk(&i, true, |fs| fs.copy_in(&from, &to))?
            }
        }
        (Place::Guest(i, from), Place::Host(to)) => {
            if i.pid.is_some() {
                out_of_running(&i, &from, &to)?
            } else {
                on_disk(&i, false, |fs| fs.copy_out(&from, &to))?
            }
        }
        (Place::Guest(..), Place::Guest(..)) => {
            return Err(Failure::new(
                code::USAGE,
                "one of the two must be on the host; copy in two steps",
            ));
        }
        (Place::Host(_), Place::Host(_)) => {
            return Err(Failure::new(
                code::USAGE,
                "neither is in an instance: expected NAME:PATH for one of them",
            ));
        }
    }
    Ok(0)
}

/// Works on the root disk of a stopped instance, under its lock.
fn on_disk(i: &Instance, write: bool, f: impl FnOnce(&DiskFs) -> Result) -> Result {
    if !i.dir.exists() {
        return Err(i.is_stopped());
    }
    let _lock = i.dir.take_lock()?;
    let (_, vm): (_, VmFile) = spec::load::read(&i.dir.spec())?;
    let disk = root_disk(&vm).map_err(|e| {
        Failure::new(e.code, format!("instance \"{}\" is stopped, and {e}", i.name))
    })?;
    let fs = DiskFs::open(&disk, write)?;
    let done = f(&fs);
    // What was written before a failure is complete, too.
    fs.close().and(done)
}

fn tar(args: &[&str]) -> Request {
    let env = vec![b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_vec()];
    let args = std::iter::once(&"tar").chain(args).map(|w| w.as_bytes().to_vec()).collect();
    Request { args, env, cwd: b"/".to_vec(), ..Request::default() }
}

fn guest_tar(i: &Instance, r: &Request, input: impl AsFd, output: impl AsFd) -> Result {
    let err = std::io::stderr();
    match run_in(i, r, [input.as_fd(), output.as_fd(), err.as_fd()]) {
        Ok(0) => Ok(()),
        Ok(n) => {
            Err(Failure::other(format!("tar in instance \"{}\" failed with status {n}", i.name)))
        }
        Err(e) if e.code == code::NOT_FOUND => Err(Failure::new(
            code::UNAVAILABLE,
            format!(
                "the guest \"{}\" has no tar, which copying needs; stop it and copy then, or use exec with cat",
                i.name
            ),
        )),
        Err(e) => Err(e),
    }
}

/// Whether a path is a directory in the guest.
fn is_dir(i: &Instance, path: &str) -> Result<bool> {
    let r = Request {
        args: ["sh", "-c", "[ -d \"$1\" ]", "sh", path].map(|w| w.as_bytes().to_vec()).to_vec(),
        ..tar(&[])
    };
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .at("cannot open", Path::new("/dev/null"))?;
    Ok(run_in(i, &r, [null.as_fd(), null.as_fd(), null.as_fd()])? == 0)
}

fn into_running(i: &Instance, from: &Path, to: &str) -> Result {
    let base = from.file_name().map(PathBuf::from);
    let base = base
        .or_else(|| from.canonicalize().ok()?.file_name().map(PathBuf::from))
        .unwrap_or("files".into());
    let (dir, name) = if to.ends_with('/') || is_dir(i, to)? {
        (to, base)
    } else {
        let (dir, name) = to.rsplit_once('/').unwrap_or(("/", to));
        (if dir.is_empty() { "/" } else { dir }, PathBuf::from(name))
    };
    let (read, write) = std::io::pipe().map_err(|e| Failure::other(format!("no pipe: {e}")))?;
    let null =
        File::options().write(true).open("/dev/null").at("cannot open", Path::new("/dev/null"))?;
    let source = from.to_owned();
    let packer = std::thread::spawn(move || -> std::io::Result<()> {
        let mut b = tar::Builder::new(write);
        b.follow_symlinks(false);
        if source.is_dir() && !source.is_symlink() {
            b.append_dir_all(&name, &source)?;
        } else {
            b.append_path_with_name(&source, &name)?;
        }
        b.into_inner()?.flush()
    });
    let unpacked = guest_tar(i, &tar(&["-C", dir, "-xf", "-"]), &read, &null);
    // The packer ends when nobody reads.
    drop(read);
    let packed = packer.join().map_err(|_| Failure::other("packing failed"))?;
    unpacked?;
    packed.at("cannot read", from)
}

fn out_of_running(i: &Instance, from: &str, to: &Path) -> Result {
    let trimmed = from.trim_end_matches('/');
    let (dir, base) = trimmed.rsplit_once('/').unwrap_or(("", "."));
    let (dir, base) =
        (if dir.is_empty() { "/" } else { dir }, if base.is_empty() { "." } else { base });
    let (mut read, write) = std::io::pipe().map_err(|e| Failure::other(format!("no pipe: {e}")))?;
    let null = File::open("/dev/null").at("cannot open", Path::new("/dev/null"))?;
    // Unpacked beside its place, so that a failure leaves nothing half done, and renamed.
    let (parent, name) = if to.is_dir() {
        (to.to_owned(), PathBuf::from(if base == "." { "root" } else { base }))
    } else {
        let name = to.file_name().map(PathBuf::from).ok_or_else(|| {
            Failure::new(code::USAGE, format!("{} is no name for a file", to.display()))
        })?;
        (
            to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned(),
            name,
        )
    };
    let staging = parent.join(format!(".umld-cp.{}", std::process::id()));
    std::fs::create_dir(&staging).at("cannot make", &staging)?;
    let inside = staging.clone();
    let unpacker = std::thread::spawn(move || {
        let mut archive = tar::Archive::new(&mut read);
        archive.set_preserve_permissions(false);
        // The guest is not trusted: the library refuses names that lead outside.
        let unpacked = archive.unpack(&inside);
        // What follows the archive's end must be taken, or tar gets SIGPIPE.
        let mut rest = [0; 4096];
        while read.read(&mut rest).is_ok_and(|n| n > 0) {}
        unpacked
    });
    let packed = guest_tar(i, &tar(&["-C", dir, "-cf", "-", "--", base]), &null, &write);
    drop(write);
    let unpacked = unpacker.join().map_err(|_| Failure::other("unpacking failed"));
    let placed =
        packed.and_then(|()| unpacked?.at("cannot unpack into", &staging)).and_then(|()| {
            let what = if base == "." { staging.clone() } else { staging.join(base) };
            let target = parent.join(&name);
            if target.is_dir() && !target.is_symlink() && what.is_dir() {
                return Err(Failure::new(
                    code::BUSY,
                    format!("{} is there already", target.display()),
                ));
            }
            std::fs::rename(&what, &target).at("cannot place", &target)
        });
    let _ = std::fs::remove_dir_all(&staging);
    placed
}
