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

/// Past the descriptor blocks kept for growth, the filesystem is converted to `meta_bg`.
pub fn converted(dir: &Path) -> Result<(), String> {
    let disk = dir.join("disk.img");
    // Groups of a megabyte, and room for the descriptors of 32 more.
    let layout = ["-t", "ext4", "-b", "1024", "-g", "1024", "-E", "resize=60000"];
    image::make(&disk, 20, &layout)?;
    let f = std::fs::OpenOptions::new()
        .write(true)
        .open(&disk)
        .map_err(|e| format!("{}: {e}", disk.display()))?;
    f.set_len(400 << 20).map_err(|e| format!("{}: {e}", disk.display()))?;
    let script = "
        mkdir /mnt/d; mount /dev/ubdb /mnt/d; cd /mnt/d; head -c 5M /dev/urandom >a; md5sum a >sum
        resize2fs /dev/ubdb 2>&1 | grep -o 'now 409600'; head -c 300M /dev/zero >b && md5sum -c sum
        cd /; umount /mnt/d; dumpe2fs -h /dev/ubdb 2>/dev/null | grep -o 'meta_bg'; dumpe2fs -h /dev/ubdb 2>/dev/null | grep -c resize_inode
        mount /dev/ubdb /mnt/d && cd /mnt/d && md5sum -c sum | sed s/OK/fine/; cd /; umount /mnt/d";
    let out = guest(dir, &[format!("ubd1={}", disk.display())], script)?;
    for w in ["now 409600", "a: OK", "meta_bg\n0\n", "a: fine"] {
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
        cd /; umount /mnt/d; mount /dev/ubdb /mnt/d; cd /mnt/d; md5sum -c sum | sed s/OK/fine/
        mkdir j; chattr +j j; cp a j/b; lsattr j/b | tr -d e-; sync; chattr -j j/b; echo x | dd of=j/b conv=notrunc status=none
        sync; echo 3 >/proc/sys/vm/drop_caches; cmp -i 2 a j/b && head -c 2 j/b && echo rest; cd /; umount /mnt/d";
    let out = guest(dir, &[format!("ubd1={}", disk.display())], script)?;
    for w in [
        "data=journal",
        "a: OK",
        "direct",
        "punched",
        "refused",
        "again",
        "a: fine",
        "j j/b",
        "x\nrest\n",
    ] {
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
    let record = "cd /sys/fs/ext4/ubdb; [ $(cat errors_count) -gt 0 ] && echo counted; grep . last_error_ino first_error_errcode; cd /";
    let ask = script("continue").replace("umount", &format!("{record}; umount"));
    let out = guest(dir, &disks, &ask)?;
    for w in ["damaged", "written", "counted", "last_error_ino:12", "first_error_errcode:4"] {
        expect(&out, w)?;
    }
    let told = image::tool("dumpe2fs", &["-h", image::text(&disk)], &[0])?;
    expect(&told, "EFSBADCRC")?;
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

/// Requests and bytes are counted for disks and processes.
pub fn counted(dir: &Path) -> Result<(), String> {
    let (raw, disk) = (dir.join("raw.img"), dir.join("disk.img"));
    std::fs::write(&raw, vec![1; 4 << 20]).map_err(|e| format!("{}: {e}", raw.display()))?;
    image::make(&disk, 96, &["-t", "ext4"])?;
    let program = dir.join("counted.py");
    std::fs::write(&program, include_str!("counted.py"))
        .map_err(|e| format!("{}: {e}", program.display()))?;
    let script = format!(
        "mkdir /mnt/d; mount /dev/ubdc /mnt/d; python3 {} /dev/ubdb /mnt/d; umount /mnt/d",
        program.display()
    );
    let disks = [format!("ubd1={}", raw.display()), format!("ubd2={}", disk.display())];
    let out = guest(dir, &disks, &script)?;
    for w in [
        "reads 16 2048 0 0 0 0 0 0",
        "reads read_bytes 1048576",
        "reads write_bytes 0",
        "reads blocks 2048 0",
        "writes 0 0 8 512 0 0 1 0",
        "writes write_bytes 262144",
        "writes blocks 0 512",
        "discards 0 0 0 0 1 2048 0 0",
        "buffered 0 0 0 0 0 0 0 0",
        "buffered write_bytes 1048576",
        "buffered cancelled_write_bytes 1048576",
        "inflight ['0', '0']",
    ] {
        expect(&out, w)?;
    }
    image::check(&disk)
}

/// `io.max` of control groups holds tasks back, and only those of its group, device and direction.
pub fn limited(dir: &Path) -> Result<(), String> {
    let disks = ["b.img", "c.img"].map(|n| dir.join(n));
    for d in &disks {
        std::fs::write(d, vec![1; 8 << 20]).map_err(|e| format!("{}: {e}", d.display()))?;
    }
    let program = dir.join("limited.py");
    std::fs::write(&program, include_str!("limited.py"))
        .map_err(|e| format!("{}: {e}", program.display()))?;
    let script = format!("python3 {}", program.display());
    let [b, c] = disks.map(|d| d.display().to_string());
    let out = guest(dir, &[format!("ubd1={b}"), format!("ubd2={c}")], &script)?;
    for w in [
        "empty ''",
        "kept 'rbps=1048576 wbps=max riops=max wiops=100'",
        "more 'rbps=1048576 wbps=4096 riops=max wiops=100'",
        "none ''",
        "errors ['EINVAL', 'EINVAL', 'EINVAL', 'ENODEV', 'ENODEV', 'ERANGE', 'EINVAL', 'EINVAL', 'EINVAL']",
        "bytes read: held",
        "requests written: held",
        "of the group above: held",
        "a thread beside it runs: True",
        "counted 1048576 1048576",
        "killed while held: -9",
        "lifted: goes on",
    ] {
        expect(&out, w)?;
    }
    Ok(())
}

/// Groups of new files: what a script prints in this directory.
const OWNERSHIP: &str = r#"umask 002; mkdir s n; chgrp 50 s n; chmod 2777 s; chmod 777 n
    as() { setpriv --reuid 1000 --regid 1000 --clear-groups sh -c "$1"; }
    for d in s n; do touch $d/f; mkdir $d/d; ln -s x $d/l; mkfifo $d/p; as "umask 0; touch $d/u; mkdir $d/v; chmod 2777 $d/u $d/v"
        as "cp -p $d/u $d/w; chgrp 50 $d/u" 2>&1; done
    stat -c '%n %u:%g %a' s n s/* n/*
    rm -rf s n"#;

/// The attribute `j`, which takes CAP_SYS_RESOURCE.
const ATTRIBUTE: &str = r#"umask 022; mkdir n; chmod 777 n; touch n/f
    chattr +j n/f; mkdir n/j; chattr +j n/j; touch n/j/f; mkdir n/j/d n/j/d/e; ln -s x n/j/l; touch n/j/d/e/f
    lsattr -R n 2>/dev/null | awk 'NF == 2 { gsub("[eI-]", "", $1); print $2, $1 }' | sort
    echo some text >n/j/f; sync; echo more text >>n/j/f; chattr -j n/j/f; cat n/j/f; lsattr n/j/f | tr -d e-
    setpriv --reuid 1000 --regid 1000 --clear-groups sh -c "touch n/own; chattr +j n/own" 2>&1 | sed 's/.*: //'; rm -rf n"#;

/// Whether this process has a capability.
fn capable(number: u32) -> Result<bool, String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|e| e.to_string())?;
    let set = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap_or("0").trim();
    let set = u64::from_str_radix(set, 16).map_err(|e| e.to_string())?;
    Ok(set >> number & 1 == 1)
}

/// `grpid` with its other names and default, and chattr(1) +j, as the host's kernel has them.
pub fn ownership(dir: &Path) -> Result<(), String> {
    let (ours, theirs) = (dir.join("ours.img"), dir.join("theirs.img"));
    for i in [&ours, &theirs] {
        image::make(i, 64, &["-t", "ext4", "-b", "4096"])?;
    }
    let at = dir.join("at");
    std::fs::create_dir(&at).map_err(|e| e.to_string())?;
    // Many containers lack it.
    let attribute = if capable(24)? { ATTRIBUTE } else { "true" };
    let script = |disk: &str, at: &str| {
        let mut s = format!("set +e; mkdir -p {at}; ");
        for options in ["defaults", "grpid", "bsdgroups", "nogrpid", "sysvgroups,errors=continue"] {
            s += &format!(
                "echo with {options}; mount -o {options} {disk} {at} && cd {at} && {{ {OWNERSHIP}\n{attribute}\n}}; cd /; umount {at}\n"
            );
        }
        s += &format!(
            "mount {disk} {at}; mount -o remount,grpid {at}; cd {at}; mkdir d; chgrp 50 d; touch d/f; stat -c %g d/f; cd /; umount {at}\n\
             tune2fs -o bsdgroups {disk} >/dev/null; mount {disk} {at}; touch {at}/d/g; stat -c %g {at}/d/g; umount {at}\n\
             mount -o nogrpid {disk} {at}; touch {at}/d/h; stat -c %g {at}/d/h; umount {at}\n"
        );
        s
    };
    let host = std::process::Command::new("bash")
        .args(["-c", &script(image::text(&theirs), image::text(&at))])
        .env("LC_ALL", "C")
        .output()
        .map_err(|e| e.to_string())?;
    let host = String::from_utf8_lossy(&host.stdout).into_owned();
    let guest = guest(dir, &[format!("ubd1={}", ours.display())], &script("/dev/ubdb", "/mnt/d"))?;
    if host.lines().count() < 80 {
        return Err(format!("the host says only:\n{host}"));
    }
    if let Some((a, b)) = host.lines().zip(guest.lines()).find(|(a, b)| a != b) {
        return Err(format!("the host says \"{a}\", the guest \"{b}\"; all of it:\n{guest}"));
    }
    if host.lines().count() != guest.lines().count() {
        return Err(format!("lines are missing:\n{guest}"));
    }
    image::check(&ours)
}

/// Multi-mount protection: the block counts while the guest has the filesystem, and is clean afterwards; what a killed
/// guest left is taken after a watch, and the host's tools keep off meanwhile.
pub fn multi_mount(dir: &Path) -> Result<(), String> {
    let disk = dir.join("disk.img");
    image::make(&disk, 64, &["-t", "ext4", "-b", "4096", "-O", "mmp"])?;
    let disks = [format!("ubd1={}", disk.display())];
    let dump = || image::tool("debugfs", &["-R", "dump_mmp", image::text(&disk)], &[0]);
    let mount = "mkdir /mnt/d; hostname counting; mount /dev/ubdb /mnt/d && echo mounted";
    let script = format!("{mount}; echo kept >/mnt/d/f; sync; echo now; read -r l < <(sleep 600)");
    let m = Machine::start(&Start { dir, disks: &disks, memory: 128, script: &script })?;
    let deadline = Instant::now() + Duration::from_secs(120);
    while let Some(l) = m.line(deadline) {
        if l == "now" {
            break;
        }
    }
    let first = dump()?;
    expect(&first, "counting")?;
    expect(&first, "ubdb")?;
    while dump()? == first {
        if Instant::now() > deadline {
            return Err(format!("the block does not count: {first}"));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let fsck = image::tool("e2fsck", &["-p", image::text(&disk)], &[8])?;
    expect(&fsck, "MMP")?;
    m.kill();
    let out = guest(dir, &disks, &format!("{mount}; cat /mnt/d/f; umount /mnt/d"))?;
    expect(&out, "mounted\nkept")?;
    expect(&dump()?, "sequence: ff4d4d50")?;
    let out = guest(
        dir,
        &disks,
        "mkdir /mnt/d; mount -o ro /dev/ubdb /mnt/d; mount -o remount,rw /mnt/d && echo writable; mount -o remount,ro /mnt/d; umount /mnt/d",
    )?;
    expect(&out, "writable")?;
    expect(&dump()?, "sequence: ff4d4d50")?;
    image::check(&disk)
}
