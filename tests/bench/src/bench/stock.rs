//! Stock UML from Debian's package user-mode-linux, in a root of its own, with the host's root as the guest's by hostfs.
//!
//! Debian 12's 6.1 kernel cannot run user space on processors with AMX, so the package comes from sid (7.2) by debootstrap.

use std::path::Path;
use std::process::Command;

const SUITE: &str = "sid";
const MIRROR: &str = "http://deb.debian.org/debian";

/// Makes the root when it is absent. The error says what is missing.
pub fn prepare(dir: &Path) -> Result<(), String> {
    if dir.join("usr/bin/linux.uml").is_file() {
        return root_user();
    }
    root_user()?;
    let parent = dir.parent().ok_or("the directory for stock UML has no parent")?;
    std::fs::create_dir_all(parent).map_err(|e| format!("{}: {e}", parent.display()))?;
    eprintln!("bench: making {} with debootstrap ({SUITE}, user-mode-linux)", dir.display());
    let s = Command::new("debootstrap")
        .args(["--variant=minbase", "--include=user-mode-linux", SUITE])
        .arg(dir)
        .arg(MIRROR)
        .stdout(std::process::Stdio::null())
        .status()
        .map_err(|e| format!("debootstrap: {e} (install the package debootstrap)"))?;
    if s.success() {
        Ok(())
    } else {
        Err(format!("debootstrap failed ({s}); see {}/debootstrap", dir.display()))
    }
}

fn root_user() -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    match std::fs::metadata("/proc/self") {
        Ok(m) if m.uid() == 0 => Ok(()),
        _ => {
            Err("stock UML needs root here, to enter the root directory that has its libraries"
                .into())
        }
    }
}

/// The command line up to the words for `ubench`; everything it mounts goes with its mount namespace.
pub fn command(dir: &Path, seccomp: &str, pinned: bool, ubench: &str) -> Vec<String> {
    let pin = if pinned { "taskset -c 0 " } else { "" };
    // Memory as small as the work allows, since a map of it is made at boot. A console is named: otherwise the kernel appends one behind the words for init. The console is descriptor 1; nothing is written to the host but below /var/tmp.
    let script = format!(
        "set -e; root=$1; shift; mem=2G; case $1 in boot|idle) mem=512M;; esac; mkdir -p \"$root/host\"; mount --rbind / \"$root/host\"; mount -t proc proc \"$root/proc\"; \
         mount -t tmpfs tmpfs \"$root/tmp\"; mount -t tmpfs -o mode=1777,size=4g tmpfs \"$root/dev/shm\"; \
         exec {pin}chroot \"$root\" /usr/bin/env TMPDIR=/dev/shm HOME=/tmp /usr/bin/linux.uml mem=$mem quiet console=tty0 root=/dev/root \
         rootfstype=hostfs hostfs=/host rw con=null con0=null,fd:1 ssl=null seccomp={seccomp} init={ubench} -- as-init \"$@\""
    );
    let w = ["unshare", "-m", "/bin/sh", "-c", &script, "stock", &dir.display().to_string()];
    w.iter().map(ToString::to_string).collect()
}
