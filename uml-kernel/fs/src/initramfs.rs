//! Unpacking an initramfs: cpio archives of the formats newc and crc, plain or compressed with gzip, one
//! after the other.
//!
//! The archive is untrusted: every length is checked against what is there, names are walked one
//! component at a time below the root without following links.

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::sync::Arc;

use uml_abi::Errno;
use uml_abi::errno::*;
use uml_core::vfs::{Dev, Inode, NAME_MAX, NewNode, NodeKind, SetAttr, Timespec};

/// Why an archive could not be unpacked.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// Neither a cpio header nor gzip at this offset.
    Magic { offset: usize, found: [u8; 6] },
    /// Compressed with something else than gzip.
    Compression { name: &'static str, offset: usize },
    /// The archive ends inside a member.
    Truncated { offset: usize, wanted: usize },
    /// A header field is not a hexadecimal number.
    Field { offset: usize },
    /// A name is empty, too long or has no NUL.
    Name { offset: usize },
    /// Compressed data is damaged.
    Gzip { offset: usize, reason: String },
    /// It unpacks to more than the limit.
    TooBig { limit: u64 },
    /// The checksum of a member (format crc) is wrong.
    Checksum { name: String, stored: u32, computed: u32 },
    /// A file could not be made.
    Create { name: String, errno: Errno },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Magic { offset, found } => write!(
                f,
                "no cpio archive at offset {offset}: found {:?}, expected 070701, 070702 or gzip data",
                String::from_utf8_lossy(found)
            ),
            Error::Compression { name, offset } => write!(
                f,
                "compression method {name} at offset {offset} is not supported; use gzip or none"
            ),
            Error::Truncated { offset, wanted } => {
                write!(
                    f,
                    "the archive ends in the member at offset {offset}, {wanted} bytes missing"
                )
            }
            Error::Field { offset } => {
                write!(f, "the header at offset {offset} has a field that is not hexadecimal")
            }
            Error::Name { offset } => {
                write!(
                    f,
                    "the member at offset {offset} has a bad name (1 to 4095 bytes and a NUL)"
                )
            }
            Error::Gzip { offset, reason } => {
                write!(f, "damaged gzip data at offset {offset}: {reason}")
            }
            Error::TooBig { limit } => write!(f, "the archive unpacks to more than {limit} bytes"),
            Error::Checksum { name, stored, computed } => {
                write!(f, "{name}: checksum is {computed:08x}, the archive says {stored:08x}")
            }
            Error::Create { name, errno } => write!(f, "cannot make {name}: {errno}"),
        }
    }
}

impl std::error::Error for Error {}

/// What was unpacked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub members: usize,
    pub bytes: u64,
}

/// Nested gzip would be a bomb; archives are compressed once.
const HEADER: usize = 110;

/// Unpacks `image` below the directory `root`. `limit` bounds the bytes that compressed parts may expand
/// to.
pub fn unpack(image: &[u8], root: &Arc<dyn Inode>, limit: u64) -> Result<Summary, Error> {
    let mut u = Unpacker { root, links: HashMap::new(), summary: Summary::default() };
    let mut pos = 0;
    let mut left = limit;
    while pos < image.len() {
        let rest = &image[pos..];
        if rest[0] == 0 {
            // Padding between archives.
            pos += 1;
            continue;
        }
        if rest.starts_with(&[0x1f, 0x8b]) {
            let mut input = flate2::bufread::GzDecoder::new(rest);
            let mut data = Vec::new();
            let gzip = |e: std::io::Error| Error::Gzip { offset: pos, reason: e.to_string() };
            (&mut input).take(left.saturating_add(1)).read_to_end(&mut data).map_err(gzip)?;
            if data.len() as u64 > left {
                return Err(Error::TooBig { limit });
            }
            left -= data.len() as u64;
            u.archives(&data)?;
            let unread = input.into_inner().len();
            pos = image.len() - unread;
            continue;
        }
        if let Some(name) = compression(rest) {
            return Err(Error::Compression { name, offset: pos });
        }
        pos += u.archive(image, pos)?;
    }
    Ok(u.summary)
}

/// Compression that the kernel does not read.
fn compression(data: &[u8]) -> Option<&'static str> {
    [
        (&b"BZh"[..], "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x5d\0\0", "lzma"),
        (b"\x89LZO", "lzo"),
        (b"\x02\x21\x4c\x18", "lz4"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
    ]
    .into_iter()
    .find(|(magic, _)| data.starts_with(magic))
    .map(|(_, name)| name)
}

/// A directory and the name in it.
type Place<'n> = (Arc<dyn Inode>, &'n [u8]);

struct Unpacker<'a> {
    root: &'a Arc<dyn Inode>,
    /// Files with several names, by device and inode number in the archive.
    links: HashMap<(u32, u32, u32), Arc<dyn Inode>>,
    summary: Summary,
}

struct Header {
    ino: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    mtime: u32,
    size: usize,
    dev: (u32, u32),
    rdev: Dev,
    name_len: usize,
    sum: u32,
    checked: bool,
}

fn header(data: &[u8], offset: usize) -> Result<Header, Error> {
    let magic: [u8; 6] = match data.get(..6).and_then(|m| m.try_into().ok()) {
        Some(m) => m,
        None => return Err(Error::Truncated { offset, wanted: HEADER - data.len() }),
    };
    if &magic != b"070701" && &magic != b"070702" {
        return Err(Error::Magic { offset, found: magic });
    }
    if data.len() < HEADER {
        return Err(Error::Truncated { offset, wanted: HEADER - data.len() });
    }
    let mut fields = [0u32; 13];
    for (i, f) in fields.iter_mut().enumerate() {
        let text = &data[6 + i * 8..14 + i * 8];
        if !text.iter().all(u8::is_ascii_hexdigit) {
            return Err(Error::Field { offset });
        }
        let text = std::str::from_utf8(text).map_err(|_| Error::Field { offset })?;
        *f = u32::from_str_radix(text, 16).map_err(|_| Error::Field { offset })?;
    }
    let [ino, mode, uid, gid, nlink, mtime, size, dmaj, dmin, rmaj, rmin, name_len, sum] = fields;
    Ok(Header {
        ino,
        mode,
        uid,
        gid,
        nlink,
        mtime,
        size: size as usize,
        dev: (dmaj, dmin),
        rdev: Dev::new(rmaj, rmin),
        name_len: name_len as usize,
        sum,
        checked: &magic == b"070702",
    })
}

impl Unpacker<'_> {
    /// Archives one after the other in memory, with zeros between them.
    fn archives(&mut self, data: &[u8]) -> Result<(), Error> {
        let mut pos = 0;
        while pos < data.len() {
            if data[pos] == 0 {
                pos += 1;
            } else {
                pos += self.archive(data, pos)?;
            }
        }
        Ok(())
    }

    /// One archive from `start` to its trailer; returns its length.
    fn archive(&mut self, image: &[u8], start: usize) -> Result<usize, Error> {
        self.links.clear();
        let mut pos = start;
        // Times of directories are set last: filling them changes them.
        let mut dirs: Vec<(Arc<dyn Inode>, u32)> = Vec::new();
        loop {
            let h = header(&image[pos..], pos)?;
            let name_at = pos + HEADER;
            if h.name_len == 0 || h.name_len > libc::PATH_MAX as usize {
                return Err(Error::Name { offset: pos });
            }
            // Names and data are padded to four bytes from the archive's start.
            let pad = |n: usize| start + (n - start).next_multiple_of(4);
            let data_at = pad(name_at + h.name_len);
            let end = data_at.saturating_add(h.size);
            if image.len() < end {
                return Err(Error::Truncated { offset: pos, wanted: end - image.len() });
            }
            let name = &image[name_at..name_at + h.name_len];
            let name = name.strip_suffix(b"\0").ok_or(Error::Name { offset: pos })?;
            if name == b"TRAILER!!!" {
                for (dir, mtime) in dirs.into_iter().rev() {
                    let _ = dir.set_attr(&times(mtime));
                }
                return Ok(pad(end).min(image.len()) - start);
            }
            let data = &image[data_at..end];
            if h.checked {
                let sum = data.iter().fold(0u32, |a, b| a.wrapping_add(u32::from(*b)));
                if sum != h.sum && h.mode & libc::S_IFMT == libc::S_IFREG {
                    let name = String::from_utf8_lossy(name).into_owned();
                    return Err(Error::Checksum { name, stored: h.sum, computed: sum });
                }
            }
            match self.member(&h, name, data) {
                Ok(Some(dir)) => dirs.push((dir, h.mtime)),
                Ok(None) => {}
                Err(errno) => {
                    let name = String::from_utf8_lossy(name).into_owned();
                    return Err(Error::Create { name, errno });
                }
            }
            self.summary.members += 1;
            self.summary.bytes += h.size as u64;
            pos = pad(end);
            if pos >= image.len() {
                return Err(Error::Truncated { offset: image.len(), wanted: HEADER });
            }
        }
    }

    /// The directory of `name` and its last component; `None` for the root itself.
    fn place<'n>(&self, name: &'n [u8]) -> Result<Option<Place<'n>>, Errno> {
        let mut dir = self.root.clone();
        let mut parts = name.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".");
        let Some(mut last) = parts.next() else { return Ok(None) };
        for next in parts {
            if last == b".." {
                return Err(EINVAL);
            }
            dir = dir.dir().ok_or(ENOTDIR)?.lookup(last)?;
            if dir.dir().is_none() {
                return Err(ENOTDIR);
            }
            last = next;
        }
        if last == b".." {
            return Err(EINVAL);
        }
        if last.len() > NAME_MAX {
            return Err(ENAMETOOLONG);
        }
        Ok(Some((dir, last)))
    }

    /// Makes one member; returns it when it is a directory.
    fn member(
        &mut self,
        h: &Header,
        name: &[u8],
        data: &[u8],
    ) -> Result<Option<Arc<dyn Inode>>, Errno> {
        let attr = SetAttr { mode: Some(h.mode & 0o7777), ..times(h.mtime) };
        let kind = match h.mode & libc::S_IFMT {
            libc::S_IFREG => NodeKind::Regular,
            libc::S_IFDIR => NodeKind::Directory,
            libc::S_IFLNK => NodeKind::Symlink(data.to_vec()),
            libc::S_IFCHR => NodeKind::CharDevice(h.rdev),
            libc::S_IFBLK => NodeKind::BlockDevice(h.rdev),
            libc::S_IFIFO => NodeKind::Fifo,
            libc::S_IFSOCK => NodeKind::Socket,
            _ => return Err(EINVAL),
        };
        let Some((dir, last)) = self.place(name)? else {
            // "." sets the root's own attributes.
            let ids = SetAttr { uid: Some(h.uid), gid: Some(h.gid), ..attr };
            self.root.set_attr(&ids)?;
            return Ok(Some(self.root.clone()));
        };
        let ops = dir.dir().ok_or(ENOTDIR)?;
        let existing = match ops.lookup(last) {
            Ok(i) => Some(i),
            Err(ENOENT) => None,
            Err(e) => return Err(e),
        };
        let is_dir = matches!(kind, NodeKind::Directory);
        if let Some(i) = &existing {
            if is_dir && i.dir().is_some() {
                // A later archive may describe a directory again.
                i.set_attr(&SetAttr { uid: Some(h.uid), gid: Some(h.gid), ..attr })?;
                return Ok(Some(i.clone()));
            }
            if i.dir().is_some() { ops.rmdir(last, i)? } else { ops.unlink(last, i)? }
        }
        let key = (h.dev.0, h.dev.1, h.ino);
        let linked = h.nlink > 1 && !is_dir;
        if linked && let Some(first) = self.links.get(&key).cloned() {
            ops.link(last, &first)?;
            if !data.is_empty() && matches!(kind, NodeKind::Regular) {
                // The contents come with the last name.
                first.set_attr(&SetAttr { size: Some(0), ..SetAttr::default() })?;
                first.write_at(0, data)?;
                first.set_attr(&attr)?;
            }
            return Ok(None);
        }
        let is_link = matches!(kind, NodeKind::Symlink(_));
        let regular = matches!(kind, NodeKind::Regular);
        let node = NewNode { kind, mode: h.mode & 0o7777, uid: h.uid, gid: h.gid };
        let made = ops.create(last, &node)?;
        if regular && !data.is_empty() {
            made.write_at(0, data)?;
        }
        if linked {
            self.links.insert(key, made.clone());
        }
        if is_dir {
            return Ok(Some(made));
        }
        let attr = if is_link { times(h.mtime) } else { attr };
        made.set_attr(&attr)?;
        Ok(None)
    }
}

fn times(mtime: u32) -> SetAttr {
    let t = Timespec { sec: i64::from(mtime), nsec: 0 };
    SetAttr { atime: Some(t), mtime: Some(t), ..SetAttr::default() }
}
