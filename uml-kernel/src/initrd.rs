//! The first root from `initrd=`: archives unpacked into the root in memory (initramfs).

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use uml_base::{pr_err, pr_info};
use uml_core::task::Task;
use uml_core::vfs::{Dev, DirFd, NewNode, NodeKind, SuperBlock, lookup, walk};
use uml_fs::initramfs;

use crate::cmdline::Options;

/// Reads the file of `initrd=`; `None` (and a line in the log) when there is none to use. The boot goes on
/// without it, as the interface has it.
fn read(path: &str, mem: u64) -> Option<Vec<u8>> {
    let errno = |e: &std::io::Error| e.raw_os_error().unwrap_or(0);
    let size = match std::fs::metadata(path) {
        Ok(m) => m.len(),
        Err(e) => {
            pr_err!("Couldn't stat \"{path}\" : err = {}", errno(&e));
            return None;
        }
    };
    if size == 0 {
        pr_err!("\"{path}\" is empty");
        return None;
    }
    if size > mem {
        pr_err!("initrd=\"{path}\": {size} bytes do not fit into mem={mem}; give more memory");
        return None;
    }
    let mut bytes = Vec::new();
    // One byte more than expected shows a file that grows.
    match File::open(path).and_then(|f| f.take(size + 1).read_to_end(&mut bytes)) {
        Ok(_) => Some(bytes),
        Err(e) => {
            pr_err!("Opening '{path}' failed - err = {}", errno(&e));
            None
        }
    }
}

/// Unpacks the archive over `rootfs`, where `task` stands. True when there is a program to run in it: then it is
/// the root; otherwise a root filesystem is mounted as usual.
pub fn unpack(task: &Arc<Task>, rootfs: &Arc<dyn SuperBlock>, o: &Options) -> bool {
    let Some(path) = &o.initrd else { return false };
    let Some(image) = read(path, o.mem) else { return false };
    let root = rootfs.root();
    if let Some(dir) = root.dir() {
        // What every initramfs may count on: a console for its first program.
        let node = |kind, mode| NewNode { kind, mode, uid: 0, gid: 0 };
        let dev = dir.create(b"dev", &node(NodeKind::Directory, 0o755));
        let console = node(NodeKind::CharDevice(Dev::new(5, 1)), 0o600);
        if let Ok(dev) = dev
            && let Some(dev) = dev.dir()
        {
            let _ = dev.create(b"console", &console);
        }
    }
    match initramfs::unpack(&image, &root, o.mem) {
        Ok(_) => pr_info!("Unpacked initramfs \"{path}\": {}K", image.len() >> 10),
        Err(e) => {
            pr_err!("Initramfs unpacking failed: \"{path}\": {e}");
            return false;
        }
    }
    let found = lookup(task, &DirFd::Cwd, &o.rdinit, walk::FOLLOW).is_ok();
    if !found {
        let name = String::from_utf8_lossy(&o.rdinit);
        pr_info!("initramfs has no {name}: mounting the root filesystem");
    }
    found
}
