//! The ext4 filesystem on a disk image of a stopped instance, plain or copy-on-write.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use uml_abi::Errno;
use uml_abi::errno::{EIO, ELOOP, ENOENT, ENOTDIR, EROFS};
use uml_ext4::{BlockStore, Ext4, FileType, NewInode, Options, ROOT_INO, SetAttr};
use uml_formats::cow::{BitmapPolicy, Device, DeviceSpec, open_device};

use crate::failure::{Context, Failure, Result, code};
use crate::spec::vm::Disk;

/// Bytes moved at a time.
const STEP: usize = 1 << 20;
/// Symbolic links followed in one path, as Linux.
const MAX_LINKS: usize = 40;
/// Directories below one another in a copy.
const MAX_DEPTH: usize = 256;

/// An opened disk as the filesystem engine sees it.
struct Image(Device);

impl BlockStore for Image {
    fn size(&self) -> u64 {
        match &self.0 {
            Device::Plain { size, .. } => *size,
            Device::Cow { image, .. } => image.disk_size(),
        }
    }

    fn read_at(&self, off: u64, buf: &mut [u8]) -> uml_abi::Result<()> {
        match &self.0 {
            Device::Plain { file, .. } => Ok(file.read_exact_at(buf, off)?),
            Device::Cow { image, .. } => Ok(image.read_at(buf, off)?),
        }
    }

    fn write_at(&self, off: u64, buf: &[u8]) -> uml_abi::Result<()> {
        if !self.writable() {
            return Err(EROFS);
        }
        match &self.0 {
            Device::Plain { file, .. } => Ok(file.write_all_at(buf, off)?),
            Device::Cow { image, .. } => Ok(image.write_at(buf, off)?),
        }
    }

    fn flush(&self) -> uml_abi::Result<()> {
        match &self.0 {
            Device::Plain { file, .. } => Ok(file.sync_data()?),
            Device::Cow { image, .. } => Ok(image.flush()?),
        }
    }

    fn writable(&self) -> bool {
        match &self.0 {
            Device::Plain { read_only, .. } | Device::Cow { read_only, .. } => !read_only,
        }
    }
}

/// A mounted filesystem. Changes are complete on the image once [`DiskFs::close`] returned.
pub struct DiskFs {
    fs: Ext4,
    name: String,
}

type Inner<T> = std::result::Result<T, Errno>;

impl DiskFs {
    /// Opens a disk, making its COW file if it is missing and to be written. Status 5 when a machine uses it.
    pub fn open(disk: &Disk, write: bool) -> Result<DiskFs> {
        let file = disk.file.clone().ok_or_else(|| Failure::other("a disk without a file"))?;
        let (file, backing) = match &disk.cow {
            // Nothing was changed yet: to read, the backing file says it all.
            Some(c) if !write && !c.exists() => (file, None),
            Some(c) => (c.clone(), Some(file)),
            None => (file, None),
        };
        let name = file.display().to_string();
        if let Some(who) = crate::holder::launch::locked_by(&file, !write) {
            return Err(Failure::new(code::BUSY, format!("disk {name} is in use by {who}")));
        }
        let spec = DeviceSpec {
            file,
            backing,
            read_only: !write,
            sync: false,
            shared: disk.shared == Some(true),
            plain: false,
            policy: BitmapPolicy::OnFlush,
        };
        let device = open_device(&spec, &mut |_| {})
            .map_err(|e| Failure::other(format!("disk {name}: {e}")))?;
        let options = Options { read_only: !write, ..Options::default() };
        let fs = Ext4::open(Arc::new(Image(device)), options).map_err(|e| {
            Failure::other(format!("disk {name} has no usable ext4 filesystem: {e}"))
        })?;
        Ok(DiskFs { fs, name })
    }

    /// Writes everything back.
    pub fn close(self) -> Result {
        let DiskFs { fs, name } = self;
        fs.unmount().map_err(|e| Failure::other(format!("disk {name}: {e}")))
    }

    fn failed(&self, path: &str) -> impl Fn(Errno) -> Failure {
        let what = format!("{}:{path}", self.name);
        move |e| Failure::other(format!("{what}: {e}"))
    }

    /// The directory and last name of a path whose directory exists, links followed; the root has no name.
    fn walk(
        &self,
        start: u32,
        path: &[u8],
        links: &mut usize,
        follow_last: bool,
    ) -> Inner<(u32, u32, Vec<u8>)> {
        let mut dir = if path.starts_with(b"/") { ROOT_INO } else { start };
        let mut at = dir;
        let mut last = Vec::new();
        let parts: Vec<&[u8]> =
            path.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".").collect();
        for (i, part) in parts.iter().enumerate() {
            let is_last = i + 1 == parts.len();
            if at == 0 {
                return Err(ENOENT);
            }
            dir = at;
            if self.fs.attr(dir)?.mode & 0o170_000 != 0o040_000 {
                return Err(ENOTDIR);
            }
            last = part.to_vec();
            at = match self.fs.lookup(dir, part) {
                Err(ENOENT) if is_last => 0,
                r => r?,
            };
            let link = at != 0 && self.fs.attr(at)?.mode & 0o170_000 == 0o120_000;
            if link && (!is_last || follow_last) {
                *links += 1;
                if *links > MAX_LINKS {
                    return Err(ELOOP);
                }
                let target = self.fs.readlink(at)?;
                (dir, at, last) = self.walk(dir, &target, links, true)?;
            }
        }
        Ok((dir, at, last))
    }

    /// The inode of a path.
    pub fn lookup(&self, path: &str) -> Result<u32> {
        let found = self.walk(ROOT_INO, path.as_bytes(), &mut 0, true);
        match found.map_err(self.failed(path))? {
            (_, 0, _) => Err(self.failed(path)(ENOENT)),
            (_, ino, _) => Ok(ino),
        }
    }

    /// Whether a path exists.
    pub fn exists(&self, path: &str) -> bool {
        self.lookup(path).is_ok()
    }

    /// The contents of a small file, at most `max` bytes.
    pub fn read(&self, path: &str, max: usize) -> Result<Vec<u8>> {
        let ino = self.lookup(path)?;
        let size = self.fs.attr(ino).map_err(self.failed(path))?.size.min(max as u64);
        let mut buf = vec![0; usize::try_from(size).unwrap_or(max)];
        let n = self.fs.read(ino, 0, &mut buf).map_err(self.failed(path))?;
        buf.truncate(n);
        Ok(buf)
    }

    /// Makes a directory and those above it.
    pub fn mkdir_all(&self, path: &str) -> Result<u32> {
        let mut at = String::new();
        let mut ino = ROOT_INO;
        for part in path.split('/').filter(|p| !p.is_empty()) {
            at += "/";
            at += part;
            let (dir, found, name) =
                self.walk(ROOT_INO, at.as_bytes(), &mut 0, true).map_err(self.failed(&at))?;
            ino = if found != 0 {
                found
            } else {
                self.fs
                    .mkdir(dir, &name, &NewInode::new(0o040_755, 0, 0))
                    .map_err(self.failed(&at))?
            };
        }
        Ok(ino)
    }

    /// Writes a file, replacing what it held; its directories are made. It belongs to root.
    pub fn write(&self, path: &str, contents: &[u8], mode: u16) -> Result {
        if let Some((dir, _)) = path.rsplit_once('/') {
            self.mkdir_all(dir)?;
        }
        let ino = self.create_at(path, mode, 0, 0)?;
        self.fs.write(ino, 0, contents, true).map_err(self.failed(path))
    }

    /// Writes a file, keeping owner and permissions of an old one; a new one gets `mode`.
    pub fn write_keeping(&self, path: &str, contents: &[u8], mode: u16) -> Result {
        let Ok(ino) = self.lookup(path) else { return self.write(path, contents, mode) };
        self.fs.truncate(ino, 0).map_err(self.failed(path))?;
        self.fs.write(ino, 0, contents, true).map_err(self.failed(path))
    }

    /// Sets permissions.
    pub fn set_mode(&self, ino: u32, mode: u16) -> Result {
        let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
        self.fs.setattr(ino, &set).map_err(self.failed(""))
    }

    /// What is known of the whole filesystem.
    pub fn statfs(&self) -> Result<uml_ext4::Statfs> {
        self.fs.statfs().map_err(self.failed(""))
    }

    /// Makes a symbolic link, replacing what has its name unless that is a directory.
    pub fn symlink(&self, path: &str, target: &str) -> Result {
        let put = || -> Inner<()> {
            let (dir, old, name) = self.walk(ROOT_INO, path.as_bytes(), &mut 0, false)?;
            if old != 0 {
                self.remove_name(dir, &name)?;
            }
            self.fs
                .symlink(dir, &name, target.as_bytes(), &NewInode::new(0o120_777, 0, 0))
                .map(|_| ())
        };
        put().map_err(self.failed(path))
    }

    fn remove_name(&self, dir: u32, name: &[u8]) -> Inner<()> {
        let gone = self.fs.unlink(dir, name)?;
        if gone.links == 0 { self.fs.forget(gone.ino) } else { Ok(()) }
    }

    /// An empty file of this path; an existing regular one is emptied.
    fn create_at(&self, path: &str, mode: u16, uid: u32, gid: u32) -> Result<u32> {
        let (dir, old, name) =
            self.walk(ROOT_INO, path.as_bytes(), &mut 0, true).map_err(self.failed(path))?;
        self.create_in(dir, old, &name, mode, uid, gid).map_err(self.failed(path))
    }

    fn create_in(
        &self,
        dir: u32,
        old: u32,
        name: &[u8],
        mode: u16,
        uid: u32,
        gid: u32,
    ) -> Inner<u32> {
        if old != 0 && self.fs.attr(old)?.mode & 0o170_000 == 0o100_000 {
            self.fs.truncate(old, 0)?;
            self.fs.setattr(old, &SetAttr { mode: Some(mode), ..SetAttr::default() })?;
            return Ok(old);
        }
        if old != 0 {
            self.remove_name(dir, name)?;
        }
        self.fs.create(dir, name, &NewInode::new(0o100_000 | mode & 0o7777, uid, gid))
    }

    /// Copies a file or tree of the host to `path`; below it when it is a directory there.
    pub fn copy_in(&self, source: &Path, path: &str) -> Result {
        let base = source.file_name().unwrap_or(OsStr::new(".")).as_bytes().to_vec();
        let (mut dir, mut old, mut name) =
            self.walk(ROOT_INO, path.as_bytes(), &mut 0, true).map_err(self.failed(path))?;
        let is_dir =
            |ino: u32| ino != 0 && self.fs.attr(ino).is_ok_and(|a| a.mode & 0o170_000 == 0o040_000);
        if name.is_empty() || is_dir(old) || path.ends_with('/') {
            let into = if name.is_empty() { ROOT_INO } else { old };
            if !is_dir(into) {
                return Err(self.failed(path)(ENOTDIR));
            }
            (dir, name) = (into, base);
            old = self.fs.lookup(dir, &name).unwrap_or(0);
        }
        self.put(source, dir, old, &name, 0)
    }

    fn put(&self, source: &Path, dir: u32, old: u32, name: &[u8], depth: usize) -> Result {
        let meta = source.symlink_metadata().at("cannot read", source)?;
        let shown = source.display().to_string();
        let failed = self.failed(&shown);
        let mode = (meta.permissions().mode() & 0o7777) as u16;
        let kind = meta.file_type();
        let times = SetAttr {
            mtime: Some(uml_ext4::Timestamp { sec: meta.mtime(), nsec: meta.mtime_nsec() as u32 }),
            ..SetAttr::default()
        };
        if kind.is_dir() {
            if depth > MAX_DEPTH {
                return Err(Failure::other(format!("{shown}: directories nested too deeply")));
            }
            let ino = match old {
                0 => self
                    .fs
                    .mkdir(dir, name, &NewInode::new(0o040_000 | mode, 0, 0))
                    .map_err(&failed)?,
                old => old,
            };
            for e in std::fs::read_dir(source).at("cannot list", source)? {
                let e = e.at("cannot list", source)?;
                let name = e.file_name();
                let old = self.fs.lookup(ino, name.as_bytes()).unwrap_or(0);
                self.put(&e.path(), ino, old, name.as_bytes(), depth + 1)?;
            }
            return self.fs.setattr(ino, &times).map_err(&failed);
        }
        if kind.is_symlink() {
            let target = std::fs::read_link(source).at("cannot read", source)?;
            if old != 0 {
                self.remove_name(dir, name).map_err(&failed)?;
            }
            let new = NewInode::new(0o120_777, 0, 0);
            let made = self.fs.symlink(dir, name, target.as_os_str().as_bytes(), &new);
            return made.map(|_| ()).map_err(&failed);
        }
        if !kind.is_file() {
            return Err(Failure::other(format!(
                "{shown} is neither a file, a link nor a directory"
            )));
        }
        let mut file = File::open(source).at("cannot read", source)?;
        let ino = self.create_in(dir, old, name, mode, 0, 0).map_err(&failed)?;
        let mut buf = vec![0; STEP];
        let mut off = 0;
        loop {
            let n = file.read(&mut buf).at("cannot read", source)?;
            if n == 0 {
                break;
            }
            self.fs.write(ino, off, &buf[..n], true).map_err(&failed)?;
            off += n as u64;
        }
        self.fs.setattr(ino, &times).map_err(&failed)
    }

    /// Copies a file or tree to the host, to `target`, or below it when it is a directory. Names come from an untrusted
    /// image: none leads outside.
    pub fn copy_out(&self, path: &str, target: &Path) -> Result {
        let ino = self.lookup(path)?;
        let base = Path::new(path).file_name().unwrap_or(OsStr::new("root"));
        let target = if target.is_dir() { target.join(base) } else { target.to_owned() };
        self.get(ino, &target, 0)
    }

    fn get(&self, ino: u32, target: &Path, depth: usize) -> Result {
        let shown = target.display().to_string();
        let failed = self.failed(&shown);
        let attr = self.fs.attr(ino).map_err(&failed)?;
        let permissions = std::fs::Permissions::from_mode(u32::from(attr.mode) & 0o7777);
        match FileType::from_mode(attr.mode) {
            FileType::Directory => {
                if depth > MAX_DEPTH {
                    return Err(Failure::other(format!("{shown}: directories nested too deeply")));
                }
                match std::fs::create_dir(target) {
                    Err(e)
                        if e.kind() == std::io::ErrorKind::AlreadyExists
                            && target.is_dir()
                            && !target.is_symlink() => {}
                    r => r.at("cannot make", target)?,
                }
                let mut entries = Vec::new();
                let listed = self.fs.readdir(ino, 0, &mut |e| {
                    entries.push((e.ino, e.name.to_vec()));
                    true
                });
                listed.map_err(&failed)?;
                for (ino, name) in entries {
                    if name == b"." || name == b".." || name.contains(&b'/') || name.is_empty() {
                        continue;
                    }
                    self.get(ino, &target.join(OsStr::from_bytes(&name)), depth + 1)?;
                }
                std::fs::set_permissions(target, permissions).at("cannot change", target)
            }
            FileType::Symlink => {
                let to = self.fs.readlink(ino).map_err(&failed)?;
                let _ = std::fs::remove_file(target);
                std::os::unix::fs::symlink(OsStr::from_bytes(&to), target).at("cannot make", target)
            }
            FileType::Regular => {
                let _ = std::fs::remove_file(target);
                let mut file = File::create_new(target).at("cannot make", target)?;
                let mut buf = vec![0; STEP];
                let mut off = 0;
                while off < attr.size {
                    let n = self.fs.read(ino, off, &mut buf).map_err(&failed)?;
                    if n == 0 {
                        return Err(failed(EIO));
                    }
                    file.write_all(&buf[..n]).at("cannot write", target)?;
                    off += n as u64;
                }
                // Set-user-ID programs of a guest must not become the host's.
                let safe = std::fs::Permissions::from_mode(permissions.mode() & 0o777);
                file.set_permissions(safe).at("cannot change", target)
            }
            _ => {
                eprintln!("umld: {shown}: neither a file, a link nor a directory, left out");
                Ok(())
            }
        }
    }
}
