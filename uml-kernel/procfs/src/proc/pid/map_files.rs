//! `/proc/<pid>/map_files`: links to the mapped files, named by the addresses they are mapped at (proc_pid_map_files(5)).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::shm::MappedFile;
use uml_core::task::{Cap, Task};
use uml_core::vfs::Path;
use uml_mm::vma::{Purpose, Vma};

use super::{FileAccess, OwnAccess, Target, links};
use crate::synth::{Directory, Entry, Link, Spec};

/// A number in hexadecimal without leading zeros.
fn parse_address(text: &[u8]) -> Option<u64> {
    let digit = u8::is_ascii_hexdigit;
    if text.is_empty() || text.len() > 1 && text[0] == b'0' || !text.iter().all(digit) {
        return None;
    }
    u64::from_str_radix(str::from_utf8(text).ok()?, 16).ok()
}

fn parse(name: &[u8]) -> Option<(u64, u64)> {
    let dash = name.iter().position(|b| *b == b'-')?;
    Some((parse_address(&name[..dash])?, parse_address(&name[dash + 1..])?))
}

/// Whether the area is a file's; the kernel's own pages are objects only here.
fn is_file(v: &Vma) -> bool {
    v.backing.is_some() && !matches!(v.flags.purpose, Purpose::Vdso | Purpose::Vvar)
}

/// The area that is exactly `range`, if it is a file's.
fn area(t: &Target, (start, end): (u64, u64)) -> Result<Vma> {
    let mm = t.task()?.mm().map_err(|_| ENOENT)?;
    let map = mm.map();
    let found = map.vmas.find(start).filter(|v| (v.start, v.end) == (start, end) && is_file(v));
    found.cloned().ok_or(ENOENT)
}

fn mapped_file(v: &Vma) -> Option<&MappedFile> {
    v.backing.as_ref()?.object.as_any()?.downcast_ref()
}

struct Files(Target);

pub fn dir(t: &Target) -> Spec {
    Spec::dir(Files(t.clone())).access(OwnAccess::new(t))
}

impl Directory for Files {
    fn lookup(&self, name: &[u8]) -> Result<Spec> {
        let range = parse(name).ok_or(ENOENT)?;
        let v = area(&self.0, range)?;
        // The permission bits say how the file was open when it was mapped; memory without a name is open for both.
        let (read, write) =
            mapped_file(&v).map_or((true, true), |m| (m.file.readable(), m.file.writable()));
        let mode = if read { 0o400 } else { 0 } | if write { 0o200 } else { 0 };
        let access = Arc::new(FileAccess(self.0.clone()));
        Ok(Spec::link(AreaLink { target: self.0.clone(), range }).mode(mode).access(access))
    }

    fn list(&self, reader: &Task) -> Result<Vec<Entry>> {
        let Some(mm) = self.0.inspect_mm(reader)? else { return Ok(Vec::new()) };
        let map = mm.map();
        let entry = |v: &Vma| Entry::new(format!("{:x}-{:x}", v.start, v.end), libc::S_IFLNK);
        Ok(map.vmas.iter().filter(|v| is_file(v)).map(entry).collect())
    }

    fn keeps(&self, _: &[u8]) -> bool {
        // Another file may be mapped there by now.
        false
    }
}

struct AreaLink {
    target: Target,
    range: (u64, u64),
}

impl AreaLink {
    fn area(&self, reader: &Task) -> Result<Vma> {
        self.target.inspect(reader)?;
        area(&self.target, self.range)
    }
}

impl Link for AreaLink {
    fn readlink(&self, task: &Task) -> Result<Vec<u8>> {
        let v = self.area(task)?;
        match (mapped_file(&v), &v.backing) {
            (Some(m), _) => Ok(links::text(&m.file.path, task)),
            (None, Some(b)) => Ok(b.object.name()),
            (None, None) => Err(ENOENT),
        }
    }

    fn follow(&self, task: &Task) -> Option<Result<Path>> {
        let path = || {
            let cred = task.cred();
            if !cred.capable(Cap::CheckpointRestore) && !cred.capable(Cap::SysAdmin) {
                return Err(EPERM);
            }
            // Shared memory without a name is no file of ours.
            mapped_file(&self.area(task)?).map(|m| m.file.path.clone()).ok_or(ENXIO)
        };
        Some(path())
    }

    fn size(&self) -> u64 {
        super::fd::LINK_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn names_are_written_in_one_way_only() {
        assert_eq!(parse(b"400000-40a000"), Some((0x40_0000, 0x40_a000)));
        assert_eq!(parse(b"0-1000"), Some((0, 0x1000)));
        let bad: [&[u8]; 7] =
            [b"", b"-", b"400000", b"0400000-40a000", b"1-2-3", b"+1-2", b"0x1-2"];
        for name in bad {
            assert_eq!(parse(name), None, "{name:?}");
        }
        assert_eq!(parse(b"ffffffffffffffffff-0"), None);
    }
}
