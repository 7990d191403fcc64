//! Feature bits of the superblock and their names as `tune2fs` spells them.

/// `compat` bits: unknown ones never prevent a mount.
pub mod compat {
    #![allow(missing_docs)]
    pub const HAS_JOURNAL: u32 = 0x4;
    pub const EXT_ATTR: u32 = 0x8;
    pub const RESIZE_INODE: u32 = 0x10;
    pub const DIR_INDEX: u32 = 0x20;
    pub const SPARSE_SUPER2: u32 = 0x200;
    pub const FAST_COMMIT: u32 = 0x400;
    pub const ORPHAN_FILE: u32 = 0x1000;
}

/// `incompat` bits: an unknown one prevents any mount.
pub mod incompat {
    #![allow(missing_docs)]
    pub const COMPRESSION: u32 = 0x1;
    pub const FILETYPE: u32 = 0x2;
    pub const RECOVER: u32 = 0x4;
    pub const JOURNAL_DEV: u32 = 0x8;
    pub const META_BG: u32 = 0x10;
    pub const EXTENTS: u32 = 0x40;
    pub const BIT64: u32 = 0x80;
    pub const MMP: u32 = 0x100;
    pub const FLEX_BG: u32 = 0x200;
    pub const EA_INODE: u32 = 0x400;
    pub const DIRDATA: u32 = 0x1000;
    pub const CSUM_SEED: u32 = 0x2000;
    pub const LARGEDIR: u32 = 0x4000;
    pub const INLINE_DATA: u32 = 0x8000;
    pub const ENCRYPT: u32 = 0x1_0000;
    pub const CASEFOLD: u32 = 0x2_0000;
}

/// `ro_compat` bits: an unknown one prevents a writable mount.
pub mod ro_compat {
    #![allow(missing_docs)]
    pub const SPARSE_SUPER: u32 = 0x1;
    pub const LARGE_FILE: u32 = 0x2;
    pub const HUGE_FILE: u32 = 0x8;
    pub const GDT_CSUM: u32 = 0x10;
    pub const DIR_NLINK: u32 = 0x20;
    pub const EXTRA_ISIZE: u32 = 0x40;
    pub const QUOTA: u32 = 0x100;
    pub const BIGALLOC: u32 = 0x200;
    pub const METADATA_CSUM: u32 = 0x400;
    pub const READONLY: u32 = 0x1000;
    pub const PROJECT: u32 = 0x2000;
    pub const SHARED_BLOCKS: u32 = 0x4000;
    pub const VERITY: u32 = 0x8000;
    pub const ORPHAN_PRESENT: u32 = 0x1_0000;
}

/// Incompatible features this engine implements.
pub const INCOMPAT_READ: u32 = incompat::FILETYPE
    | incompat::RECOVER
    | incompat::META_BG
    | incompat::EXTENTS
    | incompat::BIT64
    | incompat::MMP
    | incompat::FLEX_BG
    | incompat::EA_INODE
    | incompat::CSUM_SEED
    | incompat::LARGEDIR
    | incompat::INLINE_DATA;

/// Features of `ro_compat` that writing keeps correct.
pub const RO_COMPAT_WRITE: u32 = ro_compat::SPARSE_SUPER
    | ro_compat::LARGE_FILE
    | ro_compat::HUGE_FILE
    | ro_compat::GDT_CSUM
    | ro_compat::DIR_NLINK
    | ro_compat::EXTRA_ISIZE
    | ro_compat::METADATA_CSUM
    | ro_compat::PROJECT
    | ro_compat::ORPHAN_PRESENT;

const COMPAT_NAMES: &[(u32, &str)] = &[
    (0x1, "dir_prealloc"),
    (0x2, "imagic_inodes"),
    (0x4, "has_journal"),
    (0x8, "ext_attr"),
    (0x10, "resize_inode"),
    (0x20, "dir_index"),
    (0x40, "lazy_bg"),
    (0x80, "exclude_inode"),
    (0x100, "snapshot_bitmap"),
    (0x200, "sparse_super2"),
    (0x400, "fast_commit"),
    (0x800, "stable_inodes"),
    (0x1000, "orphan_file"),
];

const INCOMPAT_NAMES: &[(u32, &str)] = &[
    (0x1, "compression"),
    (0x2, "filetype"),
    (0x4, "needs_recovery"),
    (0x8, "journal_dev"),
    (0x10, "meta_bg"),
    (0x40, "extent"),
    (0x80, "64bit"),
    (0x100, "mmp"),
    (0x200, "flex_bg"),
    (0x400, "ea_inode"),
    (0x1000, "dirdata"),
    (0x2000, "metadata_csum_seed"),
    (0x4000, "large_dir"),
    (0x8000, "inline_data"),
    (0x1_0000, "encrypt"),
    (0x2_0000, "casefold"),
];

const RO_COMPAT_NAMES: &[(u32, &str)] = &[
    (0x1, "sparse_super"),
    (0x2, "large_file"),
    (0x4, "btree_dir"),
    (0x8, "huge_file"),
    (0x10, "uninit_bg"),
    (0x20, "dir_nlink"),
    (0x40, "extra_isize"),
    (0x80, "snapshot"),
    (0x100, "quota"),
    (0x200, "bigalloc"),
    (0x400, "metadata_csum"),
    (0x800, "replica"),
    (0x1000, "read-only"),
    (0x2000, "project"),
    (0x4000, "shared_blocks"),
    (0x8000, "verity"),
    (0x1_0000, "orphan_present"),
];

/// The three feature words of a superblock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Unknown bits are harmless.
    pub compat: u32,
    /// Unknown bits prevent mounting.
    pub incompat: u32,
    /// Unknown bits prevent writing.
    pub ro_compat: u32,
}

fn names(table: &[(u32, &str)], class: &str, bits: u32) -> Vec<String> {
    (0..32)
        .map(|i| 1u32 << i)
        .filter(|b| bits & b != 0)
        .map(|b| {
            table
                .iter()
                .find(|(v, _)| *v == b)
                .map_or_else(|| format!("{class}:{b:#x}"), |(_, n)| (*n).to_owned())
        })
        .collect()
}

impl Features {
    /// True when `bit` of the compatible word is set.
    pub fn compat(&self, bit: u32) -> bool {
        self.compat & bit != 0
    }

    /// True when `bit` of the incompatible word is set.
    pub fn incompat(&self, bit: u32) -> bool {
        self.incompat & bit != 0
    }

    /// True when `bit` of the read-only-compatible word is set.
    pub fn ro_compat(&self, bit: u32) -> bool {
        self.ro_compat & bit != 0
    }

    /// Names of all features, as `dumpe2fs` lists them.
    pub fn names(&self) -> Vec<String> {
        let mut v = names(COMPAT_NAMES, "compat", self.compat);
        v.extend(names(INCOMPAT_NAMES, "incompat", self.incompat));
        v.extend(names(RO_COMPAT_NAMES, "ro_compat", self.ro_compat));
        v
    }

    /// Names of the features that prevent even reading.
    pub fn unreadable(&self) -> Vec<String> {
        let mut v = names(INCOMPAT_NAMES, "incompat", self.incompat & !INCOMPAT_READ);
        // bigalloc changes what a bitmap bit and a free count mean.
        v.extend(names(RO_COMPAT_NAMES, "ro_compat", self.ro_compat & ro_compat::BIGALLOC));
        v
    }

    /// Names of the features that allow reading but not writing.
    pub fn unwritable(&self) -> Vec<String> {
        names(RO_COMPAT_NAMES, "ro_compat", self.ro_compat & !RO_COMPAT_WRITE)
    }
}
