//! `umld image build`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use uml_ext4::{Ext4, FileStore, Options};

use super::configure::{Wishes, configure};
use super::{path, source, writer::Writer};
use crate::cli::ImageBuild;
use crate::cmd::doctor::{command, which};
use crate::disk_fs::DiskFs;
use crate::failure::{Context, Failure, Result, code};
use crate::spec::values::Size;
use crate::spec::vm::Disk;
use crate::state::Store;

/// Packages without which nobody can log in to a Debian system.
const INCLUDE: &str =
    "systemd-sysv,udev,login,passwd,iproute2,ifupdown,isc-dhcp-client,less,nano,ca-certificates";

/// Fewest numbers of a range in /etc/subuid that serve a Debian system: those up to nobody's.
const RANGE_MIN: u64 = 65536;

/// Makes the image beside its place and moves it there when it is complete.
pub fn run(a: &ImageBuild) -> Result<u8> {
    let store = Store::open()?;
    let size = Size::parse(&a.size).map_err(|e| Failure::new(code::USAGE, e))?;
    if a.suite.is_none() && a.from.is_none() {
        return Err(Failure::new(
            code::USAGE,
            "expected --suite SUITE or --from DIR|TAR|OCI-LAYOUT",
        ));
    }
    if a.suite.as_ref().is_some_and(|s| {
        s.is_empty() || !s.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    }) {
        return Err(Failure::new(code::USAGE, "--suite: expected a name such as bookworm"));
    }
    let target = path(&store, &a.name);
    if target.exists() && !a.force {
        return Err(Failure::new(
            code::BUSY,
            format!("{} is there already; --force replaces it", target.display()),
        ));
    }
    let dir = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).at("cannot make", dir)?;
    let key = match &a.ssh_key {
        Some(k) => Some(std::fs::read(k).at("cannot read", k)?),
        None => None,
    };
    let password = match a.root_password.as_deref() {
        Some("-") => {
            let mut line = String::new();
            let read = std::io::stdin().lock().read_line(&mut line);
            read.map_err(|e| Failure::other(format!("password from standard input: {e}")))?;
            Some(line.trim_end_matches('\n').to_owned())
        }
        p => p.map(str::to_owned),
    };
    let mut partial = target.clone().into_os_string();
    partial.push(format!(".partial.{}", std::process::id()));
    let partial = PathBuf::from(partial);
    let bar = ProgressBar::new_spinner().with_style(
        ProgressStyle::with_template("{spinner} {msg} {bytes} ({bytes_per_sec}) {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    let made = make(a, &partial, size, &bar).and_then(|()| {
        if a.as_is {
            return Ok(());
        }
        bar.set_message("configuring");
        let stem = target.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let plain: String =
            stem.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(63).collect();
        let hostname =
            a.hostname.clone().unwrap_or(if plain.is_empty() { "uml".into() } else { plain });
        let disk = Disk { file: Some(partial.clone()), ..Disk::default() };
        let fs = DiskFs::open(&disk, true)?;
        configure(
            &fs,
            &Wishes { hostname: &hostname, password: password.as_deref(), ssh_key: key },
        )?;
        fs.close()
    });
    bar.finish_and_clear();
    if let Err(e) = made {
        let _ = std::fs::remove_file(&partial);
        return Err(e);
    }
    std::fs::rename(&partial, &target).at("cannot make", &target)?;
    crate::cmd::print(&format!("{}\n", target.display()))
}

fn make(a: &ImageBuild, image: &Path, size: Size, bar: &ProgressBar) -> Result {
    bar.set_message("making the filesystem");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(image)
        .at("cannot make", image)?;
    file.set_len(size.0).at("cannot make", image)?;
    // mke2fs takes 1 KiB blocks for small images by itself.
    let mut mke2fs = command("mke2fs", "e2fsprogs")?;
    mke2fs
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-L", "root", "-E", "root_owner=0:0"])
        .arg(image);
    run_quietly(&mut mke2fs, "mke2fs")?;
    let store = FileStore::new(file, true)
        .map_err(|e| Failure::other(format!("{}: {e}", image.display())))?;
    let fs = Ext4::open(Arc::new(store), Options::default())
        .map_err(|e| Failure::other(format!("{}: {e}", image.display())))?;
    let mut to = Writer::new(&fs, bar);
    match (&a.suite, &a.from) {
        (Some(suite), _) => debian(a, suite, &mut to, bar)?,
        (None, Some(from)) => {
            bar.set_message(format!("copying {}", from.display()));
            source::copy(from, &mut to)?;
        }
        (None, None) => {}
    }
    to.finish()?;
    bar.set_message("writing back");
    fs.unmount().map_err(|e| Failure::other(format!("{}: {e}", image.display())))
}

/// Runs a program; its standard error is the failure's text.
pub fn run_quietly(c: &mut std::process::Command, name: &str) -> Result {
    let out = c
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Failure::other(format!("cannot run {name}: {e}")))?;
    if out.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&out.stderr);
    Err(Failure::other(format!("{name} failed ({}):\n{}", out.status, text.trim())))
}

/// debootstrap fills a directory, as root, which goes into the image from there.
fn by_debootstrap(a: &ImageBuild, suite: &str, to: &mut Writer<'_>, bar: &ProgressBar) -> Result {
    let target = path(&Store::open()?, &a.name);
    let beside = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let root = tempfile::Builder::new().prefix(".debootstrap-").tempdir_in(beside);
    let root = root.at("cannot make a directory in", beside)?;
    bar.set_message(format!("installing {suite} with debootstrap"));
    let mut c = command("debootstrap", "debootstrap")?;
    c.arg(format!("--include={}", include(a))).arg(suite).arg(root.path());
    if let Some(m) = &a.mirror {
        c.arg(m);
    }
    let out = c.stdin(Stdio::null()).output();
    let out = out.map_err(|e| Failure::other(format!("cannot run debootstrap: {e}")))?;
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(10)..].join("\n");
        return Err(Failure::other(format!("debootstrap failed ({}):\n{last}", out.status)));
    }
    // The archives are installed; the image needs no copies of them.
    let archives = root.path().join("var/cache/apt/archives");
    for e in std::fs::read_dir(archives).into_iter().flatten().flatten() {
        if e.path().extension().is_some_and(|x| x == "deb") {
            let _ = std::fs::remove_file(e.path());
        }
    }
    bar.set_message(format!("copying {suite}"));
    source::copy(root.path(), to)
}

/// Packages besides the suite's important ones.
fn include(a: &ImageBuild) -> String {
    match &a.include {
        Some(more) => format!("{INCLUDE},{more}"),
        None => INCLUDE.to_owned(),
    }
}

/// Whether mmdebstrap can be root here: the user is, or has a range of other users' numbers for a user namespace.
fn can_be_root() -> bool {
    let me = nix::unistd::geteuid();
    if me.is_root() {
        return true;
    }
    let name = nix::unistd::User::from_uid(me).ok().flatten().map(|u| u.name).unwrap_or_default();
    let number = me.to_string();
    let has_range = |file: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().any(|l| {
            let mut f = l.split(':');
            let whose = f.next().unwrap_or_default();
            let count = f.nth(1).and_then(|c| c.trim().parse::<u64>().ok()).unwrap_or(0);
            (whose == name || whose == number) && count >= RANGE_MIN
        })
    };
    let allowed = || {
        let mut c = std::process::Command::new("unshare");
        run_quietly(c.args(["--user", "true"]), "unshare").is_ok()
    };
    ["newuidmap", "newgidmap"].iter().all(|p| which(p).is_some())
        && ["/etc/subuid", "/etc/subgid"].iter().all(|f| has_range(f))
        && allowed()
}

/// mmdebstrap, in a machine of its own where its user cannot be root: there everybody can.
fn mmdebstrap(path: &Path) -> Result<std::process::Command> {
    if can_be_root() {
        return Ok(std::process::Command::new(path));
    }
    let exe = std::env::current_exe()
        .map_err(|e| Failure::other(format!("cannot find this program's own file: {e}")))?;
    let mut c = std::process::Command::new(exe);
    c.args(["run", "--cwd", "/", "--"]).arg(path).arg("--mode=root");
    // What the guest has no place for.
    c.env_remove("TMPDIR");
    Ok(c)
}

/// mmdebstrap writes a tar archive, as root, in a user namespace or in a machine; its entries go straight into the image.
/// Without it debootstrap serves, which needs root.
fn debian(a: &ImageBuild, suite: &str, to: &mut Writer<'_>, bar: &ProgressBar) -> Result {
    let Some(path) = which("mmdebstrap") else {
        let hint = match which("debootstrap") {
            Some(_) if rustix::process::geteuid().is_root() => {
                return by_debootstrap(a, suite, to, bar);
            }
            Some(_) => {
                "mmdebstrap is not installed: apt install mmdebstrap (debootstrap, which is, needs root)"
            }
            None => "mmdebstrap is not installed: apt install mmdebstrap",
        };
        return Err(Failure::new(code::UNAVAILABLE, hint));
    };
    bar.set_message(format!("installing {suite}"));
    let mut c = mmdebstrap(&path)?;
    c.args(["--quiet", "--variant=important", "--format=tar"])
        .arg(format!("--include={}", include(a)))
        .arg(suite)
        .arg("-");
    if let Some(m) = &a.mirror {
        c.arg(m);
    }
    let mut child = c
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| Failure::other(format!("cannot run mmdebstrap: {e}")))?;
    let messages = child.stderr.take();
    let listener = std::thread::spawn(move || {
        let mut last: Vec<String> = Vec::new();
        for l in messages
            .into_iter()
            .flat_map(|m| BufReader::new(m).lines())
            .map_while(std::io::Result::ok)
        {
            last.push(l);
            let excess = last.len().saturating_sub(20);
            last.drain(..excess);
        }
        last
    });
    let unpacked = match child.stdout.take() {
        Some(mut out) => {
            let done = source::archive(&mut out, Path::new("mmdebstrap"), to, false);
            if done.is_err() {
                let _ = child.kill();
            }
            let mut rest = [0; 4096];
            while out.read(&mut rest).is_ok_and(|n| n > 0) {}
            done
        }
        None => Ok(()),
    };
    let status = child.wait().map_err(|e| Failure::other(format!("mmdebstrap: {e}")))?;
    let last = listener.join().unwrap_or_default();
    // With a status it failed by itself; by our signal, it is the unpacking that did.
    if status.code().is_some_and(|c| c != 0) {
        return Err(Failure::other(format!("mmdebstrap failed ({status}):\n{}", last.join("\n"))));
    }
    unpacked
}
