//! The boot sector (fatgen103, "Boot Sector and BPB").

use uml_abi::errno::EINVAL;
use uml_store::bytes::{rd8, rd16, rd32, slice};

use crate::Refusal;
use crate::disk::Disk;

/// Width of the entries of the allocation table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 12 bits.
    Fat12,
    /// 16 bits.
    Fat16,
    /// 32 bits, of which 28 count.
    Fat32,
}

impl Width {
    /// Bits in an entry.
    pub(crate) fn bits(self) -> u64 {
        match self {
            Width::Fat12 => 12,
            Width::Fat16 => 16,
            Width::Fat32 => 32,
        }
    }

    /// Numbers from this one on are no clusters.
    pub(crate) fn limit(self) -> u32 {
        match self {
            Width::Fat12 => 0xff7,
            Width::Fat16 => 0xfff7,
            Width::Fat32 => 0x0fff_fff7,
        }
    }
}

/// Most clusters of a FAT12 (as Linux decides it).
const MOST_12: u64 = 0xff4;

/// Where things are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub width: Width,
    /// Bytes in a cluster.
    pub cluster: u64,
    /// Position of the allocation table in use.
    pub table: u64,
    /// Position of the root directory and bytes of it, when it is not made of clusters.
    pub root: (u64, u64),
    /// First cluster of the root directory of FAT32.
    pub root_cluster: u32,
    /// Position of cluster 2.
    pub data: u64,
    /// Clusters.
    pub clusters: u32,
}

pub(crate) fn read(disk: &Disk) -> Result<Layout, Refusal> {
    let bad = |why: String| Refusal::new(EINVAL, why);
    let b = disk.bytes(0, 512).map_err(|_| bad("the device has no sector".into()))?;
    let (sector, per_cluster) = (u64::from(rd16(&b, 11)), u64::from(rd8(&b, 13)));
    let (reserved, tables) = (u64::from(rd16(&b, 14)), u64::from(rd8(&b, 16)));
    if reserved == 0 {
        return Err(bad("bogus number of reserved sectors".into()));
    }
    if tables == 0 {
        return Err(bad("bogus number of FAT structure".into()));
    }
    if !matches!(rd8(&b, 21), 0xf0 | 0xf8..) {
        return Err(bad(format!("invalid media value ({:#04x})", rd8(&b, 21))));
    }
    if !matches!(sector, 512 | 1024 | 2048 | 4096) {
        return Err(bad(format!("bogus logical sector size {sector}")));
    }
    if !per_cluster.is_power_of_two() {
        return Err(bad(format!("bogus sectors per cluster {per_cluster}")));
    }
    let short = u64::from(rd16(&b, 22));
    let long = u64::from(rd32(&b, 36));
    let wide = short == 0 && long != 0;
    let table_sectors = if short == 0 { long } else { short };
    if table_sectors == 0 {
        return Err(bad("bogus number of FAT sectors".into()));
    }
    let entries = u64::from(rd16(&b, 17));
    if entries * 32 % sector != 0 {
        return Err(bad(format!("bogus number of directory entries ({entries})")));
    }
    let total = match rd16(&b, 19) {
        0 => u64::from(rd32(&b, 32)),
        n => n.into(),
    };
    let root_at = reserved + tables * table_sectors;
    let data = root_at + entries * 32 / sector;
    let room = total.checked_sub(data).ok_or_else(|| bad("the device is too small".into()))?;
    if total * sector > disk.size() {
        return Err(bad(format!(
            "the filesystem has {total} sectors, the device only {}",
            disk.size() / sector
        )));
    }
    let clusters = room / per_cluster;
    let width = match () {
        () if wide => Width::Fat32,
        () if clusters > MOST_12 => Width::Fat16,
        () => Width::Fat12,
    };
    // The first two entries stand for no clusters.
    let in_table = (table_sectors * sector * 8 / width.bits()).saturating_sub(2);
    let clusters = clusters.min(in_table);
    if clusters > u64::from(width.limit()) {
        return Err(bad(format!("count of clusters too big ({clusters})")));
    }
    let flags = rd16(&b, 40);
    if wide && rd16(&b, 42) != 0 {
        return Err(bad("version of FAT32 is not supported".into()));
    }
    // Without mirroring only one of the tables is in use.
    let active = if wide && flags & 0x80 != 0 { u64::from(flags & 0xf) } else { 0 };
    if active >= tables {
        return Err(bad("the active FAT is none of those there are".into()));
    }
    if slice(&b, 3, 8) == b"EXFAT   " {
        return Err(bad("this is exFAT".into()));
    }
    Ok(Layout {
        width,
        cluster: sector * per_cluster,
        table: (reserved + active * table_sectors) * sector,
        root: if wide { (0, 0) } else { (root_at * sector, entries * 32) },
        root_cluster: if wide { rd32(&b, 44) } else { 0 },
        data: data * sector,
        clusters: clusters as u32,
    })
}
