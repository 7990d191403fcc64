//! Open regular files.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::ctx::Ctx;
use uml_core::file::{Advice, File, FileOps, Io, seek_in};
use uml_core::io::{Sink, Source};
use uml_core::task::{Cap, Task};
use uml_core::vfs::Inode;
use uml_core::vfs::perm::{APPEND_ONLY, IMMUTABLE, strip_set_ids};
use uml_ext4::FallocateMode;
use uml_mm::Mappable;
use uml_pagecache::{Change, Readahead};

use crate::cached;
use crate::ext4::inode::Ext4Inode;
use crate::ext4::{ioctl, options::DataMode};
use crate::mapping::FileMapping;
use crate::transfer;

/// O_DIRECT needs offsets and lengths that are multiples of the device's logical block.
const DIRECT_ALIGN: u64 = 512;

pub(crate) struct Ext4File {
    inode: Arc<Ext4Inode>,
    ahead: Readahead,
    /// Writeback errors this open file has heard of (fsync(2)).
    seen: AtomicU64,
    /// Was truncated to nothing: what replaces the contents is written back at close (ext4(5) auto_da_alloc).
    replaced: AtomicBool,
}

impl Ext4File {
    pub(crate) fn new(inode: Arc<Ext4Inode>) -> Result<Ext4File> {
        let seen = AtomicU64::new(inode.data()?.error_count());
        let replaced = AtomicBool::new(inode.take_truncated());
        Ok(Ext4File { inode, ahead: Readahead::new(), seen, replaced })
    }

    fn write_direct(&self, off: &mut u64, src: &mut dyn Source, reserved: bool) -> Result<usize> {
        if *off % DIRECT_ALIGN != 0 || src.remaining() as u64 % DIRECT_ALIGN != 0 {
            return Err(EINVAL);
        }
        let data = self.inode.data()?;
        transfer::write_from(src, |buf| {
            let n = data.write_direct(*off, buf, reserved)?;
            *off += n as u64;
            Ok(n)
        })
    }

    /// The part of a direct write that may go on beside others: inside the file and of whole blocks, as on Linux. Says how much
    /// was written; the rest has to be alone.
    fn write_beside(&self, off: &mut u64, src: &mut dyn Source, reserved: bool) -> Result<usize> {
        let i = &self.inode;
        let block = u64::from(i.shared.block_size);
        let len = src.remaining() as u64;
        let _beside = i.write_lock.read();
        self.may_write()?;
        let inside = off.checked_add(len).is_some_and(|end| i.size().is_ok_and(|s| end <= s));
        let sets_ids = u32::from(i.attr_on_disk()?.mode) & (libc::S_ISUID | libc::S_ISGID) != 0;
        if *off % block != 0 || len % block != 0 || !inside || sets_ids {
            return Ok(0);
        }
        let data = i.data()?;
        let r = transfer::write_from(src, |buf| {
            let Some(n) = data.write_direct_beside(*off, buf, reserved) else { return Ok(0) };
            let n = n?;
            *off += n as u64;
            Ok(n)
        });
        if matches!(r, Ok(n) if n != 0) {
            i.stamp();
        }
        r
    }

    /// Contents may change: the filesystem and the file can be written. The write lock is held.
    fn may_write(&self) -> Result<()> {
        if self.inode.shared.engine.is_read_only() {
            return Err(EROFS);
        }
        if self.inode.restrictions() & IMMUTABLE != 0 {
            return Err(EPERM);
        }
        Ok(())
    }

    fn sync_range(&self, off: u64, len: u64, data_only: bool) -> Result<()> {
        let i = &self.inode;
        if i.shared.engine.is_read_only() && !i.shared.mounted_ro() {
            // Stopped by an error.
            return Err(EIO);
        }
        let data = i.data()?;
        let r = data.sync_range(off, len, data_only);
        data.check_error(&self.seen).and(r)
    }
}

fn reserved(task: &Task) -> bool {
    task.cred().capable(Cap::SysResource)
}

impl FileOps for Ext4File {
    fn read(&self, io: &Io<'_>, off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        let data = self.inode.data()?;
        if io.direct {
            if *off % DIRECT_ALIGN != 0 || dst.remaining() as u64 % DIRECT_ALIGN != 0 {
                return Err(EINVAL);
            }
            return transfer::read_into(off, dst, |off, buf| data.read_direct(off, buf, io.nowait));
        }
        cached::read(data, &self.ahead, off, dst)
    }

    fn write(&self, io: &Io<'_>, off: &mut u64, src: &mut dyn Source) -> Result<usize> {
        let i = &self.inode;
        let _running = i.shared.gate.change();
        let reserved = reserved(io.task);
        let mut start = *off;
        let before = match io.direct && !io.append && src.remaining() != 0 {
            true => self.write_beside(off, src, reserved)?,
            false => 0,
        };
        let r = if before != 0 && src.remaining() == 0 {
            Ok(before)
        } else {
            let _one = i.write_lock.write();
            self.may_write()?;
            if io.append {
                *off = i.size()?;
                start = *off;
            }
            let max = i.max_size()?;
            if *off >= max && src.remaining() > 0 {
                return Err(EFBIG);
            }
            let data = i.data()?;
            let r = if io.direct {
                self.write_direct(off, src, reserved)
            } else {
                transfer::write_from(src, |buf| {
                    let room = usize::try_from(max - (*off).min(max)).unwrap_or(usize::MAX);
                    let n = data.write(*off, &buf[..buf.len().min(room)], reserved)?;
                    *off += n as u64;
                    Ok(n)
                })
            };
            if matches!(r, Ok(n) if n != 0) {
                i.stamp();
                let mode = u32::from(i.attr_on_disk()?.mode);
                if mode & (libc::S_ISUID | libc::S_ISGID) != 0
                    && !io.task.cred().capable(Cap::Fsetid)
                    && let Some(m) = strip_set_ids(mode)
                {
                    i.set_mode(m)?;
                }
            }
            match r {
                Ok(n) => Ok(before + n),
                Err(_) if before != 0 => Ok(before),
                e => e,
            }
        };
        if let Ok(n) = r
            && n != 0
        {
            if io.sync || io.dsync || i.shared.sync_writes.load(Ordering::Relaxed) {
                self.sync_range(start, n as u64, !io.sync)?;
            } else if i.shared.data_mode() == DataMode::NoDelay {
                i.data()?.write_back_range(start, n as u64)?;
            }
        }
        r
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, cur: u64, off: i64, whence: i32) -> Result<u64> {
        let i = &self.inode;
        match whence {
            libc::SEEK_DATA | libc::SEEK_HOLE => {
                let off = u64::try_from(off).map_err(|_| ENXIO)?;
                // The engine knows where data is once it has been told of it.
                i.data()?.write_back_all()?;
                i.shared.engine.seek(i.ino, off, whence == libc::SEEK_DATA)?.ok_or(ENXIO)
            }
            _ => seek_in(Some(i.size()?), cur, off, whence),
        }
    }

    fn size(&self) -> u64 {
        self.inode.size().unwrap_or(0)
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>> {
        let map = self.inode.data()?.map();
        Ok(FileMapping::new(map, self.inode.key, self.inode.clone()))
    }

    fn fsync(&self, _: &Task, data_only: bool) -> Result<()> {
        self.sync_range(0, u64::MAX, data_only)
    }

    fn write_range(&self, _: &Task, off: u64, len: u64) -> Result<()> {
        let data = self.inode.data()?;
        let r = data.write_back_range(off, len);
        data.check_error(&self.seen).and(r)
    }

    fn advise(&self, off: u64, len: u64, advice: Advice) -> Result<()> {
        let data = self.inode.data()?;
        cached::advise(data, &self.ahead, off, len, advice);
        Ok(())
    }

    fn fallocate(&self, task: &Task, mode: u32, off: u64, len: u64) -> Result<()> {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH_KEEP: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | KEEP;
        let how = match mode as i32 {
            0 => FallocateMode::Allocate { keep_size: false },
            KEEP => FallocateMode::Allocate { keep_size: true },
            PUNCH_KEEP => FallocateMode::PunchHole,
            libc::FALLOC_FL_ZERO_RANGE => FallocateMode::ZeroRange { keep_size: false },
            ZERO_KEEP => FallocateMode::ZeroRange { keep_size: true },
            libc::FALLOC_FL_COLLAPSE_RANGE => FallocateMode::Collapse,
            libc::FALLOC_FL_INSERT_RANGE => FallocateMode::Insert,
            _ => return Err(EOPNOTSUPP),
        };
        let i = &self.inode;
        let adds = matches!(how, FallocateMode::Allocate { .. });
        let forbidden = if adds { IMMUTABLE } else { IMMUTABLE | APPEND_ONLY };
        if i.restrictions() & forbidden != 0 {
            return Err(EPERM);
        }
        let reserved = reserved(task);
        let _running = i.shared.gate.change();
        let _one = i.write_lock.write();
        let data = i.data()?;
        let size = data.size();
        let end = off.saturating_add(len);
        let apply = || i.shared.engine.fallocate(i.ino, how, off, len, reserved);
        let r = match how {
            FallocateMode::Allocate { keep_size } if keep_size || end <= size => apply(),
            FallocateMode::Allocate { .. } => data.set_size(end, apply),
            FallocateMode::PunchHole => data.change(Change::Zero { off, len }, size, apply),
            FallocateMode::ZeroRange { keep_size } => {
                let size = if keep_size { size } else { size.max(end) };
                data.change(Change::Zero { off, len }, size, apply)
            }
            // The engine looks at the size, which it may not know yet.
            FallocateMode::Collapse => {
                data.write_back_all()?;
                if end >= size {
                    return Err(EINVAL);
                }
                data.change(Change::From(off), size - len, apply)
            }
            FallocateMode::Insert => {
                data.write_back_all()?;
                if off >= size {
                    return Err(EINVAL);
                }
                data.change(Change::From(off), size.saturating_add(len), apply)
            }
        };
        i.changed();
        r?;
        match how {
            FallocateMode::Allocate { keep_size: true } => {}
            _ => i.stamp(),
        }
        Ok(())
    }

    fn flush(&self, _: &Task) {
        if self.replaced.swap(false, Ordering::AcqRel)
            && let Ok(d) = self.inode.data()
        {
            // An error is kept for fsync(2).
            let _ = d.write_back_all();
        }
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, file: &Arc<File>, cmd: u32, arg: u64) -> Result<u64> {
        ioctl::ioctl(&self.inode, cx, file, cmd, arg)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
