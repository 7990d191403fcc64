//! Open files and directories.

use std::any::Any;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::file::{DirEmit, FileOps, Io, seek_in};
use uml_core::io::{Sink, Source};
use uml_core::task::Task;
use uml_host::fs as host;
use uml_mm::{MapAccess, Mappable};

use crate::hostfs::inode::HostInode;
use crate::transfer;

/// An open regular file: the host's descriptors for it.
pub struct HostFile {
    inode: Arc<HostInode>,
    read: Option<Arc<OwnedFd>>,
    write: Option<Arc<OwnedFd>>,
}

impl HostFile {
    /// Opens with open(2) `flags`: read-only, or read-write as soon as writing is asked for.
    pub(crate) fn open(inode: Arc<HostInode>, flags: u32) -> Result<HostFile> {
        let mode = flags as i32 & libc::O_ACCMODE;
        let write = if mode == libc::O_RDONLY { None } else { Some(inode.write_fd()?) };
        let read = match (&write, mode) {
            (None, _) => Some(inode.read_fd()?),
            (Some(_), libc::O_WRONLY) => None,
            (Some(w), _) => Some(w.clone()),
        };
        Ok(HostFile { inode, read, write })
    }

    fn any(&self) -> Result<&Arc<OwnedFd>> {
        self.read.as_ref().or(self.write.as_ref()).ok_or(EBADF)
    }

    fn writable(&self) -> Result<&Arc<OwnedFd>> {
        self.write.as_ref().ok_or(EBADF)
    }
}

impl FileOps for HostFile {
    fn read(&self, _: &Io<'_>, off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        let fd = self.read.as_ref().ok_or(EBADF)?;
        transfer::read_into(off, dst, |off, buf| host::pread(fd.as_fd(), off, buf))
    }

    fn write(&self, io: &Io<'_>, off: &mut u64, src: &mut dyn Source) -> Result<usize> {
        let fd = self.writable()?;
        let append = io.append || self.inode.shared.append;
        let r = transfer::write_from(src, |buf| {
            if append {
                host::append_at_end(fd.as_fd(), buf)
            } else {
                let n = host::pwrite(fd.as_fd(), *off, buf)?;
                *off += n as u64;
                Ok(n)
            }
        });
        self.inode.stale();
        if append && r.is_ok() {
            *off = host::statx(fd.as_fd(), b"")?.size;
        }
        if r.is_ok() && (io.dsync || io.sync) {
            host::fsync(fd.as_fd(), !io.sync)?;
        }
        r
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, cur: u64, off: i64, whence: i32) -> Result<u64> {
        match whence {
            libc::SEEK_DATA | libc::SEEK_HOLE => {
                // The host descriptor's own position is not used by anything else.
                if off < 0 { Err(ENXIO) } else { host::lseek(self.any()?.as_fd(), off, whence) }
            }
            libc::SEEK_END => seek_in(Some(self.size()), cur, off, whence),
            _ => seek_in(Some(0), cur, off, whence),
        }
    }

    fn size(&self) -> u64 {
        self.any().and_then(|fd| host::statx(fd.as_fd(), b"")).map_or(0, |s| s.size)
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>> {
        Ok(Arc::new(HostMap {
            inode: self.inode.clone(),
            read: self.read.clone(),
            write: self.write.clone().map_or_else(OnceLock::new, OnceLock::from),
        }))
    }

    fn fsync(&self, _: &Task, data_only: bool) -> Result<()> {
        host::fsync(self.any()?.as_fd(), data_only)
    }

    fn fallocate(&self, _: &Task, mode: u32, off: u64, len: u64) -> Result<()> {
        let r = host::fallocate(self.writable()?.as_fd(), mode, off, len);
        self.inode.stale();
        r
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A host file as a mapped object: the host maps it itself, so mappings and file are one.
struct HostMap {
    inode: Arc<HostInode>,
    read: Option<Arc<OwnedFd>>,
    write: OnceLock<Arc<OwnedFd>>,
}

impl Mappable for HostMap {
    fn host_fd(&self, _: u64, _: u64, access: MapAccess) -> Result<RawFd> {
        if access.shared && access.may_write {
            // mmap(2): the file must be open for reading and writing.
            return self.write.get().map(|fd| fd.as_raw_fd()).ok_or(EACCES);
        }
        self.read.as_ref().or(self.write.get()).map(|fd| fd.as_raw_fd()).ok_or(EACCES)
    }

    fn identity(&self) -> (u64, u64) {
        let dev = self.inode.shared.dev.encode();
        self.inode.stat().map_or((dev, 0), |s| (dev, s.ino))
    }

    fn sync(&self, _: u64, _: u64) -> Result<()> {
        match self.write.get() {
            Some(fd) => host::fsync(fd.as_fd(), true),
            None => Ok(()),
        }
    }

    fn key(&self) -> u64 {
        self.inode.key
    }
}

/// Records read ahead from the host.
struct Records {
    buf: Vec<u8>,
    pos: usize,
    end: usize,
    /// Directory position of the record at `pos`.
    at: u64,
}

/// An open directory.
pub(crate) struct HostDir {
    fd: OwnedFd,
    records: Mutex<Records>,
}

/// Positions of the host are shifted to leave room for those of `.` and `..`.
const SHIFT: u64 = 3;

fn to_guest(host: u64) -> u64 {
    host.saturating_add(SHIFT).min(i64::MAX as u64)
}

fn to_host(guest: u64) -> u64 {
    if guest == i64::MAX as u64 { guest } else { guest.saturating_sub(SHIFT) }
}

/// One record of getdents64(2).
struct Record<'a> {
    ino: u64,
    next: u64,
    kind: u8,
    name: &'a [u8],
    len: usize,
}

/// Takes the first record off `buf`; `None` when it is malformed.
fn parse(buf: &[u8]) -> Option<Record<'_>> {
    let u64_at = |i: usize| Some(u64::from_ne_bytes(buf.get(i..i + 8)?.try_into().ok()?));
    let len = usize::from(u16::from_ne_bytes(buf.get(16..18)?.try_into().ok()?));
    let name = buf.get(19..len)?;
    let end = name.iter().position(|b| *b == 0)?;
    Some(Record { ino: u64_at(0)?, next: u64_at(8)?, kind: *buf.get(18)?, name: &name[..end], len })
}

impl HostDir {
    pub(crate) fn open(inode: Arc<HostInode>) -> Result<HostDir> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let fd = host::reopen(inode.path_fd()?.as_fd(), flags)?;
        let records = Records { buf: Vec::new(), pos: 0, end: 0, at: 0 };
        Ok(HostDir { fd, records: Mutex::new(Rank::INODE, records) })
    }

    /// Emits entries from position `*off` on.
    pub(crate) fn list(&self, off: &mut u64, out: &mut dyn DirEmit) -> Result<()> {
        let mut r = self.records.lock();
        let want = if *off == 0 { 0 } else { to_host(*off) };
        if r.at != want || r.pos == r.end {
            host::lseek(self.fd.as_fd(), want as i64, libc::SEEK_SET)?;
            r.pos = 0;
            r.end = 0;
            r.at = want;
        }
        loop {
            if r.pos == r.end {
                if r.buf.is_empty() {
                    r.buf = vec![0; 32 << 10];
                }
                let Records { buf, .. } = &mut *r;
                let n = host::getdents(self.fd.as_fd(), buf)?;
                r.pos = 0;
                r.end = n;
                if n == 0 {
                    return Ok(());
                }
            }
            let Records { buf, pos, end, at } = &mut *r;
            let rec = parse(&buf[*pos..*end]).ok_or(EIO)?;
            let dot = rec.name == b"." || rec.name == b"..";
            let next = to_guest(rec.next);
            if !dot && !out.emit(rec.name, rec.ino, rec.kind, next) {
                return Ok(());
            }
            *pos += rec.len;
            *at = rec.next;
            *off = next;
        }
    }
}

impl FileOps for HostDir {
    fn readdir(&self, _: &Task, off: &mut u64, out: &mut dyn DirEmit) -> Result<()> {
        self.list(off, out)
    }

    fn fsync(&self, _: &Task, data_only: bool) -> Result<()> {
        host::fsync(self.fd.as_fd(), data_only)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
