//! `storage-fuzz [--seconds N] [--seed S] [TARGET...]`: damages one kind of structure and uses the result.
//!
//! Every round follows from its target and seed alone, so a failure is repeated with `--seed S --seconds 0 TARGET`. A round
//! fails when something panics or hangs ([`storage_tests::fuzzing`]). Most rounds damage an image without checksums of metadata, which would
//! find the damage before it could do harm.

use std::process::ExitCode;
use std::sync::Arc;

use storage_tests::fuzzing::Plan;
use storage_tests::image;
use storage_tests::ops::{Random, bytes};
use storage_tests::trees::{FORMATS, Trees};
use uml_drivers::ubd::partition;
use uml_ext4::{
    Ext4, FallocateMode, MemStore, NewInode, Options, ROOT_INO, RenameMode, SetAttr, XattrMode,
};
use uml_formats::cow::Header;

/// Where the journal is.
const JOURNAL_INO: u32 = 8;

const TARGETS: [&str; 12] = [
    "superblock",
    "groups",
    "inodes",
    "extents",
    "directories",
    "xattrs",
    "journal",
    "cow-header",
    "partitions",
    "squashfs",
    "iso9660",
    "vfat",
];

fn main() -> ExitCode {
    let mut plan = match Plan::read("storage-fuzz", &TARGETS) {
        Ok(p) => p,
        Err(status) => return status,
    };
    let images = match Images::make() {
        Ok(i) => i,
        Err(e) => {
            println!("SKIPPED fuzzing: {e}\n0 passed, 0 failed, {} skipped", plan.targets.len());
            return ExitCode::SUCCESS;
        }
    };
    let trees = match Trees::make() {
        Ok(t) => t,
        Err(e) => {
            println!("FAILED  making of images: {e}\n0 passed, 1 failed, 0 skipped");
            return ExitCode::FAILURE;
        }
    };
    plan.targets.retain(|t| {
        let there = trees.has(t) || !FORMATS.iter().any(|(f, _)| f == t);
        if !there {
            println!("SKIPPED fuzzing of {t}: what makes its images is not installed");
        }
        there
    });
    plan.run(|target, seed| {
        if trees.has(target) {
            trees.round(target, &mut Random::new(seed ^ bytes_of(target)), damage);
        } else {
            images.round(target, seed);
        }
        Ok(())
    })
}

/// Images to damage.
struct Images {
    /// Without checksums of metadata, in use: its journal has to be replayed.
    plain: Vec<u8>,
    /// As mke2fs makes it by default.
    modern: Vec<u8>,
    /// Byte ranges of structures of `plain`.
    places: Vec<(&'static str, Vec<(usize, usize)>)>,
}

impl Images {
    fn make() -> Result<Images, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let make = |name: &str, args: &[&str]| -> Result<Vec<u8>, String> {
            let p = dir.path().join(name);
            image::make(&p, 8, args)?;
            let raw = std::fs::read(&p).map_err(|e| e.to_string())?;
            fill(raw)
        };
        let plain = make(
            "plain",
            &["-t", "ext4", "-b", "1024", "-N", "512", "-O", "^metadata_csum,^uninit_bg,64bit"],
        )?;
        let modern = make(
            "modern",
            &["-t", "ext4", "-b", "1024", "-N", "512", "-O", "inline_data,orphan_file"],
        )?;
        let places = places(&plain)?;
        Ok(Images { plain, modern, places })
    }

    fn round(&self, target: &str, seed: u64) {
        let mut r = Random::new(seed ^ bytes_of(target));
        match target {
            "cow-header" => return cow_header(&mut r),
            "partitions" => return partitions(&mut r),
            _ => {}
        }
        let known = self.places.iter().find(|(n, _)| *n == target).map_or(&[][..], |(_, p)| p);
        // The other image is damaged anywhere in what it uses, which checksums mostly find.
        let mut img = if r.below(4) == 0 || known.is_empty() {
            self.modern.clone()
        } else {
            self.plain.clone()
        };
        for _ in 0..1 + r.below(6) {
            let (a, b) = match known.len() {
                0 => (1024, img.len()),
                n => known[r.below(n as u64) as usize],
            };
            let at = a + r.below((b - a) as u64) as usize;
            damage(&mut img, at, &mut r);
        }
        let write = r.below(3) != 0;
        let store = Arc::new(MemStore::new(img));
        let opts =
            Options { read_only: !write, noload: !write && r.below(3) == 0, ..Options::default() };
        if let Ok(fs) = Ext4::open(store, opts) {
            exercise(&fs, &mut r, write);
        }
    }
}

fn bytes_of(name: &str) -> u64 {
    name.bytes().fold(7, |h, b| h.wrapping_mul(31).wrapping_add(b.into()))
}

/// Changes a few bytes in one of the ways that structures go wrong.
fn damage(img: &mut [u8], at: usize, r: &mut Random) {
    let n = [1, 2, 4, 8][r.below(4) as usize];
    let at = at / n * n;
    let Some(d) = img.get_mut(at..at + n) else { return };
    match r.below(6) {
        0 => d.fill(0),
        1 => d.fill(0xff),
        2 => d[0] ^= 1 << r.below(8),
        3 => d.copy_from_slice(&bytes(r.number(), n)),
        4 => d[0] = d[0].wrapping_add(1),
        _ => d[n - 1] = r.number() as u8,
    }
}

/// Gives an image contents and leaves its journal to be replayed.
fn fill(raw: Vec<u8>) -> Result<Vec<u8>, String> {
    let store = Arc::new(MemStore::new(raw));
    let fs = Ext4::open(store.clone(), Options::default()).map_err(|e| e.to_string())?;
    let e = |x: uml_abi::Errno| x.to_string();
    let file =
        |n: &str| fs.create(ROOT_INO, n.as_bytes(), &NewInode::new(0o100644, 0, 0)).map_err(e);
    let d = fs.mkdir(ROOT_INO, b"d", &NewInode::new(0o755, 0, 0)).map_err(e)?;
    for i in 0..120 {
        fs.create(
            d,
            format!("a-name-that-takes-some-room-{i}").as_bytes(),
            &NewInode::new(0o100644, 0, 0),
        )
        .map_err(e)?;
    }
    let many = file("many-extents")?;
    for i in 0..60 {
        fs.write(many, i * 8192, &bytes(i, 1024), true).map_err(e)?;
    }
    let big = file("big")?;
    fs.write(big, 0, &bytes(3, 900_000), true).map_err(e)?;
    for (n, len) in [("user.small", 20), ("user.large", 700)] {
        fs.setxattr(big, n.as_bytes(), &bytes(9, len), XattrMode::Any).map_err(e)?;
        fs.setxattr(many, n.as_bytes(), &bytes(8, len), XattrMode::Any).map_err(e)?;
    }
    fs.symlink(ROOT_INO, b"l", &[b'x'; 200], &NewInode::new(0, 0, 0)).map_err(e)?;
    fs.checkpoint().map_err(e)?;
    let gone = file("gone")?;
    fs.write(gone, 0, &bytes(5, 50_000), true).map_err(e)?;
    fs.unlink(ROOT_INO, b"gone").map_err(e)?;
    fs.commit().map_err(e)?;
    // Not unmounted: the log has contents.
    Ok(store.snapshot())
}

/// Finds structures by what they look like.
fn places(img: &[u8]) -> Result<Vec<(&'static str, Vec<(usize, usize)>)>, String> {
    const BS: usize = 1024;
    let fs = Ext4::open(
        Arc::new(MemStore::new(img.to_vec())),
        Options { read_only: true, ..Options::default() },
    )
    .map_err(|e| e.to_string())?;
    let blocks = |ino: u32, n: u64| -> Vec<(usize, usize)> {
        (0..n)
            .filter_map(|b| fs.map(ino, b, 1).ok().and_then(|m| m.physical))
            .map(|p| (p as usize * BS, (p as usize + 1) * BS))
            .collect()
    };
    let starting = |magic: &[u8]| -> Vec<(usize, usize)> {
        (0..img.len() / BS)
            .filter(|b| img[b * BS..].starts_with(magic))
            .map(|b| (b * BS, (b + 1) * BS))
            .collect()
    };
    let mut dirs = blocks(ROOT_INO, 4);
    if let Ok(d) = fs.lookup(ROOT_INO, b"d") {
        dirs.extend(blocks(d, 16));
    }
    // The inode table's place is in the first descriptor, which is in block 2.
    let table =
        u32::from_le_bytes([img[2 * BS + 8], img[2 * BS + 9], img[2 * BS + 10], img[2 * BS + 11]])
            as usize
            * BS;
    let inodes = vec![(table, table + 160 * 256)];
    let mut extents = starting(&[0x0a, 0xf3]);
    extents.push((table + 11 * 256, table + 14 * 256));
    let mut xattrs = starting(&[0, 0, 2, 0xea]);
    xattrs.extend(inodes.clone());
    let journal: Vec<(usize, usize)> = blocks(JOURNAL_INO, 64);
    let list = vec![
        ("superblock", vec![(1024, 2048)]),
        ("groups", vec![(2 * BS, 2 * BS + 64), (2 * BS, 3 * BS)]),
        ("inodes", inodes),
        ("extents", extents),
        ("directories", dirs),
        ("xattrs", xattrs),
        ("journal", journal),
    ];
    match list.iter().find(|(_, p)| p.is_empty()) {
        Some((n, _)) => Err(format!("no {n} found in the image")),
        None => Ok(list),
    }
}

/// Uses everything there is, a bounded amount of it, ignoring errors.
fn exercise(fs: &Ext4, r: &mut Random, write: bool) {
    let mut inos = vec![(ROOT_INO, b"x".to_vec(), 12)];
    let mut queue = vec![ROOT_INO];
    let mut seen = 0;
    while let Some(dir) = queue.pop()
        && seen < 50
    {
        seen += 1;
        let mut names: Vec<(Vec<u8>, u32)> = Vec::new();
        let _ = fs.readdir(dir, 0, &mut |e| {
            names.push((e.name.to_vec(), e.ino));
            names.len() < 400
        });
        for (n, ino) in names {
            let _ = fs.lookup(dir, &n);
            if fs.attr(ino).is_ok_and(|a| a.mode & 0o170_000 == 0o040_000)
                && n != b"."
                && n != b".."
            {
                queue.push(ino);
            }
            inos.push((dir, n, ino));
        }
    }
    let mut buf = vec![0; 30_000];
    for (_, _, ino) in inos.iter().take(150) {
        let size = fs.attr(*ino).map_or(0, |a| a.size);
        for off in [0, size / 2] {
            let _ = fs.read(*ino, off, &mut buf);
        }
        let _ =
            (fs.readlink(*ino), fs.map(*ino, 0, 100), fs.seek(*ino, 0, true), fs.max_size(*ino));
        for x in fs.listxattr(*ino).unwrap_or_default() {
            let _ = fs.getxattr(*ino, &x);
        }
    }
    let _ = (fs.statfs(), fs.info());
    if !write {
        return;
    }
    let new = |m| NewInode::new(m, 0, 0);
    for k in 0..25 {
        let (dir, name, ino) = inos[r.below(inos.len() as u64) as usize].clone();
        let other = inos[r.below(inos.len() as u64) as usize].0;
        let fresh = format!("fresh name number {k} with some length").into_bytes();
        let off = r.below(1 << 20);
        let _ = match r.below(13) {
            0 => fs.create(dir, &fresh, &new(0o100_644)).map(drop),
            1 => fs.mkdir(dir, &fresh, &new(0o755)).map(drop),
            2 => fs.symlink(dir, &fresh, &[b't'; 80], &new(0)).map(drop),
            3 => fs.link(ino, dir, &fresh),
            4 => fs.unlink(dir, &name).and_then(|u| fs.forget(u.ino)),
            5 => fs.rmdir(dir, &name).and_then(|u| fs.forget(u.ino)),
            6 => fs.rename(dir, &name, other, &fresh, RenameMode::Replace).map(drop),
            7 => fs.write(ino, off, &buf[..10_000], true),
            8 => fs.truncate(ino, off),
            9 => {
                let modes = [
                    FallocateMode::Allocate { keep_size: false },
                    FallocateMode::PunchHole,
                    FallocateMode::ZeroRange { keep_size: true },
                    FallocateMode::Collapse,
                    FallocateMode::Insert,
                ];
                fs.fallocate(ino, modes[r.below(5) as usize], off / 4096 * 4096, 65_536, true)
            }
            10 => fs.setxattr(ino, b"user.x", &buf[..300], XattrMode::Any),
            11 => fs.trim(0, u64::MAX, 0).map(drop),
            _ => fs.setattr(ino, &SetAttr { uid: Some(5), ..SetAttr::default() }),
        };
    }
    let _ = fs.sync().and_then(|()| fs.unmount());
}

fn cow_header(r: &mut Random) {
    let mut b = vec![0; 4096 + 64];
    b[..4].copy_from_slice(&[0x4f, 0x4f, 0x4f, 0x4d]);
    b[4..8].copy_from_slice(&(1 + r.below(4) as u32).to_be_bytes());
    let path = bytes(r.number(), 300);
    b[8..308].copy_from_slice(&path.iter().map(|c| b'a' + c % 20).collect::<Vec<_>>());
    for _ in 0..r.below(20) {
        let at = r.below(b.len() as u64 - 8) as usize;
        damage(&mut b, at, r);
    }
    // Fields behind the path, where the versions have them.
    for at in [0x404, 0x408, 0x40c, 0x410, 0x414, 0x1004, 0x100c, 0x1014, 0x1018] {
        if r.below(2) == 0 {
            damage(&mut b, at, r);
        }
    }
    b.truncate(r.below(b.len() as u64 + 1) as usize);
    if let Ok(h) = Header::decode(&b) {
        let _ = h.layout();
        let _ = h.encode();
    }
}

fn partitions(r: &mut Random) {
    let size = 1u64 << (12 + r.below(40));
    let mut disk = vec![0u8; 64 * 512];
    disk[510] = 0x55;
    disk[511] = 0xaa;
    for i in 0..4 {
        let at = 446 + 16 * i;
        disk[at + 4] = [0x83, 0x05, 0x0f, 0xee, 0][r.below(5) as usize];
        disk[at + 8..at + 12].copy_from_slice(&(r.below(60) as u32).to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&(r.below(5000) as u32).to_le_bytes());
    }
    if r.below(2) == 0 {
        disk[512..520].copy_from_slice(b"EFI PART");
        disk[520..524].copy_from_slice(&0x1_0000u32.to_le_bytes());
        disk[524..528].copy_from_slice(&92u32.to_le_bytes());
        disk[584..592].copy_from_slice(&2u64.to_le_bytes());
        disk[592..596].copy_from_slice(&(128u32).to_le_bytes());
        disk[596..600].copy_from_slice(&(128u32).to_le_bytes());
    }
    for _ in 0..r.below(30) {
        let at = r.below(disk.len() as u64 - 8) as usize;
        damage(&mut disk, at, r);
    }
    let found = partition::scan(size, &mut |off, buf| {
        let at = usize::try_from(off).ok()?;
        let n = buf.len();
        // What lies behind is all zeros.
        buf.fill(0);
        if let Some(s) = disk.get(at..(at + n).min(disk.len())) {
            buf[..s.len()].copy_from_slice(s);
        }
        Some(())
    });
    for p in found {
        assert!(p.start + p.len <= size, "a partition outside of the disk: {p:?}");
    }
}
