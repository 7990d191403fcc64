//! Partition tables: MBR with extended partitions, and GPT (UEFI specification, chapter 5).

/// A stretch of a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// 1-based number, as in `ubda1`.
    pub number: u32,
    pub start: u64,
    pub len: u64,
}

const SECTOR: u64 = 512;
/// Minors of a disk behind the whole one.
pub const MAX_PARTITIONS: u32 = 15;
/// Longest chain of extended boot records followed.
const MAX_CHAIN: u32 = 100;
/// Largest GPT entry array read, in bytes (the specification's minimum is 16 KiB).
const MAX_ENTRIES: u64 = 1 << 20;

/// Reads sectors of the disk; `None` when it cannot.
pub type ReadSectors<'a> = dyn FnMut(u64, &mut [u8]) -> Option<()> + 'a;

fn u32_at(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).and_then(|s| s.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    b.get(at..at + 8).and_then(|s| s.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// The partitions of a disk of `size` bytes; none when it has no table.
pub fn scan(size: u64, read: &mut ReadSectors<'_>) -> Vec<Partition> {
    let mut mbr = [0; SECTOR as usize];
    if read(0, &mut mbr).is_none() || !is_table(&mbr) {
        return Vec::new();
    }
    let protective = entries(&mbr).any(|e| e.kind == 0xee);
    let found = if protective { gpt(size, read) } else { mbr_partitions(&mbr, read) };
    found
        .into_iter()
        .filter(|p| p.len > 0 && (1..=MAX_PARTITIONS).contains(&p.number))
        // What lies beyond the end is cut off, as on Linux.
        .filter(|p| p.start < size)
        .map(|p| Partition { len: p.len.min(size - p.start), ..p })
        .collect()
}

struct Entry {
    kind: u8,
    /// Sectors.
    start: u64,
    count: u64,
}

impl Entry {
    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }
}

/// A boot sector with a partition table, not one of a FAT filesystem, whose code lies where the entries
/// would be.
fn is_table(sector: &[u8; SECTOR as usize]) -> bool {
    sector[510..] == [0x55, 0xaa] && (0..4).all(|i| matches!(sector[446 + 16 * i], 0 | 0x80))
}

fn entries(sector: &[u8; SECTOR as usize]) -> impl Iterator<Item = Entry> + '_ {
    (0..4).map(|i| {
        let e = &sector[446 + 16 * i..462 + 16 * i];
        Entry { kind: e[4], start: u32_at(e, 8).into(), count: u32_at(e, 12).into() }
    })
}

fn mbr_partitions(mbr: &[u8; SECTOR as usize], read: &mut ReadSectors<'_>) -> Vec<Partition> {
    let mut out = Vec::new();
    let mut next = 5;
    for (i, e) in entries(mbr).enumerate().filter(|(_, e)| e.count != 0 && e.kind != 0) {
        let number = i as u32 + 1;
        if e.is_extended() {
            // Linux shows the extended partition itself with two sectors at most, for boot loaders.
            let count = e.count.min(2);
            out.push(Partition { number, start: e.start * SECTOR, len: count * SECTOR });
            logical(&e, &mut next, read, &mut out);
        } else {
            out.push(Partition { number, start: e.start * SECTOR, len: e.count * SECTOR });
        }
    }
    out
}

/// Follows the chain of extended boot records.
fn logical(extended: &Entry, next: &mut u32, read: &mut ReadSectors<'_>, out: &mut Vec<Partition>) {
    let mut at = extended.start;
    for _ in 0..MAX_CHAIN {
        let mut sector = [0; SECTOR as usize];
        if *next > MAX_PARTITIONS || read(at * SECTOR, &mut sector).is_none() || !is_table(&sector)
        {
            return;
        }
        let mut link = None;
        for e in entries(&sector).filter(|e| e.count != 0) {
            if e.is_extended() {
                link = link.or(Some(extended.start + e.start));
            } else if e.kind != 0 && *next <= MAX_PARTITIONS {
                let start = (at + e.start) * SECTOR;
                out.push(Partition { number: *next, start, len: e.count * SECTOR });
                *next += 1;
            }
        }
        match link {
            Some(l) if l != at => at = l,
            _ => return,
        }
    }
}

fn gpt(size: u64, read: &mut ReadSectors<'_>) -> Vec<Partition> {
    let last = (size / SECTOR).saturating_sub(1);
    gpt_at(1, last, read).or_else(|| gpt_at(last, last, read)).unwrap_or_default()
}

/// The partitions of the GPT whose header is at sector `lba`; `None` when it is damaged.
fn gpt_at(lba: u64, last: u64, read: &mut ReadSectors<'_>) -> Option<Vec<Partition>> {
    let mut header = [0; SECTOR as usize];
    read(lba.checked_mul(SECTOR)?, &mut header)?;
    if &header[..8] != b"EFI PART" || u64_at(&header, 24) != lba {
        return None;
    }
    let header_len = u32_at(&header, 12) as usize;
    if !(92..=SECTOR as usize).contains(&header_len) {
        return None;
    }
    let sum = u32_at(&header, 16);
    header[16..20].fill(0);
    if crc32fast::hash(&header[..header_len]) != sum {
        return None;
    }
    let (entry_lba, count, entry_len) =
        (u64_at(&header, 72), u32_at(&header, 80), u32_at(&header, 84));
    let bytes = u64::from(count).checked_mul(entry_len.into())?;
    if entry_len < 128 || bytes > MAX_ENTRIES {
        return None;
    }
    let mut table = vec![0; usize::try_from(bytes.next_multiple_of(SECTOR)).ok()?];
    read(entry_lba.checked_mul(SECTOR)?, &mut table)?;
    table.truncate(usize::try_from(bytes).ok()?);
    if crc32fast::hash(&table) != u32_at(&header, 88) {
        return None;
    }
    let found = table
        .chunks_exact(entry_len as usize)
        .enumerate()
        .filter(|(_, e)| e[..16].iter().any(|b| *b != 0))
        .filter_map(|(i, e)| {
            let (first, end) = (u64_at(e, 32), u64_at(e, 40));
            if first > end || end > last {
                return None;
            }
            Some(Partition {
                number: u32::try_from(i).ok()?.checked_add(1)?,
                start: first * SECTOR,
                len: (end - first + 1) * SECTOR,
            })
        });
    Some(found.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan_bytes(disk: &[u8]) -> Vec<Partition> {
        scan(disk.len() as u64, &mut |off, buf| {
            let at = usize::try_from(off).ok()?;
            buf.copy_from_slice(disk.get(at..at.checked_add(buf.len())?)?);
            Some(())
        })
    }

    fn put_entry(disk: &mut [u8], sector: usize, slot: usize, kind: u8, start: u32, count: u32) {
        let base = sector * 512;
        let e = &mut disk[base + 446 + 16 * slot..base + 462 + 16 * slot];
        e[4] = kind;
        e[8..12].copy_from_slice(&start.to_le_bytes());
        e[12..16].copy_from_slice(&count.to_le_bytes());
        disk[base + 510..base + 512].copy_from_slice(&[0x55, 0xaa]);
    }

    fn part(number: u32, start: u64, count: u64) -> Partition {
        Partition { number, start: start * 512, len: count * 512 }
    }

    #[test]
    fn primary_and_logical_partitions() {
        let mut d = vec![0; 512 * 100];
        put_entry(&mut d, 0, 0, 0x83, 2, 10);
        put_entry(&mut d, 0, 2, 0x05, 20, 60);
        put_entry(&mut d, 20, 0, 0x83, 1, 9);
        put_entry(&mut d, 20, 1, 0x05, 20, 20);
        put_entry(&mut d, 40, 0, 0x82, 2, 8);
        let want = [part(1, 2, 10), part(3, 20, 2), part(5, 21, 9), part(6, 42, 8)];
        assert_eq!(scan_bytes(&d), want);
        // A partition that is longer than the disk is cut, one outside is left out.
        put_entry(&mut d, 0, 0, 0x83, 90, 1000);
        put_entry(&mut d, 0, 2, 0x83, 100, 1);
        assert_eq!(scan_bytes(&d), [part(1, 90, 10)]);
    }

    #[test]
    fn no_table() {
        assert_eq!(scan_bytes(&[0; 512 * 4]), []);
        assert_eq!(scan_bytes(&[]), []);
        let mut d = vec![0; 512 * 4];
        put_entry(&mut d, 0, 0, 0x83, 1, 1);
        d[446] = 0x66;
        assert_eq!(scan_bytes(&d), []);
    }

    #[test]
    fn a_chain_that_loops_ends() {
        let mut d = vec![0; 512 * 100];
        put_entry(&mut d, 0, 0, 0x05, 20, 60);
        put_entry(&mut d, 20, 0, 0x83, 1, 1);
        put_entry(&mut d, 20, 1, 0x05, 10, 20);
        put_entry(&mut d, 30, 1, 0x05, 0, 20);
        assert!(scan_bytes(&d).len() <= MAX_PARTITIONS as usize);
    }

    fn gpt_disk() -> Vec<u8> {
        let sectors = 200u64;
        let mut d = vec![0; 512 * sectors as usize];
        put_entry(&mut d, 0, 0, 0xee, 1, 199);
        let mut table = vec![0u8; 128 * 128];
        for (slot, first, last) in [(0u64, 40u64, 59u64), (3, 60, 99)] {
            let e = &mut table[slot as usize * 128..][..128];
            e[..16].fill(7);
            e[32..40].copy_from_slice(&first.to_le_bytes());
            e[40..48].copy_from_slice(&last.to_le_bytes());
        }
        for (lba, entries) in [(1u64, 2u64), (199, 167)] {
            let mut h = [0u8; 512];
            h[..8].copy_from_slice(b"EFI PART");
            h[12..16].copy_from_slice(&92u32.to_le_bytes());
            h[24..32].copy_from_slice(&lba.to_le_bytes());
            h[72..80].copy_from_slice(&entries.to_le_bytes());
            h[80..84].copy_from_slice(&128u32.to_le_bytes());
            h[84..88].copy_from_slice(&128u32.to_le_bytes());
            h[88..92].copy_from_slice(&crc32fast::hash(&table).to_le_bytes());
            let sum = crc32fast::hash(&h[..92]);
            h[16..20].copy_from_slice(&sum.to_le_bytes());
            d[lba as usize * 512..][..512].copy_from_slice(&h);
            d[entries as usize * 512..][..table.len()].copy_from_slice(&table);
        }
        d
    }

    #[test]
    fn gpt_and_its_backup() {
        let want = [part(1, 40, 20), part(4, 60, 40)];
        let mut d = gpt_disk();
        assert_eq!(scan_bytes(&d), want);
        d[512 + 72] ^= 1;
        assert_eq!(scan_bytes(&d), want);
        d[199 * 512] = 0;
        assert_eq!(scan_bytes(&d), []);
    }

    proptest! {
        #[test]
        fn damage_never_panics_or_leaves_the_disk(
            hits in prop::collection::vec((0usize..512 * 200, any::<u8>()), 0..60),
            mbr in any::<bool>(),
        ) {
            let mut d = gpt_disk();
            if mbr {
                put_entry(&mut d, 0, 0, 0x05, 20, 60);
                put_entry(&mut d, 20, 1, 0x05, 5, 60);
            }
            for (at, v) in hits {
                d[at] = v;
            }
            for p in scan_bytes(&d) {
                prop_assert!(p.start + p.len <= d.len() as u64);
                prop_assert!((1..=MAX_PARTITIONS).contains(&p.number));
            }
        }
    }
}
