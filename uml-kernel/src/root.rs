//! Finding and mounting the root filesystem.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use uml_abi::errno::*;
use uml_abi::{Errno, Result};
use uml_base::{Mutex, Rank};
use uml_core::kernel::Kernel;
use uml_core::registry::{DeviceListener, DeviceNode};
use uml_core::task::{FsContext, Task};
use uml_core::vfs::{Dev, DirFd, SuperBlock, lookup, walk};
use uml_fs::hostfs::HostFs;
use uml_fs::overlay::OverlayFs;
use uml_fs::tmpfs::{self, TmpFs};

use crate::cmdline::Options;

/// MS_RDONLY of mount(2).
const MS_RDONLY: u64 = 1;

/// The device number a `root=` word names: `98:0`, `/dev/ubda`, `/dev/ubda1`, `/dev/ubd0`, or hex.
pub fn device(word: &str) -> Option<Dev> {
    if let Some((major, minor)) = word.split_once(':') {
        return Some(Dev::new(major.parse().ok()?, minor.parse().ok()?));
    }
    if let Some(name) = word.strip_prefix("/dev/").or(Some(word))
        && let Some(unit) = name.strip_prefix("ubd")
    {
        let first = unit.chars().next()?;
        let (disk, part) = if first.is_ascii_lowercase() && first <= 'p' {
            (first as u32 - 'a' as u32, &unit[1..])
        } else {
            let digits = unit.find(|c: char| !c.is_ascii_digit()).unwrap_or(unit.len());
            (
                unit[..digits].parse().ok()?,
                unit[digits..].strip_prefix('p').unwrap_or(&unit[digits..]),
            )
        };
        let part: u32 = if part.is_empty() { 0 } else { part.parse().ok()? };
        return (disk < 16 && part < 16).then(|| Dev::new(98, disk * 16 + part));
    }
    let n = u32::from_str_radix(word, 16).ok()?;
    (word.len() <= 4).then(|| Dev::new(n >> 8, n & 0xff))
}

fn mount(
    task: &Arc<Task>,
    kind: &str,
    source: &str,
    flags: u64,
    data: &str,
) -> Result<Arc<dyn SuperBlock>> {
    let kernel = task.kernel();
    let fs = kernel.vfs.registry.fs(kind.as_bytes())?;
    fs.mount(task, source.as_bytes(), flags, data.as_bytes())
}

/// Mounts what the options name as root and makes it the root of a namespace.
pub fn prepare(task: &Arc<Task>, o: &Options) -> std::result::Result<FsContext, String> {
    let kernel = task.kernel();
    if o.root_delay > 0 {
        uml_base::pr_info!("Waiting {} sec before mounting root device...", o.root_delay);
        std::thread::sleep(Duration::from_secs(o.root_delay.into()));
    }
    let flags = if o.read_only && !o.root_overlay { MS_RDONLY } else { 0 };
    let failed = |what: &str, e: Errno| {
        format!("VFS: Unable to mount root fs on {what}: {e} ({})", e.name())
    };
    let (sb, source, device) = if o.rootfstype.as_deref() == Some("hostfs") {
        let sb = hostfs(task, o).map_err(|e| failed(&format!("hostfs {}", o.rootflags), e))?;
        (sb, "/dev/root".to_owned(), Dev::new(0, 0))
    } else {
        let Some(dev) = device(&o.root) else {
            return Err(format!(
                "VFS: Cannot open root device \"{}\": expected a disk such as /dev/ubda or 98:0, \
                 or root=/dev/root rootfstype=hostfs rootflags=<directory>",
                o.root
            ));
        };
        (disk(task, o, dev, flags)?, "/dev/root".to_owned(), dev)
    };
    let kind = sb.fs_type();
    let read_only = flags & MS_RDONLY != 0 || sb.read_only();
    let sb = if o.root_overlay {
        overlay(task, sb).map_err(|e| failed("overlay of tmpfs", e))?
    } else {
        sb
    };
    let (_, fs) = kernel.vfs.first_namespace(sb, source.as_bytes(), flags);
    uml_base::pr_info!(
        "VFS: Mounted root ({kind} filesystem){} on device {}:{}.",
        if read_only { " readonly" } else { "" },
        device.major,
        device.minor
    );
    Ok(fs)
}

/// A host directory, below the confinement root. Under an overlay nothing writes to it, so names and
/// attributes may be kept.
fn hostfs(task: &Arc<Task>, o: &Options) -> Result<Arc<dyn SuperBlock>> {
    let config = crate::init::hostfs_config(o);
    let path = o.rootflags.strip_prefix("hostfs=").unwrap_or(&o.rootflags);
    Ok(HostFs::open(&task.kernel(), &config, path.as_bytes(), o.root_overlay)?)
}

/// Waits until the block device is there (`rootwait`): the management console may add it.
fn arrival(kernel: &Kernel, dev: Dev) {
    if kernel.vfs.registry.block_device(dev).is_ok() {
        return;
    }
    uml_base::pr_info!("Waiting for root device {}:{}...", dev.major, dev.minor);
    let (tx, rx) = channel();
    kernel.vfs.registry.add_listener(Arc::new(Arrivals(Mutex::new(Rank::LEAF, tx))));
    // Nodes that are there already are told, too.
    while rx.recv().is_ok() {
        if kernel.vfs.registry.block_device(dev).is_ok() {
            return;
        }
    }
}

/// Passes on that there are new devices.
struct Arrivals(Mutex<Sender<()>>);

impl DeviceListener for Arrivals {
    fn added(&self, _: &DeviceNode) {
        let _ = self.0.lock().send(());
    }

    fn removed(&self, _: &DeviceNode) {}
}

/// A block device: the type named, or each type that wants a device in turn.
fn disk(
    task: &Arc<Task>,
    o: &Options,
    dev: Dev,
    flags: u64,
) -> std::result::Result<Arc<dyn SuperBlock>, String> {
    let kernel = task.kernel();
    let name = format!("{}:{}", dev.major, dev.minor);
    if o.root_wait {
        arrival(&kernel, dev);
    }
    if let Err(e) = kernel.vfs.registry.block_device(dev) {
        return Err(format!(
            "VFS: Cannot open root device \"{}\" or unknown-block({},{}): error {}: \
             give the disk's image with ubd0=<file>",
            o.root,
            dev.major,
            dev.minor,
            -e.raw()
        ));
    }
    let kinds: Vec<&'static str> = kernel
        .vfs
        .registry
        .fs_list()
        .iter()
        .filter(|f| !f.nodev())
        .map(|f| f.name())
        .filter(|n| o.rootfstype.as_deref().is_none_or(|w| w.split(',').any(|k| k == *n)))
        .collect();
    let mut last = EINVAL;
    let mut only_read = Vec::new();
    for kind in &kinds {
        match mount(task, kind, &name, flags, &o.rootflags) {
            Ok(sb) => return Ok(sb),
            Err(EACCES) => only_read.push(kind),
            Err(e) => last = e,
        }
    }
    // As Linux: what cannot be written is mounted read-only.
    for kind in only_read {
        match mount(task, kind, &name, flags | MS_RDONLY, &o.rootflags) {
            Ok(sb) => return Ok(sb),
            Err(e) => last = e,
        }
    }
    Err(format!(
        "VFS: Unable to mount root fs on unknown-block({},{}): tried {}: {last}",
        dev.major,
        dev.minor,
        if kinds.is_empty() { "no type".into() } else { kinds.join(", ") }
    ))
}

/// Covers `lower` with a layer in memory.
fn overlay(task: &Arc<Task>, lower: Arc<dyn SuperBlock>) -> Result<Arc<dyn SuperBlock>> {
    let kernel = task.kernel();
    // What is written stays in memory: a full disk comes before programs are killed for want of it.
    let size = Some(kernel.mem_bytes / 4 * 3);
    let options = tmpfs::Options { mode: Some(0o755), size, ..tmpfs::Options::default() };
    let cover = TmpFs::new(&kernel.vfs, "tmpfs", options);
    Ok(OverlayFs::over(&kernel, &lower, &cover)?)
}

/// Attaches a filesystem at `at` of the task's namespace.
pub fn attach(kernel: &Kernel, task: &Arc<Task>, sb: Arc<dyn SuperBlock>, at: &str) -> Result<()> {
    let place = lookup(task, &DirFd::Cwd, at.as_bytes(), walk::FOLLOW | walk::DIRECTORY)?;
    let m = kernel.vfs.new_mount(sb, b"none", 0);
    kernel.vfs.attach(&task.fs().mounts(), &m, &place)
}

/// Mounts a filesystem type at a directory if the directory exists.
pub fn mount_at(task: &Arc<Task>, kind: &str, at: &str) -> Result<()> {
    let kernel = task.kernel();
    let sb = mount(task, kind, "none", 0, "")?;
    attach(&kernel, task, sb, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_devices_are_named_in_many_ways() {
        assert_eq!(device("98:0"), Some(Dev::new(98, 0)));
        assert_eq!(device("/dev/ubda"), Some(Dev::new(98, 0)));
        assert_eq!(device("/dev/ubdb2"), Some(Dev::new(98, 18)));
        assert_eq!(device("/dev/ubd1"), Some(Dev::new(98, 16)));
        assert_eq!(device("ubd0p3"), Some(Dev::new(98, 3)));
        assert_eq!(device("6200"), Some(Dev::new(98, 0)));
        assert_eq!(device("/dev/sda"), None);
        assert_eq!(device("/dev/ubdz"), None);
    }
}
