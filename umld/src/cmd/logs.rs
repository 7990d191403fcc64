//! `umld logs`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::cli::Logs;
use crate::failure::{Context, Failure, Result};
use crate::instance;
use crate::state::Store;

/// Prints a log.
pub fn run(a: &Logs) -> Result<u8> {
    let store = Store::open()?;
    let i = instance::find(&store, &a.name)?;
    let what = match &a.console {
        _ if a.kernel => "kernel".to_owned(),
        _ if a.supervisor => "supervisor".to_owned(),
        Some(line) if !line.is_empty() => line.clone(),
        _ => i.status.lines.first().cloned().unwrap_or("con0".into()),
    };
    let path = i.dir.log(&what);
    if !path.is_file() {
        let known: Vec<String> = std::fs::read_dir(&i.dir.path)
            .into_iter()
            .flatten()
            .filter_map(|e| e.ok()?.file_name().to_str()?.strip_suffix(".log").map(str::to_owned))
            .collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        let text = format!("instance \"{}\" has no log of \"{what}\"; it has: {known}", a.name);
        return Err(Failure::other(text));
    }
    // Watched before the first look, so that nothing is missed between.
    let watch = a.follow.then(|| Watch::new(&path)).transpose()?;
    let mut file = File::open(&path).at("cannot read", &path)?;
    if let Some(n) = a.lines {
        super::print(&lines(&tail(&path, n)))?;
        file.seek(SeekFrom::End(0)).at("cannot read", &path)?;
    } else if !copy(&mut file, &path)? {
        return Ok(0);
    }
    if let Some(w) = watch {
        follow(file, &path, &w)?;
    }
    Ok(0)
}

fn lines(list: &[String]) -> String {
    list.iter().map(|l| format!("{l}\n")).collect()
}

/// The last `n` lines of a file.
pub fn tail(path: &Path, n: usize) -> Vec<String> {
    const LOOK: u64 = 1 << 20;
    let Ok(mut f) = File::open(path) else { return Vec::new() };
    let len = f.metadata().map_or(0, |m| m.len());
    let mut bytes = Vec::new();
    let read =
        f.seek(SeekFrom::Start(len.saturating_sub(LOOK))).and_then(|_| f.read_to_end(&mut bytes));
    if read.is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(n)..].iter().map(|l| (*l).to_owned()).collect()
}

/// Prints to the end; false when the reader went away.
fn copy(file: &mut File, path: &Path) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match std::io::copy(file, &mut out).and_then(|_| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Failure::io("cannot print", path, &e)),
    }
}

/// Tells when a file grows or is replaced.
pub struct Watch(Inotify);

impl Watch {
    /// Watches a file and its directory.
    pub fn new(path: &Path) -> Result<Watch> {
        let failed = |e: nix::errno::Errno| Failure::io("cannot watch", path, &e.into());
        let i = Inotify::init(InitFlags::IN_CLOEXEC).map_err(failed)?;
        i.add_watch(path, AddWatchFlags::IN_MODIFY).map_err(failed)?;
        if let Some(dir) = path.parent() {
            i.add_watch(dir, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)
                .map_err(failed)?;
        }
        Ok(Watch(i))
    }

    /// Waits for a change.
    pub fn wait(&self) -> Result {
        loop {
            match self.0.read_events() {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(Failure::other(format!("cannot watch: {e}"))),
            }
        }
    }
}

/// Prints what is added, for ever; goes over to a new file when this one is set aside.
pub fn follow(mut file: File, path: &Path, watch: &Watch) -> Result {
    use std::os::unix::fs::MetadataExt;
    loop {
        if !copy(&mut file, path)? {
            return Ok(());
        }
        watch.wait()?;
        let new = std::fs::metadata(path).map(|m| m.ino()).ok();
        let old = file.metadata().map(|m| m.ino()).ok();
        if new.is_some() && new != old {
            if !copy(&mut file, path)? {
                return Ok(());
            }
            file = File::open(path).at("cannot read", path)?;
            let _ = watch.0.add_watch(path, AddWatchFlags::IN_MODIFY);
        }
    }
}
