//! What makes a userland an image that boots in a machine: fstab, host name, logins on the consoles, network.

use std::io::{Read, Write};
use std::process::Stdio;

use crate::disk_fs::DiskFs;
use crate::failure::{Context, Failure, Result, code};

/// What the user asked for.
pub struct Wishes<'a> {
    /// Host name.
    pub hostname: &'a str,
    /// Password of root; none leaves its field empty.
    pub password: Option<&'a str>,
    /// Lines for authorized_keys.
    pub ssh_key: Option<Vec<u8>>,
}

/// Largest file that is changed.
const MAX: usize = 1 << 20;

/// Makes the changes. What the image has no place for (no systemd, no inittab) is left out.
pub fn configure(fs: &DiskFs, w: &Wishes<'_>) -> Result {
    fs.write(
        "/etc/fstab",
        b"# <device> <directory> <type> <options> <dump> <pass>\n/dev/ubda / ext4 defaults 0 1\n",
        0o644,
    )?;
    fs.write("/etc/hostname", format!("{}\n", w.hostname).as_bytes(), 0o644)?;
    if !fs.exists("/etc/hosts") {
        fs.write(
            "/etc/hosts",
            format!("127.0.0.1 localhost\n127.0.1.1 {}\n::1 localhost\n", w.hostname).as_bytes(),
            0o644,
        )?;
    }
    logins(fs)?;
    network(fs)?;
    password(fs, w.password)?;
    if let Some(key) = &w.ssh_key {
        let dir = fs.mkdir_all("/root/.ssh")?;
        fs.set_mode(dir, 0o700)?;
        fs.write("/root/.ssh/authorized_keys", key, 0o600)?;
    }
    Ok(())
}

/// A login on the first console, whatever starts it.
fn logins(fs: &DiskFs) -> Result {
    let unit = ["/lib/systemd/system", "/usr/lib/systemd/system"]
        .into_iter()
        .find(|d| fs.exists(&format!("{d}/console-getty.service")));
    // One on a terminal is enough: the second would hang up the first.
    let there = "/etc/systemd/system/getty.target.wants/getty@tty0.service";
    if let Some(dir) = unit {
        fs.mkdir_all("/etc/systemd/system/getty.target.wants")?;
        if !fs.exists(there) {
            fs.symlink(
                "/etc/systemd/system/getty.target.wants/console-getty.service",
                &format!("{dir}/console-getty.service"),
            )?;
        }
        // The other consoles have nobody at the other end.
        fs.symlink("/etc/systemd/system/getty@tty1.service", "/dev/null")?;
        fs.symlink("/etc/systemd/system/serial-getty@ttyS63.service", "/dev/null")?;
        fs.symlink("/etc/systemd/system/getty-static.service", "/dev/null")?;
    }
    if fs.exists("/lib/systemd/system/poweroff.target")
        || fs.exists("/usr/lib/systemd/system/poweroff.target")
    {
        // Ctrl-Alt-Del comes from `umld stop`, which does not want the machine again.
        let poweroff = "/lib/systemd/system/poweroff.target";
        fs.symlink("/etc/systemd/system/ctrl-alt-del.target", poweroff)?;
    }
    if fs.exists("/etc/inittab") {
        let mut text = String::from_utf8_lossy(&fs.read("/etc/inittab", MAX)?).into_owned();
        if !text.contains(":tty0") && !text.contains(" tty0") && !text.contains("tty0::") {
            // BusyBox has the terminal where others have the runlevels.
            let busybox = text.lines().any(|l| l.starts_with("::"));
            text += if busybox {
                "tty0::respawn:/sbin/getty 38400 tty0\n"
            } else {
                "0:2345:respawn:/sbin/getty 38400 tty0 linux\n"
            };
            fs.write("/etc/inittab", text.as_bytes(), 0o644)?;
        }
    }
    Ok(())
}

fn network(fs: &DiskFs) -> Result {
    if fs.exists("/lib/systemd/systemd-networkd") || fs.exists("/usr/lib/systemd/systemd-networkd")
    {
        let text = b"[Match]\nName=vec* eth*\n\n[Network]\nDHCP=yes\n";
        fs.write("/etc/systemd/network/80-uml.network", text, 0o644)?;
    }
    if fs.exists("/etc/network") {
        if !fs.exists("/etc/network/interfaces") {
            let text = b"auto lo\niface lo inet loopback\n\nsource /etc/network/interfaces.d/*\n";
            fs.write("/etc/network/interfaces", text, 0o644)?;
        }
        fs.mkdir_all("/etc/network/interfaces.d")?;
        let text = b"allow-hotplug vec0\niface vec0 inet dhcp\n";
        fs.write("/etc/network/interfaces.d/vec0", text, 0o644)?;
    }
    Ok(())
}

/// Root's field in /etc/shadow, or /etc/passwd where there is no shadow.
fn password(fs: &DiskFs, password: Option<&str>) -> Result {
    let field = match password {
        None => String::new(),
        Some(p) => hash(p)?,
    };
    for (path, mode) in [("/etc/shadow", 0o640), ("/etc/passwd", 0o644)] {
        if !fs.exists(path) {
            continue;
        }
        let text = String::from_utf8_lossy(&fs.read(path, MAX)?).into_owned();
        let mut found = false;
        let lines: Vec<String> = text
            .lines()
            .map(|l| match l.strip_prefix("root:").and_then(|r| r.split_once(':')) {
                Some((_, rest)) => {
                    found = true;
                    format!("root:{field}:{rest}")
                }
                None => l.to_owned(),
            })
            .collect();
        if found {
            return fs.write_keeping(path, (lines.join("\n") + "\n").as_bytes(), mode);
        }
    }
    match password {
        Some(_) => Err(Failure::other(
            "the image has no /etc/shadow with root in it; --root-password has no place there",
        )),
        None => Ok(()),
    }
}

/// crypt(5) by a program of the host: the hash must be one that the guest's libc knows, and SHA-512 is in all of them.
fn hash(password: &str) -> Result<String> {
    for (program, args) in
        [("openssl", &["passwd", "-6", "-stdin"][..]), ("mkpasswd", &["-m", "sha-512", "-s"])]
    {
        let Some(path) = crate::cmd::doctor::which(program) else { continue };
        let failed = |e: std::io::Error| Failure::io("cannot run", &path, &e);
        let mut child = std::process::Command::new(&path)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut i) = child.stdin.take() {
            i.write_all(format!("{password}\n").as_bytes()).map_err(failed)?;
        }
        let mut text = String::new();
        if let Some(o) = child.stdout.take() {
            o.take(4096).read_to_string(&mut text).at("cannot read from", &path)?;
        }
        let done = child.wait().map_err(failed)?;
        let text = text.trim();
        if done.success() && text.starts_with("$6$") && !text.contains([':', '\n']) {
            return Ok(text.to_owned());
        }
    }
    Err(Failure::new(
        code::UNAVAILABLE,
        "--root-password needs openssl or mkpasswd (package whois) on the host",
    ))
}
