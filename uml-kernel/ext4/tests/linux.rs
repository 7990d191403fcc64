//! Interchange with the host's own ext4 driver: journals it leaves behind are
//! replayed here, ours there. Needs root and a loop device; says so otherwise.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::*;
use uml_ext4::{MemStore, NewInode, ROOT_INO, XattrMode};

/// A mounted loop device; unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(img: &Path, dir: &Path, opts: &str) -> Option<Mounted> {
        let at = dir.join("mnt");
        std::fs::create_dir_all(&at).unwrap();
        let out = Command::new("mount")
            .args(["-t", "ext4", "-o", &format!("loop,{opts}")])
            .arg(img)
            .arg(&at)
            .output()
            .ok()?;
        if !out.status.success() {
            eprintln!("SKIPPED: mount: {}", String::from_utf8_lossy(&out.stderr).trim());
            return None;
        }
        Some(Mounted(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn may_mount(dir: &Path) -> bool {
    let img = mkfs(dir, "probe", MATRIX[0].1, 8, None);
    Mounted::new(&img, dir, "rw").is_some()
}

const SETS: &[(&str, &[&str])] = &[
    ("default", &["-t", "ext4", "-b", "4096"]),
    ("fast_commit", &["-t", "ext4", "-b", "4096", "-O", "fast_commit"]),
    ("1k", &["-t", "ext4", "-b", "1024"]),
    ("orphan_file", &["-t", "ext4", "-b", "4096", "-O", "orphan_file,metadata_csum_seed"]),
    ("inline", &["-t", "ext4", "-b", "4096", "-O", "inline_data"]),
    ("ext3", &["-t", "ext3", "-b", "1024"]),
];

/// Work with fsync in between, as a database would.
fn host_work(root: &Path) {
    use std::io::Write;
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    for i in 0..120 {
        let p = root.join(format!("a/file number {i} with a name"));
        let mut f = std::fs::File::create(&p).unwrap();
        f.write_all(&vec![i as u8; 200 * i]).unwrap();
        if i % 7 == 0 {
            f.sync_all().unwrap();
        }
        if i % 5 == 4 {
            std::fs::remove_file(root.join(format!("a/file number {} with a name", i - 2)))
                .unwrap();
        }
    }
    std::fs::rename(root.join("a/file number 0 with a name"), root.join("a/b/renamed")).unwrap();
    std::os::unix::fs::symlink("x".repeat(70), root.join("a/b/link")).unwrap();
    let f = std::fs::OpenOptions::new().write(true).open(root.join("a/b/renamed")).unwrap();
    f.set_len(123_456).unwrap();
    f.sync_all().unwrap();
    std::fs::File::open(root.join("a/b")).unwrap().sync_all().unwrap();
}

/// One change of names or mappings, made durable by an fsync; false when there
/// are no more.
fn late_change(root: &Path, step: usize) -> bool {
    use std::os::unix::fs::FileExt;
    let at = |n: &str| root.join(n);
    let sync = |n: &str| std::fs::File::open(at(n)).unwrap().sync_all().unwrap();
    let edit = |n: &str, f: &dyn Fn(&std::fs::File)| {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(at(n))
            .unwrap();
        f(&file);
        file.sync_all().unwrap();
    };
    let punch = |n: &str, off: &str, len: &str| {
        // Fails on files without extents, which is fine.
        let args = ["-p", "-o", off, "-l", len];
        let _ = Command::new("fallocate").args(args).arg(at(n)).output();
        sync(n);
    };
    match step {
        0..10 => edit(&format!("late {step}"), &|f| {
            f.write_all_at(&[step as u8; 6000], 0).unwrap();
        }),
        10 => {
            std::fs::rename(at("late 1"), at("late renamed")).unwrap();
            sync("late renamed");
        }
        11 => {
            std::fs::hard_link(at("late 2"), at("late linked")).unwrap();
            sync("late linked");
        }
        12 => {
            std::fs::remove_file(at("late 3")).unwrap();
            sync(".");
        }
        13 => {
            std::fs::rename(at("late 5"), at("late 6")).unwrap();
            sync("late 6");
        }
        14 => edit("late 7", &|f| f.set_len(1000).unwrap()),
        15 => edit("late 8", &|f| f.write_all_at(&[5; 70_000], 200_000).unwrap()),
        16 => punch("late 8", "208896", "8192"),
        17 => edit("late 8", &|f| f.write_all_at(&[6; 30_000], 4096).unwrap()),
        18 => {
            std::fs::create_dir(at("late dir")).unwrap();
            std::fs::write(at("late dir/inside"), b"inside").unwrap();
            sync("late dir/inside");
        }
        19 => {
            std::os::unix::fs::symlink("somewhere", at("late dir/link")).unwrap();
            edit("late 9", &|f| f.set_len(500_000).unwrap());
        }
        20 => edit("late 9", &|f| f.set_len(0).unwrap()),
        21 => {
            for i in 0..60 {
                std::fs::write(at(&format!("late dir/one of several files {i}")), b"").unwrap();
            }
            sync("late dir/one of several files 59");
            sync("late dir");
        }
        22 => {
            for i in 0..60 {
                std::fs::remove_file(at(&format!("late dir/one of several files {i}"))).unwrap();
            }
            sync("late dir");
            sync("late 9");
        }
        _ => return false,
    }
    true
}

#[test]
fn linux_crashes_and_we_replay() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    if !may_mount(tmp.path()) {
        return;
    }
    for (name, args) in SETS {
        let img = mkfs(tmp.path(), name, args, 32, None);
        // No commit by itself: one that ran while the file is read would leave halves of two moments in what was read.
        let Some(m) = Mounted::new(&img, tmp.path(), "rw,commit=3600") else { return };
        host_work(&m.0);
        assert!(Command::new("sync").arg("-f").arg(&m.0).status().unwrap().success());
        // More that is only fsynced; after each step the power goes: what the
        // loop device's file holds then is the disk.
        let (mut full, mut fast) = (0, 0);
        for step in 0.. {
            if !late_change(&m.0, step) {
                break;
            }
            if *name != "fast_commit" && step % 4 != 2 {
                continue;
            }
            let what = format!("{name}, step {step}");
            let store = Arc::new(MemStore::new(std::fs::read(&img).unwrap()));
            let fs = open_ro(store.clone());
            let r = fs.replay_report();
            full += r.transactions;
            fast += r.fast_commits;
            compare_tree(&fs, ROOT_INO, &m.0);
            drop(fs);
            let fs = open(store.clone());
            compare_tree(&fs, ROOT_INO, &m.0);
            fs.unmount().unwrap();
            assert_clean_bytes(tmp.path(), &store.snapshot(), &what);
        }
        eprintln!("{name}: {full} transactions, {fast} fast-commit records");
        assert!(full > 0, "{name}: nothing to replay");
        assert_eq!(fast > 0, *name == "fast_commit", "{name}: {fast} fast-commit records");
    }
}

#[test]
fn we_crash_and_linux_replays() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    if !may_mount(tmp.path()) {
        return;
    }
    for (name, args) in SETS {
        let img = mkfs(tmp.path(), name, args, 32, None);
        let store = mem(&img);
        let fs = open(store.clone());
        let new = NewInode::new(0o100644, 0, 0);
        let d = fs.mkdir(ROOT_INO, b"ours", &NewInode::new(0o755, 0, 0)).unwrap();
        let mut want = Vec::new();
        for i in 0..300usize {
            let n = format!("a file with quite a long name {i}");
            let f = fs.create(d, n.as_bytes(), &new).unwrap();
            let data = vec![i as u8; i * 31];
            fs.write(f, 0, &data, false).unwrap();
            if i == 100 {
                fs.checkpoint().unwrap();
            }
            if i % 4 == 3 {
                let gone = format!("a file with quite a long name {}", i - 1);
                let u = fs.unlink(d, gone.as_bytes()).unwrap();
                fs.forget(u.ino).unwrap();
                want.pop();
            }
            want.push((n, data));
        }
        let f = fs.lookup(d, want[0].0.as_bytes()).unwrap();
        fs.setxattr(f, b"user.note", b"kept", XattrMode::Any).unwrap();
        fs.symlink(d, b"link", &[b'l'; 100], &new).unwrap();
        let open_file = fs.create(d, b"unlinked", &new).unwrap();
        fs.write(open_file, 0, &[9; 9999], false).unwrap();
        fs.unlink(d, b"unlinked").unwrap();
        fs.sync().unwrap();
        drop(fs);
        std::fs::write(&img, store.snapshot()).unwrap();
        {
            let Some(m) = Mounted::new(&img, tmp.path(), "rw") else { panic!("{name}: refused") };
            let dir = m.0.join("ours");
            for (n, data) in &want {
                same(&std::fs::read(dir.join(n)).unwrap(), data, n);
            }
            assert_eq!(std::fs::read_dir(&dir).unwrap().count(), want.len() + 1);
            assert_eq!(std::fs::read_link(dir.join("link")).unwrap().as_os_str().len(), 100);
            // And it goes on working there.
            host_work(&m.0);
        }
        assert_clean(&img, name);
        let fs = open_ro(mem(&img));
        assert_eq!(fs.getxattr(f, b"user.note").unwrap(), b"kept");
        let d = fs.lookup(ROOT_INO, b"ours").unwrap();
        for (n, data) in &want {
            same(&read_all(&fs, fs.lookup(d, n.as_bytes()).unwrap()), data, n);
        }
    }
}
