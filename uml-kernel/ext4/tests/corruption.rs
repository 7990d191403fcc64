//! Damaged metadata is answered with errors: no panic, no endless loop, no
//! unbounded memory.

mod common;

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use common::*;
use uml_ext4::{
    ErrorPolicy, Ext4, FallocateMode, MemStore, NewInode, Options, ROOT_INO, RenameMode, SetAttr,
    XattrMode,
};

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Uses everything there is, a bounded amount of it, ignoring errors.
fn exercise(fs: &Ext4, rng: &mut Rng, write: bool) {
    let _ = (fs.statfs(), fs.info());
    let mut queue = vec![ROOT_INO];
    let mut seen = 0;
    let mut inos = Vec::new();
    while let Some(dir) = queue.pop() {
        seen += 1;
        if seen > 200 {
            break;
        }
        let mut names: Vec<(Vec<u8>, u32)> = Vec::new();
        let _ = fs.readdir(dir, 0, &mut |e| {
            names.push((e.name.to_vec(), e.ino));
            names.len() < 2000
        });
        let _ = fs.parent(dir);
        for (n, ino) in names {
            let found = fs.lookup(dir, &n);
            inos.push((dir, n.clone(), ino));
            if let Ok(a) = fs.attr(ino) {
                if a.mode & 0o170000 == 0o040000 && n != b"." && n != b".." {
                    queue.push(ino);
                }
            }
            let _ = found;
        }
    }
    let mut buf = vec![0; 70_000];
    for (i, (_, _, ino)) in inos.iter().enumerate().take(300) {
        let size = fs.attr(*ino).map_or(0, |a| a.size);
        for off in [0, size / 2, size.saturating_sub(100)] {
            let _ = fs.read(*ino, off, &mut buf);
        }
        let _ = (fs.readlink(*ino), fs.map(*ino, i as u64, 100), fs.seek(*ino, 0, true));
        for x in fs.listxattr(*ino).unwrap_or_default() {
            let _ = fs.getxattr(*ino, &x);
        }
    }
    if !write {
        return;
    }
    let new = |m| NewInode::new(m, 0, 0);
    for k in 0..40 {
        let (dir, name, ino) = match inos.len() {
            0 => (ROOT_INO, b"x".to_vec(), 12),
            n => inos[rng.below(n)].clone(),
        };
        let other = inos.get(rng.below(inos.len())).map_or(ROOT_INO, |x| x.0);
        let fresh = format!("fresh name number {k} with some length");
        let off = rng.next() % (1 << 20);
        match rng.below(12) {
            0 => {
                let _ = fs.create(dir, fresh.as_bytes(), &new(0o100644));
            }
            1 => {
                let _ = fs.mkdir(dir, fresh.as_bytes(), &new(0o755));
            }
            2 => {
                let _ = fs.symlink(dir, fresh.as_bytes(), &[b't'; 80], &new(0));
            }
            3 => {
                let _ = fs.link(ino, dir, fresh.as_bytes());
            }
            4 => {
                if let Ok(u) = fs.unlink(dir, &name) {
                    let _ = fs.forget(u.ino);
                }
            }
            5 => {
                if let Ok(u) = fs.rmdir(dir, &name) {
                    let _ = fs.forget(u.ino);
                }
            }
            6 => {
                let _ = fs.rename(dir, &name, other, fresh.as_bytes(), RenameMode::Replace);
            }
            7 => {
                let _ = fs.write(ino, off, &buf[..10_000], true);
            }
            8 => {
                let _ = fs.truncate(ino, off);
            }
            9 => {
                let modes = [
                    FallocateMode::Allocate { keep_size: false },
                    FallocateMode::PunchHole,
                    FallocateMode::ZeroRange { keep_size: true },
                    FallocateMode::Collapse,
                    FallocateMode::Insert,
                ];
                let at = off / 4096 * 4096;
                let _ = fs.fallocate(ino, modes[rng.below(5)], at, 65536, true);
            }
            10 => {
                let _ = fs.setxattr(ino, b"user.x", &buf[..300], XattrMode::Any);
            }
            _ => {
                let _ = fs.setattr(ino, &SetAttr { uid: Some(5), ..SetAttr::default() });
            }
        }
    }
    let _ = fs.sync();
    let _ = fs.unmount();
}

fn damage(image: &mut [u8], used: &[usize], rng: &mut Rng) {
    for _ in 0..1 + rng.below(12) {
        // Bytes near existing ones: structures, not empty space.
        let base = used[rng.below(used.len())];
        let at = (base + rng.below(16)).min(image.len() - 1);
        match rng.below(4) {
            0 => image[at] ^= 1 << rng.below(8),
            1 => image[at] = 0xff,
            2 => image[at] = 0,
            _ => image[at] = rng.next() as u8,
        }
    }
}

fn run(index: usize, rounds: usize) {
    if !have_tools() {
        return;
    }
    let scale: usize =
        std::env::var("EXT4_TEST_SCALE").ok().and_then(|v| v.parse().ok()).unwrap_or(1);
    let (name, args) = MATRIX[index];
    let tmp = tempfile::tempdir().unwrap();
    let src = tmp.path().join("src");
    std::fs::create_dir(&src).unwrap();
    sample_tree(&src, 150);
    let img = mkfs(tmp.path(), name, args, 8, Some(&src));
    // Deep trees, an index, attributes and a journal with contents.
    let store = mem(&img);
    let fs = open(store.clone());
    let d = resolve(&fs, "wide");
    for i in 0..200 {
        let n = format!("a rather long name to fill directory blocks quickly {i}");
        fs.create(d, n.as_bytes(), &NewInode::new(0o100644, 0, 0)).unwrap();
    }
    let f = resolve(&fs, "empty");
    for i in 0..400u64 {
        fs.write(f, i * 10_000, b"scattered", false).unwrap();
    }
    fs.setxattr(f, b"user.a", &[7; 500], XattrMode::Any).unwrap();
    fs.sync().unwrap();
    drop(fs);
    let image = store.snapshot();
    // File contents compare equal byte for byte so often that random hits
    // would mostly land there; metadata is what is not in the sample files.
    let mut used: Vec<usize> = (1024..2048).collect();
    used.extend((0..image.len()).filter(|i| image[*i] != 0 && i % 3 == 0));
    let (done, finished) = channel();
    let worker = std::thread::spawn(move || {
        for round in 0..rounds * scale {
            let mut rng = Rng(0x9e37_79b9_7f4a_7c15 ^ ((round as u64 + 1) * 0x1234_5677));
            let mut bad = image.clone();
            damage(&mut bad, &used, &mut rng);
            for write in [false, true] {
                let store = Arc::new(MemStore::new(bad.clone()));
                let opts = Options {
                    read_only: !write,
                    errors: Some(ErrorPolicy::Continue),
                    on_error: None,
                    ..options()
                };
                if let Ok(fs) = Ext4::open(store, opts) {
                    exercise(&fs, &mut rng, write);
                    let (clean, dirty) = fs.memory();
                    assert!(clean <= 9 << 20 && dirty <= 64 << 20, "memory {clean} {dirty}");
                }
            }
            done.send(()).unwrap();
        }
    });
    for round in 0..rounds * scale {
        match finished.recv_timeout(Duration::from_secs(60)) {
            Ok(()) => {}
            Err(e) => {
                if worker.is_finished() {
                    worker.join().unwrap();
                }
                panic!("{name}, round {round}: {e}");
            }
        }
    }
    worker.join().unwrap();
}

#[test]
fn with_checksums() {
    run(0, 40);
}

#[test]
fn block_maps_without_checksums() {
    run(3, 80);
}

#[test]
fn extents_without_metadata_checksums() {
    run(4, 80);
}

#[test]
fn inline_data() {
    run(5, 30);
}

#[test]
fn small_blocks_large_dir() {
    run(9, 30);
}

/// Found by fuzzing: the message about a block size of 2^(2^32 + 9) overflowed.
#[test]
fn absurd_block_sizes_are_refused() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let img = mkfs(tmp.path(), "plain", MATRIX[4].1, 8, None);
    for log in [7u32, 31, 64, u32::MAX - 9, u32::MAX] {
        let mut raw = std::fs::read(&img).unwrap();
        raw[1024 + 0x18..1024 + 0x1c].copy_from_slice(&log.to_le_bytes());
        let e = Ext4::open(Arc::new(MemStore::new(raw)), Options::default()).err();
        assert!(e.is_some_and(|e| e.to_string().contains("block size")), "2^{log}");
    }
}
