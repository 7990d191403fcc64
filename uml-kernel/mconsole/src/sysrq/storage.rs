//! Keys for filesystems. Storage may be slow or stuck: the work is done in the background.

use std::sync::Arc;

use uml_base::{pr_err, pr_info};
use uml_core::kernel::Kernel;

use super::in_background;

/// Writes everything out.
pub fn sync(kernel: &Arc<Kernel>) {
    let kernel = kernel.clone();
    in_background("emergency-sync", move || {
        for e in kernel.vfs.sync_all() {
            pr_err!("Emergency Sync: {e}");
        }
        pr_info!("Emergency Sync complete");
    });
}

/// Makes every filesystem that keeps data read-only, after writing it out.
pub fn remount(kernel: &Arc<Kernel>) {
    let kernel = kernel.clone();
    in_background("emergency-remount", move || {
        for i in kernel.vfs.instances() {
            let kind = i.sb.fs_type();
            let on_disk = kernel.vfs.registry.fs(kind.as_bytes()).is_ok_and(|f| !f.nodev());
            if !(on_disk || kind == "hostfs") || i.sb.read_only() {
                continue;
            }
            if let Err(e) = i.sb.sync().and_then(|()| i.sb.remount(true, b"")) {
                pr_err!("Emergency Remount: {kind}: {e}");
            }
        }
        pr_info!("Emergency Remount complete");
    });
}

/// Thaws every filesystem that was frozen (FIFREEZE of ioctl_fs(2), fsfreeze(8)).
pub fn thaw(kernel: &Arc<Kernel>) {
    let kernel = kernel.clone();
    in_background("emergency-thaw", move || {
        for i in kernel.vfs.instances() {
            if let Err(e) = i.sb.thaw() {
                pr_err!("Emergency Thaw: {}: {e}", i.sb.fs_type());
            }
        }
        pr_info!("Emergency Thaw complete");
    });
}
