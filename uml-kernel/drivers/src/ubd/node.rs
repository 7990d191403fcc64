//! The device node of a disk: reads and writes of any alignment, and the block ioctls.

use std::any::Any;
use std::sync::{Arc, PoisonError};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::storage;
use uml_core::ctx::Ctx;
use uml_core::file::{File, FileOps, Io};
use uml_core::io::{Sink, Source};
use uml_core::registry::BlockDevice;
use uml_core::task::{Cap, Task};
use uml_core::user::{read_obj, write_obj};
use uml_core::vfs::Dev;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::ubd::disk::{MINORS, SECTOR, UbdDevice};
use crate::ubd::driver::Ubd;

const BLKROSET: u32 = 0x125d;
const BLKROGET: u32 = 0x125e;
const BLKRRPART: u32 = 0x125f;
const BLKGETSIZE: u32 = 0x1260;
const BLKFLSBUF: u32 = 0x1261;
const BLKRASET: u32 = 0x1262;
const BLKRAGET: u32 = 0x1263;
const BLKFRASET: u32 = 0x1264;
const BLKFRAGET: u32 = 0x1265;
const BLKSECTGET: u32 = 0x1267;
const BLKSSZGET: u32 = 0x1268;
const BLKBSZGET: u32 = 0x8008_1270;
const BLKBSZSET: u32 = 0x4008_1271;
const BLKGETSIZE64: u32 = 0x8008_1272;
const BLKDISCARD: u32 = 0x1277;
const BLKIOMIN: u32 = 0x1278;
const BLKIOOPT: u32 = 0x1279;
const BLKALIGNOFF: u32 = 0x127a;
const BLKPBSZGET: u32 = 0x127b;
const BLKDISCARDZEROES: u32 = 0x127c;
const BLKROTATIONAL: u32 = 0x127e;
const BLKZEROOUT: u32 = 0x127f;
const HDIO_GETGEO: u32 = 0x0301;
const HDIO_GET_IDENTITY: u32 = 0x030d;
const CDROMVOLREAD: u32 = 0x5313;

/// Geometry of the stock driver.
const HEADS: u64 = 128;
const SECTORS_PER_TRACK: u64 = 32;
/// Largest request, in sectors (`max_sectors_kb` 127).
const MAX_SECTORS: u16 = 254;
/// Read-ahead in sectors that BLKRAGET shows, Linux's default of 128 KiB.
const READ_AHEAD: u64 = 256;
/// Bytes moved at a time.
const CHUNK: usize = 128 * 1024;

/// `struct hd_geometry` of `<linux/hdreg.h>`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Geometry {
    heads: u8,
    sectors: u8,
    cylinders: u16,
    pad: u32,
    start: u64,
}
const _: () = assert!(size_of::<Geometry>() == 16);

/// An open device node.
pub struct BlockFile {
    device: UbdDevice,
    driver: Arc<Ubd>,
    writable: bool,
}

impl BlockFile {
    /// The open file of `device`.
    pub fn new(device: UbdDevice, driver: Arc<Ubd>, writable: bool) -> BlockFile {
        BlockFile { device, driver, writable }
    }

    /// Reads any range inside the device.
    pub fn read_range(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        if aligned(off) && aligned(buf.len() as u64) {
            return self.device.read(off, buf);
        }
        let (start, end) = widen(off, buf.len());
        let mut whole = vec![0; (end - start) as usize];
        self.device.read(start, &mut whole)?;
        let skip = (off - start) as usize;
        buf.copy_from_slice(&whole[skip..skip + buf.len()]);
        Ok(())
    }

    /// Writes any range inside the device; sectors that are only partly covered are read first.
    pub fn write_range(&self, off: u64, data: &[u8]) -> Result<()> {
        if aligned(off) && aligned(data.len() as u64) {
            return self.device.write(off, data);
        }
        let (start, end) = widen(off, data.len());
        let _one = self.device.disk().partial.lock().unwrap_or_else(PoisonError::into_inner);
        let mut whole = vec![0; (end - start) as usize];
        self.device.read(start, &mut whole)?;
        let skip = (off - start) as usize;
        whole[skip..skip + data.len()].copy_from_slice(data);
        self.device.write(start, &whole)
    }

    /// Start and length that BLKDISCARD and BLKZEROOUT point to.
    fn range(&self, task: &Task, arg: u64) -> Result<(u64, u64)> {
        let [off, len]: [u64; 2] = read_obj(task, arg)?;
        if !self.writable {
            return Err(EBADF);
        }
        self.check_range(off, len)?;
        Ok((off, len))
    }

    fn check_range(&self, off: u64, len: u64) -> Result<()> {
        let inside = off.checked_add(len).is_some_and(|end| end <= self.device.size());
        if aligned(off) && aligned(len) && inside { Ok(()) } else { Err(EINVAL) }
    }

    fn geometry(&self) -> Geometry {
        let cylinders = self.device.disk().size() / (HEADS * SECTORS_PER_TRACK * SECTOR);
        Geometry {
            heads: HEADS as u8,
            sectors: SECTORS_PER_TRACK as u8,
            cylinders: cylinders as u16,
            pad: 0,
            start: self.device.start() / SECTOR,
        }
    }
}

fn aligned(n: u64) -> bool {
    n % SECTOR == 0
}

fn widen(off: u64, len: usize) -> (u64, u64) {
    let start = off - off % SECTOR;
    (start, off.saturating_add(len as u64).next_multiple_of(SECTOR))
}

impl FileOps for BlockFile {
    fn read(&self, io: &Io<'_>, off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        if io.direct && !(aligned(*off) && aligned(dst.remaining() as u64)) {
            return Err(EINVAL);
        }
        let mut total = 0;
        let mut buf = Vec::new();
        loop {
            let left = self.device.size().saturating_sub(*off);
            let n = CHUNK.min(dst.remaining()).min(usize::try_from(left).unwrap_or(CHUNK));
            if n == 0 {
                return Ok(total);
            }
            buf.resize(n, 0);
            // Direct accesses are aligned.
            let read = match io.direct && io.nowait {
                true => self.device.read_at_once(*off, &mut buf),
                false => self.read_range(*off, &mut buf),
            };
            let moved = read.and_then(|()| dst.put(&buf));
            match moved {
                Ok(got) => {
                    *off += got as u64;
                    total += got;
                    if got < n {
                        return Ok(total);
                    }
                }
                Err(e) if total == 0 => return Err(e),
                Err(_) => return Ok(total),
            }
        }
    }

    fn write(&self, io: &Io<'_>, off: &mut u64, src: &mut dyn Source) -> Result<usize> {
        let size = self.device.size();
        if io.append {
            *off = size;
        }
        if io.direct && !(aligned(*off) && aligned(src.remaining() as u64)) {
            return Err(EINVAL);
        }
        if self.device.read_only() {
            return Err(EPERM);
        }
        let mut total = 0;
        let mut buf = Vec::new();
        while src.remaining() > 0 {
            let left = usize::try_from(size.saturating_sub(*off)).unwrap_or(CHUNK);
            let n = CHUNK.min(src.remaining()).min(left);
            // Nothing fits behind the end of the device.
            if n == 0 {
                return if total > 0 { Ok(total) } else { Err(ENOSPC) };
            }
            buf.resize(n, 0);
            let moved = src.take(&mut buf).and_then(|got| {
                self.write_range(*off, &buf[..got]).map(|()| got).inspect_err(|_| src.untake(got))
            });
            match moved {
                Ok(0) => break,
                Ok(got) => {
                    *off += got as u64;
                    total += got;
                    if got < n {
                        break;
                    }
                }
                Err(e) if total == 0 => return Err(e),
                Err(_) => break,
            }
        }
        storage::written(total as u64);
        if total > 0
            && let Some(h) = io.task.kernel().vfs.registry.block_holder(self.device.dev())
        {
            h.overwritten(*off - total as u64, total as u64);
        }
        if (io.dsync || io.sync) && total > 0 {
            self.device.flush()?;
        }
        Ok(total)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn size(&self) -> u64 {
        self.device.size()
    }

    fn fsync(&self, _task: &Task, _data_only: bool) -> Result<()> {
        self.device.flush()
    }

    fn fallocate(&self, _task: &Task, mode: u32, off: u64, len: u64) -> Result<()> {
        let (punch, zero, keep) = (
            libc::FALLOC_FL_PUNCH_HOLE as u32,
            libc::FALLOC_FL_ZERO_RANGE as u32,
            libc::FALLOC_FL_KEEP_SIZE as u32,
        );
        if mode & !(punch | zero | keep) != 0 {
            return Err(EOPNOTSUPP);
        }
        self.check_range(off, len)?;
        match mode {
            m if m == punch | keep => self.device.discard(off, len),
            m if m & !keep == zero => self.device.write_zeroes(off, len),
            _ => Err(EOPNOTSUPP),
        }
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, _file: &Arc<File>, cmd: u32, arg: u64) -> Result<u64> {
        let task = &cx.task;
        let done = |r: Result<()>| r.map(|()| 0);
        let d = &self.device;
        match cmd {
            BLKGETSIZE64 => done(write_obj(task, arg, &d.size())),
            BLKGETSIZE => done(write_obj(task, arg, &(d.size() / SECTOR))),
            BLKSSZGET => done(write_obj(task, arg, &(SECTOR as i32))),
            BLKPBSZGET | BLKIOMIN => done(write_obj(task, arg, &(SECTOR as u32))),
            BLKBSZGET => done(write_obj(task, arg, &4096i32)),
            BLKBSZSET => {
                task.require(Cap::SysAdmin)?;
                let size: i32 = read_obj(task, arg)?;
                // Accesses of any size work; only nonsense is refused.
                let valid = (512..=4096).contains(&size) && size.count_ones() == 1;
                if valid { Ok(0) } else { Err(EINVAL) }
            }
            BLKIOOPT | BLKDISCARDZEROES => done(write_obj(task, arg, &0u32)),
            BLKALIGNOFF => done(write_obj(task, arg, &0i32)),
            BLKROTATIONAL => done(write_obj(task, arg, &0u16)),
            BLKSECTGET => done(write_obj(task, arg, &MAX_SECTORS)),
            BLKRAGET | BLKFRAGET => done(write_obj(task, arg, &READ_AHEAD)),
            BLKRASET | BLKFRASET => task.require(Cap::SysAdmin).map(|()| 0),
            BLKROGET => done(write_obj(task, arg, &i32::from(d.read_only()))),
            BLKROSET => {
                task.require(Cap::SysAdmin)?;
                let on: i32 = read_obj(task, arg)?;
                done(d.disk().set_read_only(on != 0))
            }
            BLKFLSBUF => {
                task.require(Cap::SysAdmin)?;
                done(d.flush())
            }
            BLKRRPART => {
                task.require(Cap::SysAdmin)?;
                if d.partition().is_some() {
                    return Err(EINVAL);
                }
                done(self.driver.reread(d.disk()))
            }
            BLKDISCARD => {
                let (off, len) = self.range(task, arg)?;
                done(d.discard(off, len))
            }
            BLKZEROOUT => {
                let (off, len) = self.range(task, arg)?;
                done(d.write_zeroes(off, len))
            }
            HDIO_GETGEO => done(write_obj(task, arg, &self.geometry())),
            HDIO_GET_IDENTITY => {
                // The words that `struct hd_driveid` begins with; the rest is unknown.
                let g = self.geometry();
                let mut id = [0u16; 256];
                (id[1], id[3], id[6]) = (g.cylinders, g.heads.into(), g.sectors.into());
                done(write_obj(task, arg, &id))
            }
            CDROMVOLREAD => done(write_obj(task, arg, &[255u8; 4])),
            _ => Err(EINVAL),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Unit and device number inside it.
pub fn unit_of(dev: Dev) -> usize {
    (dev.minor / MINORS) as usize
}
