//! iso9660 with Rock Ridge and Joliet (ECMA-119, IEEE P1282, SUSP). El Torito's boot images are no files and are not shown.
//!
//! A node is the position of a directory record in the image; for a directory that of its own record `.`, so that it has
//! one whichever way it was found.

mod dir;
mod names;
mod record;
mod rock;

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::{EINVAL, EIO, EISDIR, ENOENT};
use uml_store::BlockStore;
use uml_store::bytes::{rd16, rd32, slice};

use crate::charset::Charset;
use crate::disk::Disk;
use crate::lru::Lru;
use crate::{Attr, Entry, Refusal, Statfs, Tree, kind};
use record::Record;
use rock::Rock;

/// ISOFS_SUPER_MAGIC.
pub const MAGIC: u64 = 0x9660;
/// Bytes in a sector of volume descriptors.
const SECTOR: u64 = 2048;
/// Volume descriptors looked at.
const DESCRIPTORS: u64 = 100;
const KEPT: usize = 512;

/// How names without Rock Ridge appear (mount option `map=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameMap {
    /// Lower case, without version 1; `;` becomes `.`.
    #[default]
    Normal,
    /// As they are.
    Off,
}

/// Mount options (mount(8), "Mount options for iso9660").
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Rock Ridge is ignored.
    pub no_rock: bool,
    /// Joliet is ignored.
    pub no_joliet: bool,
    /// Names without Rock Ridge and Joliet.
    pub map: NameMap,
    /// Names that differ in case are the same; unset: with Joliet only.
    pub relaxed: Option<bool>,
    /// Owner of everything.
    pub uid: Option<u32>,
    /// Group of everything.
    pub gid: Option<u32>,
    /// Permissions of files without Rock Ridge, or with `override_permissions` of all.
    pub mode: Option<u32>,
    /// The same for directories.
    pub dir_mode: Option<u32>,
    /// `mode` and `dir_mode` go before those of Rock Ridge.
    pub override_permissions: bool,
    /// Files marked hidden are not shown.
    pub hide: bool,
    /// Associated files are shown.
    pub show_associated: bool,
    /// File sizes above 16 MiB are cut to 24 bits, which old programs damaged (`cruft`).
    pub cruft: bool,
    /// How Joliet's names appear.
    pub charset: Charset,
    /// Sector at which the session starts.
    pub session_sector: u32,
}

/// An iso9660 image.
pub struct Iso9660 {
    disk: Disk,
    options: Options,
    /// Bytes in a logical block.
    block: u64,
    blocks: u32,
    root: u64,
    joliet: bool,
    rock: Option<RockRidge>,
    files: Lru<u64, Arc<File>>,
}

/// Rock Ridge as the root announces it.
#[derive(Clone, Copy)]
pub(crate) struct RockRidge {
    /// Bytes of the root's system use area before the entries.
    pub root_skip: usize,
    /// The same of every other record.
    pub skip: usize,
}

/// A node as read.
pub(crate) struct File {
    attr: Attr,
    /// Position and bytes of each part.
    parts: Vec<(u64, u64)>,
    link: Option<Vec<u8>>,
}

/// What the volume descriptors say.
struct Volumes {
    primary: Option<Vec<u8>>,
    joliet: Option<Vec<u8>>,
}

fn volumes(disk: &Disk, first: u64) -> Result<Volumes> {
    let mut v = Volumes { primary: None, joliet: None };
    for n in 0..DESCRIPTORS {
        let Ok(d) = disk.bytes(first + n * SECTOR, SECTOR as usize) else { break };
        if slice(&d, 1, 5) != b"CD001" {
            break;
        }
        match d[0] {
            1 if v.primary.is_none() => v.primary = Some(d),
            2 if matches!(slice(&d, 88, 3), b"%/@" | b"%/C" | b"%/E") && v.joliet.is_none() => {
                v.joliet = Some(d);
            }
            255 => break,
            _ => {}
        }
    }
    Ok(v)
}

/// Position of the root directory, whose record is in a volume descriptor.
fn root_of(d: &[u8], block: u64) -> u64 {
    (u64::from(rd32(d, 158)) + u64::from(d[157])) * block
}

impl Iso9660 {
    /// Opens an image.
    ///
    /// # Errors
    /// `EINVAL` for what is none, or is larger than the device.
    pub fn open(
        store: Arc<dyn BlockStore>,
        options: Options,
    ) -> std::result::Result<Iso9660, Refusal> {
        let disk = Disk::new(store);
        let bad = |why: String| Refusal::new(EINVAL, why);
        let v = volumes(&disk, (u64::from(options.session_sector) + 16) * SECTOR)?;
        let d = v.primary.ok_or_else(|| bad("no iso9660 volume descriptor".into()))?;
        let block = u64::from(rd16(&d, 128));
        if !matches!(block, 512 | 1024 | 2048) {
            return Err(bad(format!("impossible block size {block}")));
        }
        let mut fs = Iso9660 {
            disk,
            block,
            blocks: rd32(&d, 80),
            root: root_of(&d, block),
            joliet: false,
            rock: None,
            files: Lru::new(KEPT),
            options,
        };
        if !fs.options.no_rock {
            fs.rock = fs.announced();
        }
        if let Some(j) = v.joliet.filter(|_| fs.rock.is_none() && !fs.options.no_joliet) {
            fs.joliet = true;
            fs.root = root_of(&j, block);
        }
        match fs.dir(fs.root) {
            Ok(_) => Ok(fs),
            Err(_) => Err(bad("the root directory cannot be read".into())),
        }
    }

    /// Names are Joliet's.
    pub fn has_joliet(&self) -> bool {
        self.joliet
    }

    /// Rock Ridge is in use.
    pub fn has_rock_ridge(&self) -> bool {
        self.rock.is_some()
    }

    /// The inode number of a node, as Linux makes it.
    fn number(node: u64) -> u64 {
        node >> 5
    }

    fn file(&self, node: u64) -> Result<Arc<File>> {
        self.files.get_or(node, || Ok(Arc::new(self.load(node)?)))
    }

    fn load(&self, node: u64) -> Result<File> {
        let (r, rock) = self.record(node)?;
        let o = &self.options;
        let dir = r.is_dir();
        let mut f = File { attr: Attr::default(), parts: Vec::new(), link: None };
        let default = if dir { o.dir_mode } else { o.mode };
        let a = &mut f.attr;
        a.ino = Iso9660::number(node);
        a.mode = if dir { kind::DIR } else { kind::REG } | default.unwrap_or(0o555);
        a.links = 1;
        a.io_size = self.block as u32;
        (a.atime, a.mtime, a.ctime) = (r.time, r.time, r.time);
        self.parts(node, &r, &mut f.parts)?;
        a.size = f.parts.iter().map(|p| p.1).sum();
        if o.cruft && !dir {
            let total = a.size & 0xff_ffff;
            f.parts.truncate(1);
            if let Some(p) = f.parts.first_mut() {
                p.1 = p.1.min(total);
            }
            a.size = total;
        }
        if let Some(rr) = &rock {
            apply(rr, a, dir);
            if a.mode & kind::MASK == kind::LNK {
                let text = rr.link.clone().unwrap_or_default();
                a.size = text.len() as u64;
                f.link = Some(text);
            }
        }
        (a.uid, a.gid) = (o.uid.unwrap_or(a.uid), o.gid.unwrap_or(a.gid));
        if let Some(m) = default.filter(|_| o.override_permissions)
            && matches!(a.mode & kind::MASK, kind::DIR | kind::REG)
        {
            a.mode = a.mode & kind::MASK | m;
        }
        if !matches!(a.mode & kind::MASK, kind::DIR | kind::REG | kind::LNK) {
            a.size = 0;
        }
        a.sectors = a.size.div_ceil(512);
        Ok(f)
    }
}

/// Takes over what Rock Ridge says.
fn apply(rr: &Rock, a: &mut Attr, dir: bool) {
    if let Some(p) = rr.posix {
        let of_type = p.mode & kind::MASK;
        // A directory is one by its record; what is not must not be taken for one.
        let sensible = (of_type == kind::DIR) == dir
            && matches!(
                of_type,
                kind::DIR | kind::REG | kind::LNK | kind::CHR | kind::BLK | kind::FIFO | kind::SOCK
            );
        let of_type = if sensible { of_type } else { a.mode & kind::MASK };
        a.mode = of_type | p.mode & 0o7777;
        (a.links, a.uid, a.gid) = (p.links, p.uid, p.gid);
    }
    a.rdev = rr.device.unwrap_or(a.rdev);
    a.mtime = rr.mtime.unwrap_or(a.mtime);
    a.atime = rr.atime.unwrap_or(a.atime);
    a.ctime = rr.ctime.unwrap_or(a.ctime);
}

impl Tree for Iso9660 {
    fn root(&self) -> u64 {
        self.root
    }

    fn attr(&self, node: u64) -> Result<Attr> {
        Ok(self.file(node)?.attr)
    }

    fn lookup(&self, dir: u64, name: &[u8]) -> Result<u64> {
        let relaxed = self.options.relaxed.unwrap_or(self.joliet);
        let charset = self.options.charset;
        let wanted = if relaxed { charset.folded(name) } else { name.to_vec() };
        let mut found = Err(ENOENT);
        self.entries(dir, 0, &mut |e| {
            let same = if relaxed { charset.same(e.name, &wanted) } else { e.name == wanted };
            if same {
                found = Ok(e.node);
            }
            !same
        })?;
        found
    }

    fn readdir(
        &self,
        dir: u64,
        cookie: u64,
        emit: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<()> {
        self.entries(dir, cookie, &mut |e| {
            emit(&Entry { name: e.name, ino: Iso9660::number(e.node), kind: e.kind, next: e.next })
        })
    }

    fn read(&self, node: u64, off: u64, buf: &mut [u8]) -> Result<usize> {
        let f = self.file(node)?;
        match f.attr.mode & kind::MASK {
            kind::REG => {}
            kind::DIR => return Err(EISDIR),
            _ => return Err(EINVAL),
        }
        let (mut done, mut start) = (0, 0);
        for (at, len) in &f.parts {
            let end = start + len;
            let pos = off.checked_add(done as u64).ok_or(EINVAL)?;
            if pos >= start && pos < end && done < buf.len() {
                let n = usize::try_from(end - pos).unwrap_or(usize::MAX).min(buf.len() - done);
                let from = at.checked_add(pos - start).ok_or(EIO)?;
                self.disk.read(from, &mut buf[done..done + n])?;
                done += n;
            }
            start = end;
        }
        Ok(done)
    }

    fn readlink(&self, node: u64) -> Result<Vec<u8>> {
        self.file(node)?.link.clone().ok_or(EINVAL)
    }

    fn statfs(&self) -> Result<Statfs> {
        Ok(Statfs {
            magic: MAGIC,
            block_size: self.block as u32,
            blocks: self.blocks.into(),
            free: 0,
            inodes: 0,
            name_max: 255,
        })
    }

    fn forget(&self) {
        self.files.clear();
        self.disk.forget();
    }
}

impl Record {
    fn is_dir(&self) -> bool {
        self.flags & record::DIRECTORY != 0
    }
}
