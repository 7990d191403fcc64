//! Images wander between this kernel, the host's and stock UML.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::image::{self, text};
use crate::machine::{self, Start};

/// What is compared of a tree: kinds, modes, owners, sizes, times, links, device numbers, contents, attributes.
const LIST: &str = r"cd /mnt/d && { echo; echo === list; find . -path ./lost+found -prune -o -printf '%p %y %m %U:%G %s %T@ %n %l\n' | sed '/ d /s/ [0-9]* \([0-9.]* [0-9]* \)$/ \1/' | sort
    find . -type f -print0 | sort -z | xargs -0 sha256sum; find . -type b -o -type c | sort | xargs -r stat -c '%n %t:%T'; getfattr -hdR -m 'user\.' . 2>/dev/null | sort; echo === end; }";

/// Makes a tree with everything in it that an image can hold.
const TREE: &str = r#"cd /mnt/d; mkdir -p t/deep/er many; cp -a /etc/. t/ 2>/dev/null; cp -a /usr/share/bash-completion many/ 2>/dev/null
    for i in $(seq 1500); do echo $i >many/file-with-a-rather-long-name-$i; done
    ln -s target t/link; ln -s "$(printf 'x%.0s' $(seq 200))" t/long; ln t/passwd t/hard; mknod t/c c 5 1; mknod t/b b 8 300; mkfifo t/p
    truncate -s 300M t/sparse; echo end >>t/sparse; truncate -s 2M t/hole; dd if=/dev/urandom of=t/hole bs=4k seek=3 count=100 conv=notrunc 2>/dev/null
    chmod 4711 t/hard; chown -h 1234:70000 t/link t/hole; touch -d '1950-02-03 4:05:06.789' t/old; touch -d 2150-01-01 t/new
    setfattr -n user.note -v 'a value' t/hole; setfattr -n user.long -v "$(printf 'y%.0s' $(seq 900))" t/old
    fallocate -l 1M t/allocated; fallocate -p -o 8192 -l 40960 t/hole"#;

const LIMIT: Duration = Duration::from_secs(240);

fn ours(dir: &Path, disk: &str, script: &str) -> Result<String, String> {
    machine::run(&Start { dir, disks: &[disk.to_owned()], memory: 192, script }, LIMIT)
}

/// Where stock UML lives with its libraries: UML_STOCK_ROOT, or tests/cache/stock-sid.
pub fn stock_root() -> Option<PathBuf> {
    let given = std::env::var_os("UML_STOCK_ROOT").map(PathBuf::from);
    let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cache/stock-sid");
    let root = given.unwrap_or(cached).canonicalize().ok()?;
    root.join("usr/bin/linux.uml").exists().then_some(root)
}

/// Stock UML in the root that has its libraries, from a mount namespace of its own; its arguments are still to come. The host's
/// root is at /host there, `dir` where it is here. Needs root.
pub fn entered(root: &Path, dir: &Path) -> Command {
    let outer = "set -e; root=$1; dir=$2; shift 2; mkdir -p \"$root/host\"; mount --rbind / \"$root/host\"; mount -t proc proc \"$root/proc\"
        mount -t tmpfs tmpfs \"$root/tmp\"; mount -t tmpfs -o mode=1777 tmpfs \"$root/dev/shm\"; mkdir -p \"$root$dir\"; mount --bind \"$dir\" \"$root$dir\"
        if [ -e /dev/net/tun ]; then mkdir -p \"$root/dev/net\"; : >>\"$root/dev/net/tun\"; mount --bind /dev/net/tun \"$root/dev/net/tun\"; fi
        exec chroot \"$root\" /usr/bin/env TMPDIR=/dev/shm HOME=/tmp /usr/bin/linux.uml \"$@\"";
    let mut c = Command::new("unshare");
    c.args(["-m", "/bin/sh", "-c", outer, "stock"]).arg(root).arg(dir);
    c
}

/// Runs a script under stock UML; `dir` is at the same place inside. Needs root. With `kill_at` the kernel is killed
/// as soon as it says that line.
pub fn stock(
    dir: &Path,
    disk: &str,
    memory: u32,
    script: &str,
    kill_at: Option<&str>,
    limit: Duration,
) -> Result<String, String> {
    let root = stock_root().ok_or("no stock UML")?;
    let init = dir.join("stock-init");
    let body = format!(
        "#!/bin/bash\nexport PATH=/usr/sbin:/sbin:/usr/bin:/bin LC_ALL=C\nmount -t proc proc /proc\nmount -t sysfs s /sys\n\
         mount -t tmpfs tmp /mnt\nmount -t devtmpfs d /dev 2>/dev/null\n{script}\necho 'machine ends'\nsync\npoweroff -f\n"
    );
    std::fs::write(&init, body).map_err(|e| e.to_string())?;
    image::tool("chmod", &["755", text(&init)], &[0])?;
    let mut child = entered(&root, dir)
        .arg(format!("mem={memory}M"))
        .args([
            "quiet",
            "console=tty0",
            "root=/dev/root",
            "rootfstype=hostfs",
            "hostfs=/host",
            "rw",
        ])
        .args(["con=null", "con0=null,fd:1", "ssl=null", disk])
        .arg(format!("init={}", init.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("unshare: {e}"))?;
    let lines = machine::lines_of(child.stdout.take());
    let deadline = Instant::now() + limit;
    let mut said = String::new();
    let mut ended = false;
    while let Ok(l) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if kill_at == Some(l.as_str()) {
            let _ = child.kill();
            ended = true;
        } else if l == "machine ends" {
            ended = true;
        } else if !ended {
            said.push_str(&l);
            said.push('\n');
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    if ended { Ok(said) } else { Err(format!("stock UML did not end in time; it said:\n{said}")) }
}

/// The part of what a guest said that [`LIST`] prints.
fn listing(said: &str) -> &str {
    let rest = said.split_once("=== list\n").map_or("", |(_, r)| r);
    rest.split_once("=== end").map_or("", |(l, _)| l)
}

fn same(what: &str, a: &str, b: &str) -> Result<(), String> {
    let (a, b) = (listing(a), listing(b));
    if a == b && a.lines().count() > 100 {
        return Ok(());
    }
    let first = a.lines().zip(b.lines()).find(|(x, y)| x != y);
    Err(format!(
        "{what}: {} and {} lines, first difference: {first:?}",
        a.lines().count(),
        b.lines().count()
    ))
}

/// An image filled by our kernel mounts on the host and shows the same tree.
pub fn host(dir: &Path, mkfs: &[&str]) -> Result<(), String> {
    let img = dir.join("disk.img");
    image::make(&img, 256, mkfs)?;
    let disk = format!("ubd1={}", img.display());
    let made = ours(
        dir,
        &disk,
        &format!("mkdir /mnt/d; mount /dev/ubdb /mnt/d\n{TREE}\n{LIST}; cd /; umount /mnt/d"),
    )?;
    image::check(&img)?;
    let at = dir.join("at");
    std::fs::create_dir(&at).map_err(|e| e.to_string())?;
    image::tool("mount", &["-o", "loop", text(&img), text(&at)], &[0])?;
    let list = LIST.replace("/mnt/d", text(&at));
    let seen = Command::new("bash").args(["-c", &list]).env("LC_ALL", "C").output();
    let changed = Command::new("bash")
        .args(["-c", "cd \"$1\" && rm -r many/bash-completion t/deep; cp -a t/passwd from-host; echo more >>t/hole; mv t/old t/older", "x", text(&at)])
        .status();
    image::tool("umount", &[text(&at)], &[0])?;
    let seen = String::from_utf8_lossy(&seen.map_err(|e| e.to_string())?.stdout).into_owned();
    same("the host's view", &made, &seen)?;
    if !changed.is_ok_and(|s| s.success()) {
        return Err("the host could not change the tree".into());
    }
    let back = ours(
        dir,
        &disk,
        "mkdir /mnt/d; mount /dev/ubdb /mnt/d; cd /mnt/d; cmp t/passwd from-host && tail -c 5 t/hole; ls many | wc -l; ls t/older; cd /; umount /mnt/d",
    )?;
    if back != "more\n1500\nt/older\n" {
        return Err(format!("after the host's changes the guest says: {back}"));
    }
    image::check(&img)
}

/// A disk goes to stock UML and back, cleanly and with journals that the other side replays; raw or in a COW file.
pub fn with_stock(dir: &Path, cow: bool) -> Result<(), String> {
    let base = dir.join("base.img");
    image::make(&base, 256, &["-t", "ext4", "-b", "4096"])?;
    let disk = if cow {
        format!("ubd1={},{}", dir.join("c").display(), base.display())
    } else {
        format!("ubd1={}", base.display())
    };
    let mount =
        "mkdir /mnt/d; mount /dev/ubdb /mnt/d || mount /dev/ubd1 /mnt/d || echo not mounted";
    let made = ours(dir, &disk, &format!("{mount}\n{TREE}\n{LIST}; cd /; umount /mnt/d"))?;
    let seen = stock(
        dir,
        &disk,
        256,
        &format!("{mount}\n{LIST}; cd /mnt/d; rm -r many; cp -a t t2; cd /; umount /mnt/d"),
        None,
        LIMIT,
    )?;
    same("stock UML's view", &made, &seen)?;
    // Stock dies with a journal to replay.
    let script = format!(
        "{mount}\ncd /mnt/d; for i in $(seq 300); do echo $i >s$i; done; sync; {LIST}; mv t2 t3; rm s1; sync; echo now\nsleep 60"
    );
    let before = stock(dir, &disk, 256, &script, Some("now"), LIMIT)?;
    let after = ours(
        dir,
        &disk,
        &format!(
            "{mount}\ncd /mnt/d; mv t3 t2; echo 1 >s1; touch -r s2 s1; {LIST}; cd /; umount /mnt/d"
        ),
    )?;
    let strip = |s: &str| -> String {
        // Times of what was touched since differ.
        s.lines()
            .filter(|l| !l.starts_with("./s1 ") && !l.starts_with(". "))
            .map(|l| format!("{l}\n"))
            .collect()
    };
    same("after stock UML was killed", &strip(&before), &strip(&after))?;
    // Ours dies, stock replays.
    let kill = format!(
        "{mount}\ncd /mnt/d; for i in $(seq 300); do echo $i >o$i; done; rm -r s*; {LIST}; sync; echo now; read -r l < <(sleep 60)"
    );
    let disks = [disk.clone()];
    let m = machine::Machine::start(&Start { dir, disks: &disks, memory: 192, script: &kill })?;
    let deadline = Instant::now() + LIMIT;
    let mut before = String::new();
    loop {
        match m.line(deadline) {
            Some(l) if l == "now" => break,
            Some(l) => {
                before.push_str(&l);
                before.push('\n');
            }
            None => return Err(format!("our kernel stopped: {before}")),
        }
    }
    m.kill();
    let after =
        stock(dir, &disk, 256, &format!("{mount}\n{LIST}; cd /; umount /mnt/d"), None, LIMIT)?;
    same("after our kernel was killed", &before, &after)?;
    let raw = if cow {
        let out = dir.join("merged.img");
        image::tool("uml_moo", &[text(&dir.join("c")), text(&out)], &[0])?;
        out
    } else {
        base
    };
    image::check(&raw)
}
