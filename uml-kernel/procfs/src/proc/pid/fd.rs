//! `/proc/<pid>/fd` and `/proc/<pid>/fdinfo` (proc_pid_fd(5), proc_pid_fdinfo(5)).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::file::File;
use uml_core::task::Task;
use uml_core::vfs::Path;

use super::{FileAccess, OwnAccess, Target, links};
use crate::synth::{Directory, Entry, Link, Spec, Text, TextFn};

/// What links to open files say their size is.
pub const LINK_SIZE: u64 = 64;

/// A descriptor number as a name.
fn parse(name: &[u8]) -> Option<i32> {
    if name.len() > 1 && name[0] == b'0' || !name.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(name).ok()?.parse().ok()
}

fn file_of(t: &Target, fd: i32) -> Result<Arc<File>> {
    t.task()?.files().get(fd).map_err(|_| ENOENT)
}

fn entries(t: &Target, reader: &Task, kind: u32) -> Result<Vec<Entry>> {
    let task = t.inspect(reader)?;
    Ok(task.files().list().iter().map(|fd| Entry::new(fd.to_string(), kind)).collect())
}

struct Links(Target);

pub fn dir(t: &Target) -> Spec {
    Spec::dir(Links(t.clone())).access(OwnAccess::new(t))
}

impl Directory for Links {
    fn lookup(&self, name: &[u8]) -> Result<Spec> {
        let fd = parse(name).ok_or(ENOENT)?;
        let file = file_of(&self.0, fd)?;
        // The permission bits say how the file is open.
        let mut mode = 0;
        if file.readable() || file.is_path() {
            mode |= 0o500;
        }
        if file.writable() || file.is_path() {
            mode |= 0o300;
        }
        let access = Arc::new(FileAccess(self.0.clone()));
        Ok(Spec::link(FdLink { target: self.0.clone(), fd }).mode(mode).access(access))
    }

    fn list(&self, reader: &Task) -> Result<Vec<Entry>> {
        entries(&self.0, reader, libc::S_IFLNK)
    }

    fn keeps(&self, _: &[u8]) -> bool {
        // The descriptor may have come to mean another file.
        false
    }
}

struct FdLink {
    target: Target,
    fd: i32,
}

impl FdLink {
    fn path(&self, reader: &Task) -> Result<Path> {
        self.target.inspect(reader)?;
        Ok(file_of(&self.target, self.fd)?.path.clone())
    }
}

impl Link for FdLink {
    fn readlink(&self, task: &Task) -> Result<Vec<u8>> {
        Ok(links::text(&self.path(task)?, task))
    }

    fn follow(&self, task: &Task) -> Option<Result<Path>> {
        Some(self.path(task))
    }

    fn size(&self) -> u64 {
        LINK_SIZE
    }
}

struct Infos(Target);

pub fn info_dir(t: &Target) -> Spec {
    Spec::dir(Infos(t.clone())).access(OwnAccess::new(t))
}

fn info(t: &Target, fd: i32, reader: &Task, out: &mut Text) -> Result<()> {
    let task = t.inspect(reader)?;
    let table = task.files();
    let file = table.get(fd).map_err(|_| ENOENT)?;
    let cloexec = if table.cloexec(fd)? { libc::O_CLOEXEC as u32 } else { 0 };
    // Programs of this architecture see O_LARGEFILE set on whatever was opened by name.
    let large = if file.path.dentry.is_anonymous() { 0 } else { 0o100_000 };
    let ino = file.path.metadata().map_or(0, |m| m.ino);
    writeln!(out, "pos:\t{}", file.pos());
    writeln!(out, "flags:\t0{:o}", file.flags() | cloexec | large);
    writeln!(out, "mnt_id:\t{}", file.path.mnt.id);
    writeln!(out, "ino:\t{ino}");
    file.ops.show_fdinfo(&t.mnt.pid_ns, out.bytes_mut());
    Ok(())
}

impl Directory for Infos {
    fn lookup(&self, name: &[u8]) -> Result<Spec> {
        let fd = parse(name).ok_or(ENOENT)?;
        file_of(&self.0, fd)?;
        let t = self.0.clone();
        let text = TextFn::new(move |reader, out| info(&t, fd, reader, out));
        Ok(Spec::file(0o400, text).access(Arc::new(FileAccess(self.0.clone()))))
    }

    fn list(&self, reader: &Task) -> Result<Vec<Entry>> {
        entries(&self.0, reader, libc::S_IFREG)
    }

    fn keeps(&self, name: &[u8]) -> bool {
        parse(name).is_some_and(|fd| file_of(&self.0, fd).is_ok())
    }
}
