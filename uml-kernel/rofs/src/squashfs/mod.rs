//! squashfs 4.0, with each compression that Linux reads.
//!
//! A node is an inode reference: the position of the inode's metadata block in the inode table, shifted by 16, and the byte
//! in the decompressed block.

mod codec;
mod data;
mod dir;
mod inode;
mod lzo;
mod meta;
mod xattr;

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::{EINVAL, EIO};
use uml_store::BlockStore;
use uml_store::bytes::{rd16, rd32, rd64};

pub use codec::Codec;
use data::Spots;
use inode::{Body, Inode};
use meta::Meta;

use crate::disk::Disk;
use crate::lru::Lru;
use crate::{Attr, Entry, Refusal, Statfs, Tree};

/// SQUASHFS_MAGIC.
pub const MAGIC: u64 = 0x7371_7368;
/// Bytes of decompressed blocks that are kept, in blocks of the usual size.
const KEPT_BLOCKS: usize = 8;
const KEPT_INODES: usize = 512;
const KEPT_SPOTS: usize = 16;
/// Set where a table is missing.
const ABSENT: u64 = u64::MAX;

/// The table of extended attributes.
#[derive(Clone, Copy)]
struct XattrTable {
    at: u64,
    count: u32,
    list: u64,
}

struct Superblock {
    inodes: u32,
    block_size: usize,
    fragments: u32,
    ids: u16,
    root: u64,
    used: u64,
    ids_at: u64,
    inodes_at: u64,
    directories_at: u64,
    fragments_at: u64,
    xattrs: Option<XattrTable>,
}

/// A squashfs image.
pub struct Squashfs {
    sb: Superblock,
    meta: Meta,
    inodes: Lru<u64, Inode>,
    /// Decompressed blocks and fragments by position.
    blocks: Lru<u64, Arc<Vec<u8>>>,
    spots: Lru<u64, Spots>,
}

impl Squashfs {
    /// Opens an image.
    ///
    /// # Errors
    /// `EINVAL` for what is no squashfs 4.0, is longer than the device or says impossible things, `EIO` for what cannot be
    /// read.
    pub fn open(store: Arc<dyn BlockStore>) -> std::result::Result<Squashfs, Refusal> {
        let disk = Arc::new(Disk::new(store));
        let bad = |why: String| Refusal::new(EINVAL, why);
        let none = || bad("no squashfs superblock".into());
        let h = disk.bytes(0, 96).map_err(|e| if e == EIO { none() } else { e.into() })?;
        if u64::from(rd32(&h, 0)) != MAGIC {
            return Err(none());
        }
        let (major, minor) = (rd16(&h, 28), rd16(&h, 30));
        if (major, minor) != (4, 0) {
            return Err(bad(format!("squashfs version {major}.{minor} is not supported")));
        }
        let codec = Codec::by_number(rd16(&h, 20)).map_err(bad)?;
        let (block_size, log) = (rd32(&h, 12), rd16(&h, 22));
        if !(12..=20).contains(&log) || block_size != 1 << log {
            return Err(bad(format!("impossible block size {block_size}")));
        }
        let used = rd64(&h, 40);
        if used > disk.size() {
            return Err(bad(format!(
                "the filesystem has {used} bytes, the device only {}",
                disk.size()
            )));
        }
        let xattrs_at = rd64(&h, 56);
        let mut sb = Superblock {
            inodes: rd32(&h, 4),
            block_size: block_size as usize,
            fragments: rd32(&h, 16),
            ids: rd16(&h, 26),
            root: rd64(&h, 32),
            used,
            ids_at: rd64(&h, 48),
            inodes_at: rd64(&h, 64),
            directories_at: rd64(&h, 72),
            fragments_at: rd64(&h, 80),
            xattrs: None,
        };
        for (name, at, needed) in [
            ("id", sb.ids_at, true),
            ("inode", sb.inodes_at, true),
            ("directory", sb.directories_at, true),
            ("fragment", sb.fragments_at, sb.fragments != 0),
            ("xattr", xattrs_at, xattrs_at != ABSENT),
        ] {
            if needed && at >= used {
                return Err(bad(format!("the {name} table is outside the filesystem")));
            }
        }
        if xattrs_at != ABSENT {
            let t = disk.bytes(xattrs_at, 16)?;
            let list = xattrs_at + 16;
            sb.xattrs = Some(XattrTable { at: rd64(&t, 0), count: rd32(&t, 8), list });
        }
        let fs = Squashfs {
            meta: Meta::new(disk, codec, sb.used),
            sb,
            inodes: Lru::new(KEPT_INODES),
            blocks: Lru::new(KEPT_BLOCKS),
            spots: Lru::new(KEPT_SPOTS),
        };
        match fs.listing(fs.sb.root) {
            Ok(_) => Ok(fs),
            Err(_) => Err(bad("the root directory cannot be read".into())),
        }
    }

    /// How the image is compressed.
    pub fn codec(&self) -> Codec {
        self.meta.codec
    }
}

impl Tree for Squashfs {
    fn root(&self) -> u64 {
        self.sb.root
    }

    fn attr(&self, node: u64) -> Result<Attr> {
        Ok(self.inode(node)?.attr)
    }

    fn lookup(&self, dir: u64, name: &[u8]) -> Result<u64> {
        self.find(dir, name)
    }

    fn readdir(
        &self,
        dir: u64,
        cookie: u64,
        emit: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<()> {
        self.list(dir, cookie, emit)
    }

    fn read(&self, node: u64, off: u64, buf: &mut [u8]) -> Result<usize> {
        self.read_file(node, off, buf)
    }

    fn readlink(&self, node: u64) -> Result<Vec<u8>> {
        match self.inode(node)?.body {
            Body::Link(mut p, len) => {
                let mut text = vec![0; len];
                self.meta.read(&mut p, &mut text)?;
                Ok(text)
            }
            _ => Err(EINVAL),
        }
    }

    fn statfs(&self) -> Result<Statfs> {
        Ok(Statfs {
            magic: MAGIC,
            block_size: self.sb.block_size as u32,
            blocks: self.sb.used.div_ceil(self.sb.block_size as u64),
            free: 0,
            inodes: self.sb.inodes.into(),
            name_max: dir::NAME_MAX as u32,
        })
    }

    fn listxattr(&self, node: u64) -> Result<Vec<Vec<u8>>> {
        self.xattr_names(node)
    }

    fn getxattr(&self, node: u64, name: &[u8]) -> Result<Vec<u8>> {
        self.xattr(node, name)
    }

    fn forget(&self) {
        self.inodes.clear();
        self.blocks.clear();
        self.spots.clear();
        self.meta.forget();
    }
}
