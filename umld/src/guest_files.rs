//! Host name and files that a machine's guest is to find on its root disk.

use crate::disk_fs::DiskFs;
use crate::failure::{Context, Failure, Result};
use crate::spec::VmFile;
use crate::spec::check::{disk_unit, disk_units};
use crate::spec::cmdline::{Root, root};
use crate::spec::vm::{Disk, GuestFile};

/// Largest file.
const MAX_FILE: u64 = 64 << 20;

/// The disk with the root, when it is on a whole disk.
pub fn root_disk(vm: &VmFile) -> Result<Disk> {
    let Root::Disk(dev) = root(vm) else {
        return Err(Failure::other("its root is a directory of the host, not a disk"));
    };
    let unit = dev.strip_prefix("/dev/").unwrap_or(&dev);
    let unit = disk_unit(unit).ok_or_else(|| {
        Failure::other(format!("its root {dev} is not a whole disk, whose files umld could reach"))
    })?;
    let disk = disk_units(vm).into_iter().find(|(u, _)| *u == unit).map(|(_, d)| d.clone());
    disk.ok_or_else(|| Failure::other(format!("there is no disk {dev}")))
}

/// The contents of one file.
pub fn contents(f: &GuestFile) -> Result<Vec<u8>> {
    use std::io::Read;
    match (&f.content, &f.source) {
        (Some(c), _) => Ok(c.clone().into_bytes()),
        (None, Some(s)) => {
            let mut bytes = Vec::new();
            let file = std::fs::File::open(s).at("cannot read", s)?;
            file.take(MAX_FILE + 1).read_to_end(&mut bytes).at("cannot read", s)?;
            if bytes.len() as u64 > MAX_FILE {
                return Err(Failure::other(format!("{} is larger than 64 MiB", s.display())));
            }
            Ok(bytes)
        }
        (None, None) => Ok(Vec::new()),
    }
}

/// Its permissions.
pub fn mode(f: &GuestFile) -> u16 {
    f.mode.as_deref().and_then(|m| u16::from_str_radix(m, 8).ok()).unwrap_or(0o644)
}

/// Writes them before a start. Files that are there already with these contents are left alone.
pub fn prepare(vm: &VmFile) -> Result {
    let on_disk = matches!(root(vm), Root::Disk(_));
    if !on_disk || vm.guest.files.is_empty() && vm.guest.hostname.is_none() {
        return Ok(());
    }
    let fs = DiskFs::open(&root_disk(vm)?, true)?;
    let put = |path: &str, bytes: &[u8], mode: u16| -> Result {
        match fs.read(path, bytes.len() + 1) {
            Ok(old) if old == bytes => Ok(()),
            _ => fs.write(path, bytes, mode),
        }
    };
    if let Some(h) = &vm.guest.hostname {
        put("/etc/hostname", format!("{h}\n").as_bytes(), 0o644)?;
    }
    for f in &vm.guest.files {
        put(f.path.as_deref().unwrap_or_default(), &contents(f)?, mode(f))?;
    }
    fs.close()
}
