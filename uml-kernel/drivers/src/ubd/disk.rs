//! One disk: an image or a COW pair of the host, and the devices on it.

use std::any::Any;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank, pr_err, pr_info, storage};
use uml_core::cgroup::{self, io::IoKind};
use uml_core::kernel::Kernel;
use uml_core::registry::{BlockDevice, BlockStats};
use uml_core::vfs::Dev;
use uml_formats::cow::{
    BitmapPolicy, Device, DeviceError, DeviceSpec, Image, Note, Severity, open_device,
};
use uml_formats::store::{Store, read_zero_filled, read_zero_filled_at_once, write_all};

use crate::ubd::partition::{self, Partition};
use crate::ubd::requests::{Kind, Requests};
use crate::ubd::spec::DiskSpec;

/// Major number of the driver.
pub const MAJOR: u32 = 98;
/// Minors of one disk.
pub const MINORS: u32 = 16;
/// Logical block size.
pub const SECTOR: u64 = 512;

enum Backend {
    Plain(File),
    Cow(Box<Image>),
}

/// A disk of the driver.
pub struct Disk {
    pub spec: DiskSpec,
    /// Backing file in use, for an image that turned out to be a COW file.
    backing: Option<String>,
    backend: Backend,
    size: u64,
    /// The image cannot be written.
    image_read_only: bool,
    /// BLKROSET.
    set_read_only: AtomicBool,
    /// The host's filesystem cannot punch holes, or flag `t`.
    no_discard: AtomicBool,
    partitions: Mutex<Vec<Partition>>,
    kernel: Weak<Kernel>,
    /// What the host's last failure was, as an errno; 0 after a success of a flush.
    trouble: AtomicI32,
    requests: Requests,
    /// Serialises changes of parts of sectors through the device node.
    pub(super) partial: std::sync::Mutex<()>,
}

/// The letter of unit `n`.
pub fn letter(unit: usize) -> char {
    char::from(b'a' + (unit % 26) as u8)
}

fn map_error(e: &io::Error) -> Errno {
    match e.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => EOPNOTSUPP,
        _ => EIO,
    }
}

impl Disk {
    /// Opens what `spec` names. `sync` is `ubd=sync`.
    pub fn open(
        spec: DiskSpec,
        file: &str,
        sync: bool,
        kernel: Weak<Kernel>,
    ) -> std::result::Result<Arc<Disk>, DeviceError> {
        let device = open_device(
            &DeviceSpec {
                file: PathBuf::from(file),
                backing: spec.backing.as_ref().map(PathBuf::from),
                read_only: spec.read_only,
                sync: spec.sync || sync,
                shared: spec.shared,
                plain: spec.plain,
                policy: BitmapPolicy::OnFlush,
            },
            &mut note,
        )?;
        let (backend, size, image_read_only, backing) = match device {
            Device::Plain { file, size, read_only } => {
                (Backend::Plain(file), size, read_only, None)
            }
            Device::Cow { image, read_only } => {
                let size = image.disk_size();
                let backing = image.header().backing.display().to_string();
                (Backend::Cow(image), size, read_only, Some(backing))
            }
        };
        let disk = Arc::new(Disk {
            image_read_only: image_read_only || spec.read_only,
            no_discard: AtomicBool::new(spec.no_trim),
            backing: spec.backing.clone().or(backing),
            spec: DiskSpec { file: Some(file.to_owned()), ..spec },
            backend,
            size,
            set_read_only: AtomicBool::new(false),
            partitions: Mutex::new(Rank::DEVICE, Vec::new()),
            kernel,
            trouble: AtomicI32::new(0),
            requests: Requests::default(),
            partial: std::sync::Mutex::new(()),
        });
        disk.rescan();
        Ok(disk)
    }

    /// `<file>` or `<cow>,<backing>`, as the management console shows it.
    pub fn show(&self) -> String {
        let file = self.spec.file.as_deref().unwrap_or_default();
        match &self.backing {
            Some(b) => format!("{file},{b}"),
            None => file.to_owned(),
        }
    }

    /// Reads the partition table again.
    pub fn rescan(&self) {
        let found = partition::scan(self.size, &mut |off, buf| self.read(0, off, buf).ok());
        *self.partitions.lock() = found;
    }

    /// The partitions.
    pub fn partitions(&self) -> Vec<Partition> {
        self.partitions.lock().clone()
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writing is refused.
    pub fn read_only(&self) -> bool {
        self.image_read_only || self.set_read_only.load(Ordering::Relaxed)
    }

    /// BLKROSET; `EACCES` when the image cannot be written.
    pub fn set_read_only(&self, on: bool) -> Result<()> {
        if !on && self.image_read_only {
            return Err(EACCES);
        }
        self.set_read_only.store(on, Ordering::Relaxed);
        Ok(())
    }

    /// Requests since boot of partition `number`, or of the whole disk for 0.
    pub fn stats(&self, number: u32) -> BlockStats {
        self.requests.of(number)
    }

    /// Does host I/O outside of the platform's bookkeeping: a request for `bytes` of partition `number`, or of the whole
    /// disk.
    fn host<T>(
        &self,
        kind: Kind,
        number: u32,
        bytes: u64,
        f: impl FnOnce() -> io::Result<T>,
    ) -> Result<T> {
        if kind == Kind::Read {
            storage::read(bytes);
        }
        let request = self.requests.begin(kind, number);
        let done = self.outside(f);
        request.end(if done.is_ok() { bytes } else { 0 });
        if done.is_ok() {
            self.account(kind, bytes);
        }
        done
    }

    /// A request was done for the calling task's control group; flushes are no group's.
    fn account(&self, kind: Kind, bytes: u64) {
        let kind = match kind {
            Kind::Read => IoKind::Read,
            Kind::Write => IoKind::Write,
            Kind::Discard => IoKind::Discard,
            Kind::Flush => return,
        };
        cgroup::io::count(Dev::new(MAJOR, self.spec.unit as u32 * MINORS), kind, bytes);
    }

    fn outside<T>(&self, f: impl FnOnce() -> io::Result<T>) -> Result<T> {
        let mut f = Some(f);
        let mut result = None;
        let mut run = || {
            if let Some(f) = f.take() {
                result = Some(f());
            }
        };
        let _stall = uml_base::pressure::io();
        match self.kernel.upgrade() {
            Some(k) => k.blocking(&mut run),
            None => run(),
        }
        match result {
            Some(Ok(v)) => Ok(v),
            Some(Err(e)) => {
                self.note_trouble(&e);
                Err(map_error(&e))
            }
            None => Err(EIO),
        }
    }

    /// Says why the host failed: the guest learns no more than EIO. Once until a flush succeeds, or the reason changes.
    fn note_trouble(&self, e: &io::Error) {
        let number = e.raw_os_error().unwrap_or(-1);
        if map_error(e) != EOPNOTSUPP && self.trouble.swap(number, Ordering::Relaxed) != number {
            let file = self.spec.file.as_deref().unwrap_or_default();
            pr_err!("ubd{}: the host fails on \"{file}\": {e}", letter(self.spec.unit));
        }
    }

    fn check(&self, off: u64, len: u64) -> Result<()> {
        if off % SECTOR != 0 || len % SECTOR != 0 {
            return Err(EINVAL);
        }
        match off.checked_add(len) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(EIO),
        }
    }

    fn check_write(&self, off: u64, len: u64) -> Result<()> {
        if self.read_only() {
            return Err(EROFS);
        }
        self.check(off, len)
    }

    /// Reads whole sectors for partition `number`; `off` is on the disk, as everywhere here.
    pub fn read(&self, number: u32, off: u64, buf: &mut [u8]) -> Result<()> {
        self.check(off, buf.len() as u64)?;
        self.host(Kind::Read, number, buf.len() as u64, || match &self.backend {
            Backend::Plain(f) => read_zero_filled(f, buf, off),
            Backend::Cow(i) => i.read_at(buf, off),
        })
    }

    /// As [`Disk::read`], but `EAGAIN` where the host would have to be waited for.
    pub fn read_at_once(&self, number: u32, off: u64, buf: &mut [u8]) -> Result<()> {
        self.check(off, buf.len() as u64)?;
        let request = self.requests.begin(Kind::Read, number);
        // Nothing that sleeps: no need to tell the platform.
        let r = match &self.backend {
            Backend::Plain(f) => read_zero_filled_at_once(f, buf, off),
            Backend::Cow(i) => i.read_at_once(buf, off),
        };
        match r {
            Ok(()) => {
                storage::read(buf.len() as u64);
                request.end(buf.len() as u64);
                self.account(Kind::Read, buf.len() as u64);
                Ok(())
            }
            // Asked again, waiting, it is a request.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                request.cancel();
                Err(EAGAIN)
            }
            Err(e) => {
                request.end(0);
                self.note_trouble(&e);
                Err(map_error(&e))
            }
        }
    }

    /// Writes whole sectors.
    pub fn write(&self, number: u32, off: u64, data: &[u8]) -> Result<()> {
        self.check_write(off, data.len() as u64)?;
        self.host(Kind::Write, number, data.len() as u64, || match &self.backend {
            Backend::Plain(f) => write_all(f, data, off),
            Backend::Cow(i) => i.write_at(data, off),
        })
    }

    /// Makes completed writes durable.
    pub fn flush(&self) -> Result<()> {
        if self.image_read_only {
            return Ok(());
        }
        // Not counted for partitions, as on Linux.
        self.host(Kind::Flush, 0, 0, || match &self.backend {
            Backend::Plain(f) => f.sync_data(),
            Backend::Cow(i) => i.flush(),
        })?;
        self.trouble.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Discard is offered.
    pub fn can_discard(&self) -> bool {
        !self.no_discard.load(Ordering::Relaxed)
    }

    /// Frees sectors, which then read as zeros.
    pub fn discard(&self, number: u32, off: u64, len: u64) -> Result<()> {
        self.check_write(off, len)?;
        if !self.can_discard() {
            return Err(EOPNOTSUPP);
        }
        let done = self.host(Kind::Discard, number, len, || match &self.backend {
            Backend::Plain(f) => f.punch_hole(off..off + len),
            Backend::Cow(i) => i.discard(off / SECTOR, len / SECTOR),
        });
        if done == Err(EOPNOTSUPP) {
            self.no_discard.store(true, Ordering::Relaxed);
        }
        done
    }

    /// Makes sectors read as zeros.
    pub fn write_zeroes(&self, number: u32, off: u64, len: u64) -> Result<()> {
        self.check_write(off, len)?;
        self.host(Kind::Write, number, len, || match &self.backend {
            Backend::Plain(f) => match f.zero_range(off..off + len) {
                Err(e) if map_error(&e) == EOPNOTSUPP => write_zeros(f, off, len),
                other => other,
            },
            Backend::Cow(i) => i.write_zeroes(off / SECTOR, len / SECTOR),
        })
    }
}

fn write_zeros(f: &File, off: u64, len: u64) -> io::Result<()> {
    let zeros = [0; 65536];
    let mut at = off;
    while at < off + len {
        let n = (off + len - at).min(zeros.len() as u64);
        write_all(f, &zeros[..n as usize], at)?;
        at += n;
    }
    Ok(())
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Changed bitmap words of a COW file are still in memory.
        if let Err(e) = self.flush() {
            pr_err!("ubd{}: flush at removal failed: {e}", letter(self.spec.unit));
        }
    }
}

fn note(n: Note) {
    match n.severity {
        Severity::Info => pr_info!("{}", n.text),
        Severity::Error => pr_err!("{}", n.text),
    }
}

/// A disk or a partition of it, as filesystems and the device node see it.
pub struct UbdDevice {
    disk: Arc<Disk>,
    partition: Option<Partition>,
}

impl UbdDevice {
    /// The device with `minor` (of all the driver's) on `disk`; `ENXIO` without such a partition.
    pub fn new(disk: &Arc<Disk>, minor: u32) -> Result<UbdDevice> {
        let number = minor % MINORS;
        let partition = match number {
            0 => None,
            n => Some(disk.partitions().into_iter().find(|p| p.number == n).ok_or(ENXIO)?),
        };
        Ok(UbdDevice { disk: disk.clone(), partition })
    }

    /// The disk.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Number of the partition; 0 is the whole disk.
    fn number(&self) -> u32 {
        self.partition.map_or(0, |p| p.number)
    }

    /// First byte on the disk.
    pub fn start(&self) -> u64 {
        self.partition.map_or(0, |p| p.start)
    }

    /// Offset on the disk of a range of the device; `EIO` beyond its end.
    fn at(&self, off: u64, len: u64) -> Result<u64> {
        match off.checked_add(len) {
            Some(end) if end <= self.size() => Ok(self.start() + off),
            _ => Err(EIO),
        }
    }
}

impl BlockDevice for UbdDevice {
    fn dev(&self) -> Dev {
        Dev::new(MAJOR, self.disk.spec.unit as u32 * MINORS + self.number())
    }

    fn name(&self) -> String {
        let letter = letter(self.disk.spec.unit);
        match self.partition {
            Some(p) => format!("ubd{letter}{}", p.number),
            None => format!("ubd{letter}"),
        }
    }

    fn size(&self) -> u64 {
        self.partition.map_or(self.disk.size(), |p| p.len)
    }

    fn block_size(&self) -> u32 {
        SECTOR as u32
    }

    fn read_only(&self) -> bool {
        self.disk.read_only()
    }

    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.disk.read(self.number(), self.at(off, buf.len() as u64)?, buf)
    }

    fn read_at_once(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.disk.read_at_once(self.number(), self.at(off, buf.len() as u64)?, buf)
    }

    fn write(&self, off: u64, data: &[u8]) -> Result<()> {
        self.disk.write(self.number(), self.at(off, data.len() as u64)?, data)
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }

    fn write_zeroes(&self, off: u64, len: u64) -> Result<()> {
        self.disk.write_zeroes(self.number(), self.at(off, len)?, len)
    }

    fn partition(&self) -> Option<(u32, u64)> {
        self.partition.map(|p| (p.number, p.start))
    }

    fn stats(&self) -> BlockStats {
        self.disk.stats(self.number())
    }

    fn serial(&self) -> Option<String> {
        self.disk.spec.serial.clone()
    }

    fn can_discard(&self) -> bool {
        self.disk.can_discard()
    }

    fn discard(&self, off: u64, len: u64) -> Result<()> {
        self.disk.discard(self.number(), self.at(off, len)?, len)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
