//! Growing a mounted filesystem: e2fsck judges the result and every power cut on the way.

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::recorder::{Event, Recorder, cut, cut_reordered};
use common::*;
use uml_abi::errno::{EINVAL, ENOSPC, EPERM};
use uml_ext4::{Ext4, MemStore, NewGroup, NewInode, ROOT_INO};

/// Filesystems with small groups, so that a few megabytes have many: descriptor blocks are added, and groups with
/// copies of the superblock. Name, mke2fs arguments, and the sizes in MiB they start with and grow to.
const SETS: &[(&str, &[&str], &[u64])] = &[
    ("1k", &["-t", "ext4", "-b", "1024", "-g", "1024", "-J", "size=1"], &[9, 10, 30, 60]),
    ("4k", &["-t", "ext4", "-b", "4096", "-g", "2048", "-J", "size=4"], &[20, 21, 64]),
    ("4k-large-groups", &["-t", "ext4", "-b", "4096", "-J", "size=4"], &[20, 100, 300]),
    ("ext3", &["-t", "ext3", "-b", "1024", "-g", "1024", "-J", "size=1"], &[9, 10, 40]),
    ("ext2", &["-t", "ext2", "-b", "1024", "-g", "1024"], &[9, 40]),
    (
        "meta-bg",
        &["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode", "-J", "size=1"],
        &[9, 10, 40],
    ),
    (
        "to-meta-bg",
        &["-t", "ext4", "-b", "1024", "-g", "1024", "-E", "resize=30000", "-J", "size=1"],
        &[9, 14, 40, 60],
    ),
    (
        "to-meta-bg-at-once",
        &["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "^resize_inode", "-J", "size=1"],
        &[9, 40],
    ),
    ("uninit-bg", &["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "^metadata_csum"], &[20, 50]),
];

fn image(dir: &Path, name: &str, args: &[&str], mib: u64, room: u64) -> Vec<u8> {
    let mut v = std::fs::read(mkfs(dir, name, args, mib, None)).unwrap();
    v.resize((room << 20) as usize, 0xa5);
    v
}

/// What tells the old contents of the device (`0xa5`) from a file's.
fn contents(n: usize, seed: u8) -> Vec<u8> {
    (0..n).map(|i| (i / 7) as u8 ^ seed).collect()
}

fn put(fs: &Ext4, name: &str, data: &[u8]) {
    let f = fs.create(ROOT_INO, name.as_bytes(), &NewInode::new(0o100644, 0, 0)).unwrap();
    fs.write(f, 0, data, true).unwrap();
}

fn blocks(fs: &Ext4, mib: u64) -> u64 {
    (mib << 20) / u64::from(fs.info().block_size)
}

#[test]
fn grows_while_mounted() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    for (name, args, sizes) in SETS {
        let last = *sizes.last().unwrap();
        let store = Arc::new(MemStore::new(image(tmp.path(), name, args, sizes[0], last)));
        let fs = open(store.clone());
        put(&fs, "before", &contents(100_000, 1));
        let mut free = fs.statfs().unwrap();
        for (i, mib) in sizes[1..].iter().enumerate() {
            fs.resize(blocks(&fs, *mib)).unwrap_or_else(|e| panic!("{name} to {mib} MiB: {e}"));
            let now = fs.statfs().unwrap();
            assert!(now.blocks > free.blocks && now.free > free.free, "{name}: {now:?}");
            put(&fs, &format!("after {i}"), &contents(1_500_000, i as u8));
            free = fs.statfs().unwrap();
            // Every inode can be used.
            for k in 0..200 {
                put(&fs, &format!("{i} {k}"), &contents(k, 3));
            }
        }
        // The space is really there, to the last block.
        let all = fs.statfs().unwrap();
        let size = (all.free * 15 / 16 * u64::from(all.block_size)) as usize;
        put(&fs, "all of it", &contents(size, 9));
        fs.unmount().unwrap();
        assert_clean_bytes(tmp.path(), &store.snapshot(), name);
        let fs = open_ro(store);
        assert_eq!(fs.statfs().unwrap().blocks, all.blocks, "{name}");
        same(&read_all(&fs, resolve(&fs, "before")), &contents(100_000, 1), name);
        same(&read_all(&fs, resolve(&fs, "all of it")), &contents(size, 9), name);
        let groups = args.iter().skip_while(|a| **a != "-g").nth(1);
        if let (Some(per), "1024") = (groups, args[3]) {
            // The copies tell of the same filesystem, with every group's place.
            let img = tmp.path().join("check.img");
            let told = |at: &[&str]| {
                let out = Command::new("/usr/sbin/dumpe2fs").args(at).arg(&img).output().unwrap();
                let text = String::from_utf8_lossy(&out.stdout).into_owned();
                let kept = |l: &&str| {
                    [
                        "Block count",
                        "Inode count",
                        "Reserved GDT",
                        "Filesystem f",
                        "  Inode table",
                        "  Block bitmap",
                    ]
                    .iter()
                    .any(|p| l.starts_with(p))
                };
                text.lines()
                    .filter(kept)
                    .map(|l| l.split(", csum").next().unwrap().replace(" needs_recovery", ""))
                    .collect::<Vec<_>>()
            };
            let primary = told(&[]);
            assert!(primary.len() > 10, "{name}: dumpe2fs says {primary:?}");
            // In a meta group the superblock's copy has only its own descriptors beside it, after a conversion too, which
            // e2fsprogs does not find the others from.
            let described = if *name == "to-meta-bg-at-once" { 16 } else { sizes[1] };
            for g in [1, 3, 5, 7, 9, 25, 27].iter().filter(|g| **g < described) {
                let block = 1 + g * per.parse::<u64>().unwrap();
                let copy = told(&["-o", &format!("superblock={block}"), "-o", "blocksize=1024"]);
                assert_eq!(copy, primary, "{name}: the copy in group {g}");
            }
        }
    }
}

#[test]
fn power_cuts_while_growing() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    for (name, args, sizes) in SETS.iter().filter(|s| !matches!(s.0, "ext2" | "4k-large-groups")) {
        let last = (*sizes.last().unwrap()).min(sizes[0] + 26);
        let blank = image(tmp.path(), name, args, sizes[0], last);
        let rec = Recorder::new(blank.clone());
        let fs = open(rec.clone());
        put(&fs, "before", &contents(100_000, 1));
        fs.sync().unwrap();
        rec.mark(1);
        fs.resize(blocks(&fs, last)).unwrap();
        rec.mark(2);
        put(&fs, "after", &contents(3_000_000, 2));
        fs.sync().unwrap();
        rec.mark(3);
        fs.unmount().unwrap();
        let log = rec.log();
        let places: Vec<usize> = (0..=log.len())
            .filter(|i| *i == log.len() || !matches!(log[*i], Event::Mark(_)))
            .collect();
        // EXT4_TEST_SCALE=0 means every single write.
        let all = std::env::var("EXT4_TEST_SCALE").is_ok_and(|v| v == "0");
        let step = if all { 1 } else { (places.len() / 8).max(1) };
        eprintln!("{name}: {} places to cut, every {step}", places.len());
        for &n in places.iter().step_by(step).chain(places.last()) {
            for (image, mark) in
                [cut(&blank, &log, n), cut_reordered(&blank, &log, n, n as u64 * 31 + 7)]
            {
                check(name, n, image, mark, blocks(&fs, last), tmp.path());
            }
        }
    }
}

fn check(name: &str, n: usize, image: Vec<u8>, mark: usize, size: u64, dir: &Path) {
    let img = dir.join("cut.img");
    std::fs::write(&img, &image).unwrap();
    let (code, text) = fsck(&img, "-p");
    assert!(matches!(code, 0 | 1), "{name}, cut before event {n}: e2fsck -p says {code}\n{text}");
    assert_clean(&img, &format!("{name}, cut before event {n}, after -p"));
    let store = Arc::new(MemStore::new(image));
    let fs = open(store.clone());
    for (m, file, data) in
        [(1, "before", contents(100_000, 1)), (3, "after", contents(3_000_000, 2))]
    {
        if mark >= m {
            same(&read_all(&fs, resolve(&fs, file)), &data, &format!("{name}, event {n}: {file}"));
        }
    }
    // What was interrupted can be done again.
    fs.resize(size).unwrap_or_else(|e| panic!("{name}, event {n}: {e}"));
    put(&fs, "more", &contents(1_000_000, 4));
    fs.unmount().unwrap();
    assert_clean_bytes(dir, &store.snapshot(), &format!("{name}, event {n}, grown again"));
}

#[test]
fn refusals() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let (_, args, _) = SETS[0];
    let store = Arc::new(MemStore::new(image(tmp.path(), "refuse", args, 9, 20)));
    let fs = open(store.clone());
    let now = blocks(&fs, 9);
    assert_eq!(fs.resize(now), Ok(()), "the size it has");
    assert_eq!(fs.resize(now - 1), Err(EINVAL), "shrinking");
    assert_eq!(fs.resize(blocks(&fs, 21)), Err(ENOSPC), "past the device");
    assert_eq!(fs.resize(u64::MAX), Err(EINVAL), "past the format");
    fs.unmount().unwrap();
    assert!(fs.resize(blocks(&fs, 20)).is_err(), "unmounted");
    // The calls for single groups convert nothing.
    let args: Vec<&str> = args.iter().copied().chain(["-O", "^resize_inode"]).collect();
    let store = Arc::new(MemStore::new(image(tmp.path(), "no-inode", &args, 16, 40)));
    let fs = open(store.clone());
    let first = 1 + 16 * 1024;
    let (block_bitmap, inode_bitmap, inode_table) = (first + 300, first + 301, first + 302);
    let new =
        NewGroup { group: 16, blocks: 1024, block_bitmap, inode_bitmap, inode_table, kept: 0 };
    fs.resize_last_group(first).unwrap();
    assert_eq!(fs.add_group(&new), Err(EPERM));
    fs.unmount().unwrap();
    assert_clean_bytes(tmp.path(), &store.snapshot(), "no-inode");
}

/// The calls that resize2fs uses where EXT4_IOC_RESIZE_FS is missing.
#[test]
fn group_by_group() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let (_, args, _) = SETS[0];
    let mut image = image(tmp.path(), "groups", args, 9, 40);
    // Half a group more than mke2fs saw.
    image.resize(20 << 20, 0);
    let store = Arc::new(MemStore::new(image));
    let fs = open(store.clone());
    let first = |g: u64| 1 + g * 1024;
    fs.resize_last_group(u64::MAX).unwrap_err();
    fs.resize_last_group(first(9) + 700).unwrap();
    let table = |at| NewGroup {
        group: 9,
        blocks: 700,
        block_bitmap: at,
        inode_bitmap: at + 1,
        inode_table: at + 2,
        kept: 30,
    };
    // Group 9 has a copy of the superblock and descriptors at its start.
    assert_eq!(fs.add_group(&table(first(9))), Err(EINVAL), "over the superblock's copy");
    assert_eq!(fs.add_group(&table(first(9) + 690)), Err(EINVAL), "past its end");
    let overlap = NewGroup { inode_bitmap: first(9) + 300, ..table(first(9) + 300) };
    assert_eq!(fs.add_group(&overlap), Err(EINVAL), "bitmaps in one block");
    assert_eq!(fs.add_group(&NewGroup { group: 10, ..table(first(9) + 300) }), Err(EINVAL));
    fs.add_group(&table(first(9) + 300)).unwrap();
    assert_eq!(
        fs.add_group(&NewGroup { group: 10, ..table(first(10) + 300) }),
        Err(EINVAL),
        "9 is not full"
    );
    fs.resize_last_group(first(10)).unwrap();
    put(&fs, "file", &contents(1_000_000, 1));
    fs.unmount().unwrap();
    assert_clean_bytes(tmp.path(), &store.snapshot(), "group by group");
}
