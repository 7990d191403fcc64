//! Images made by mksquashfs (package squashfs-tools), with every compression.

mod common;

use common::*;
use uml_rofs::{Squashfs, Tree, squashfs};

const CODECS: [&str; 5] = ["gzip", "lzo", "lz4", "xz", "zstd"];

fn make(src: &std::path::Path, img: &std::path::Path, args: &[&str]) -> Squashfs {
    let mut all =
        vec![text(src), text(img), "-noappend", "-quiet", "-no-progress", "-processors", "1"];
    all.extend(args);
    run("mksquashfs", &all);
    Squashfs::open(store(img)).unwrap()
}

#[test]
fn every_compression() {
    if !installed(&["mksquashfs"]) {
        return;
    }
    let (_tmp, src, img) = place();
    posix_tree(&src);
    sparse_file(&src.join("sparse"));
    for codec in CODECS {
        eprintln!("{codec}");
        let fs = make(&src, &img, &["-comp", codec]);
        compare(&fs, fs.root(), &src, Keeps::Everything);
        let a = fs.attr(find(&fs, "sparse")).unwrap();
        assert!(a.sectors < a.size / 1024, "holes take no room");
        assert_eq!(fs.statfs().unwrap().magic, squashfs::MAGIC);
    }
    let hard = fs_numbers(&make(&src, &img, &[]), ["small.txt", "nothing/hard"]);
    assert_eq!(hard[0], hard[1], "names of one file have one number");
}

fn fs_numbers<const N: usize>(fs: &Squashfs, names: [&str; N]) -> [u64; N] {
    names.map(|n| fs.attr(find(fs, n)).unwrap().ino)
}

#[test]
fn every_way_of_packing() {
    if !installed(&["mksquashfs"]) {
        return;
    }
    let (_tmp, src, img) = place();
    posix_tree(&src);
    sparse_file(&src.join("sparse"));
    for args in [
        &["-b", "4096"][..],
        &["-b", "1M", "-comp", "zstd"],
        &["-b", "1M", "-comp", "xz", "-Xbcj", "x86"],
        &["-comp", "lz4", "-Xhc"],
        &["-no-fragments"],
        &["-always-use-fragments"],
        &["-noI", "-noD", "-noF", "-noX"],
        &["-no-exports", "-no-xattrs", "-no-duplicates"],
    ] {
        eprintln!("{args:?}");
        let fs = make(&src, &img, args);
        compare(&fs, fs.root(), &src, Keeps::Everything);
    }
}

#[test]
fn many_blocks_in_one_file() {
    if !installed(&["mksquashfs"]) {
        return;
    }
    let (_tmp, src, img) = place();
    let data = noise(77, 14 << 20);
    std::fs::write(src.join("f"), &data).unwrap();
    let fs = make(&src, &img, &["-b", "4096", "-noD"]);
    let f = find(&fs, "f");
    // Backwards, so that places in the list are remembered from the far end first.
    let mut b = vec![0; 9000];
    for off in (0..data.len()).step_by(777_777).rev() {
        let n = fs.read(f, off as u64, &mut b).unwrap();
        assert!(b[..n] == data[off..][..n], "at {off}");
    }
    assert!(contents(&fs, f, 1 << 20) == data);
}

#[test]
fn extended_attributes() {
    if !installed(&["mksquashfs", "setfattr"]) {
        return;
    }
    let (_tmp, src, img) = place();
    let f = src.join("f");
    std::fs::write(&f, "x").unwrap();
    std::fs::create_dir(src.join("d")).unwrap();
    let long = "v".repeat(1500);
    let set = |name: &str, value: &str, p: &std::path::Path| {
        std::process::Command::new("setfattr").args(["-n", name, "-v", value, text(p)]).status()
    };
    if !set("user.short", "1", &f).is_ok_and(|s| s.success()) {
        eprintln!("SKIPPED: no extended attributes in {}", src.display());
        return;
    }
    set("user.long", &long, &f).unwrap();
    // The same value again is stored once, elsewhere.
    set("user.long", &long, &src.join("d")).unwrap();
    let fs = make(&src, &img, &[]);
    let (f, d) = (find(&fs, "f"), find(&fs, "d"));
    let mut names = fs.listxattr(f).unwrap();
    names.sort();
    assert_eq!(names, [b"user.long".to_vec(), b"user.short".to_vec()]);
    assert_eq!(fs.getxattr(f, b"user.short").unwrap(), b"1");
    assert_eq!(fs.getxattr(f, b"user.long").unwrap(), long.as_bytes());
    assert_eq!(fs.getxattr(d, b"user.long").unwrap(), long.as_bytes());
    assert_eq!(fs.getxattr(d, b"user.none"), Err(uml_abi::errno::ENODATA));
}

#[test]
fn refusals_say_why() {
    if !installed(&["mksquashfs"]) {
        return;
    }
    let (_tmp, src, img) = place();
    std::fs::write(src.join("f"), noise(1, 9000)).unwrap();
    let whole = {
        make(&src, &img, &[]);
        std::fs::read(&img).unwrap()
    };
    let open = |v: Vec<u8>| Squashfs::open(std::sync::Arc::new(uml_store::MemStore::new(v)));
    let why = |v: Vec<u8>| open(v).err().unwrap();
    assert!(open(whole.clone()).is_ok());
    assert!(why(whole[..4096].to_vec()).why.contains("the device only"));
    assert!(why(vec![0; 4096]).why.contains("no squashfs"));
    let changed = |at: usize, b: u8| {
        let mut v = whole.clone();
        v[at] = b;
        why(v)
    };
    assert!(changed(20, 2).why.contains("lzma"));
    assert!(changed(28, 3).why.contains("version 3.0"));
    assert!(changed(22, 30).why.contains("block size"));
    assert_eq!(changed(32, 99).errno, uml_abi::errno::EINVAL);
}
