//! What changes on a mounted filesystem, and what mount options promise: growing, `data=journal`, `errors=`.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::broken_hosts::{expect, guest};
use crate::image;
use crate::machine::{Machine, Start};

/// A mounted filesystem grows with resize2fs, full of data, and tune2fs changes it.
pub fn resized(dir: &Path) -> Result<(), String> {
    let disk = dir.join("disk.img");
    image::make(&disk, 160, &["-t", "ext4", "-b", "4096"])?;
    let f = std::fs::OpenOptions::new()
        .write(true)
        .open(&disk)
        .map_err(|e| format!("{}: {e}", disk.display()))?;
    f.set_len(600 << 20).map_err(|e| format!("{}: {e}", disk.display()))?;
    let script = "
        mkdir /mnt/d; mount /dev/ubdb /mnt/d; cd /mnt/d
        head -c 50M /dev/urandom >a; md5sum a >sum; (while :; do cp a b; rm b; done) & sleep 0.1
        resize2fs /dev/ubdb 100000 2>&1 | grep -o 'now 100000'
        resize2fs /dev/ubdb 2>&1 | grep -o 'now 153600'; kill %1; wait
        resize2fs /dev/ubdb 100000 2>&1 | grep -o 'On-line shrinking not supported'
        [ $(df --output=size -m . | tail -1) -gt 500 ] && echo large
        head -c 400M /dev/zero >c && md5sum -c sum
        before=$(df --output=avail . | tail -1); tune2fs -m 0 -e remount-ro -c 7 /dev/ubdb >/dev/null; touch t; sync
        [ $(df --output=avail . | tail -1) -gt $before ] && echo more available
        tune2fs -l /dev/ubdb | grep -E 'Errors behavior|Maximum mount|Reserved block count'
        cd /; umount /mnt/d; tune2fs -l /dev/ubdb | grep 'Errors behavior'; mount /dev/ubdb /mnt/d; df -m /mnt/d | tail -1
        cd /mnt/d && md5sum -c sum; cd /; umount /mnt/d";
    let out = guest(dir, &[format!("ubd1={}", disk.display())], script)?;
    for w in [
        "now 100000",
        "now 153600",
        "On-line shrinking not supported",
        "large",
        "a: OK",
        "more available",
        "Remount read-only",
        "Maximum mount count:      7",
        "Reserved block count:     0",
    ] {
        expect(&out, w)?;
    }
    image::check(&disk)
}

/// `data=journal`: programs see files as ever, and the mode does not change while mounted (ext4(5)).
pub fn journaled(dir: &Path) -> Result<(), String> {
    let disk = dir.join("disk.img");
    image::make(&disk, 300, &["-t", "ext4", "-b", "4096", "-J", "size=8"])?;
    let script = "
        mkdir /mnt/d; mount -o data=journal /dev/ubdb /mnt/d; cd /mnt/d
        grep -o 'data=journal' /proc/mounts | head -1
        head -c 90M /dev/urandom >a; md5sum a >sum; sync; echo 3 >/proc/sys/vm/drop_caches; md5sum -c sum
        dd if=a of=b bs=64k oflag=direct status=none && dd if=b iflag=direct bs=1M status=none | cmp - a && echo direct
        fallocate -p -o 1000 -l 100000 b; cp a c; dd if=/dev/zero of=c bs=1000 seek=1 count=100 conv=notrunc status=none
        sync; echo 3 >/proc/sys/vm/drop_caches; cmp b c && echo punched
        mount -o remount,data=ordered /mnt/d 2>/dev/null || echo refused
        mount -o remount,ro /mnt/d && mount -o remount,rw /mnt/d && rm b c && echo again
        cd /; umount /mnt/d; mount /dev/ubdb /mnt/d; cd /mnt/d; md5sum -c sum | sed s/OK/fine/; cd /; umount /mnt/d";
    let out = guest(dir, &[format!("ubd1={}", disk.display())], script)?;
    for w in ["data=journal", "a: OK", "direct", "punched", "refused", "again", "a: fine"] {
        expect(&out, w)?;
    }
    image::check(&disk)
}

/// `errors=`: a damaged directory is reported by an error, by no more writing, or by a panic.
pub fn errors(dir: &Path) -> Result<(), String> {
    let disk = dir.join("disk.img");
    image::make(&disk, 64, &["-t", "ext4", "-b", "4096"])?;
    image::tool("debugfs", &["-w", "-R", "mkdir /d", image::text(&disk)], &[0])?;
    let at = image::tool("debugfs", &["-R", "bmap /d 0", image::text(&disk)], &[0])?;
    let block: u64 = at
        .lines()
        .find_map(|l| l.trim().parse().ok())
        .ok_or_else(|| format!("debugfs bmap says {at}"))?;
    let f = std::fs::OpenOptions::new().write(true).open(&disk).map_err(|e| e.to_string())?;
    std::os::unix::fs::FileExt::write_all_at(&f, &[0xa5; 4096], block * 4096)
        .map_err(|e| e.to_string())?;
    let disks = [format!("ubd1={}", disk.display())];
    let script = |policy: &str| {
        format!(
            "mkdir /mnt/d; mount -o errors={policy} /dev/ubdb /mnt/d; echo mounted
             ls /mnt/d/d >/dev/null 2>&1 || echo damaged
             touch /mnt/d/t 2>&1 | grep -o 'Read-only'; [ -e /mnt/d/t ] && echo written; umount /mnt/d"
        )
    };
    let out = guest(dir, &disks, &script("continue"))?;
    expect(&out, "damaged")?;
    expect(&out, "written")?;
    let out = guest(dir, &disks, &format!("{}; echo left", script("remount-ro")))?;
    expect(&out, "damaged")?;
    // The file of the run before is there.
    expect(&out, "written")?;
    let told = image::tool("tune2fs", &["-l", image::text(&disk)], &[0])?;
    expect(&told, "clean with errors")?;
    let refused = guest(dir, &disks, &script("remount-ro").replace("/mnt/d/t", "/mnt/d/u"))?;
    expect(&refused, "Read-only")?;
    // It must be the policy of the superblock, too, that counts.
    image::tool("tune2fs", &["-e", "panic", image::text(&disk)], &[0])?;
    let script = script("panic").replace("-o errors=panic", "");
    let machine = Machine::start(&Start { dir, disks: &disks, memory: 128, script: &script })?;
    let deadline = Instant::now() + Duration::from_secs(60);
    if machine.line(deadline).as_deref() != Some("mounted") {
        return Err("the guest did not mount a filesystem with errors=panic".into());
    }
    match machine.finish(Duration::from_secs(60)) {
        // What it says about it is a message of the kernel, which is left out here.
        Err(said) if said.contains("SIGABRT") => Ok(()),
        other => Err(format!("no panic: {other:?}")),
    }
}

/// File handles name files over a new mount, and nothing else.
pub fn handles(dir: &Path) -> Result<(), String> {
    let disk = dir.join("disk.img");
    image::make(&disk, 96, &["-t", "ext4"])?;
    let program = dir.join("handles.py");
    std::fs::write(&program, include_str!("handles.py"))
        .map_err(|e| format!("{}: {e}", program.display()))?;
    let script = format!(
        "mkdir /mnt/d; mount /dev/ubdb /mnt/d; python3 {0} make; umount /mnt/d
        mount /dev/ubdb /mnt/d; python3 {0} find; umount /mnt/d",
        program.display()
    );
    let out = guest(dir, &[format!("ubd1={}", disk.display())], &script)?;
    for w in [
        "made",
        "kind 1, 8 bytes",
        "directory /mnt/d/new/b",
        "below deep, above up",
        "file deep",
        "removed ESTALE",
        "other generation ESTALE",
        "numbers ESTALE",
    ] {
        expect(&out, w)?;
    }
    image::check(&disk)
}
