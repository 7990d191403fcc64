//! Debian images, made once and kept.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is on an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// Debian 12 with only essential packages, and busybox.
    Minbase,
    /// Plain Debian 12: systemd.
    Systemd,
    /// Debian 12 with sysvinit.
    Sysvinit,
}

impl Image {
    fn name(self) -> &'static str {
        match self {
            Image::Minbase => "minbase",
            Image::Systemd => "systemd",
            Image::Sysvinit => "sysvinit",
        }
    }

    fn debootstrap(self) -> &'static [&'static str] {
        match self {
            Image::Minbase => &["--variant=minbase", "--include=busybox-static"],
            Image::Systemd => &[],
            Image::Sysvinit => &["--variant=minbase", "--include=sysvinit-core,login,procps"],
        }
    }
}

fn cache() -> PathBuf {
    std::env::var_os("UML_TEST_CACHE").map_or_else(|| PathBuf::from("tests/cache"), PathBuf::from)
}

/// Runs a program; its last words when it fails.
pub fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let out = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    if out.status.success() {
        return Ok(());
    }
    let text =
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    let last: Vec<&str> = text.lines().rev().take(3).collect();
    Err(format!("{program} {}: {}", args.join(" "), last.join(" / ")))
}

/// Console logins and a password for root, which a plain Debian has not.
fn configure(image: Image, root: &Path) -> Result<(), String> {
    let put = |path: &str, text: &str| {
        fs::write(root.join(path), text).map_err(|e| format!("{path}: {e}"))
    };
    put("etc/hostname", &format!("guest-{}\n", image.name()))?;
    put("etc/fstab", "/dev/ubda / ext4 defaults 0 1\n")?;
    if image == Image::Minbase {
        return Ok(());
    }
    let at = root.to_string_lossy();
    run("chroot", &[&at, "sh", "-c", "echo root:root | chpasswd"])?;
    if image == Image::Systemd {
        let wants = root.join("etc/systemd/system/getty.target.wants");
        fs::create_dir_all(&wants).map_err(|e| e.to_string())?;
        let link = wants.join("getty@tty0.service");
        let _ = fs::remove_file(&link);
        return std::os::unix::fs::symlink("/lib/systemd/system/getty@.service", link)
            .map_err(|e| e.to_string());
    }
    let table = root.join("etc/inittab");
    let text = fs::read_to_string(&table).map_err(|e| format!("etc/inittab: {e}"))?;
    let keep = |l: &&str| !l.contains("/sbin/getty");
    let mut lines: Vec<&str> = text.lines().filter(keep).collect();
    lines.push("0:2345:respawn:/sbin/getty --noclear 38400 tty0");
    fs::write(&table, lines.join("\n") + "\n").map_err(|e| e.to_string())
}

/// The directory an image is made from and the image. `Err` says why there is none here.
pub fn get(image: Image) -> Result<(PathBuf, PathBuf), String> {
    let cache = cache();
    let (dir, file) = (cache.join(image.name()), cache.join(format!("{}.img", image.name())));
    if dir.is_dir() && file.is_file() {
        return Ok((absolute(&dir)?, absolute(&file)?));
    }
    let root = fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0);
    if !root {
        return Err("making a Debian image needs root".into());
    }
    for program in ["debootstrap", "mke2fs", "chroot"] {
        if !std::env::var("PATH")
            .unwrap_or_default()
            .split(':')
            .any(|d| Path::new(d).join(program).is_file())
        {
            return Err(format!("{program} is not installed"));
        }
    }
    fs::create_dir_all(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;
    let (new_dir, new_file) =
        (cache.join(format!(".{}", image.name())), cache.join(format!(".{}.img", image.name())));
    let _ = fs::remove_dir_all(&new_dir);
    println!("making {} (debootstrap bookworm)", file.display());
    let at = new_dir.to_string_lossy().into_owned();
    let mut args = image.debootstrap().to_vec();
    args.extend(["bookworm", &at]);
    run("debootstrap", &args)?;
    configure(image, &new_dir)?;
    let f = fs::File::create(&new_file).map_err(|e| e.to_string())?;
    f.set_len(1 << 30).map_err(|e| e.to_string())?;
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-d", &at, &new_file.to_string_lossy()])?;
    fs::rename(&new_dir, &dir).map_err(|e| e.to_string())?;
    fs::rename(&new_file, &file).map_err(|e| e.to_string())?;
    Ok((absolute(&dir)?, absolute(&file)?))
}

fn absolute(p: &Path) -> Result<PathBuf, String> {
    fs::canonicalize(p).map_err(|e| format!("{}: {e}", p.display()))
}

/// A private copy of an image, with its holes.
pub fn copy(image: &Path, to: &Path) -> Result<(), String> {
    run("cp", &["--sparse=always", &image.to_string_lossy(), &to.to_string_lossy()])
}
