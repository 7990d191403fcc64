//! `umld clone`: new instances on the same disks.
//!
//! What the source changed is copied: in no time where the host's filesystem shares blocks, else as data without holes.
//! The copies of all clones are made first, then flushed together; then each becomes an instance in one step, by the
//! rename of its directory. One that is killed before leaves a directory that no command shows, and that the next clone
//! removes.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::fcntl::Flock;
use uml_formats::cow;

use crate::cli::CloneArgs;
use crate::cmd::{create, start};
use crate::failure::{Context, Failure, Result, code};
use crate::holder::launch::locked_by;
use crate::instance;
use crate::spec::{self, Loaded, VmFile};
use crate::state::{Dir, Event, Status, Store, now};

/// Directories of clones that are being made begin with this.
const UNFINISHED: &str = ".clone.";

/// Makes the clones; the status of the first that fails.
pub fn run(a: &CloneArgs) -> Result<u8> {
    let store = Store::open()?;
    let source = instance::find(&store, &a.name)?;
    if !source.dir.exists() {
        let text = format!("instance \"{}\" was started by hand: it has no vm.toml", a.name);
        return Err(Failure::other(text));
    }
    // Nobody starts or changes it meanwhile. While it runs, each disk is looked at.
    let _unchanged = if source.pid.is_none() { Some(source.dir.share_lock()?) } else { None };
    let loaded = spec::load(&source.dir.spec())?;
    sweep(&store);
    let mut status = 0;
    let mut failed = |e: Failure| {
        super::complain(&e);
        status = if status == 0 { e.code } else { status };
    };
    let mut begun = Vec::new();
    for name in &a.new {
        match Unfinished::begin(&store, &loaded, &a.name, name) {
            Ok(u) => begun.push(u),
            Err(e) => failed(e),
        }
    }
    let copied = copy_all(begun.iter().flat_map(|u| &u.copies));
    let mut made = Vec::new();
    for u in begun {
        // What failed is that of a file in its directory.
        let why = copied.iter().find(|(to, _)| to.starts_with(&u.dir.path));
        let name = u.loaded.name.clone();
        match why.map_or_else(|| u.finish(&store), |(_, e)| Err(e.clone())) {
            Ok(()) => made.push(name),
            Err(e) => failed(e),
        }
    }
    for name in made {
        let started = if a.start { start::start(&store, &name, None, None) } else { Ok(()) };
        match started.and_then(|()| super::print(&format!("{name}\n"))) {
            Ok(_) => {}
            Err(e) => failed(e),
        }
    }
    Ok(status)
}

/// Removes what clones left that were killed.
fn sweep(store: &Store) {
    for e in std::fs::read_dir(&store.base).into_iter().flatten().flatten() {
        let Ok(name) = e.file_name().into_string() else { continue };
        if !name.starts_with(UNFINISHED) {
            continue;
        }
        if let Ok(Some(_lock)) = lock_now(&store.dir(&name)) {
            let _ = std::fs::remove_dir_all(e.path());
        }
    }
}

/// The lock of a directory that may be moved or removed by whoever has it; none when somebody has.
fn lock_now(dir: &Dir) -> Result<Option<Flock<File>>> {
    let path = dir.lock();
    let file = File::options().append(true).create(true).open(&path).at("cannot open", &path)?;
    let Ok(lock) = Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock) else {
        return Ok(None);
    };
    let inode = |m: std::fs::Metadata| (m.dev(), m.ino());
    let same = std::fs::metadata(&path).map(inode).ok() == lock.metadata().map(inode).ok();
    Ok(same.then_some(lock))
}

/// A clone on its way.
struct Unfinished {
    loaded: Loaded,
    /// Where it is made.
    dir: Dir,
    /// Files to be copied: from, to.
    copies: Vec<(PathBuf, PathBuf)>,
    /// Held until it is an instance, or gone.
    _lock: Flock<File>,
    done: bool,
}

impl Unfinished {
    /// Makes its directory, with everything in it but copies.
    fn begin(store: &Store, source: &Loaded, from: &str, name: &str) -> Result<Unfinished> {
        spec::check::name(name).map_err(|e| Failure::new(code::USAGE, e))?;
        let exists =
            || Failure::new(code::BUSY, format!("there is an instance \"{name}\" already"));
        if instance::look_up(store, name).is_some() {
            return Err(exists());
        }
        let mut loaded = source.clone();
        create::rename(&mut loaded, name)?;
        for n in &mut loaded.vm.net {
            n.mac = None;
            let ports = std::mem::take(&mut n.ports);
            if !ports.is_empty() {
                let ports = ports.join(", ");
                eprintln!("umld: {name}: without the ports {ports}, which lead to \"{from}\"");
            }
        }
        loaded.vm.guest.hostname = loaded.vm.guest.hostname.take().map(|_| name.to_owned());
        let dir = store.dir(&format!("{UNFINISHED}{name}"));
        dir.create()?;
        // Somebody makes one of this name, or removes a rest of one.
        let _lock = lock_now(&dir)?.ok_or_else(exists)?;
        let mut u = Unfinished { loaded, dir, copies: Vec::new(), _lock, done: false };
        u.copies = disks(&mut u.loaded.vm, &u.dir, &store.dir(name))?;
        let text = toml::to_string_pretty(&u.loaded.vm)
            .map_err(|e| Failure::other(format!("instance \"{name}\": {e}")))?;
        u.dir.save_status(&Status::default())?;
        u.dir.replace("vm.toml", text.as_bytes())?;
        Ok(u)
    }

    /// Makes it an instance.
    fn finish(mut self, store: &Store) -> Result {
        let name = self.loaded.name.clone();
        let dir = store.dir(&name);
        dir.clear_rest()?;
        std::fs::rename(&self.dir.path, &dir.path).map_err(|e| match e.kind() {
            std::io::ErrorKind::DirectoryNotEmpty => {
                Failure::new(code::BUSY, format!("there is an instance \"{name}\" already"))
            }
            _ => Failure::io("cannot make", &dir.path, &e),
        })?;
        self.done = true;
        store.event(&Event { time: now(), name, event: "create".into(), detail: String::new() });
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.done {
            let _ = std::fs::remove_dir_all(&self.dir.path);
        }
    }
}

/// Gives each writable disk a copy-on-write file of its own, made in `dir` and to be found in `later`. Those that have
/// something in them are the result: from, to.
fn disks(vm: &mut VmFile, dir: &Dir, later: &Dir) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut copies = Vec::new();
    for (k, d) in vm.disk.iter_mut().enumerate() {
        if d.readonly == Some(true) || d.shared == Some(true) {
            continue;
        }
        let member = format!("disk{k}.cow");
        let target = dir.path.join(&member);
        let _ = std::fs::remove_file(&target);
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
                copies.push((old.clone(), target));
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
        d.cow = Some(later.path.join(member));
    }
    Ok(copies)
}

/// Copies files and flushes them to the disk, as many at a time as the host has CPUs; those that failed.
fn copy_all<'a>(copies: impl Iterator<Item = &'a (PathBuf, PathBuf)>) -> Vec<(PathBuf, Failure)> {
    let failed = Mutex::new(Vec::new());
    let note = |to: &Path, e: Failure| {
        failed.lock().unwrap_or_else(|p| p.into_inner()).push((to.to_owned(), e));
    };
    let unflushed = Mutex::new(Vec::new());
    in_parallel(copies.collect(), |(from, to)| match copy(from, to) {
        Ok(None) => {}
        Ok(Some(file)) => {
            unflushed.lock().unwrap_or_else(|p| p.into_inner()).push((to, file));
        }
        Err(e) => note(to, e),
    });
    // All the data is on its way by now, and the journals of the filesystem's are few.
    let files = unflushed.into_inner().unwrap_or_else(|p| p.into_inner());
    in_parallel(files, |(to, file)| {
        if let Err(e) = file.sync_data().at("cannot write", to) {
            note(to, e);
        }
    });
    failed.into_inner().unwrap_or_else(|p| p.into_inner())
}

/// Does something with each item, in as many threads as the host has CPUs.
fn in_parallel<T: Send>(items: Vec<T>, f: impl Fn(T) + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(items.len());
    let queue = Mutex::new(items.into_iter());
    let next = || queue.lock().unwrap_or_else(|p| p.into_inner()).next();
    let work = || {
        while let Some(item) = next() {
            f(item);
        }
    };
    std::thread::scope(|s| {
        (1..threads).for_each(|_| drop(s.spawn(work)));
        work();
    });
}

/// Makes an empty copy-on-write file.
pub fn new_cow(path: &Path, backing: &Path) -> Result {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .at("cannot make", path)?;
    cow::create(&file, backing).map_err(|e| Failure::other(format!("{}: {e}", path.display())))?;
    Ok(())
}

/// Copies a file by reference where the filesystem can, else its data without the holes, and flushes it.
pub fn copy_sparse(from: &Path, to: &Path) -> Result {
    match copy(from, to)? {
        None => Ok(()),
        Some(file) => file.sync_data().at("cannot write", to),
    }
}

/// The same without the flush: the file that needs one.
fn copy(from: &Path, to: &Path) -> Result<Option<File>> {
    let source = File::open(from).at("cannot read", from)?;
    let target =
        File::options().read(true).write(true).create_new(true).open(to).at("cannot make", to)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(None);
    }
    let len = source.metadata().at("cannot read", from)?.len();
    target.set_len(len).at("cannot write", to)?;
    let mut at = 0;
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
            match copy_some(&source, &target, at, hole - at).at("cannot copy to", to)? {
                // The file has become shorter.
                0 => return Ok(Some(target)),
                n => at += n,
            }
        }
    }
    Ok(Some(target))
}

/// Copies some of `len` bytes at `at`; how many.
fn copy_some(source: &File, target: &File, at: u64, len: u64) -> std::io::Result<u64> {
    use rustix::io::Errno;
    use std::os::unix::fs::FileExt;
    let (mut from, mut to) = (at, at);
    let step = usize::try_from(len).unwrap_or(usize::MAX);
    match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), step) {
        // Not between these filesystems.
        Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) | Ok(0) => {}
        Err(Errno::INTR) => return copy_some(source, target, at, len),
        copied => return Ok(copied? as u64),
    }
    let mut buf = vec![0; step.min(1 << 20)];
    let n = source.read_at(&mut buf, at)?;
    target.write_all_at(&buf[..n], at)?;
    Ok(n as u64)
}
