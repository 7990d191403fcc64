//! Images made by e2fsprogs, and e2fsprogs as the judge of ours.
#![allow(dead_code)]

pub mod model;
pub mod recorder;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use uml_ext4::{BlockStore, Ext4, FileType, MemStore, Options, ROOT_INO};

/// The feature sets of the fixture matrix: name and mke2fs arguments.
pub const MATRIX: &[(&str, &[&str])] = &[
    ("default-4k", &["-t", "ext4", "-b", "4096"]),
    ("default-1k", &["-t", "ext4", "-b", "1024"]),
    ("seed-orphan", &["-t", "ext4", "-b", "4096", "-O", "metadata_csum_seed,orphan_file"]),
    ("blockmap", &["-t", "ext4", "-b", "1024", "-O", "^extent,^64bit,^metadata_csum"]),
    ("uninit-bg", &["-t", "ext4", "-b", "4096", "-O", "^metadata_csum,uninit_bg"]),
    ("inline", &["-t", "ext4", "-b", "4096", "-O", "inline_data"]),
    ("ext2", &["-t", "ext2", "-b", "1024"]),
    ("ext3", &["-t", "ext3", "-b", "4096"]),
    ("meta-bg", &["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode", "-g", "1024"]),
    ("large", &["-t", "ext4", "-b", "1024", "-O", "large_dir,ea_inode,project"]),
    ("small-inode", &["-t", "ext4", "-b", "1024", "-I", "128"]),
    ("no-journal", &["-t", "ext4", "-b", "4096", "-O", "^has_journal"]),
];

/// True when mke2fs and e2fsck exist; says so otherwise.
pub fn have_tools() -> bool {
    let ok = ["mke2fs", "e2fsck", "debugfs"].iter().all(|t| tool(t).arg("-V").output().is_ok());
    if !ok {
        eprintln!("SKIPPED: e2fsprogs (mke2fs, e2fsck, debugfs) is not installed");
    }
    ok
}

fn tool(name: &str) -> Command {
    let sbin = Path::new("/usr/sbin").join(name);
    let mut c = if sbin.exists() { Command::new(sbin) } else { Command::new(name) };
    c.env("MKE2FS_CONFIG", "/dev/null").env("LC_ALL", "C");
    c
}

fn run(c: &mut Command) -> Output {
    c.output().unwrap_or_else(|e| panic!("{c:?}: {e}"))
}

/// Makes an image of `mib` MiB with mke2fs, optionally filled from a directory.
pub fn mkfs(dir: &Path, name: &str, args: &[&str], mib: u64, from: Option<&Path>) -> PathBuf {
    let img = dir.join(format!("{name}.img"));
    std::fs::File::create(&img).unwrap().set_len(mib << 20).unwrap();
    let mut c = tool("mke2fs");
    c.env_remove("MKE2FS_CONFIG");
    c.args(["-F", "-q"]).args(args);
    if let Some(d) = from {
        c.arg("-d").arg(d);
    }
    let out = run(c.arg(&img));
    assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    img
}

/// `e2fsck` with the given mode; returns the exit status and its output.
pub fn fsck(img: &Path, mode: &str) -> (i32, String) {
    let out = run(tool("e2fsck").args(["-f", mode]).arg(img));
    let mut text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&out.stderr));
    (out.status.code().unwrap_or(-1), text)
}

/// Fails unless `e2fsck -fn` finds nothing.
pub fn assert_clean(img: &Path, what: &str) {
    let (code, text) = fsck(img, "-n");
    assert_eq!(code, 0, "{what}: e2fsck -fn says\n{text}");
}

/// Writes an image to a file and checks it.
pub fn assert_clean_bytes(dir: &Path, data: &[u8], what: &str) {
    let img = dir.join("check.img");
    std::fs::write(&img, data).unwrap();
    assert_clean(&img, what);
}

/// Runs one debugfs command.
pub fn debugfs(img: &Path, cmd: &str) -> String {
    let out = run(tool("debugfs").args(["-w", "-R", cmd]).arg(img));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

pub fn mem(img: &Path) -> Arc<MemStore> {
    Arc::new(MemStore::new(std::fs::read(img).unwrap()))
}

/// Options with a fixed clock, so that runs are reproducible.
pub fn options() -> Options {
    Options {
        clock: Arc::new(|| uml_ext4::Timestamp { sec: 1_800_000_000, nsec: 5 }),
        on_error: Some(Arc::new(|e| eprintln!("ext4 error: {e:?}"))),
        ..Options::default()
    }
}

pub fn open(store: Arc<dyn BlockStore>) -> Ext4 {
    Ext4::open(store, options()).unwrap_or_else(|e| panic!("{e}"))
}

/// With `data=journal`.
pub fn open_journaled(store: Arc<dyn BlockStore>) -> Ext4 {
    Ext4::open(store, Options { journal_data: true, ..options() }).unwrap_or_else(|e| panic!("{e}"))
}

pub fn open_ro(store: Arc<dyn BlockStore>) -> Ext4 {
    Ext4::open(store, Options { read_only: true, ..options() }).unwrap_or_else(|e| panic!("{e}"))
}

/// All names of a directory but the dots, sorted; checks that none repeats
/// when listing continues from every cookie.
pub fn list(fs: &Ext4, dir: u32) -> Vec<(Vec<u8>, u32, FileType)> {
    let mut out = Vec::new();
    let mut cookie = 0;
    loop {
        let mut n = 0;
        fs.readdir(dir, cookie, &mut |e| {
            if n == 7 {
                return false;
            }
            n += 1;
            cookie = e.next;
            out.push((e.name.to_vec(), e.ino, e.file_type));
            n < 7
        })
        .unwrap();
        if n == 0 {
            break;
        }
    }
    out.retain(|(n, ..)| n != b"." && n != b"..");
    out.sort_by(|a, b| a.0.cmp(&b.0));
    let before = out.len();
    out.dedup_by(|a, b| a.0 == b.0);
    assert_eq!(before, out.len(), "a name was listed twice");
    out
}

pub fn read_all(fs: &Ext4, ino: u32) -> Vec<u8> {
    let size = fs.attr(ino).unwrap().size as usize;
    let mut v = vec![0xaa; size];
    assert_eq!(fs.read(ino, 0, &mut v).unwrap(), size);
    v
}

/// Fails naming the first difference, without printing the contents.
pub fn same(got: &[u8], want: &[u8], what: &str) {
    let at = got.iter().zip(want).position(|(a, b)| a != b);
    assert!(
        at.is_none() && got.len() == want.len(),
        "{what}: {} bytes instead of {}, first difference at {at:?}",
        got.len(),
        want.len()
    );
}

pub fn resolve(fs: &Ext4, path: &str) -> u32 {
    path.split('/').filter(|p| !p.is_empty()).fold(ROOT_INO, |d, n| {
        fs.lookup(d, n.as_bytes()).unwrap_or_else(|e| panic!("{path}: {n}: {e}"))
    })
}

/// Compares a host directory with a directory in the filesystem.
pub fn compare_tree(fs: &Ext4, dir: u32, host: &Path) {
    let mut names: Vec<Vec<u8>> = std::fs::read_dir(host)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_encoded_bytes())
        .collect();
    names.retain(|n| n != b"lost+found");
    names.sort();
    let ours = list(fs, dir);
    let got: Vec<Vec<u8>> =
        ours.iter().map(|e| e.0.clone()).filter(|n| n != b"lost+found").collect();
    assert_eq!(got, names, "{}", host.display());
    for (name, ino, kind) in ours {
        if name == b"lost+found" {
            continue;
        }
        let text = String::from_utf8(name.clone()).unwrap();
        let path = host.join(&text);
        let meta = std::fs::symlink_metadata(&path).unwrap();
        assert_eq!(fs.lookup(dir, &name).unwrap(), ino);
        if meta.is_dir() {
            assert!(matches!(kind, FileType::Directory | FileType::Unknown));
            compare_tree(fs, ino, &path);
        } else if meta.is_symlink() {
            let want = std::fs::read_link(&path).unwrap();
            assert_eq!(fs.readlink(ino).unwrap(), want.as_os_str().as_encoded_bytes());
        } else {
            same(&read_all(fs, ino), &std::fs::read(&path).unwrap(), &text);
        }
    }
}

/// A host directory with many kinds of files.
pub fn sample_tree(root: &Path, many: usize) {
    let sub = root.join("dir/deeper");
    std::fs::create_dir_all(&sub).unwrap();
    for (name, size) in
        [("empty", 0), ("tiny", 20), ("mid", 120), ("block", 4096), ("big", 300_001)]
    {
        let data: Vec<u8> = (0..size).map(|i: u32| ((i * 31) >> 3) as u8).collect();
        std::fs::write(root.join(name), data).unwrap();
    }
    let mut sparse = std::fs::File::create(sub.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 1_500_000).unwrap();
    // mke2fs -d with inline_data forgets a hole at the end of a file.
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", (3 << 20) - 3).unwrap();
    sparse.flush().unwrap();
    std::os::unix::fs::symlink("tiny", root.join("fast")).unwrap();
    std::os::unix::fs::symlink("x".repeat(100), root.join("slow")).unwrap();
    let wide = root.join("wide");
    std::fs::create_dir(&wide).unwrap();
    for i in 0..many {
        std::fs::write(wide.join(format!("some file number {i}")), b"").unwrap();
    }
}
