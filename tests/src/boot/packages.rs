//! Package management on a real image: an installation cut off by `kill -9`, taken up again, and seen by the stock kernel.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use storage_tests::interchange::{entered, stock_root};

use crate::Outcome;
use crate::images::{self, Image, run};
use crate::machine::Bench;

/// What is installed: with what it needs more than 60 packages, none of which starts a service.
const WANTED: &[&str] = &[
    "bc", "bzip2", "cpio", "ed", "file", "gawk", "git", "jq", "less", "m4", "make", "man-db",
    "nano", "patch", "procps", "psmisc", "python3", "rsync", "sqlite3", "tmux", "tree", "unzip",
    "vim-tiny", "wget", "xz-utils", "zip",
];

/// What process 1 does; it ends the machine.
const INIT: &str = r#"#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive LC_ALL=C
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /repo; mount -t devpts devpts /dev/pts; mount -t tmpfs tmp /tmp; mount -t tmpfs run /run
mount /dev/ubdb /repo || mount /dev/ubd1 /repo
install() {
    apt-get -y --no-install-recommends install /repo/*.deb && echo "apt: done"
}
verify() {
    dpkg --verify && [ -z "$(dpkg --audit)" ] && echo "dpkg: clean"
    python3 -c 'import ssl, sqlite3; print("python: fine")'
    git --version && sqlite3 :memory: "select 'sqlite: ' || (6 * 7)"
}
case $(cat /round) in
    1) echo 2 >/round; sync; install ;;
    2) echo 3 >/round; dpkg --configure -a && install && verify ;;
    3) echo 4 >/round; uname -r; verify; dpkg --purge tree zip && echo "purge: done" ;;
    4) verify; apt-get -y install /repo/tree_*.deb /repo/zip_*.deb && verify && echo "again: done" ;;
esac
umount /repo; sync; mount -o remount,ro / && echo "machine ends"
echo o >/proc/sysrq-trigger; sleep 60
"#;

/// Packages for [`WANTED`] that the image has not, as a directory.
fn download(root: &Path, to: &Path) -> Result<usize, String> {
    let at = root.to_string_lossy();
    let archives = root.join("var/cache/apt/archives");
    run("chroot", &[&at, "apt-get", "-qq", "update"])?;
    run("chroot", &[&at, "apt-get", "clean"])?;
    let mut args =
        vec![&*at, "apt-get", "-qq", "-y", "--no-install-recommends", "--download-only", "install"];
    args.extend(WANTED);
    run("chroot", &args)?;
    let mut n = 0;
    for e in fs::read_dir(&archives).map_err(|e| format!("{}: {e}", archives.display()))?.flatten()
    {
        if e.path().extension().is_some_and(|x| x == "deb") {
            fs::copy(e.path(), to.join(e.file_name())).map_err(|e| e.to_string())?;
            n += 1;
        }
    }
    Ok(n)
}

fn check(image: &str, how: &str) -> Result<(), String> {
    let out =
        Command::new("e2fsck").args([how, image]).output().map_err(|e| format!("e2fsck: {e}"))?;
    match out.status.code() {
        Some(0) => Ok(()),
        s => Err(format!("e2fsck {how} ends with {s:?}: {}", String::from_utf8_lossy(&out.stdout))),
    }
}

/// `kill -9` of the kernel in the middle of an installation of many packages: the next boot finishes it, everything is as the
/// packages say, and the filesystem is sound; then the stock kernel goes on with the image, and ours again.
pub fn installation_killed(b: &Bench) -> Result<Outcome, String> {
    let (root, image) = match images::get(Image::Minbase) {
        Ok(i) => i,
        Err(why) => return Ok(Outcome::Skipped(why)),
    };
    let repo = b.dir.join("packages");
    fs::create_dir(&repo).map_err(|e| e.to_string())?;
    let n = match download(&root, &repo) {
        Ok(n) => n,
        Err(why) => return Ok(Outcome::Skipped(format!("no packages: {why}"))),
    };
    if n < 50 {
        return Err(format!("{n} packages are too few for a test"));
    }
    let (own, disk) = (b.dir.join("root.img"), b.dir.join("repo.img"));
    images::copy(&image, &own)?;
    let (own, disk) = (own.to_string_lossy().into_owned(), disk.to_string_lossy().into_owned());
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-d", &repo.to_string_lossy(), &disk, "200M"])?;
    for (name, text, mode) in [("init", INIT, "0100755"), ("round", "1\n", "0100644")] {
        let file = b.dir.join(name);
        fs::write(&file, text).map_err(|e| e.to_string())?;
        let to = if name == "init" { "/test-init" } else { "/round" };
        let commands = format!("write {} {to}\nsif {to} mode {mode}\n", file.display());
        let script = b.dir.join("commands");
        fs::write(&script, commands).map_err(|e| e.to_string())?;
        run("debugfs", &["-w", "-f", &script.to_string_lossy(), &own])?;
    }
    let disks = [format!("ubd0={own}"), format!("ubd1={disk}")];
    let args = [
        "mem=512M",
        "root=/dev/ubda",
        "rw",
        "con=null",
        "con0=null,fd:1",
        "quiet",
        "init=/test-init",
        &disks[0],
        &disks[1],
    ];
    // Some moment of unpacking or setting up.
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    let stop = 3 + seed as usize % (2 * n - 6);
    let mut c = b.command(&args);
    c.arg("umid=killed").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = c.spawn().map_err(|e| format!("cannot start: {e}"))?;
    let out = child.stdout.take().ok_or("no output")?;
    let step = |l: &String| l.starts_with("Unpacking ") || l.starts_with("Setting up ");
    let mut last = Vec::new();
    let lines = BufReader::new(out).lines().map_while(Result::ok);
    let seen = lines.inspect(|l| last.push(l.clone())).filter(step).take(stop).count();
    last.drain(..last.len().saturating_sub(5));
    let _ = child.kill();
    let _ = child.wait();
    if seen < stop {
        return Err(format!("ended after {seen} steps of {}: {}", 2 * n, last.join(" / ")));
    }
    b.expect_panic_directory("killed")?;
    let at = format!("killed at step {stop} of {}", 2 * n);
    let copy = b.dir.join("copy.img").to_string_lossy().into_owned();
    images::copy(Path::new(&own), Path::new(&copy))?;
    check(&copy, "-fp").and_then(|()| check(&copy, "-fn")).map_err(|e| format!("{at}: {e}"))?;
    let fine = ["dpkg: clean", "python: fine", "sqlite: 42", "machine ends"];
    let ours = |also: &str| -> Result<(), String> {
        let e = b.run(&args)?;
        e.expect(0, &fine).and_then(|()| e.expect(0, &[also])).map_err(|e| format!("{at}: {e}"))?;
        check(&own, "-fn")
    };
    ours("apt: done")?;
    if let Some(stock) = stock_root() {
        let mut c = entered(&stock, &b.dir);
        c.args(args);
        let e = b.finish(c)?;
        e.expect(0, &fine)
            .and_then(|()| e.expect(0, &["purge: done"]))
            .map_err(|e| format!("{at}, stock kernel: {e}"))?;
        check(&own, "-fn")?;
        ours("again: done")?;
    }
    Ok(Outcome::Passed)
}
