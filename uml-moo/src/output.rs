//! The new backing file: it gets its name only when it is complete and durable.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;
use uml_formats::host_lock::{LockError, LockKind, lock_holder};

use crate::failure::Failure;
use crate::marker::sync_directory;
use crate::source::Source;

const WHAT: &str = "Output file open";

/// A file under construction.
#[derive(Debug)]
pub struct Output {
    pub file: File,
    target: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Without a name: vanishes with the process.
    Unnamed,
    /// With a temporary name, where the file system has no unnamed files.
    Named(PathBuf),
    /// A block device, written directly.
    Device,
}

impl Output {
    /// Prepares a file that will become `target`.
    pub fn create(target: &Path, source: &Source) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::io(WHAT, target, &error);
        let existing = match fs::metadata(target) {
            Ok(meta) => Some(meta),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        let Some(meta) = existing else { return Self::temporary(target.to_owned(), None) };
        refuse_sources(target, &meta, source)?;
        if meta.file_type().is_block_device() {
            let file = File::options().read(true).write(true).open(target).map_err(failed)?;
            refuse_locked(&file, target)?;
            return Ok(Self { file, target: target.to_owned(), kind: Kind::Device });
        }
        if meta.is_dir() {
            return Err(failed(io::Error::from_raw_os_error(nix::libc::EISDIR)));
        }
        if !meta.is_file() {
            return Err(Failure::new(
                format!("{WHAT}: {}", Errno::EINVAL.desc()),
                format!(
                    "\"{}\" is neither a regular file nor a block device; name a file to create",
                    target.display()
                ),
            ));
        }
        refuse_locked(&File::options().write(true).open(target).map_err(failed)?, target)?;
        // Replace what a symbolic link points to, not the link.
        let target = fs::canonicalize(target).map_err(failed)?;
        Self::temporary(target, Some(meta))
    }

    fn temporary(target: PathBuf, existing: Option<fs::Metadata>) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::io(WHAT, &target, &error);
        let directory = match target.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let (file, kind) = open_unnamed(directory)
            .and_then(|unnamed| match unnamed {
                Some(file) => Ok((file, Kind::Unnamed)),
                None => open_named(&target),
            })
            .map_err(failed)?;
        if let Some(meta) = existing {
            // Whoever could use the old file can use the new one.
            file.set_permissions(Permissions::from_mode(meta.mode() & 0o777)).map_err(failed)?;
            let _ = std::os::unix::fs::fchown(&file, Some(meta.uid()), Some(meta.gid()));
        }
        Ok(Self { file, target, kind })
    }

    /// A block device holds old data, so zeros must be written.
    pub fn is_device(&self) -> bool {
        matches!(self.kind, Kind::Device)
    }

    /// Makes the contents durable without giving the file its name.
    pub fn sync(&self) -> Result<(), Failure> {
        self.file.sync_all().map_err(|error| Failure::io("Writing data", &self.target, &error))
    }

    /// Gives the file its name, replacing an older file, durably.
    pub fn publish(self) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::io("Writing data", &self.target, &error);
        match &self.kind {
            Kind::Device => return Ok(()),
            Kind::Named(name) => fs::rename(name, &self.target).map_err(failed)?,
            Kind::Unnamed => self.link().map_err(failed)?,
        }
        sync_directory(&self.target).map_err(failed)
    }

    fn link(&self) -> io::Result<()> {
        let unnamed = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        let link =
            |name: &Path| linkat(AT_FDCWD, &unnamed, AT_FDCWD, name, AtFlags::AT_SYMLINK_FOLLOW);
        match link(&self.target) {
            Ok(()) => Ok(()),
            Err(Errno::EEXIST) => {
                // linkat(2) cannot replace; rename(2) can.
                let name = temporary_name(&self.target);
                link(&name)?;
                fs::rename(&name, &self.target).inspect_err(|_| {
                    let _ = fs::remove_file(&name);
                })
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Kind::Named(name) = &self.kind {
            // Already renamed away after success.
            let _ = fs::remove_file(name);
        }
    }
}

fn new_file() -> OpenOptions {
    let mut options = File::options();
    options.read(true).write(true).mode(0o644);
    options
}

/// A file without a name; `None` where that is not possible.
fn open_unnamed(directory: &Path) -> io::Result<Option<File>> {
    // It gets its name through /proc, which a chroot may lack.
    if !Path::new("/proc/self/fd").exists() {
        return Ok(None);
    }
    match new_file().custom_flags(nix::libc::O_TMPFILE).open(directory) {
        Ok(file) => Ok(Some(file)),
        Err(error) if unnamed_unsupported(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn open_named(target: &Path) -> io::Result<(File, Kind)> {
    let name = temporary_name(target);
    let file = new_file().create_new(true).open(&name)?;
    Ok((file, Kind::Named(name)))
}

fn unnamed_unsupported(error: &io::Error) -> bool {
    use nix::libc::{EINVAL, EISDIR, ENOENT, EOPNOTSUPP};
    matches!(error.raw_os_error(), Some(EOPNOTSUPP | EISDIR | EINVAL | ENOENT))
}

fn temporary_name(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // Leaves room for the suffix where names are limited to 255 bytes.
    let name: String = name.chars().take(40).collect();
    target.with_file_name(format!(".{name}.uml_moo-{}", std::process::id()))
}

/// The classic tool would empty its own input first.
fn refuse_sources(target: &Path, meta: &fs::Metadata, source: &Source) -> Result<(), Failure> {
    let id = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    let this = Some((meta.dev(), meta.ino()));
    let refuse = |what: &str| {
        Err(Failure::plain(format!("\"{}\" is the {what}; name another file", target.display())))
    };
    if this == id(&source.cow) {
        return refuse("COW file");
    }
    if this == id(&source.backing) {
        return refuse("backing file (uml_moo -d merges into it)");
    }
    Ok(())
}

fn refuse_locked(file: &File, path: &Path) -> Result<(), Failure> {
    match lock_holder(file, LockKind::Exclusive) {
        None => Ok(()),
        Some(pid) => Err(Failure::plain(format!(
            "\"{}\" is {}: a running machine uses it; halt that machine first",
            path.display(),
            LockError::Held { pid }
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(target: &Path) -> Output {
        let (file, kind) = open_named(target).expect("create");
        Output { file, target: target.to_owned(), kind }
    }

    #[test]
    fn without_unnamed_files_a_temporary_name_serves() {
        let dir = tempfile::tempdir().expect("tempdir");
        let target = dir.path().join("out");
        let names = || fs::read_dir(dir.path()).expect("list").count();
        let output = named(&target);
        assert!(!target.exists());
        drop(output);
        assert_eq!(names(), 0, "an abandoned file must go");
        fs::write(&target, "old").expect("old");
        let output = named(&target);
        fs::write(format!("/proc/self/fd/{}", output.file.as_raw_fd()), "new").expect("write");
        assert_eq!(fs::read(&target).expect("read"), b"old");
        output.publish().expect("publish");
        assert_eq!(fs::read(&target).expect("read"), b"new");
        assert_eq!(names(), 1);
    }
}
