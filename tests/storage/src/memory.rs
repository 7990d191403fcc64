//! Cached file data as a part of the guest's memory.

use std::path::Path;
use std::time::Duration;

use crate::broken_hosts::expect;
use crate::image;
use crate::machine::{self, Start};

/// Cached and changed data show in /proc/meminfo, go when they are told to, and give way to programs.
pub fn page_cache(dir: &Path) -> Result<(), String> {
    let disk = dir.join("disk.img");
    image::make(&disk, 600, &["-t", "ext4"])?;
    let script = r#"
        mkdir /mnt/d; mount /dev/ubdb /mnt/d; cd /mnt/d
        kb() { awk -v n="$1:" '$1 == n { print $2 }' /proc/meminfo; }
        at_least() { if [ "$2" -ge "$3" ]; then echo "$1: yes"; else echo "$1: $2 of $3 kB"; fi; }
        at_most() { if [ "$2" -le "$3" ]; then echo "$1: yes"; else echo "$1: $2 over $3 kB"; fi; }
        before=$(kb Cached)
        # Little enough to lie for its thirty seconds.
        head -c 1M /dev/urandom >c
        at_least "and changed" "$(kb Dirty)" 1000
        head -c 40M /dev/urandom >a
        at_least "written data is cached" $(($(kb Cached) - before)) 40000
        sync
        at_most "not changed any more" "$(kb Dirty)" 64
        sum=$(md5sum <a)
        echo 1 >/proc/sys/vm/drop_caches
        at_most "dropped" $(($(kb Cached) - before)) 2000
        [ "$sum" = "$(md5sum <a)" ] && echo "read again: yes"
        at_least "cached again" $(($(kb Cached) - before)) 40000
        for i in 1 2 3 4 5; do cp a b$i; done
        at_least "a full cache" $(($(kb Cached) - before)) 120000
        # A program that needs nearly all of the memory gets it.
        perl -e '$x = "x" x (150 << 20); print length($x) >> 20, " MiB for a program\n"'
        at_most "which took it from the cache" "$(kb Cached)" 120000
        cmp a b5 && echo "same: yes"
        cd /; umount /mnt/d"#;
    let disks = [format!("ubd1={}", disk.display())];
    let out =
        machine::run(&Start { dir, disks: &disks, memory: 256, script }, Duration::from_secs(120))?;
    for what in [
        "and changed: yes",
        "written data is cached: yes",
        "not changed any more: yes",
        "dropped: yes",
        "read again: yes",
        "cached again: yes",
        "a full cache: yes",
        "150 MiB for a program",
        "which took it from the cache: yes",
        "same: yes",
    ] {
        expect(&out, what)?;
    }
    image::check(&disk)
}
