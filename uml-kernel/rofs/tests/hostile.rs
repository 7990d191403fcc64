//! Images with damage anywhere: no panic, no hang, no memory without bound.

mod common;

use std::sync::Arc;

use common::*;
use proptest::prelude::*;
use uml_rofs::{Iso9660, Squashfs, Tree, Vfat, iso9660, vfat};
use uml_store::MemStore;

fn open(format: usize, v: Vec<u8>) -> Option<Box<dyn Tree>> {
    let s = Arc::new(MemStore::new(v));
    match format {
        0 => Squashfs::open(s).ok().map(|f| Box::new(f) as Box<dyn Tree>),
        1 => Iso9660::open(s, iso9660::Options::default()).ok().map(|f| Box::new(f) as _),
        _ => Vfat::open(s, vfat::Options::default()).ok().map(|f| Box::new(f) as _),
    }
}

/// A small image of each format; only those whose tools are there.
fn images() -> Vec<(usize, Vec<u8>)> {
    let (tmp, src, img) = place();
    for i in 0..30 {
        std::fs::write(
            src.join(format!("a rather long file name {i}")),
            noise(i, i as usize * 500),
        )
        .unwrap();
    }
    std::fs::create_dir_all(src.join("d/e")).unwrap();
    let mut out = Vec::new();
    let read = || std::fs::read(&img).unwrap();
    if installed(&["mkfs.vfat", "mcopy"]) {
        for kib in ["500", "9000"] {
            let _ = std::fs::remove_file(&img);
            run("mkfs.vfat", &["-C", text(&img), kib]);
            run("sh", &["-c", &format!("mcopy -i {} -s {}/* ::/", text(&img), text(&src))]);
            out.push((2, read()));
        }
    }
    std::os::unix::fs::symlink("d/e", src.join("link")).unwrap();
    if installed(&["genisoimage"]) {
        for args in ["-R", "-J"] {
            run("genisoimage", &["-quiet", args, "-o", text(&img), text(&src)]);
            out.push((1, read()));
        }
    }
    if installed(&["mksquashfs"]) {
        for codec in ["gzip", "lzo", "lz4", "xz", "zstd"] {
            let args = ["-noappend", "-quiet", "-no-progress", "-comp", codec];
            run("mksquashfs", &[&[text(&src), text(&img)], &args[..]].concat());
            out.push((0, read()));
            run("mksquashfs", &[&[text(&src), text(&img), "-noI"], &args[..]].concat());
            out.push((0, read()));
        }
    }
    drop(tmp);
    out
}

#[test]
fn damage_is_survived() {
    let images = images();
    if images.is_empty() {
        return;
    }
    let cases =
        ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
    let damage = proptest::collection::vec((any::<u32>(), any::<u8>(), any::<bool>()), 1..8);
    proptest!(cases, |(n in any::<proptest::sample::Index>(), cuts in damage)| {
        let (format, mut v) = images[n.index(images.len())].clone();
        for (at, byte, near) in cuts {
            // Where structures are; or anywhere.
            let len = if near { v.len().min(70_000) } else { v.len() };
            v[at as usize % len] = byte;
        }
        if let Some(fs) = open(format, v) {
            exercise(&*fs);
        }
    });
}
