//! A tree of files of the host, images of it made by the formats' own tools, and the comparison.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use uml_rofs::{Attr, BlockStore, Tree};
use uml_store::MemStore;

pub const FMT: u32 = 0o170000;

/// The programs' paths, or a note that one is missing.
pub fn installed(programs: &[&str]) -> bool {
    let missing = programs
        .iter()
        .find(|p| Command::new(p).env("PATH", PATH).arg("--version").output().is_err());
    if let Some(p) = missing {
        eprintln!("SKIPPED: {p} is not installed");
    }
    missing.is_none()
}

const PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin";

/// Runs a program that has to succeed.
pub fn run(name: &str, args: &[&str]) {
    let out = Command::new(name).args(args).env("PATH", PATH).env("LC_ALL", "C.UTF-8").output();
    let out = out.unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(out.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

pub fn text(p: &Path) -> &str {
    p.to_str().unwrap()
}

/// Bytes that do not compress, from a seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Directories and regular files that every format can hold.
pub fn plain_tree(dir: &Path) {
    let put = |name: &str, data: &[u8]| std::fs::write(dir.join(name), data).unwrap();
    let sub = |name: &str| std::fs::create_dir_all(dir.join(name)).unwrap();
    put("empty", b"");
    put("small.txt", b"hello\n");
    put("block", &noise(3, 4096));
    put("noise.bin", &noise(5, 300_007));
    put("text", &b"all work and no play makes jack a dull boy\n".repeat(9000));
    put("A long name, with blanks & more than 8.3", b"long");
    put("Grüße aus Köln.txt", "ü".as_bytes());
    sub("deep/b/c/d/e/f/g/h/i/j");
    put("deep/b/c/d/e/f/g/h/i/j/bottom", b"far down");
    sub("nothing");
    sub("many");
    for i in 0..700 {
        put(
            &format!("many/a file with a number {i:04}.data"),
            format!("{i}\n").repeat(i % 50).as_bytes(),
        );
    }
}

/// What POSIX filesystems hold besides.
pub fn posix_tree(dir: &Path) {
    plain_tree(dir);
    let at = |name: &str| dir.join(name);
    symlink("small.txt", at("link")).unwrap();
    symlink("/absolute/../and/./odd//target", at("odd link")).unwrap();
    symlink("x/".repeat(300), at("long link")).unwrap();
    std::fs::hard_link(at("small.txt"), at("nothing/hard")).unwrap();
    std::fs::DirBuilder::new().mode(0o1777).create(at("sticky")).unwrap();
    std::fs::set_permissions(at("sticky"), PermissionsExt::from_mode(0o1777)).unwrap();
    std::fs::set_permissions(at("block"), PermissionsExt::from_mode(0o4751)).unwrap();
    run("mkfifo", &[text(&at("fifo"))]);
    if is_root() {
        run("mknod", &[text(&at("char")), "c", "5", "1"]);
        run("mknod", &[text(&at("disk")), "b", "259", "70000"]);
        std::os::unix::fs::chown(at("noise.bin"), Some(1000), Some(70_000)).unwrap();
    }
    run("touch", &["-d", "2001-02-03T04:05:06Z", text(&at("text"))]);
}

/// A file with holes in front, between and behind.
pub fn sparse_file(path: &Path) {
    let f = std::fs::File::create(path).unwrap();
    f.set_len(5 << 20).unwrap();
    f.write_all_at(&noise(9, 70_000), 1 << 20).unwrap();
    f.write_all_at(&noise(10, 10), (3 << 20) + 5).unwrap();
}

pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

pub fn store(image: &Path) -> Arc<dyn BlockStore> {
    Arc::new(MemStore::new(std::fs::read(image).unwrap()))
}

/// Names, nodes and numbers of a directory; listing from every position gives the same.
pub fn list(fs: &dyn Tree, dir: u64) -> BTreeMap<Vec<u8>, (u64, u32)> {
    let mut all = Vec::new();
    fs.readdir(dir, 0, &mut |e| {
        all.push((e.name.to_vec(), e.ino, e.kind, e.next));
        true
    })
    .unwrap();
    // From some positions in large directories, from all in small ones.
    for i in (0..all.len()).step_by((all.len() / 20).max(1)) {
        let mut rest = Vec::new();
        fs.readdir(dir, all[i].3, &mut |e| {
            rest.push((e.name.to_vec(), e.ino, e.kind, e.next));
            rest.len() < 30
        })
        .unwrap();
        let end = (i + 31).min(all.len());
        assert_eq!(rest, all[i + 1..end], "going on after entry {i}");
    }
    let n = all.len();
    let map: BTreeMap<_, _> = all.into_iter().map(|(name, ino, k, _)| (name, (ino, k))).collect();
    assert_eq!(map.len(), n, "a name was listed twice");
    map
}

/// The whole contents, read in pieces of `piece` bytes.
pub fn contents(fs: &dyn Tree, node: u64, piece: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buf = vec![0x55; piece];
    loop {
        let n = fs.read(node, all.len() as u64, &mut buf).unwrap();
        all.extend_from_slice(&buf[..n]);
        if n < piece {
            return all;
        }
    }
}

/// How exactly a format keeps attributes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// All but links of directories and fractions of seconds.
    Everything,
    /// Names and contents.
    Contents,
}

/// Every file below `host` is in the image and is the same, and there are no others.
pub fn compare(fs: &dyn Tree, node: u64, host: &Path, keeps: Keeps) {
    let a = fs.attr(node).unwrap();
    let m = std::fs::symlink_metadata(host).unwrap();
    let what = host.display();
    if keeps == Keeps::Everything {
        same_attributes(&a, &m, &what.to_string());
    }
    assert_eq!(a.mode & FMT, m.mode() & FMT, "{what}: type");
    match m.mode() & FMT {
        0o040000 => {
            let inside = list(fs, node);
            let mut names: Vec<Vec<u8>> = Vec::new();
            for e in std::fs::read_dir(host).unwrap() {
                let e = e.unwrap();
                let name = std::os::unix::ffi::OsStringExt::into_vec(e.file_name());
                let child = fs
                    .lookup(node, &name)
                    .unwrap_or_else(|e| panic!("{what}: {}: {e}", String::from_utf8_lossy(&name)));
                let ca = fs.attr(child).unwrap();
                let listed = inside.get(&name).copied();
                assert_eq!(listed, Some((ca.ino, ca.mode & FMT)), "{what}: {name:?} listed");
                compare(fs, child, &e.path(), keeps);
                names.push(name);
            }
            names.sort();
            assert_eq!(inside.into_keys().collect::<Vec<_>>(), names, "{what}");
            assert_eq!(fs.lookup(node, b"not there"), Err(uml_abi::errno::ENOENT));
            assert_eq!(fs.read(node, 0, &mut [0]), Err(uml_abi::errno::EISDIR));
        }
        0o120000 => {
            let target = std::fs::read_link(host).unwrap();
            assert_eq!(fs.readlink(node).unwrap(), text(&target).as_bytes(), "{what}");
        }
        0o100000 => {
            let data = std::fs::read(host).unwrap();
            assert_eq!(a.size, data.len() as u64, "{what}: size");
            for piece in [4096, 1 << 20, 10_007] {
                assert!(contents(fs, node, piece) == data, "{what}: contents in pieces of {piece}");
            }
            let (off, mut b) = (data.len() / 2, [0; 100]);
            let n = fs.read(node, off as u64, &mut b).unwrap();
            assert_eq!(b[..n], data[off..][..n]);
            assert_eq!(fs.read(node, data.len() as u64 + 5, &mut b), Ok(0));
            assert_eq!(fs.lookup(node, b"x"), Err(uml_abi::errno::ENOTDIR));
        }
        _ => {}
    }
}

fn same_attributes(a: &Attr, m: &std::fs::Metadata, what: &str) {
    assert_eq!(a.mode, m.mode(), "{what}: mode");
    assert_eq!((a.uid, a.gid), (m.uid(), m.gid()), "{what}: owner");
    assert_eq!(a.mtime.sec, m.mtime(), "{what}: mtime");
    if m.mode() & FMT != 0o040000 {
        assert_eq!(u64::from(a.links), m.nlink(), "{what}: links");
        assert_eq!(a.size, m.size(), "{what}: size");
    }
    if matches!(m.mode() & FMT, 0o020000 | 0o060000) {
        let dev = m.rdev();
        let (major, minor) = (dev >> 8 & 0xfff, dev & 0xff | dev >> 12 & 0xfff00);
        assert_eq!((u64::from(a.rdev.0), u64::from(a.rdev.1)), (major, minor), "{what}: rdev");
    }
}

/// The node of a path.
pub fn find(fs: &dyn Tree, path: &str) -> u64 {
    path.split('/').fold(fs.root(), |d, n| fs.lookup(d, n.as_bytes()).unwrap())
}

/// An empty directory and a path for an image, gone with the first.
pub fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let tmp = tempfile::tempdir().unwrap();
    let (src, img) = (tmp.path().join("src"), tmp.path().join("image"));
    std::fs::create_dir(&src).unwrap();
    (tmp, src, img)
}

/// Uses everything an image offers, a bounded amount of it, ignoring errors.
pub fn exercise(fs: &dyn Tree) {
    let mut todo = vec![fs.root()];
    let mut seen = 0;
    let mut buf = vec![0; 70_000];
    let _ = fs.statfs();
    while let Some(n) = todo.pop() {
        seen += 1;
        if seen > 60 {
            return;
        }
        let Ok(a) = fs.attr(n) else { continue };
        let _ = fs.readlink(n);
        for name in fs.listxattr(n).unwrap_or_default().iter().take(10) {
            let _ = fs.getxattr(n, name);
        }
        for off in [0, a.size / 2, a.size.saturating_sub(100)] {
            let _ = fs.read(n, off, &mut buf);
        }
        let mut names = Vec::new();
        let _ = fs.readdir(n, 0, &mut |e| {
            names.push(e.name.to_vec());
            names.len() < 40
        });
        let _ = fs.readdir(n, 777, &mut |_| true);
        todo.extend(names.iter().filter_map(|x| fs.lookup(n, x).ok()));
    }
}
