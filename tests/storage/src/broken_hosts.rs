//! Disks whose host is in the way: full, truncated, read-only, in use.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::image::{self, text};
use crate::machine::{self, Machine, Start};
use crate::suite::program;

const LIMIT: Duration = Duration::from_secs(120);

/// What a script says in a guest with 128 MiB.
pub fn guest(dir: &Path, disks: &[String], script: &str) -> Result<String, String> {
    machine::run(&Start { dir, disks, memory: 128, script }, LIMIT)
}

/// The text contains a word; the error shows it.
pub fn expect(out: &str, word: &str) -> Result<(), String> {
    if out.contains(word) { Ok(()) } else { Err(format!("\"{word}\" is missing in:\n{out}")) }
}

/// A tmpfs of some size, mounted until it is dropped.
pub struct SmallDisk<'a>(&'a Path);

impl SmallDisk<'_> {
    /// Mounts it at `at`; needs root.
    pub fn mount(at: &Path, mib: u64) -> Result<SmallDisk<'_>, String> {
        fs::create_dir_all(at).map_err(|e| format!("{}: {e}", at.display()))?;
        image::tool(
            "mount",
            &["-t", "tmpfs", "-o", &format!("size={mib}m"), "small", text(at)],
            &[0],
        )?;
        Ok(SmallDisk(at))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = image::tool("umount", &["-l", text(self.0)], &[0]);
    }
}

/// Whether the tests may mount.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// The host's disk fills up under a raw image and under a COW file: the guest's program learns it as EIO from
/// fsync(2), the filesystem stops or goes on but is not damaged, and what was synced before is there.
pub fn full_disk(dir: &Path, cow: bool) -> Result<(), String> {
    let small = dir.join("small");
    let _disk = SmallDisk::mount(&small, 24)?;
    let base = if cow { dir.join("base.img") } else { small.join("disk.img") };
    image::make(&base, 128, &["-t", "ext4", "-b", "4096"])?;
    let c = small.join("disk.cow");
    let disks = if cow {
        [format!("ubd1={},{}", c.display(), base.display())]
    } else {
        [format!("ubd1={}", base.display())]
    };
    let out = guest(
        dir,
        &disks,
        "mkdir /mnt/d; mount -o errors=remount-ro /dev/ubdb /mnt/d; cd /mnt/d
         head -c 3000000 /dev/urandom >before; sync; sum=$(sha256sum <before)
         dd if=/dev/urandom of=big bs=1M count=60 conv=fsync 2>&1 | grep error
         dd if=/dev/urandom of=big2 bs=1M count=1 conv=fsync 2>&1 | grep -i -e error -e read-only
         [ \"$sum\" = \"$(sha256sum <before)\" ] && echo kept
         cd /; umount /mnt/d; dmesg | grep -o 'the host fails.*'; echo unmounted",
    )?;
    expect(&out, "Input/output error")?;
    // The user hears the reason, once.
    expect(&out, "No space left on device")?;
    expect(&out, "kept")?;
    expect(&out, "unmounted")?;
    // With room again, all that was synced is there and the filesystem is whole.
    image::tool("mount", &["-o", "remount,size=200m", text(&small)], &[0])?;
    let raw = if cow {
        let raw = dir.join("merged.img");
        image::tool("uml_moo", &[text(&c), text(&raw)], &[0])?;
        raw
    } else {
        base
    };
    image::preen(&raw)?;
    let fs = image::open(&raw, true)?;
    let ino = fs.lookup(uml_ext4::ROOT_INO, b"before").map_err(|e| format!("before: {e}"))?;
    match image::contents(&fs, ino)?.len() {
        3_000_000 => Ok(()),
        n => Err(format!("the synced file has {n} bytes")),
    }
}

/// A backing file that was cut: refused at boot with the sizes, and neither file is touched.
pub fn truncated_backing(dir: &Path) -> Result<(), String> {
    let (base, c) = (dir.join("base.img"), dir.join("disk.cow"));
    image::make(&base, 64, &["-t", "ext4"])?;
    let pair = [format!("ubd1={},{}", c.display(), base.display())];
    guest(dir, &pair, "mkdir /mnt/d; mount /dev/ubdb /mnt/d; echo x >/mnt/d/x; umount /mnt/d")?;
    let f = fs::File::options().write(true).open(&base).map_err(|e| e.to_string())?;
    f.set_len(32 << 20).map_err(|e| e.to_string())?;
    drop(f);
    let (b, k) = (hash(&base)?, hash(&c)?);
    let out = guest(
        dir,
        &[format!("ubd1={}", c.display())],
        "ls /dev/ubdb; grep ubd /dev/kmsg & sleep 0.2",
    )?;
    expect(&out, "cannot access '/dev/ubdb'")?;
    if (b, k) != (hash(&base)?, hash(&c)?) {
        return Err("a file changed although the disk was refused".into());
    }
    Ok(())
}

fn hash(p: &Path) -> Result<String, String> {
    image::tool("sha256sum", &[text(p)], &[0])
}

/// A COW file in a directory that cannot be written: the disk is refused and the backing file stays as it is.
pub fn read_only_directory(dir: &Path) -> Result<(), String> {
    let base = dir.join("base.img");
    image::make(&base, 64, &["-t", "ext4"])?;
    let small = dir.join("ro");
    let _disk = SmallDisk::mount(&small, 8)?;
    image::tool("mount", &["-o", "remount,ro", text(&small)], &[0])?;
    let before = hash(&base)?;
    let out = guest(
        dir,
        &[format!("ubd1={},{}", small.join("c").display(), base.display())],
        "ls /dev/ubdb; echo still here",
    )?;
    expect(&out, "cannot access '/dev/ubdb'")?;
    expect(&out, "still here")?;
    if before == hash(&base)? { Ok(()) } else { Err("the backing file changed".into()) }
}

/// A second machine on the same image does not get the disk; uml_moo says who holds it.
pub fn two_instances(dir: &Path) -> Result<(), String> {
    let (base, c) = (dir.join("base.img"), dir.join("disk.cow"));
    image::make(&base, 64, &["-t", "ext4"])?;
    let pair = [format!("ubd1={},{}", c.display(), base.display())];
    let hold = "mkdir /mnt/d; mount /dev/ubdb /mnt/d; echo held; read -r line < <(sleep 60)";
    let other = dir.join("second");
    fs::create_dir(&other).map_err(|e| e.to_string())?;
    let first = Machine::start(&Start { dir, disks: &pair, memory: 64, script: hold })?;
    if first.line(Instant::now() + LIMIT).as_deref() != Some("held") {
        return Err(format!("the first machine did not mount: {:?}", first.finish(Duration::ZERO)));
    }
    let out =
        guest(&other, &pair, "ls /dev/ubdb; dmesg | grep -i ubd1; dmesg | grep -i lock; true")?;
    expect(&out, "cannot access '/dev/ubdb'")?;
    let moo = image::tool("uml_moo", &[text(&c), text(&dir.join("out.img"))], &[1, 2])?;
    expect(&moo, &first.pid().to_string())?;
    first.kill();
    // Shared on purpose (flag c) or alone again, it works.
    let out = guest(
        &other,
        &pair,
        "mkdir /mnt/d; mount /dev/ubdb /mnt/d && echo mounted; umount /mnt/d",
    )?;
    expect(&out, "mounted")
}

/// What system programs do with disks, run in the guest.
pub fn programs(dir: &Path) -> Result<(), String> {
    let disk = dir.join("disk.img");
    let f = fs::File::create(&disk).map_err(|e| e.to_string())?;
    f.set_len(128 << 20).map_err(|e| e.to_string())?;
    drop(f);
    let script = "
        echo 'label: gpt
        size=40M, name=first
        size=60M, name=second' | sfdisk -q /dev/ubdb && echo partitioned
        udevadm settle 2>/dev/null
        ls /dev/ubdb1 /dev/ubdb2
        mkfs.ext4 -q -L one /dev/ubdb1 && mkfs.ext4 -q -O inline_data /dev/ubdb2 && echo made
        blkid -p -o value -s LABEL /dev/ubdb1
        blkid -p -o value -s PTTYPE /dev/ubdb
        lsblk -brno NAME,SIZE,TYPE /dev/ubdb
        mkdir /mnt/1 /mnt/2; mount /dev/ubdb1 /mnt/1; mount /dev/ubdb2 /mnt/2
        cp -a /etc/passwd /mnt/1; cp -a /etc/group /mnt/2; lsblk -no MOUNTPOINT /dev/ubdb1
        sfdisk -q --delete /dev/ubdb 2>&1 | grep -qi 'in use\\|busy' && echo protected
        blockdev --getsize64 --getss --getbsz --getro /dev/ubdb1
        umount /mnt/1 /mnt/2
        fsck.ext4 -fn /dev/ubdb1 >/dev/null && fsck.ext4 -fn /dev/ubdb2 >/dev/null && echo clean
        cat /sys/block/ubdb/size /sys/block/ubdb/ubdb1/start /sys/block/ubdb/queue/logical_block_size
        blkdiscard -f /dev/ubdb2 && [ -z \"$(head -c 1000000 /dev/ubdb2 | tr -d '\\0' | head -c 1)\" ] && echo zeroed";
    let out = guest(dir, &[format!("ubd1={}", disk.display())], script)?;
    for w in [
        "partitioned",
        "/dev/ubdb1",
        "/dev/ubdb2",
        "made",
        "one\n",
        "gpt",
        "ubdb 134217728 disk",
        "ubdb1 41943040 part",
        "/mnt/1",
        "protected",
        "41943040\n512\n4096\n0",
        "clean",
        "262144\n2048\n512",
        "zeroed",
    ] {
        expect(&out, w)?;
    }
    Ok(())
}

/// Programs of e2fsprogs on a mounted filesystem.
pub fn mounted(dir: &Path) -> Result<(), String> {
    let disk = dir.join("disk.img");
    image::make(&disk, 96, &["-t", "ext4", "-b", "4096"])?;
    let script = "
        mkdir /mnt/d; mount /dev/ubdb /mnt/d; cd /mnt/d
        chattr +i . 2>/dev/null; chattr -i .
        touch a; chattr +i a; rm -f a 2>/dev/null || echo immutable; chattr -i a; rm a && echo removed
        echo x >b; chattr +a b; echo y >>b && echo z >b 2>/dev/null || echo append-only; cat b; chattr -a b
        filefrag b | head -1
        fstrim -v . | head -1
        tune2fs -L renamed /dev/ubdb >/dev/null; touch c; sync
        cd /; umount /mnt/d; blkid -p -o value -s LABEL /dev/ubdb
        mount /dev/ubdb /mnt/d; mount -o remount,ro /mnt/d && touch /mnt/d/n 2>&1 | grep -o Read-only
        mount -o remount,rw /mnt/d && touch /mnt/d/n && echo writable; fsfreeze -f /mnt/d
        touch /mnt/d/frozen & until grep -q 'D .disk sleep' /proc/$!/status; do sleep 0.01; done; echo waits; fsfreeze -u /mnt/d; wait
        ls /mnt/d/frozen; fsfreeze -f /mnt/d
        touch /mnt/d/emergency & until grep -q 'D .disk sleep' /proc/$!/status; do sleep 0.01; done; echo waits again; echo j >/proc/sysrq-trigger; wait
        ls /mnt/d/emergency; dmesg | grep -o 'Emergency Thaw complete'; fsfreeze -u /mnt/d 2>&1 | grep -o 'Invalid'; umount /mnt/d";
    let out = guest(dir, &[format!("ubd1={}", disk.display())], script)?;
    for w in [
        "immutable",
        "removed",
        "append-only",
        "x\ny\n",
        "extent",
        "trimmed",
        "renamed",
        "Read-only",
        "writable",
        "waits",
        "/mnt/d/frozen",
        "waits again",
        "/mnt/d/emergency",
        "Emergency Thaw complete",
        "Invalid",
    ] {
        expect(&out, w)?;
    }
    image::check(&disk)
}

/// A file many times as large as the machine's memory is copied.
pub fn more_than_memory(dir: &Path, mib: u64) -> Result<(), String> {
    let disk = dir.join("disk.img");
    image::make(&disk, mib * 2 + 200, &["-t", "ext4"])?;
    let script = format!(
        "mkdir /mnt/d; mount /dev/ubdb /mnt/d; cd /mnt/d
         head -c 16M /dev/urandom >piece; for i in $(seq $(({mib} / 16))); do cat piece; done >a && cp a b && cmp a b && echo same
         filefrag a | grep -o '[0-9]* extent'; cd /; umount /mnt/d"
    );
    let disks = [format!("ubd1={}", disk.display())];
    let start = Start { dir, disks: &disks, memory: 64, script: &script };
    let out = machine::run(&start, Duration::from_secs(400))?;
    expect(&out, "same")?;
    let extents: u64 = out
        .lines()
        .find_map(|l| l.strip_suffix(" extent").and_then(|n| n.parse().ok()))
        .ok_or_else(|| format!("no extents in {out}"))?;
    // 128 MiB fit one extent; memory pressure must not cut a file into crumbs.
    if extents > mib / 16 + 8 {
        return Err(format!("a file of {mib} MiB has {extents} extents"));
    }
    image::check(&disk)
}

/// True when all of the programs exist.
pub fn have(names: &[&str]) -> Result<(), String> {
    match names.iter().find(|n| program(n).is_none()) {
        Some(n) => Err(format!("{n} is not installed")),
        None => Ok(()),
    }
}
