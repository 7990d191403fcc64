//! Directories: records one after another, none across the end of a block.

use uml_abi::Result;
use uml_abi::errno::{EIO, ENOTDIR};

use crate::iso9660::record::{ASSOCIATED, CONTINUED, HIDDEN, Record};
use crate::iso9660::rock::Rock;
use crate::iso9660::{Iso9660, NameMap, names};
use crate::kind;

/// Parts of one file: 400 GiB.
const PARTS: usize = 100;

/// An entry of a directory.
pub(crate) struct Found<'a> {
    pub name: &'a [u8],
    pub node: u64,
    pub kind: u32,
    /// Byte after it.
    pub next: u64,
}

impl Iso9660 {
    /// The record at a position, which does not reach over the end of its block.
    pub(crate) fn raw_record(&self, at: u64) -> Result<Record> {
        let room = (self.block - at % self.block).min(255);
        let room = room.min(self.disk.size().saturating_sub(at));
        Record::parse(&self.disk.bytes(at, crate::size(room)?)?)
    }

    /// A record and what Rock Ridge adds.
    pub(crate) fn record(&self, at: u64) -> Result<(Record, Option<Rock>)> {
        let r = self.raw_record(at)?;
        let rock = match self.rock {
            Some(rr) => Some(self.rock(rr, &r, at == self.root)?),
            None => None,
        };
        Ok((r, rock))
    }

    /// Position and size of a directory's records.
    pub(crate) fn dir(&self, node: u64) -> Result<(u64, u64)> {
        let r = self.raw_record(node)?;
        if r.flags & super::record::DIRECTORY == 0 {
            return Err(ENOTDIR);
        }
        let at = r.block * self.block;
        let room = self.disk.size().checked_sub(at).ok_or(EIO)?;
        Ok((at, u64::from(r.size).min(room)))
    }

    /// The record at a position or, where the rest of the block is empty, at the start of the next: position and record.
    fn next_record(&self, at: u64) -> Result<(u64, Record)> {
        if at % self.block != 0 && self.raw_record(at).is_err() {
            let at = at.next_multiple_of(self.block);
            return Ok((at, self.raw_record(at)?));
        }
        Ok((at, self.raw_record(at)?))
    }

    /// Where the contents of a file are: more than one part when the records say that they go on.
    pub(crate) fn parts(
        &self,
        node: u64,
        first: &Record,
        parts: &mut Vec<(u64, u64)>,
    ) -> Result<()> {
        parts.push((first.block * self.block, first.size.into()));
        let (mut at, mut r) = (node, None);
        loop {
            let here = r.as_ref().unwrap_or(first);
            if here.flags & CONTINUED == 0 {
                return Ok(());
            }
            if parts.len() == PARTS {
                return Err(EIO);
            }
            let next;
            (at, next) = self.next_record(at + here.len as u64)?;
            if next.name != first.name {
                return Err(EIO);
            }
            parts.push((next.block * self.block, next.size.into()));
            r = Some(next);
        }
    }

    /// Goes through a directory from a byte on until `f` says false.
    pub(crate) fn entries(
        &self,
        dir: u64,
        from: u64,
        f: &mut dyn FnMut(&Found<'_>) -> bool,
    ) -> Result<()> {
        let (start, len) = self.dir(dir)?;
        let mut at = from;
        while at < len {
            let pos = start + at;
            let mut first = [0];
            self.disk.peek(pos, &mut first)?;
            if first[0] == 0 {
                at = at / self.block * self.block + self.block;
                continue;
            }
            let r = self.raw_record(pos)?;
            at += r.len as u64;
            // The other parts of the file are records of their own.
            let mut goes_on = r.flags & CONTINUED != 0;
            while goes_on && at < len {
                let (pos, part) = self.next_record(start + at)?;
                at = pos + part.len as u64 - start;
                goes_on = part.flags & CONTINUED != 0;
            }
            if r.is_dots() {
                continue;
            }
            let hidden = r.flags & HIDDEN != 0 && self.options.hide;
            let associated = r.flags & ASSOCIATED != 0 && !self.options.show_associated;
            if hidden || associated {
                continue;
            }
            let rock = match self.rock {
                Some(rr) => Some(self.rock(rr, &r, false)?),
                None => None,
            };
            if rock.as_ref().is_some_and(|k| k.moved_here) {
                continue;
            }
            let moved = rock.as_ref().and_then(|k| k.moved_to);
            let is_dir = moved.is_some() || r.is_dir();
            let node = match moved {
                Some(block) => u64::from(block) * self.block,
                None if is_dir => r.block * self.block,
                None => pos,
            };
            let mode = rock.as_ref().and_then(|k| k.posix).map_or(kind::REG, |p| p.mode);
            let kind = match mode & kind::MASK {
                _ if is_dir => kind::DIR,
                kind::DIR | 0 => kind::REG,
                k => k,
            };
            let name = match (rock.and_then(|k| k.name), self.joliet, self.options.map) {
                (Some(n), _, _) => n,
                (None, true, _) => names::joliet(&r.name, self.options.charset),
                (None, false, NameMap::Normal) => names::normal(&r.name),
                (None, false, NameMap::Off) => r.name,
            };
            if crate::is_name(&name) && !f(&Found { name: &name, node, kind, next: at }) {
                return Ok(());
            }
        }
        Ok(())
    }
}
