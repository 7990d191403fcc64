//! Full devices, deep indexes, failing stores, several threads.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use common::*;
use uml_abi::Result;
use uml_abi::errno::{EAGAIN, EIO, ENOSPC, EROFS};
use uml_ext4::{
    BlockStore, ErrorPolicy, Ext4, FallocateMode, MemStore, NewInode, Options, ROOT_INO,
};

fn file() -> NewInode {
    NewInode::new(0o100644, 0, 0)
}

#[test]
fn full_device_and_back() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    for i in [0, 1, 3, 5, 11] {
        let (name, args) = MATRIX[i];
        let store = mem(&mkfs(tmp.path(), name, args, 12, None));
        let fs = open(store.clone());
        let before = fs.statfs().unwrap();
        for round in 0..3 {
            let mut made = Vec::new();
            'fill: for n in 0..10_000u32 {
                let ino = match fs.create(ROOT_INO, format!("f{n}").as_bytes(), &file()) {
                    Ok(i) => i,
                    Err(e) => {
                        assert_eq!(e, ENOSPC);
                        break;
                    }
                };
                made.push(n);
                for k in 0..4u64 {
                    // Holes in between make trees and maps larger.
                    match fs.write(ino, k * 150_000, &vec![n as u8; 40_000], false) {
                        Ok(()) => {}
                        Err(e) => {
                            assert_eq!(e, ENOSPC, "{name}");
                            break 'fill;
                        }
                    }
                }
            }
            let full = fs.statfs().unwrap();
            assert!(full.available < 60, "{name}: {} blocks left", full.available);
            for n in made {
                let u = fs.unlink(ROOT_INO, format!("f{n}").as_bytes()).unwrap();
                fs.forget(u.ino).unwrap();
            }
            let now = fs.statfs().unwrap();
            // The root directory may have kept a few blocks.
            assert!(before.free - now.free < 16, "{name} round {round}: {before:?} {now:?}");
            assert_eq!(before.free_inodes, now.free_inodes);
        }
        fs.unmount().unwrap();
        assert_clean_bytes(tmp.path(), &store.snapshot(), name);
    }
}

#[test]
fn inodes_run_out() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let args = ["-t", "ext4", "-b", "1024", "-N", "128"];
    let store = mem(&mkfs(tmp.path(), "inodes", &args, 8, None));
    let fs = open(store.clone());
    let free = fs.statfs().unwrap().free_inodes;
    for i in 0..free {
        fs.create(ROOT_INO, format!("{i}").as_bytes(), &file()).unwrap();
    }
    assert_eq!(fs.create(ROOT_INO, b"one more", &file()), Err(ENOSPC));
    assert_eq!(fs.statfs().unwrap().free_inodes, 0);
    fs.unmount().unwrap();
    assert_clean_bytes(tmp.path(), &store.snapshot(), "inodes");
}

#[test]
fn three_level_index() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let name = |i: u32| format!("{i:0>240}").into_bytes();
    for (features, levels) in [("large_dir", 3), ("^large_dir", 2)] {
        let args = ["-t", "ext4", "-b", "1024", "-O", features, "-N", "1000"];
        let store = mem(&mkfs(tmp.path(), "deep", &args, 64, None));
        let fs = open(store.clone());
        let f = fs.create(ROOT_INO, b"linked", &file()).unwrap();
        let mut made = 0;
        for i in 0..38_000 {
            match fs.link(f, ROOT_INO, &name(i)) {
                Ok(()) => made += 1,
                Err(e) => {
                    assert_eq!(e, ENOSPC);
                    break;
                }
            }
        }
        // 122 entries in the root, 126 below it, 2 to 3 names per leaf.
        if levels == 3 {
            assert_eq!(made, 38_000);
        } else {
            assert!((20_000..38_000).contains(&made), "{made}");
        }
        for i in (0..made).step_by(97) {
            assert_eq!(fs.lookup(ROOT_INO, &name(i)), Ok(f));
        }
        let mut n = 0;
        fs.readdir(ROOT_INO, 0, &mut |_| {
            n += 1;
            true
        })
        .unwrap();
        assert_eq!(n, made + 4, "dots, lost+found, the file itself");
        for i in (0..made).step_by(2) {
            fs.unlink(ROOT_INO, &name(i)).unwrap();
        }
        assert_eq!(fs.attr(f).unwrap().links, made / 2 + 1);
        fs.unmount().unwrap();
        assert_clean_bytes(tmp.path(), &store.snapshot(), features);
    }
}

#[test]
fn many_extents_and_a_large_sparse_file() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    for i in [1, 3] {
        let (name, args) = MATRIX[i];
        let store = mem(&mkfs(tmp.path(), name, args, 24, None));
        let fs = open(store.clone());
        let f = fs.create(ROOT_INO, b"sparse", &file()).unwrap();
        let step = 3 * 1024;
        for k in 0..3000u64 {
            // Not in order: leaves split in the middle as well as at the end.
            let k = k * 1009 % 3000;
            fs.write(f, k * step, &k.to_le_bytes(), false).unwrap();
        }
        // As far as the format goes: 2^32 blocks, or triple indirect.
        let far = if i == 1 { (1u64 << 32) * 1024 - 2048 } else { 16 << 30 };
        fs.write(f, far, b"far away", false).unwrap();
        let mut b = [0; 8];
        for k in (0..3000u64).step_by(7) {
            assert_eq!(fs.read(f, k * step, &mut b).unwrap(), 8);
            assert_eq!(u64::from_le_bytes(b), k);
        }
        fs.read(f, far, &mut b).unwrap();
        assert_eq!(&b, b"far away");
        assert_eq!(fs.seek(f, 3000 * step, true).unwrap(), Some(far / 1024 * 1024));
        fs.commit().unwrap();
        fs.unmount().unwrap();
        assert_clean_bytes(tmp.path(), &store.snapshot(), name);
        let fs = open(store.clone());
        fs.fallocate(f, FallocateMode::PunchHole, 100 * step, 2000 * step, false).unwrap();
        fs.truncate(f, 5000).unwrap();
        let u = fs.unlink(ROOT_INO, b"sparse").unwrap();
        fs.forget(u.ino).unwrap();
        fs.unmount().unwrap();
        assert_clean_bytes(tmp.path(), &store.snapshot(), name);
    }
}

/// Fails every write after so many.
struct Failing {
    below: MemStore,
    left: AtomicI64,
}

impl BlockStore for Failing {
    fn size(&self) -> u64 {
        self.below.size()
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.below.read_at(off, buf)
    }
    fn write_at(&self, off: u64, buf: &[u8]) -> Result<()> {
        if self.left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            return Err(EIO);
        }
        self.below.write_at(off, buf)
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_failing_store_ends_writing_and_nothing_else() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let img = mkfs(tmp.path(), "failing", MATRIX[0].1, 12, None);
    let blank = std::fs::read(&img).unwrap();
    for writes in (0..60).step_by(3) {
        let store =
            Arc::new(Failing { below: MemStore::new(blank.clone()), left: AtomicI64::new(writes) });
        let opts = Options { errors: Some(ErrorPolicy::Continue), on_error: None, ..options() };
        let Ok(fs) = Ext4::open(store.clone(), opts) else {
            assert!(writes < 3);
            continue;
        };
        let mut failed = None;
        for i in 0..200u32 {
            let n = format!("file {i}");
            let r = fs.create(ROOT_INO, n.as_bytes(), &file()).and_then(|f| {
                fs.write(f, 0, &[1; 5000], false)?;
                if i % 10 == 0 { fs.fsync(f) } else { Ok(()) }
            });
            if let Err(e) = r {
                failed.get_or_insert(e);
            }
        }
        assert_eq!(failed, Some(EIO), "after {writes} writes");
        if fs.is_read_only() {
            assert_eq!(fs.create(ROOT_INO, b"late", &file()), Err(EROFS));
        }
        assert!(fs.unmount().is_err());
        // What had been committed still reads, and the disk can be repaired
        // without questions.
        assert!(fs.lookup(ROOT_INO, b"lost+found").is_ok());
        std::fs::write(&img, store.below.snapshot()).unwrap();
        let (code, text) = fsck(&img, "-p");
        assert!(matches!(code, 0 | 1), "after {writes} writes: {code}\n{text}");
        assert_clean(&img, "after -p");
    }
}

#[test]
fn threads_do_not_disturb_each_other() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let store = mem(&mkfs(tmp.path(), "threads", MATRIX[1].1, 24, None));
    let fs = open(store.clone());
    std::thread::scope(|s| {
        for t in 0..4u8 {
            let fs = &fs;
            s.spawn(move || {
                let d = fs.mkdir(ROOT_INO, &[b'd', t + b'0'], &NewInode::new(0o755, 0, 0)).unwrap();
                for i in 0..150u32 {
                    let n = format!("name {i}");
                    let f = fs.create(d, n.as_bytes(), &file()).unwrap();
                    let data = vec![t ^ i as u8; 3000 + i as usize * 10];
                    fs.write(f, 0, &data, false).unwrap();
                    if i % 20 == 0 {
                        fs.fsync(f).unwrap();
                    }
                    let mut b = vec![0; data.len()];
                    assert_eq!(fs.read(f, 0, &mut b).unwrap(), b.len());
                    same(&b, &data, "read back");
                    if i % 3 == 0 {
                        let u = fs.unlink(d, n.as_bytes()).unwrap();
                        fs.forget(u.ino).unwrap();
                    }
                }
            });
        }
        let fs = &fs;
        s.spawn(move || {
            for i in 0..50 {
                if i % 5 == 0 { fs.checkpoint() } else { fs.commit() }.unwrap();
                list(fs, ROOT_INO);
            }
        });
    });
    fs.unmount().unwrap();
    assert_clean_bytes(tmp.path(), &store.snapshot(), "threads");
    let fs = open_ro(store);
    for t in 0..4u8 {
        let d = fs.lookup(ROOT_INO, &[b'd', t + b'0']).unwrap();
        assert_eq!(list(&fs, d).len(), 100);
    }
}

#[test]
fn remounts_both_ways() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    for i in [0, 2, 11] {
        let (name, args) = MATRIX[i];
        let store = mem(&mkfs(tmp.path(), name, args, 16, None));
        let fs = open(store.clone());
        let f = fs.create(ROOT_INO, b"first", &file()).unwrap();
        fs.write(f, 0, b"before the crash", false).unwrap();
        let open_file = fs.create(ROOT_INO, b"unlinked", &file()).unwrap();
        fs.unlink(ROOT_INO, b"unlinked").unwrap();
        fs.fsync(f).unwrap();
        // A crash; the next boot mounts read-only first, as init does.
        drop(fs);
        let fs = open_ro(store.clone());
        assert_eq!(fs.create(ROOT_INO, b"x", &file()), Err(EROFS));
        same(&read_all(&fs, f), b"before the crash", name);
        assert!(fs.attr(open_file).is_ok(), "orphans wait for a writable mount");
        fs.remount_writable().unwrap();
        if i != 11 {
            assert_eq!(fs.attr(open_file).unwrap().links, 0);
        }
        fs.write(f, 0, b"after", false).unwrap();
        fs.create(ROOT_INO, b"second", &file()).unwrap();
        fs.remount_read_only().unwrap();
        assert_clean_bytes(tmp.path(), &store.snapshot(), name);
        assert_eq!(fs.create(ROOT_INO, b"third", &file()), Err(EROFS));
        fs.remount_writable().unwrap();
        fs.create(ROOT_INO, b"third", &file()).unwrap();
        fs.unmount().unwrap();
        assert!(fs.remount_writable().is_err());
        assert_clean_bytes(tmp.path(), &store.snapshot(), name);
        let fs = open_ro(store);
        same(&read_all(&fs, f), b"aftere the crash", name);
        assert_eq!(list(&fs, ROOT_INO).len(), 4);
    }
}

/// Has nothing in memory.
struct Slow(Arc<MemStore>);

impl BlockStore for Slow {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read_at(off, buf)
    }
    fn read_at_once(&self, _: u64, _: &mut [u8]) -> Result<()> {
        Err(EAGAIN)
    }
    fn write_at(&self, off: u64, buf: &[u8]) -> Result<()> {
        self.0.write_at(off, buf)
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn contents_at_once_or_not_at_all() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let (name, args) = MATRIX[0];
    let store = mem(&mkfs(tmp.path(), name, args, 12, None));
    let fs = open(store.clone());
    let f = fs.create(ROOT_INO, b"f", &file()).unwrap();
    // A hole, then data.
    fs.write(f, 65536, &[7; 20_000], false).unwrap();
    fs.unmount().unwrap();
    let fast = open_ro(store.clone());
    let slow = open_ro(Arc::new(Slow(store)));
    let mut buf = [1; 30_000];
    assert_eq!(slow.read_at_once(f, 0, &mut buf), Ok(30_000), "a hole needs nothing");
    assert_eq!(buf, [0; 30_000]);
    assert_eq!(slow.read_at_once(f, 60_000, &mut buf), Err(EAGAIN));
    assert_eq!(slow.read(f, 60_000, &mut buf), Ok(25_536));
    let mut same = [2; 30_000];
    assert_eq!(fast.read_at_once(f, 60_000, &mut same), Ok(25_536));
    assert_eq!(buf[..25_536], same[..25_536]);
    assert_eq!(slow.read_at_once(f, 90_000, &mut buf), Ok(0));
}
