//! vfat: FAT12, FAT16 and FAT32 with long names.
//!
//! A node is the position of a file's short entry in the image in units of entries; 0, where the boot sector is, stands for
//! the root.

mod boot;
mod chain;
mod dir;
mod names;

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::{EINVAL, EIO, EISDIR, ENOENT};
use uml_store::BlockStore;

pub use boot::Width;
pub use names::ShortNames;

use crate::charset::Charset;
use crate::disk::Disk;
use crate::lru::Lru;
use crate::{Attr, Entry, Refusal, Statfs, Tree, kind};
use boot::Layout;
use chain::Chain;
use names::CodePage;

/// MSDOS_SUPER_MAGIC.
pub const MAGIC: u64 = 0x4d44;
/// The root's node.
const ROOT: u64 = 0;
/// Files whose clusters are remembered.
const CHAINS: usize = 64;
const KEPT: usize = 512;

/// Mount options (mount(8), "Mount options for fat" and "for vfat").
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Owner of everything.
    pub uid: u32,
    /// Group of everything.
    pub gid: u32,
    /// Permissions that files do not have.
    pub file_mask: u32,
    /// Permissions that directories do not have.
    pub dir_mask: u32,
    /// How names appear.
    pub charset: Charset,
    /// How short names appear.
    pub short_names: ShortNames,
    /// Names that differ in case are different.
    pub strict: bool,
    /// Only names with EXE, COM and BAT are executable.
    pub show_exec: bool,
    /// The attribute read-only counts for directories, too.
    pub read_only_dirs: bool,
    /// Minutes that the image's clock is ahead of UTC.
    pub minutes_east: i32,
}

/// A FAT image.
pub struct Vfat {
    disk: Disk,
    layout: Layout,
    options: Options,
    page: CodePage,
    attrs: Lru<u64, Attr>,
    chains: Lru<u32, Arc<Chain>>,
}

impl Vfat {
    /// Opens an image.
    ///
    /// # Errors
    /// `EINVAL` for what is none, or is larger than the device.
    pub fn open(
        store: Arc<dyn BlockStore>,
        options: Options,
    ) -> std::result::Result<Vfat, Refusal> {
        let disk = Disk::new(store);
        let layout = boot::read(&disk)?;
        let fs = Vfat {
            disk,
            layout,
            options,
            page: CodePage::new(),
            attrs: Lru::new(KEPT),
            chains: Lru::new(CHAINS),
        };
        match fs.attr(ROOT) {
            Ok(_) => Ok(fs),
            Err(_) => Err(Refusal::new(EINVAL, "the root directory cannot be read")),
        }
    }

    /// Width of the allocation table.
    pub fn width(&self) -> Width {
        self.layout.width
    }
}

impl Tree for Vfat {
    fn root(&self) -> u64 {
        ROOT
    }

    fn attr(&self, node: u64) -> Result<Attr> {
        self.attrs.get_or(node, || self.attributes(node))
    }

    fn lookup(&self, dir: u64, name: &[u8]) -> Result<u64> {
        let (strict, charset) = (self.options.strict, self.options.charset);
        // Points at the end do not count.
        let end = name.iter().rposition(|b| *b != b'.').map_or(0, |i| i + 1);
        let wanted = if strict { name[..end].to_vec() } else { charset.folded(&name[..end]) };
        let is = |n: &[u8]| if strict { n == wanted } else { charset.same(n, &wanted) };
        let mut found = Err(ENOENT);
        self.entries(dir, 0, &mut |e| {
            let same = is(e.name) || is(e.short);
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
            let kind = if e.dir { kind::DIR } else { kind::REG };
            emit(&Entry { name: e.name, ino: e.node, kind, next: e.next })
        })
    }

    fn read(&self, node: u64, off: u64, buf: &mut [u8]) -> Result<usize> {
        if self.is_dir(node)? {
            return Err(EISDIR);
        }
        let e = self.entry(node)?;
        let size = u64::from(uml_store::bytes::rd32(&e, 28));
        let left = usize::try_from(size.saturating_sub(off)).unwrap_or(usize::MAX);
        let want = buf.len().min(left);
        let (first, cluster) = (self.first_cluster(&e), self.layout.cluster);
        let mut done = 0;
        while done < want {
            let at = off + done as u64;
            let index = u32::try_from(at / cluster).map_err(|_| EIO)?;
            let most = ((want - done) as u64).div_ceil(cluster) + 1;
            let run = self.cluster(first, index, most.min(1 << 20) as u32)?;
            // The entry says that there is more.
            let (c, n) = run.ok_or(EIO)?;
            let from = at % cluster;
            let n = (u64::from(n) * cluster - from).min((want - done) as u64) as usize;
            self.disk.read(self.position(c) + from, &mut buf[done..done + n])?;
            done += n;
        }
        Ok(done)
    }

    fn readlink(&self, _: u64) -> Result<Vec<u8>> {
        Err(EINVAL)
    }

    fn statfs(&self) -> Result<Statfs> {
        Ok(Statfs {
            magic: MAGIC,
            block_size: self.layout.cluster as u32,
            blocks: self.layout.clusters.into(),
            free: self.free()?.into(),
            inodes: 0,
            // FAT_LFN_LEN characters of NLS_MAX_CHARSET_SIZE bytes.
            name_max: 255 * 6,
        })
    }

    fn forget(&self) {
        self.attrs.clear();
        self.chains.clear();
        self.disk.forget();
    }
}
