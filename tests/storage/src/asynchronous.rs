//! Native asynchronous I/O of guest programs on disks whose contents the host has to read: what is in progress is right
//! when its event comes, and goes away with whoever started it.

use std::path::Path;

use crate::broken_hosts::expect;
use crate::image;
use crate::machine::{self, Start};

/// Takes a file out of the host's cache, if the host's filesystem does that.
pub fn evict(p: &Path) -> Result<(), String> {
    let f = std::fs::File::open(p).map_err(|e| format!("{}: {e}", p.display()))?;
    f.sync_all().map_err(|e| format!("{}: {e}", p.display()))?;
    rustix::fs::fadvise(&f, 0, None, rustix::fs::Advice::DontNeed).map_err(|e| e.to_string())
}

/// What a script says in a guest with room for fio(1) and its libraries.
fn guest(dir: &Path, disks: &[String], script: &str) -> Result<String, String> {
    let start = Start { dir, disks, memory: 512, script };
    machine::run(&start, std::time::Duration::from_secs(240))
}

/// fio(1) with 32 requests in flight past the cache, on blocks that say which they are.
fn fio(file: &str, how: &str) -> String {
    format!(
        "fio --name=v --filename={file} --size=24m --bs=4k --ioengine=libaio --direct=1 --iodepth=32 --verify=crc32c \
         --verify_state_save=0 {how} >/mnt/said 2>&1 || {{ echo {file} {how}; cat /mnt/said; }}"
    )
}

/// Four threads of fio(1) that write one file past the cache at the same time, each a quarter, while somebody reads it through the
/// cache; what the cache has afterwards is what the disk has. /mnt/d is /dev/ubdc.
const BESIDE: &str = "while [ ! -e /mnt/stop ]; do cat /mnt/d/f >/dev/null; done & \
    fio --name=t --filename=/mnt/d/f --size=6m --offset_increment=6m --numjobs=4 --thread --ioengine=psync --direct=1 --bs=4k \
        --rw=randwrite --verify=crc32c --verify_state_save=0 --group_reporting >/mnt/said 2>&1 || { echo threads; cat /mnt/said; }
    touch /mnt/stop; wait; cached=$(md5sum </mnt/d/f); umount /mnt/d; mount /dev/ubdc /mnt/d
    [ \"$cached\" = \"$(md5sum </mnt/d/f)\" ] || echo the cache and the disk differ";

/// A COW disk and a file of ext4, written and read at depth 32; the reading is of what the host does not have in memory.
/// A program that is killed with requests in flight leaves nothing behind.
pub fn in_flight(dir: &Path) -> Result<(), String> {
    let (base, cow, disk) = (dir.join("base.img"), dir.join("disk.cow"), dir.join("ext4.img"));
    image::make(&base, 64, &["-t", "ext4", "-b", "4096"])?;
    image::make(&disk, 64, &["-t", "ext4", "-b", "4096"])?;
    let disks =
        [format!("ubd1={},{}", cow.display(), base.display()), format!("ubd2={}", disk.display())];
    let mount = "mkdir /mnt/d; mount /dev/ubdc /mnt/d";
    let write = "--rw=write --do_verify=0 --fsync=200";
    let script = format!(
        "{mount}; {}; {}; {BESIDE}; umount /mnt/d; echo written",
        fio("/dev/ubdb", write),
        fio("/mnt/d/f", write)
    );
    let out = guest(dir, &disks, &script)?;
    if out != "written\n" {
        return Err(format!("writing: {out}"));
    }
    for p in [&base, &cow, &disk] {
        evict(p)?;
    }
    let killed = "sh -c 'timeout -s KILL 1 fio --name=k --filename=/dev/ubdb --rw=randrw --bs=64k --ioengine=libaio --direct=1 \
        --iodepth=32 --size=64m --time_based --runtime=100 --thread; :' >/dev/null 2>&1";
    let script = format!(
        "{mount}; {}; {}; {killed}; echo left $(cat /proc/sys/fs/aio-nr); umount /mnt/d && echo read",
        fio("/dev/ubdb", "--rw=randread"),
        fio("/mnt/d/f", "--rw=randread --fsync=100")
    );
    let out = guest(dir, &disks, &script)?;
    expect(&out, "left 0\nread\n")?;
    if out.lines().count() > 2 {
        return Err(format!("reading: {out}"));
    }
    image::check(&disk)
}
