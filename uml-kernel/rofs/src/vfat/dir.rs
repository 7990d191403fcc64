//! Directories: entries of 32 bytes, long names before the short ones.

use uml_abi::Result;
use uml_abi::errno::ENOTDIR;
use uml_store::bytes::{rd8, rd16, rd32};

use crate::vfat::names::{self, Long};
use crate::vfat::{ROOT, Vfat};
use crate::{Attr, Timestamp, date, kind};

/// Bytes of an entry.
pub(crate) const ENTRY: u64 = 32;
/// Bytes of the largest directory.
const MOST: u64 = 65536 * ENTRY;

const READ_ONLY: u8 = 1;
const VOLUME: u8 = 8;
const DIRECTORY: u8 = 16;
const LONG: u8 = 15;

/// An entry of a directory.
pub(crate) struct Found<'a> {
    pub name: &'a [u8],
    /// The short name, as shown.
    pub short: &'a [u8],
    pub node: u64,
    pub dir: bool,
    /// Byte after it.
    pub next: u64,
}

impl Vfat {
    /// The short entry of a node other than the root.
    pub(crate) fn entry(&self, node: u64) -> Result<[u8; 32]> {
        let mut e = [0; 32];
        let at = node.checked_mul(ENTRY).ok_or(uml_abi::errno::EIO)?;
        self.disk.peek(at, &mut e)?;
        Ok(e)
    }

    /// First cluster that an entry names.
    pub(crate) fn first_cluster(&self, e: &[u8]) -> u32 {
        let high = if self.layout.width == super::Width::Fat32 { rd16(e, 20) } else { 0 };
        u32::from(high) << 16 | u32::from(rd16(e, 26))
    }

    /// Position of the directory's byte `at` (a multiple of an entry); `None` behind the end.
    fn place(&self, dir: u64, at: u64) -> Result<Option<u64>> {
        let l = &self.layout;
        if at >= MOST {
            return Ok(None);
        }
        let first = if dir != ROOT {
            self.first_cluster(&self.entry(dir)?)
        } else if l.root.1 != 0 {
            return Ok((at < l.root.1).then(|| l.root.0 + at));
        } else {
            l.root_cluster
        };
        let c = self.cluster(first, (at / l.cluster) as u32, 1)?;
        Ok(c.map(|(c, _)| self.position(c) + at % l.cluster))
    }

    pub(crate) fn is_dir(&self, node: u64) -> Result<bool> {
        Ok(node == ROOT || rd8(&self.entry(node)?, 11) & DIRECTORY != 0)
    }

    /// Goes through a directory from a byte on until `f` says false.
    pub(crate) fn entries(
        &self,
        dir: u64,
        from: u64,
        f: &mut dyn FnMut(&Found<'_>) -> bool,
    ) -> Result<()> {
        if !self.is_dir(dir)? {
            return Err(ENOTDIR);
        }
        let o = &self.options;
        let mut at = from / ENTRY * ENTRY;
        let mut long = Long::default();
        let mut place = None;
        loop {
            // Within a cluster or sector entries lie one after another.
            let pos = match place {
                Some(p) if at % 512 != 0 => p + ENTRY,
                _ => match self.place(dir, at)? {
                    Some(p) => p,
                    None => return Ok(()),
                },
            };
            place = Some(pos);
            let node = pos / ENTRY;
            let e = self.entry(node)?;
            at += ENTRY;
            if matches!(e[0], 0 | 0xe5) {
                long = Long::default();
                continue;
            }
            if e[11] & 0x3f == LONG {
                long.slot(&e);
                continue;
            }
            let name = long.take(&e, o.charset);
            if e[11] & VOLUME != 0 || matches!(&e[..11], b".          " | b"..         ") {
                continue;
            }
            let short = names::short(&e, o.short_names, &self.page, o.charset);
            let name = name.unwrap_or_else(|| short.clone());
            let dir = e[11] & DIRECTORY != 0;
            let found = Found { name: &name, short: &short, node, dir, next: at };
            if crate::is_name(&name) && !f(&found) {
                return Ok(());
            }
        }
    }

    /// Attributes of a node that no directory needs to be read for.
    pub(crate) fn attributes(&self, node: u64) -> Result<Attr> {
        let o = &self.options;
        let mut a = Attr {
            uid: o.uid,
            gid: o.gid,
            links: 1,
            io_size: self.layout.cluster as u32,
            ..Attr::default()
        };
        if node == ROOT {
            a.ino = ROOT_INO;
            a.mode = kind::DIR | 0o777 & !o.dir_mask;
            a.size = match self.layout.root.1 {
                0 => self.dir_size(self.layout.root_cluster)?,
                n => n,
            };
        } else {
            let e = self.entry(node)?;
            let dir = e[11] & DIRECTORY != 0;
            a.ino = node;
            let fixed = e[11] & READ_ONLY != 0 && (!dir || o.read_only_dirs);
            let mut mode = if dir { 0o777 & !o.dir_mask } else { 0o777 & !o.file_mask };
            if !dir && o.show_exec && !matches!(&e[8..11], b"EXE" | b"COM" | b"BAT") {
                mode &= !0o111;
            }
            if fixed {
                mode &= !0o222;
            }
            a.mode = if dir { kind::DIR } else { kind::REG } | mode;
            a.size = if dir { self.dir_size(self.first_cluster(&e))? } else { rd32(&e, 28).into() };
            a.mtime = self.time(rd16(&e, 24), rd16(&e, 22), 0);
            a.ctime = a.mtime;
            a.atime = self.time(rd16(&e, 18), 0, 0);
            a.btime = Some(self.time(rd16(&e, 16), rd16(&e, 14), e[13]));
        }
        if a.mode & kind::MASK == kind::DIR {
            // Of the root's entries none is a dot.
            a.links = if node == ROOT { 2 } else { 0 };
            a.links += self.subdirectories(node)?;
        }
        a.sectors = a.size.div_ceil(self.layout.cluster) * self.layout.cluster / 512;
        Ok(a)
    }

    fn dir_size(&self, first: u32) -> Result<u64> {
        let (mut n, most) = (0, (MOST / self.layout.cluster).max(1) as u32);
        while n < most
            && let Some((_, k)) = self.cluster(first, n, most - n)?
        {
            n += k;
        }
        Ok(u64::from(n) * self.layout.cluster)
    }

    /// Entries that are directories, `.` and `..` among them.
    fn subdirectories(&self, dir: u64) -> Result<u32> {
        let mut n = if dir == ROOT { 0 } else { 2 };
        self.entries(dir, 0, &mut |e| {
            n += u32::from(e.dir);
            true
        })?;
        Ok(n)
    }

    /// A date and time of day in the zone of the mount; `cs` are hundredths of seconds.
    fn time(&self, day: u16, time: u16, cs: u8) -> Timestamp {
        let (day, time, cs) = (i64::from(day), i64::from(time), i64::from(cs));
        let (month, mday) = ((day >> 5 & 15).max(1), (day & 31).max(1));
        let sec = date::seconds(
            1980 + (day >> 9),
            month,
            mday,
            time >> 11,
            time >> 5 & 63,
            (time & 31) * 2 + cs / 100,
        );
        let east = i64::from(self.options.minutes_east) * 60;
        Timestamp { sec: sec - east, nsec: (cs % 100) as u32 * 10_000_000 }
    }
}

/// MSDOS_ROOT_INO of Linux. No entry has that number: the boot sector is before all.
const ROOT_INO: u64 = 1;
