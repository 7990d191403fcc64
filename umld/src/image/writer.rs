//! Writing a userland into a fresh ext4 filesystem, owners and device nodes included, without being root.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path};

use indicatif::ProgressBar;
use uml_abi::Errno;
use uml_ext4::{Ext4, NewInode, ROOT_INO, SetAttr, Timestamp, XattrMode};

use crate::failure::{Context, Failure, Result};

const STEP: usize = 1 << 20;
/// Most that Linux has of the names of a file's attributes, and of the value of each (xattr(7)).
const XATTR_MAX: usize = 64 << 10;
const DIR: u16 = 0o040_000;
const TYPE: u16 = 0o170_000;

/// Where entries go.
pub struct Writer<'a> {
    fs: &'a Ext4,
    progress: &'a ProgressBar,
    buffer: Vec<u8>,
    /// Directories by path, to spare lookups.
    known: HashMap<Vec<u8>, u32>,
    /// Names of one file of the host.
    links: HashMap<(u64, u64), u32>,
    /// Modification times of directories, set at the end.
    times: Vec<(u32, Timestamp)>,
    /// Names that the present layer has, by directory: its whiteouts are about those of earlier layers (image-spec,
    /// layer.md).
    layer: HashMap<u32, HashSet<Vec<u8>>>,
    layered: bool,
}

/// What an entry is to have.
struct Meta {
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: Timestamp,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

fn failed(path: &Path) -> impl Fn(Errno) -> Failure + '_ {
    move |e| match e {
        uml_abi::errno::ENOSPC => {
            Failure::other(format!("{}: the image is full; give a larger --size", path.display()))
        }
        e => Failure::other(format!("{}: {e}", path.display())),
    }
}

impl<'a> Writer<'a> {
    /// Writes to `fs`, counting bytes in `progress`.
    pub fn new(fs: &'a Ext4, progress: &'a ProgressBar) -> Writer<'a> {
        Writer {
            fs,
            progress,
            buffer: vec![0; STEP],
            known: HashMap::from([(Vec::new(), ROOT_INO)]),
            links: HashMap::new(),
            times: Vec::new(),
            layer: HashMap::new(),
            layered: false,
        }
    }

    /// From here on entries are of another layer.
    pub fn begin_layer(&mut self) {
        self.layer.clear();
        self.layered = true;
    }

    /// Notes that the present layer has this name.
    fn of_layer(&mut self, dir: u32, name: &[u8]) {
        self.layer.entry(dir).or_default().insert(name.to_vec());
    }

    /// Notes that the present layer has a name and the directories above it, which exist.
    fn note(&mut self, parts: &[Vec<u8>], path: &Path) -> Result {
        for end in 0..parts.len() {
            let dir = self.parent(&parts[..end], path)?;
            self.of_layer(dir, &parts[end]);
        }
        Ok(())
    }

    /// Sets what can only be set at the end.
    pub fn finish(self) -> Result {
        for (ino, t) in self.times.iter().rev() {
            let set = SetAttr { mtime: Some(*t), ..SetAttr::default() };
            self.fs.setattr(*ino, &set).map_err(failed(Path::new("/")))?;
        }
        Ok(())
    }

    /// The parts of a name; none when it leads outside.
    fn parts(path: &Path) -> Option<Vec<Vec<u8>>> {
        let mut out = Vec::new();
        for c in path.components() {
            match c {
                Component::Normal(p) => out.push(p.as_bytes().to_vec()),
                Component::CurDir | Component::RootDir => {}
                _ => return None,
            }
        }
        Some(out)
    }

    /// The directory an entry goes into, made if it is missing. Links in its path are not followed: an archive that
    /// relies on them is refused.
    fn parent(&mut self, parts: &[Vec<u8>], path: &Path) -> Result<u32> {
        let mut at = ROOT_INO;
        let mut name = Vec::new();
        for p in parts {
            name.push(b'/');
            name.extend_from_slice(p);
            if let Some(ino) = self.known.get(&name) {
                at = *ino;
                continue;
            }
            at = match self.fs.lookup(at, p) {
                Ok(ino) => {
                    let mode = self.fs.attr(ino).map_err(failed(path))?.mode;
                    if mode & TYPE == 0o120_000 {
                        // A merged /usr: /lib is a link to usr/lib.
                        self.follow(ino, at, 0).map_err(failed(path))?
                    } else {
                        ino
                    }
                }
                Err(uml_abi::errno::ENOENT) => {
                    self.fs.mkdir(at, p, &NewInode::new(DIR | 0o755, 0, 0)).map_err(failed(path))?
                }
                Err(e) => return Err(failed(path)(e)),
            };
            if self.fs.attr(at).map_err(failed(path))?.mode & TYPE != DIR {
                return Err(failed(path)(uml_abi::errno::ENOTDIR));
            }
            self.known.insert(name.clone(), at);
        }
        Ok(at)
    }

    /// Where a link leads inside the image.
    fn follow(&self, link: u32, dir: u32, depth: usize) -> std::result::Result<u32, Errno> {
        if depth > 40 {
            return Err(uml_abi::errno::ELOOP);
        }
        let target = self.fs.readlink(link)?;
        let mut at = if target.starts_with(b"/") { ROOT_INO } else { dir };
        for p in target.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".") {
            if p == b".." {
                at = self.fs.parent(at)?;
                continue;
            }
            let next = self.fs.lookup(at, p)?;
            at = if self.fs.attr(next)?.mode & TYPE == 0o120_000 {
                self.follow(next, at, depth + 1)?
            } else {
                next
            };
        }
        Ok(at)
    }

    fn remove(&mut self, dir: u32, name: &[u8], path: &Path) -> Result {
        let Ok(ino) = self.fs.lookup(dir, name) else { return Ok(()) };
        let is_dir = self.fs.attr(ino).map_err(failed(path))?.mode & TYPE == DIR;
        if is_dir {
            self.empty(ino, path)?;
            let gone = self.fs.rmdir(dir, name).map_err(failed(path))?;
            self.fs.forget(gone.ino).map_err(failed(path))?;
            self.known.clear();
            self.known.insert(Vec::new(), ROOT_INO);
            self.times.retain(|(i, _)| *i != ino);
            self.layer.remove(&ino);
        } else {
            let gone = self.fs.unlink(dir, name).map_err(failed(path))?;
            if gone.links == 0 {
                self.fs.forget(gone.ino).map_err(failed(path))?;
            }
        }
        Ok(())
    }

    /// Removes everything in a directory.
    fn empty(&mut self, dir: u32, path: &Path) -> Result {
        for n in self.names(dir, path)? {
            self.remove(dir, &n, path)?;
        }
        Ok(())
    }

    fn names(&self, dir: u32, path: &Path) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        let listed = self.fs.readdir(dir, 0, &mut |e| {
            if e.name != b"." && e.name != b".." {
                names.push(e.name.to_vec());
            }
            true
        });
        listed.map_err(failed(path))?;
        Ok(names)
    }

    /// Removes what earlier layers have under a name, and nothing of the present one.
    fn hide(&mut self, dir: u32, name: &[u8], path: &Path) -> Result {
        if !self.layer.get(&dir).is_some_and(|names| names.contains(name)) {
            return self.remove(dir, name, path);
        }
        let Ok(ino) = self.fs.lookup(dir, name) else { return Ok(()) };
        if self.fs.attr(ino).map_err(failed(path))?.mode & TYPE == DIR {
            self.hide_all(ino, path)?;
        }
        Ok(())
    }

    /// The same for everything in a directory.
    fn hide_all(&mut self, dir: u32, path: &Path) -> Result {
        for n in self.names(dir, path)? {
            self.hide(dir, &n, path)?;
        }
        Ok(())
    }

    fn new_inode(kind: u16, m: &Meta) -> NewInode {
        NewInode {
            use_reserved: true,
            xattrs: Vec::new(),
            ..NewInode::new(kind | m.mode & 0o7777, m.uid, m.gid)
        }
    }

    fn dress(&self, ino: u32, m: &Meta, path: &Path) -> Result {
        for (name, value) in &m.xattrs {
            match self.fs.setxattr(ino, name, value, XattrMode::Any) {
                // The filesystem has no place for it: an image without it is still one.
                Err(uml_abi::errno::EOPNOTSUPP) => {}
                r => r.map_err(failed(path))?,
            }
        }
        let set = SetAttr { mtime: Some(m.mtime), ..SetAttr::default() };
        self.fs.setattr(ino, &set).map_err(failed(path))
    }

    fn put_dir(&mut self, parts: &[Vec<u8>], m: &Meta, path: &Path) -> Result {
        let ino = if parts.is_empty() {
            ROOT_INO
        } else {
            let (name, above) =
                parts.split_last().map_or((&[][..], &[][..]), |(n, a)| (n.as_slice(), a));
            let dir = self.parent(above, path)?;
            match self.fs.lookup(dir, name) {
                Ok(ino) if self.fs.attr(ino).map_err(failed(path))?.mode & TYPE == DIR => ino,
                // A directory where a link to one is: the link stays, as tar(1) does with merged /usr. A layer of an
                // image has taken the link's place with it.
                Ok(ino)
                    if !self.layered
                        && self.fs.attr(ino).map_err(failed(path))?.mode & TYPE == 0o120_000 =>
                {
                    return Ok(());
                }
                Ok(_) => {
                    self.remove(dir, name, path)?;
                    self.fs.mkdir(dir, name, &Self::new_inode(DIR, m)).map_err(failed(path))?
                }
                Err(_) => {
                    self.fs.mkdir(dir, name, &Self::new_inode(DIR, m)).map_err(failed(path))?
                }
            }
        };
        let set = SetAttr {
            mode: Some(m.mode & 0o7777),
            uid: Some(m.uid),
            gid: Some(m.gid),
            ..SetAttr::default()
        };
        self.fs.setattr(ino, &set).map_err(failed(path))?;
        self.dress(ino, m, path)?;
        self.times.push((ino, m.mtime));
        Ok(())
    }

    fn put_file(
        &mut self,
        dir: u32,
        name: &[u8],
        m: &Meta,
        data: &mut dyn Read,
        path: &Path,
    ) -> Result<u32> {
        self.remove(dir, name, path)?;
        let ino =
            self.fs.create(dir, name, &Self::new_inode(0o100_000, m)).map_err(failed(path))?;
        let mut off = 0u64;
        loop {
            let mut n = 0;
            while n < self.buffer.len() {
                match data.read(&mut self.buffer[n..]).at("cannot read", path)? {
                    0 => break,
                    k => n += k,
                }
            }
            if n == 0 {
                break;
            }
            if self.buffer[..n].iter().all(|b| *b == 0) {
                self.fs.truncate(ino, off + n as u64).map_err(failed(path))?;
            } else {
                self.fs.write(ino, off, &self.buffer[..n], true).map_err(failed(path))?;
            }
            off += n as u64;
            self.progress.inc(n as u64);
        }
        self.dress(ino, m, path)?;
        Ok(ino)
    }

    /// One entry of an archive. With `whiteouts`, `.wh.` names remove what earlier layers had.
    pub fn entry<R: Read>(&mut self, mut e: ::tar::Entry<'_, R>, whiteouts: bool) -> Result {
        let bad = |x: std::io::Error| Failure::other(uml_formats::strerror(&x));
        let path = e.path().map_err(bad)?.into_owned();
        let Some(parts) = Self::parts(&path) else {
            return Err(Failure::other(format!("the name {} leads outside", path.display())));
        };
        let h = e.header();
        let mut meta = Meta {
            mode: (h.mode().map_err(bad)? & 0o7777) as u16,
            uid: h.uid().map_err(bad)? as u32,
            gid: h.gid().map_err(bad)? as u32,
            mtime: Timestamp { sec: h.mtime().map_err(bad)?.cast_signed(), nsec: 0 },
            xattrs: Vec::new(),
        };
        let (kind, major, minor) =
            (h.entry_type(), h.device_major().ok().flatten(), h.device_minor().ok().flatten());
        for x in e.pax_extensions().map_err(bad)?.into_iter().flatten() {
            let Ok(x) = x else {
                // The library splits records at every line feed.
                eprintln!(
                    "umld: {}: an extended attribute with a line feed in it is left out",
                    path.display()
                );
                continue;
            };
            if let Some(name) = x.key_bytes().strip_prefix(b"SCHILY.xattr.") {
                meta.xattrs.push((name.to_vec(), x.value_bytes().to_vec()));
            } else if x.key_bytes().starts_with(b"GNU.sparse.") {
                return Err(Failure::other(format!(
                    "{}: a sparse file in pax format; make the archive without --sparse, or with --format=gnu",
                    path.display()
                )));
            }
        }
        if kind.is_dir() {
            self.put_dir(&parts, &meta, &path)?;
            return if whiteouts { self.note(&parts, &path) } else { Ok(()) };
        }
        let Some((name, above)) = parts.split_last() else { return Ok(()) };
        let dir = self.parent(above, &path)?;
        if whiteouts {
            if let Some(hidden) = name.strip_prefix(b".wh.") {
                self.note(above, &path)?;
                return match hidden {
                    b".wh..opq" => self.hide_all(dir, &path),
                    // Of aufs itself: nothing of the image.
                    h if h.starts_with(b".wh.") => Ok(()),
                    h => self.hide(dir, h, &path),
                };
            }
            self.note(&parts, &path)?;
        }
        let rdev = (major.unwrap_or(0), minor.unwrap_or(0));
        let node = |kind: u16| NewInode { rdev, ..Self::new_inode(kind, &meta) };
        use ::tar::EntryType as T;
        match kind {
            T::Regular | T::Continuous | T::GNUSparse => {
                self.put_file(dir, name, &meta, &mut e, &path)?;
            }
            T::Symlink => {
                let target = e.link_name_bytes().map(|t| t.into_owned()).unwrap_or_default();
                self.remove(dir, name, &path)?;
                meta.mode = 0o777;
                let new = Self::new_inode(0o120_000, &meta);
                let ino = self.fs.symlink(dir, name, &target, &new).map_err(failed(&path))?;
                self.dress(ino, &meta, &path)?;
            }
            T::Link => {
                let target =
                    e.link_name().map_err(bad)?.map(|t| t.into_owned()).unwrap_or_default();
                let parts = Self::parts(&target).unwrap_or_default();
                let Some((old, above)) = parts.split_last() else {
                    return Err(Failure::other(format!("{}: a link to nothing", path.display())));
                };
                let from = self.parent(above, &target)?;
                let ino = self.fs.lookup(from, old).map_err(failed(&target))?;
                self.remove(dir, name, &path)?;
                self.fs.link(ino, dir, name).map_err(failed(&path))?;
            }
            T::Char | T::Block | T::Fifo => {
                let new = node(match kind {
                    T::Char => 0o020_000,
                    T::Block => 0o060_000,
                    _ => 0o010_000,
                });
                self.remove(dir, name, &path)?;
                let ino = self.fs.create(dir, name, &new).map_err(failed(&path))?;
                self.dress(ino, &meta, &path)?;
            }
            // Headers the library has used already.
            _ => {}
        }
        Ok(())
    }

    /// A directory of the host. Files of the calling user belong to root in the image unless the caller is root.
    pub fn directory(&mut self, from: &Path) -> Result {
        self.tree(from, &mut Vec::new())
    }

    fn tree(&mut self, from: &Path, parts: &mut Vec<Vec<u8>>) -> Result {
        let meta = from.symlink_metadata().at("cannot read", from)?;
        let me = nix::unistd::geteuid().as_raw();
        let mine = me != 0 && meta.uid() == me;
        let m = Meta {
            mode: (meta.mode() & 0o7777) as u16,
            uid: if mine { 0 } else { meta.uid() },
            gid: if mine { 0 } else { meta.gid() },
            mtime: Timestamp { sec: meta.mtime(), nsec: meta.mtime_nsec() as u32 },
            xattrs: xattrs_of(from)?,
        };
        let kind = meta.file_type();
        if kind.is_dir() {
            self.put_dir(parts, &m, from)?;
            let mut names: Vec<_> = std::fs::read_dir(from)
                .at("cannot list", from)?
                .collect::<std::io::Result<Vec<_>>>()
                .at("cannot list", from)?
                .into_iter()
                .map(|e| e.file_name())
                .collect();
            names.sort();
            for n in names {
                parts.push(n.as_bytes().to_vec());
                self.tree(&from.join(&n), parts)?;
                parts.pop();
            }
            return Ok(());
        }
        let Some((name, above)) = parts.split_last() else {
            return Err(Failure::other(format!("{} is not a directory", from.display())));
        };
        let (name, above) = (name.clone(), above.to_vec());
        let dir = self.parent(&above, from)?;
        let key = (meta.dev(), meta.ino());
        if meta.nlink() > 1
            && let Some(ino) = self.links.get(&key)
        {
            return self.fs.link(*ino, dir, &name).map_err(failed(from));
        }
        let rdev = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        let ino = if kind.is_file() {
            let mut f = std::fs::File::open(from).at("cannot read", from)?;
            self.put_file(dir, &name, &m, &mut f, from)?
        } else if kind.is_symlink() {
            let target = std::fs::read_link(from).at("cannot read", from)?;
            let new = NewInode { mode: 0o120_777, ..Self::new_inode(0o120_000, &m) };
            let target = OsStr::as_bytes(target.as_os_str());
            let ino = self.fs.symlink(dir, &name, target, &new).map_err(failed(from))?;
            self.dress(ino, &m, from)?;
            ino
        } else if kind.is_socket() {
            // Made anew by the program that listens.
            return Ok(());
        } else {
            let t = (meta.mode() & 0o170_000) as u16;
            let new = NewInode { rdev, ..Self::new_inode(t, &m) };
            let ino = self.fs.create(dir, &name, &new).map_err(failed(from))?;
            self.dress(ino, &m, from)?;
            ino
        };
        if meta.nlink() > 1 {
            self.links.insert(key, ino);
        }
        Ok(())
    }
}

/// The extended attributes of a file of the host that belong to it wherever it is: those of users, and the capabilities of
/// programs. Access control lists have no place in the image.
fn xattrs_of(path: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let cannot = |e: rustix::io::Errno| Failure::io("cannot read attributes of", path, &e.into());
    let mut names = vec![0; XATTR_MAX];
    let len = match rustix::fs::llistxattr(path, &mut names) {
        Ok(n) => n,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(e) => return Err(cannot(e)),
    };
    let mut found = Vec::new();
    for name in names.get(..len).unwrap_or_default().split(|b| *b == 0) {
        if !name.starts_with(b"user.") && name != b"security.capability" {
            continue;
        }
        let mut value = vec![0; XATTR_MAX];
        match rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value) {
            Ok(n) => {
                value.truncate(n);
                found.push((name.to_vec(), value));
            }
            // Removed meanwhile.
            Err(rustix::io::Errno::NODATA) => {}
            Err(e) => return Err(cannot(e)),
        }
    }
    Ok(found)
}
