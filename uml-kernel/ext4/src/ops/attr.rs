//! Inode attributes, statfs and durability calls.

use uml_abi::Result;
use uml_abi::errno::ENOSPC;

use crate::features::Features;
use crate::fs::Ext4;
use crate::inode::{Inode, Timestamp};
use crate::txn::read_counts;

/// An inode's attributes, as stat(2) and statx(2) show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: u32,
    /// Type and permissions.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Project (quota) identifier.
    pub projid: u32,
    /// Number of names. For directories with more than 65000 subdirectories
    /// this is 1 ("unknown"), as on Linux.
    pub links: u32,
    /// Size in bytes.
    pub size: u64,
    /// Space used, in 512-byte units.
    pub sectors: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of contents.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Creation; zero on filesystems with small inodes.
    pub btime: Timestamp,
    /// Major and minor number of device nodes.
    pub rdev: (u32, u32),
    /// `FS_IOC_GETFLAGS` flags.
    pub flags: u32,
    /// Generation (`FS_IOC_GETVERSION`), for file handles.
    pub generation: u32,
    /// Change counter (`i_version`).
    pub version: u64,
}

/// Sizes and counts, as statfs(2) shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statfs {
    /// Block size in bytes.
    pub block_size: u32,
    /// Blocks for files (all but the filesystem's own structures).
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Free blocks for unprivileged users.
    pub available: u64,
    /// Inodes.
    pub inodes: u64,
    /// Free inodes.
    pub free_inodes: u64,
    /// Filesystem identifier.
    pub fsid: u64,
    /// Longest name.
    pub name_max: u32,
}

/// What does not change while mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The UUID.
    pub uuid: [u8; 16],
    /// The volume label without trailing zeros.
    pub label: Vec<u8>,
    /// Feature words.
    pub features: Features,
    /// Block size in bytes.
    pub block_size: u32,
    /// Inode size in bytes.
    pub inode_size: u16,
    /// "ext2", "ext3" or "ext4", by features.
    pub kind: &'static str,
    /// User and group that may use reserved blocks besides root.
    pub reserved_for: (u32, u32),
    /// Default mount options of the superblock (`tune2fs -o`).
    pub default_mount_opts: u32,
}

pub(crate) fn attr_of(i: &Inode) -> Attr {
    Attr {
        ino: i.ino,
        mode: i.mode,
        uid: i.uid,
        gid: i.gid,
        projid: i.projid,
        links: i.links.into(),
        size: i.size,
        sectors: i.sectors,
        atime: i.atime,
        mtime: i.mtime,
        ctime: i.ctime,
        btime: i.crtime,
        rdev: i.rdev(),
        flags: i.flags,
        generation: i.generation,
        version: i.version,
    }
}

impl Ext4 {
    /// Attributes of an inode. `ESTALE` when it is not in use.
    pub fn attr(&self, ino: u32) -> Result<Attr> {
        self.view(|v| Ok(attr_of(&Inode::live(v, ino)?)))
    }

    /// Space and inode counts; promised (delayed) blocks count as used.
    pub fn statfs(&self) -> Result<Statfs> {
        let st = self.read_state();
        let c = read_counts(&crate::meta::View { core: &self.core, st: &st })?;
        let lay = &self.core.lay;
        let free = c.free_blocks.saturating_sub(st.reserved);
        let half = |b: &[u8]| b.iter().rev().fold(0u64, |v, x| v << 8 | u64::from(*x));
        Ok(Statfs {
            block_size: lay.block_size,
            blocks: lay.blocks_count().saturating_sub(self.core.overhead()),
            free,
            available: free.saturating_sub(self.core.kept()),
            inodes: lay.inodes_count().into(),
            free_inodes: c.free_inodes.into(),
            fsid: half(&lay.uuid[..8]) ^ half(&lay.uuid[8..]),
            name_max: crate::dir::NAME_MAX as u32,
        })
    }

    /// Constants of the filesystem.
    pub fn info(&self) -> Info {
        use crate::features::{compat, incompat};
        let lay = &self.core.lay;
        let kind = if lay.features.incompat
            & (incompat::EXTENTS | incompat::BIT64 | incompat::FLEX_BG)
            != 0
        {
            "ext4"
        } else if lay.features.compat(compat::HAS_JOURNAL) {
            "ext3"
        } else {
            "ext2"
        };
        let label = self.label().unwrap_or(lay.label);
        let end = label.iter().position(|b| *b == 0).unwrap_or(label.len());
        Info {
            uuid: lay.uuid,
            label: label[..end].to_vec(),
            features: lay.features_now(),
            block_size: lay.block_size,
            inode_size: lay.inode_size,
            kind,
            reserved_for: (lay.resuid, lay.resgid),
            default_mount_opts: lay.default_mount_opts,
        }
    }

    /// fsync(2): makes an inode's data and metadata durable.
    pub fn fsync(&self, ino: u32) -> Result<()> {
        let tid = self.read_state().inode_tids.get(&ino).map(|t| t.0);
        self.sync_inode(tid)
    }

    /// fdatasync(2): like [`Ext4::fsync`], but changes of times alone wait.
    pub fn fdatasync(&self, ino: u32) -> Result<()> {
        let tid = self.read_state().inode_tids.get(&ino).and_then(|t| t.1);
        self.sync_inode(tid)
    }

    fn sync_inode(&self, tid: Option<u32>) -> Result<()> {
        match tid {
            Some(t) => self.commit_upto(Some(t)),
            None if self.core.errors.is_read_only() => Ok(()),
            None if self.opts.barrier => self.core.store.flush(),
            None => Ok(()),
        }
    }

    /// syncfs(2): makes everything durable.
    pub fn sync(&self) -> Result<()> {
        if self.mounted_ro.load(std::sync::atomic::Ordering::Acquire) {
            return Ok(());
        }
        self.commit()?;
        if self.opts.barrier { self.core.store.flush() } else { Ok(()) }
    }

    /// Promises `blocks` blocks to delayed writes. `ENOSPC` when they might
    /// not be there later (an allowance for tree blocks included).
    pub fn reserve(&self, blocks: u64, use_reserved: bool) -> Result<()> {
        let mut st = self.write_state();
        let free = {
            let v = crate::meta::View { core: &self.core, st: &st };
            read_counts(&v)?.free_blocks
        };
        let kept = if use_reserved { 0 } else { self.core.kept() };
        let want = st.reserved.saturating_add(blocks);
        let extra = want / 64 + 4;
        if free.saturating_sub(kept) < want.saturating_add(extra) {
            return Err(ENOSPC);
        }
        st.reserved = want;
        Ok(())
    }

    /// Takes a promise back, because the blocks were written or dropped.
    pub fn unreserve(&self, blocks: u64) {
        let mut st = self.write_state();
        st.reserved = st.reserved.saturating_sub(blocks);
    }
}
