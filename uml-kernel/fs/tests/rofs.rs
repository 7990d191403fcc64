//! squashfs, vfat and iso9660 through the VFS, on images made by their own tools.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::disk::Image;
use common::*;
use uml_abi::errno::*;
use uml_core::task::Cred;
use uml_core::vfs::SuperBlock;
use uml_fs::rofs::{Format, Mounter, RoFs};
use uml_mm::MapAccess;

/// Runs a shell line in which `$D` is the directory and `$I` the image; false when a program of `tools` is missing.
fn shell(tools: &[&str], dir: &Path, img: &Path, line: &str) -> bool {
    let path = "/usr/sbin:/sbin:/usr/bin:/bin";
    let there = |t: &&str| path.split(':').any(|d| Path::new(d).join(t).exists());
    if let Some(t) = tools.iter().find(|t| !there(t)) {
        eprintln!("SKIPPED: {t} is not installed");
        return false;
    }
    let mut c = Command::new("sh");
    c.args(["-ec", line]).env("PATH", path).env("D", dir).env("I", img);
    let o = c.output().unwrap();
    assert!(o.status.success(), "{line}: {}", String::from_utf8_lossy(&o.stderr));
    true
}

/// An image of each format whose tools are there.
fn images(tmp: &Path) -> Vec<(Format, PathBuf)> {
    let dir = tmp.join("src");
    std::fs::create_dir_all(dir.join("d/e")).unwrap();
    std::fs::write(dir.join("d/e/file.txt"), "contents").unwrap();
    std::fs::write(dir.join("large"), (0..2_000_000u32).map(|i| (i / 7) as u8).collect::<Vec<_>>())
        .unwrap();
    for i in 0..100 {
        std::fs::write(dir.join(format!("d/number {i}")), "").unwrap();
    }
    [
        (
            Format::Squashfs,
            &["mksquashfs"][..],
            "ln -s d/e/file.txt $D/link; mksquashfs $D $I -quiet -no-progress; rm $D/link",
        ),
        (Format::Vfat, &["mkfs.vfat", "mcopy"], "mkfs.vfat -C $I 8000; mcopy -i $I -s $D/* ::/"),
        (
            Format::Iso9660,
            &["genisoimage"],
            "ln -s d/e/file.txt $D/link; genisoimage -quiet -R -J -o $I $D; rm $D/link",
        ),
    ]
    .into_iter()
    .filter_map(|(f, tools, line)| {
        let img = tmp.join(format!("{f:?}"));
        shell(tools, &dir, &img, line).then_some((f, img))
    })
    .collect()
}

#[test]
fn files_are_read_and_nothing_is_written() {
    let tmp = tempfile::tempdir().unwrap();
    let pool = uml_pagecache::Pool::new(64 << 20);
    for (format, img) in images(tmp.path()) {
        eprintln!("{format:?}");
        let k = kernel();
        let m = Mounter { uid: 0, gid: 0, umask: 0o022 };
        let fs = RoFs::open(format, Image::of(File::open(&img).unwrap()), b"", m, &pool).unwrap();
        assert!(fs.read_only());
        assert_eq!(fs.remount(false, b"").is_ok(), format == Format::Squashfs);
        let t = task_on(&k, fs.clone(), Cred::root());
        let sh = Sh(&t);
        assert_eq!(sh.read("/d/e/file.txt").unwrap(), "contents");
        if format != Format::Vfat {
            assert_eq!(sh.read("/link").unwrap(), "contents");
        }
        assert_eq!(sh.ls("/d").unwrap().len(), 101);
        for (name, ino) in sh.ls_ino("/d").unwrap() {
            assert_eq!(sh.lstat(&format!("/d/{name}")).unwrap().ino, ino);
        }
        for r in [
            sh.write("/new", "x").err(),
            sh.write("/large", "x").err(),
            sh.mkdir("/d/x").err(),
            sh.unlink("/large").err(),
            sh.rmdir("/d").err(),
            sh.symlink("a", "/b").err(),
            sh.mv("/large", "/d/large").err(),
        ] {
            assert_eq!(r, Some(EROFS));
        }
        // A mapping shows the file's bytes.
        let file = sh.open("/large", libc::O_RDONLY).unwrap();
        let map = file.ops.mappable().unwrap();
        let access = MapAccess { shared: false, may_write: false };
        let fd = map.host_fd(1 << 20, 8192, access).unwrap();
        let host = File::open(format!("/proc/self/fd/{fd}")).unwrap();
        let mut b = [0; 8192];
        host.read_exact_at(&mut b, 1 << 20).unwrap();
        let want: Vec<u8> = ((1 << 20)..(1u32 << 20) + 8192).map(|i| (i / 7) as u8).collect();
        assert!(b[..] == want);
        drop((host, map, file));
        drop(t);
        fs.unmount();
    }
}

#[test]
fn formats_are_told_apart() {
    let tmp = tempfile::tempdir().unwrap();
    let pool = uml_pagecache::Pool::new(64 << 20);
    for (format, img) in images(tmp.path()) {
        for other in [Format::Squashfs, Format::Vfat, Format::Iso9660] {
            let image = Image::of(File::open(&img).unwrap());
            let r = RoFs::open(other, image, b"", Mounter::default(), &pool);
            let expected = (other != format).then_some(EINVAL);
            assert_eq!(r.err(), expected, "{format:?} as {other:?}");
        }
    }
}
