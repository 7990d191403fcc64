//! All disks of a machine, and their configuration at run time.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank, pr_err, pr_info};
use uml_core::file::FileOps;
use uml_core::kernel::Kernel;
use uml_core::registry::{BlockDevice, BlockDriver, DeviceNode, NodeOpen, Opened};
use uml_core::vfs::Dev;
use uml_formats::cow::SIZE_UNKNOWN;

use crate::console::ConfigError;
use crate::ubd::disk::{Disk, MAJOR, MINORS, UbdDevice, letter};
use crate::ubd::node::{BlockFile, unit_of};
use crate::ubd::spec::{DiskSpec, SpecError, UNITS, UbdOption, parse_unit};

/// Group `disk`.
const DISK_GID: u32 = 6;
/// What unit 0 is without an option.
const DEFAULT_ROOT: &str = "root_fs";

/// The ubd driver.
pub struct Ubd {
    me: Weak<Ubd>,
    kernel: Weak<Kernel>,
    disks: Mutex<Vec<Option<Arc<Disk>>>>,
    /// `ubd=sync`.
    sync: AtomicBool,
}

impl Ubd {
    /// Configures the disks that `options` (texts after `ubd`, in order) name and enters the driver in the machine.
    /// What is wrong is logged; the boot goes on without that disk.
    pub fn install(kernel: &Arc<Kernel>, options: &[String]) -> Result<Arc<Ubd>> {
        let driver = Arc::new_cyclic(|me| Ubd {
            me: me.clone(),
            kernel: Arc::downgrade(kernel),
            disks: Mutex::new(Rank::DEVICE, vec![None; UNITS]),
            sync: AtomicBool::new(false),
        });
        let mut specs: Vec<DiskSpec> = Vec::new();
        for text in options {
            match UbdOption::parse(text) {
                Ok(UbdOption::Sync) => {
                    driver.sync.store(true, Ordering::Relaxed);
                    pr_info!("ubd: Synchronous mode");
                }
                Ok(UbdOption::FakeMajor) => pr_err!("fake major not supported any more"),
                Ok(UbdOption::Disk(d)) if d.file.is_none() => {}
                Ok(UbdOption::Disk(d)) => {
                    if specs.iter().any(|s| s.unit == d.unit) {
                        refuse(text, "Device is already configured");
                    } else {
                        specs.push(d);
                    }
                }
                Err(e) => refuse(text, &e.to_string()),
            }
        }
        if !specs.iter().any(|s| s.unit == 0) {
            // Nobody asked for it by name: that it is missing takes one line, as in the stock kernel.
            if Path::new(DEFAULT_ROOT).exists() {
                let file = Some(DEFAULT_ROOT.to_owned());
                specs.push(DiskSpec { file, ..DiskSpec::default() });
            } else {
                pr_err!("Failed to initialize ubd device 0 :{SIZE_UNKNOWN}");
            }
        }
        specs.sort_by_key(|s| s.unit);
        for s in specs {
            let unit = s.unit;
            if let Err(e) = driver.add(s) {
                pr_err!("Failed to initialize ubd device {unit} :{}", e.text);
            }
        }
        kernel.vfs.registry.add_block("ubd", MAJOR, driver.clone())?;
        Ok(driver)
    }

    fn add(&self, spec: DiskSpec) -> std::result::Result<(), ConfigError> {
        let unit = spec.unit;
        let file = spec.file.clone().unwrap_or_default();
        let sync = self.sync.load(Ordering::Relaxed);
        // Opened before the table is locked: the host may be slow.
        let disk = Disk::open(spec, &file, sync, self.kernel.clone())
            .map_err(|e| ConfigError { err: -e.errno, text: e.text })?;
        {
            let mut disks = self.disks.lock();
            match disks.get_mut(unit) {
                Some(slot @ None) => *slot = Some(disk.clone()),
                _ => return Err(ConfigError { err: -libc::EBUSY, text: configured() }),
            }
        }
        self.announce(&disk);
        Ok(())
    }

    fn disk(&self, unit: usize) -> Option<Arc<Disk>> {
        self.disks.lock().get(unit)?.clone()
    }

    fn add_node(&self, name: String, minor: u32) {
        if let Some(k) = self.kernel.upgrade() {
            k.vfs.registry.add_node(DeviceNode {
                name,
                kind: libc::S_IFBLK,
                dev: Dev::new(MAJOR, minor),
                mode: 0o660,
                uid: 0,
                gid: DISK_GID,
            });
        }
    }

    fn remove_node(&self, name: &str) {
        if let Some(k) = self.kernel.upgrade() {
            k.vfs.registry.remove_node(name);
        }
    }

    /// Names of a disk's nodes with their minors: `ubda`, `ubd0`, `ubda1`...
    fn nodes(disk: &Disk) -> Vec<(String, u32)> {
        let (unit, l) = (disk.spec.unit, letter(disk.spec.unit));
        let base = unit as u32 * MINORS;
        let mut v = vec![(format!("ubd{l}"), base), (format!("ubd{unit}"), base)];
        for p in disk.partitions() {
            v.push((format!("ubd{l}{}", p.number), base + p.number));
        }
        v
    }

    fn announce(&self, disk: &Disk) {
        for (name, minor) in Self::nodes(disk) {
            self.add_node(name, minor);
        }
        let parts: Vec<String> = disk
            .partitions()
            .iter()
            .map(|p| format!(" ubd{}{}", letter(disk.spec.unit), p.number))
            .collect();
        pr_info!(" ubd{}:{}", letter(disk.spec.unit), parts.concat());
    }

    /// Reads the partition table of `disk` again (BLKRRPART); `EBUSY` while a partition is in use.
    pub fn reread(&self, disk: &Arc<Disk>) -> Result<()> {
        // The table, and the caller's open node.
        if Arc::strong_count(disk) > 2 {
            return Err(EBUSY);
        }
        let old = Self::nodes(disk);
        disk.rescan();
        let new = Self::nodes(disk);
        for (name, _) in old.iter().filter(|o| !new.contains(o)) {
            self.remove_node(name);
        }
        for (name, minor) in new {
            if !old.contains(&(name.clone(), minor)) {
                self.add_node(name, minor);
            }
        }
        Ok(())
    }

    /// Makes everything on every disk durable: for every orderly end of the machine.
    pub fn flush_all(&self) {
        let disks: Vec<Arc<Disk>> = self.disks.lock().iter().flatten().cloned().collect();
        for d in disks {
            if let Err(e) = d.flush() {
                pr_err!("ubd{}: flush failed: {e}", letter(d.spec.unit));
            }
        }
    }

    /// `config ubdN`; `text` is what follows `ubd`. Empty when the disk is not configured.
    pub fn query(&self, text: &str) -> std::result::Result<String, ConfigError> {
        match parse_unit(text) {
            Ok((unit, "")) => Ok(self.disk(unit).map(|d| d.show()).unwrap_or_default()),
            _ => {
                let text = "ubd_get_config : device number out of range".to_owned();
                Err(ConfigError { err: 1, text })
            }
        }
    }

    /// `config ubdN...=...`; `text` is what follows `ubd`.
    pub fn config(&self, text: &str) -> std::result::Result<(), ConfigError> {
        // The stock driver looks at the unit's state before it reads the flags.
        if let Ok((unit, _)) = parse_unit(text)
            && self.disk(unit).is_some()
        {
            return Err(ConfigError { err: -libc::EBUSY, text: configured() });
        }
        let option = UbdOption::parse(text)
            .map_err(|e| ConfigError { err: e.code(), text: e.to_string() })?;
        match option {
            UbdOption::Sync => self.sync.store(true, Ordering::Relaxed),
            UbdOption::FakeMajor => pr_err!("fake major not supported any more"),
            UbdOption::Disk(d) if d.file.is_none() => {}
            UbdOption::Disk(d) => self.add(d)?,
        }
        Ok(())
    }

    /// `remove ubdN`; `text` is what follows `ubd`. What follows the unit is ignored.
    pub fn remove(&self, text: &str) -> std::result::Result<(), ConfigError> {
        let unit = match parse_unit(text) {
            Ok((unit, _)) => unit,
            Err(e) => {
                let text = match e {
                    SpecError::Range => {
                        format!("Invalid device number - must be between 0 and {}", UNITS - 1)
                    }
                    other => other.to_string(),
                };
                return Err(ConfigError { err: 1, text });
            }
        };
        let disk = {
            let mut disks = self.disks.lock();
            let slot = disks.get_mut(unit);
            let Some(slot) = slot.filter(|s| s.is_some()) else {
                let text = "Device doesn't exist".to_owned();
                return Err(ConfigError { err: -libc::ENODEV, text });
            };
            // Open nodes and mounts hold the disk.
            if slot.as_ref().is_some_and(|d| Arc::strong_count(d) > 1) {
                let text = "Device is currently open".to_owned();
                return Err(ConfigError { err: -libc::EBUSY, text });
            }
            slot.take()
        };
        if let Some(d) = disk {
            for (name, _) in Self::nodes(&d) {
                self.remove_node(&name);
            }
        }
        Ok(())
    }

    fn device_of(&self, dev: Dev) -> Result<UbdDevice> {
        let disk = self.disk(unit_of(dev)).ok_or(ENXIO)?;
        UbdDevice::new(&disk, dev.minor)
    }
}

fn configured() -> String {
    "Device is already configured".to_owned()
}

fn refuse(text: &str, why: &str) {
    pr_err!("Failed to initialize device with \"{text}\" : {why}");
}

impl BlockDriver for Ubd {
    fn device(&self, dev: Dev) -> Result<Arc<dyn BlockDevice>> {
        Ok(Arc::new(self.device_of(dev)?))
    }

    fn open(&self, req: &NodeOpen<'_>) -> Result<Opened> {
        let device = self.device_of(req.dev)?;
        let writable = req.flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32;
        // O_RDWR|O_NONBLOCK included: a read-only disk refuses every writer.
        if writable && device.read_only() {
            return Err(EROFS);
        }
        // O_EXCL without O_CREAT: not while it, a partition of it or the disk it is on is in use (open(2)).
        let kernel = req.task.kernel();
        let registry = &kernel.vfs.registry;
        let base = req.dev.minor / MINORS * MINORS;
        let number = req.dev.minor - base;
        let held = |n: u32| registry.block_holder(Dev::new(MAJOR, base + n));
        if req.flags & libc::O_EXCL as u32 != 0 {
            let part = 1..if number == 0 { MINORS } else { 1 };
            if [0, number].into_iter().chain(part).any(|n| held(n).is_some()) {
                return Err(EBUSY);
            }
        }
        if let Some(h) = held(number) {
            h.bring_home();
        }
        let driver = self.me.upgrade().ok_or(ENXIO)?;
        let ops: Box<dyn FileOps> = Box::new(BlockFile::new(device, driver, writable));
        Ok(ops.into())
    }

    fn list(&self) -> Vec<Arc<dyn BlockDevice>> {
        let disks: Vec<Arc<Disk>> = self.disks.lock().iter().flatten().cloned().collect();
        let mut v: Vec<Arc<dyn BlockDevice>> = Vec::new();
        for d in disks {
            let base = d.spec.unit as u32 * MINORS;
            let numbers = std::iter::once(0).chain(d.partitions().into_iter().map(|p| p.number));
            for n in numbers.collect::<Vec<_>>() {
                if let Ok(dev) = UbdDevice::new(&d, base + n) {
                    v.push(Arc::new(dev));
                }
            }
        }
        v
    }
}
