//! Power cuts after every write: the filesystem mounts, e2fsck agrees that it
//! is sound, and what fsync returned for is there.

mod common;

use std::sync::Arc;

use common::recorder::{Event, Recorder, cut, cut_reordered};
use common::*;
use uml_ext4::{Ext4, FallocateMode, MemStore, NewInode, ROOT_INO, RenameMode, XattrMode, flags};

/// What must be on disk once a mark has been passed: path and contents.
type Promise = Vec<(String, Vec<u8>)>;

fn bytes(n: usize, seed: u8) -> Vec<u8> {
    (0..n).map(|i| ((i * 13) >> 2) as u8 ^ seed).collect()
}

/// A mixed workload; after each fsync a mark says what was promised.
fn workload(fs: &Ext4, rec: &Recorder) -> Vec<Promise> {
    let new = |m| NewInode::new(m, 0, 0);
    let mut promises: Vec<Promise> = vec![Vec::new()];
    let mut now: Promise = Vec::new();
    let extents = fs.info().features.incompat(uml_ext4::features::incompat::EXTENTS);
    let mut promise = |now: &Promise| {
        promises.push(now.clone());
        rec.mark(promises.len() - 1);
    };
    for round in 0..4u8 {
        let d = fs.mkdir(ROOT_INO, format!("d{round}").as_bytes(), &new(0o755)).unwrap();
        if round % 2 == 1 && fs.attr(ROOT_INO).unwrap().flags & flags::JOURNAL_DATA != 0 {
            // What is made in the others goes through the journal: blocks go from one kind of file to the other.
            fs.set_data_journaling(d, false).unwrap();
        }
        for i in 0..30u8 {
            let n = format!("a file with a long name to fill blocks {i}");
            let f = fs.create(d, n.as_bytes(), &new(0o100644)).unwrap();
            if i % 5 == 0 {
                let data = bytes(1000 * usize::from(i) + 100, i);
                fs.write(f, 0, &data, false).unwrap();
                if i % 10 == 0 {
                    fs.fsync(f).unwrap();
                    now.push((format!("d{round}/{n}"), data));
                    promise(&now);
                }
            }
        }
        let big = fs.create(ROOT_INO, format!("big{round}").as_bytes(), &new(0o100644)).unwrap();
        fs.write(big, 0, &bytes(200_000, round), false).unwrap();
        fs.setxattr(big, b"user.note", &bytes(300, 1), XattrMode::Any).unwrap();
        fs.fsync(big).unwrap();
        now.push((format!("big{round}"), bytes(200_000, round)));
        promise(&now);
        // Files that lose blocks, so that blocks are reused across kinds.
        let t = fs.create(d, b"temporary", &new(0o100644)).unwrap();
        fs.write(t, 5000, &bytes(50_000, 9), false).unwrap();
        if extents {
            fs.fallocate(t, FallocateMode::Allocate { keep_size: false }, 60_000, 40_000, false)
                .unwrap();
            fs.fallocate(t, FallocateMode::PunchHole, 8192, 16384, false).unwrap();
        }
        fs.truncate(t, 30_000).unwrap();
        if round > 0 {
            let old = format!("d{}", round - 1);
            let od = fs.lookup(ROOT_INO, old.as_bytes()).unwrap();
            now.retain(|(p, _)| !p.starts_with(&old));
            promise(&now);
            for (n, ..) in list(fs, od) {
                let u = fs.unlink(od, &n).unwrap();
                fs.forget(u.ino).unwrap();
            }
            let u = fs.rmdir(ROOT_INO, old.as_bytes()).unwrap();
            fs.forget(u.ino).unwrap();
            let prev = format!("big{}", round - 1);
            now.retain(|(p, _)| *p != prev);
            promise(&now);
            let gone = fs
                .rename(ROOT_INO, prev.as_bytes(), ROOT_INO, b"latest", RenameMode::Replace)
                .unwrap();
            if let Some(u) = gone {
                fs.forget(u.ino).unwrap();
            }
        }
        // One-block files take the places of freed directory blocks.
        fs.commit().unwrap();
        for i in 0..40u8 {
            let n = format!("small {i}");
            let f = fs.create(d, n.as_bytes(), &new(0o100644)).unwrap();
            let data = bytes(700, i ^ round);
            fs.write(f, 0, &data, false).unwrap();
            now.push((format!("d{round}/{n}"), data));
        }
        fs.sync().unwrap();
        promise(&now);
        let open = fs.create(d, b"open but unlinked", &new(0o100644)).unwrap();
        fs.write(open, 0, &bytes(9000, 3), false).unwrap();
        fs.unlink(d, b"open but unlinked").unwrap();
        fs.commit().unwrap();
        if round == 2 {
            fs.checkpoint().unwrap();
        }
    }
    promise(&now);
    fs.sync().unwrap();
    promises
}

fn check(fs_name: &str, image: Vec<u8>, want: &Promise, dir: &std::path::Path, what: &str) {
    // e2fsck on its own, as a boot script would run it.
    let img = dir.join("cut.img");
    std::fs::write(&img, &image).unwrap();
    let (code, text) = fsck(&img, "-p");
    assert!(matches!(code, 0 | 1), "{fs_name} {what}: e2fsck -p says {code}\n{text}");
    let (code, text) = fsck(&img, "-n");
    assert_eq!(code, 0, "{fs_name} {what}: after -p, e2fsck -fn says\n{text}");
    verify(&open_ro(mem(&img)), want, what);
    // Ours: a read-only mount that replays in memory, then a real one.
    let store = Arc::new(MemStore::new(image));
    let before = store.snapshot();
    verify(&open_ro(store.clone()), want, what);
    assert!(store.snapshot() == before, "a read-only mount wrote to the disk");
    let fs = open(store.clone());
    verify(&fs, want, what);
    fs.unmount().unwrap();
    std::fs::write(&img, store.snapshot()).unwrap();
    let (code, text) = fsck(&img, "-n");
    assert_eq!(code, 0, "{fs_name} {what}: after our replay e2fsck -fn says\n{text}");
}

fn verify(fs: &Ext4, want: &Promise, what: &str) {
    for (path, data) in want {
        let ino = resolve(fs, path);
        same(&read_all(fs, ino), data, &format!("{what}: {path}"));
    }
}

fn run(index: usize, args: &[&str], samples: usize) {
    run_with(index, args, samples, open);
}

fn run_with(
    index: usize,
    args: &[&str],
    samples: usize,
    open: fn(Arc<dyn uml_ext4::BlockStore>) -> Ext4,
) {
    if !have_tools() {
        return;
    }
    let (name, base) = MATRIX[index];
    let tmp = tempfile::tempdir().unwrap();
    let all: Vec<&str> = base.iter().chain(args).copied().collect();
    let img = mkfs(tmp.path(), name, &all, 16, None);
    let blank = std::fs::read(&img).unwrap();
    let rec = Recorder::new(blank.clone());
    let fs = open(rec.clone());
    let promises = workload(&fs, &rec);
    fs.unmount().unwrap();
    let log = rec.log();
    let writes: Vec<usize> =
        (0..=log.len()).filter(|i| *i == log.len() || !matches!(log[*i], Event::Mark(_))).collect();
    // EXT4_TEST_SCALE=0 means every single write.
    let scale: usize =
        std::env::var("EXT4_TEST_SCALE").ok().and_then(|v| v.parse().ok()).unwrap_or(1);
    let step = if scale == 0 { 1 } else { (writes.len() / (samples * scale)).max(1) };
    eprintln!("{name}: {} places to cut, every {step}", writes.len());
    // The last writes, those of unmount, are all tried.
    let tail = writes.len().saturating_sub(12);
    for (k, &n) in writes.iter().enumerate() {
        if k % step != 0 && k < tail {
            continue;
        }
        let (image, mark) = cut(&blank, &log, n);
        check(name, image, &promises[mark], tmp.path(), &format!("cut before event {n}"));
        let (image, mark) = cut_reordered(&blank, &log, n, n as u64 * 77 + 1);
        check(name, image, &promises[mark], tmp.path(), &format!("reordered before event {n}"));
    }
}

#[test]
fn default_4k() {
    run(0, &["-J", "size=4"], 5);
}

#[test]
fn default_1k() {
    run(1, &["-J", "size=1"], 8);
}

#[test]
fn blockmap_without_checksums() {
    run(3, &["-J", "size=1"], 8);
}

#[test]
fn seed_and_orphan_file() {
    run(2, &["-J", "size=4"], 5);
}

#[test]
fn inline_data() {
    run(5, &["-J", "size=4"], 5);
}

#[test]
fn ext3() {
    run(7, &["-J", "size=4"], 5);
}

#[test]
fn journaled_data_4k() {
    run_with(0, &["-J", "size=4"], 5, open_journaled);
}

#[test]
fn journaled_data_1k_inline() {
    run_with(5, &["-b", "1024", "-J", "size=1"], 8, open_journaled);
}

#[test]
fn journaled_data_ext3() {
    run_with(7, &["-J", "size=4"], 5, open_journaled);
}

/// The root directory has the attribute `j`, and so what is made in it.
fn open_inheriting(store: Arc<dyn uml_ext4::BlockStore>) -> Ext4 {
    let fs = open(store);
    fs.set_data_journaling(ROOT_INO, true).unwrap();
    fs
}

#[test]
fn some_files_journaled_4k() {
    run_with(0, &["-J", "size=4"], 5, open_inheriting);
}

#[test]
fn some_files_journaled_1k_inline() {
    run_with(5, &["-b", "1024", "-J", "size=1"], 8, open_inheriting);
}

#[test]
fn some_files_journaled_ext3() {
    run_with(7, &["-J", "size=4"], 5, open_inheriting);
}

/// A disk may lose a part of a write that is longer than a sector. Of a commit block over an older log that must not be a broken
/// commit, which e2fsck(8) does not mend by itself, but none.
#[test]
fn torn_commits_are_no_commits() {
    if !have_tools() {
        return;
    }
    const SECTOR: usize = 512;
    let tmp = tempfile::tempdir().unwrap();
    let (name, base) = MATRIX[0];
    let all: Vec<&str> = base.iter().chain(&["-J", "size=4"]).copied().collect();
    let blank = std::fs::read(mkfs(tmp.path(), name, &all, 16, None)).unwrap();
    let rec = Recorder::new(blank.clone());
    let fs = open(rec.clone());
    let mut promises: Vec<Promise> = vec![Vec::new()];
    for round in 0..12u8 {
        let n = format!("file {round}");
        let f = fs.create(ROOT_INO, n.as_bytes(), &NewInode::new(0o100644, 0, 0)).unwrap();
        fs.write(f, 0, &bytes(5000, round), false).unwrap();
        fs.fsync(f).unwrap();
        let mut now = promises[promises.len() - 1].clone();
        now.push((n, bytes(5000, round)));
        promises.push(now);
        rec.mark(promises.len() - 1);
        // An orphan: after a broken commit e2fsck(8) does not look at their list.
        let o = fs.create(ROOT_INO, b"orphan", &NewInode::new(0o100644, 0, 0)).unwrap();
        fs.write(o, 0, &bytes(9000, round), false).unwrap();
        fs.unlink(ROOT_INO, b"orphan").unwrap();
        if round % 3 == 2 {
            // The log starts over, on top of what it was.
            fs.checkpoint().unwrap();
        }
    }
    drop(fs);
    let log: Vec<Event> = rec.log();
    let near = |mut it: Box<dyn Iterator<Item = &Event> + '_>| {
        it.find(|e| !matches!(e, Event::Mark(_))).is_some_and(|e| matches!(e, Event::Flush))
    };
    let mut commits = 0;
    for (i, e) in log.iter().enumerate() {
        // Alone between two flushes, and no superblock, against half of which ext4 has no defence.
        let alone = near(Box::new(log[..i].iter().rev())) && near(Box::new(log[i + 1..].iter()));
        let Event::Write(off, data) = e else { continue };
        if !alone || data.len() == 1024 {
            continue;
        }
        commits += 1;
        for (how, keep) in
            [("only the first", 0..1), ("all but the first", 1..8), ("half", 4..8), ("all", 0..8)]
        {
            let (mut image, mark) = cut(&blank, &log, i);
            for (k, sector) in data.chunks(SECTOR).enumerate().filter(|(k, _)| keep.contains(k)) {
                let at = *off as usize + k * SECTOR;
                image[at..at + sector.len()].copy_from_slice(sector);
            }
            let what = format!("{how} of the sectors of event {i}");
            check(name, image, &promises[mark], tmp.path(), &what);
        }
    }
    assert!(commits >= 12, "{commits} commits");
}

/// What `data=journal` adds: a write that fits a transaction is there as a whole or not at all.
#[test]
fn journaled_overwrites_are_atomic() {
    overwrites_are_atomic(open_journaled, false);
}

/// The same for one file with the attribute `j`; without it again, nothing old comes back out of the log.
#[test]
fn overwrites_of_a_journaled_file_are_atomic() {
    overwrites_are_atomic(open, true);
}

fn overwrites_are_atomic(open: fn(Arc<dyn uml_ext4::BlockStore>) -> Ext4, attribute: bool) {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    for (name, args) in [MATRIX[0], MATRIX[3]] {
        let args: Vec<&str> = args.iter().chain(&["-J", "size=4"]).copied().collect();
        let blank = std::fs::read(mkfs(tmp.path(), name, &args, 16, None)).unwrap();
        let rec = Recorder::new(blank.clone());
        let fs = open(rec.clone());
        let f = fs.create(ROOT_INO, b"f", &NewInode::new(0o100644, 0, 0)).unwrap();
        if attribute {
            fs.set_data_journaling(f, true).unwrap();
        }
        let version = |k: usize| vec![k as u8; 20_000];
        for k in 0..12 {
            fs.write(f, 300, &version(k), false).unwrap();
            same(&read_all(&fs, f)[300..], &version(k), name);
            fs.fsync(f).unwrap();
            rec.mark(k);
            if k % 5 == 4 {
                fs.checkpoint().unwrap();
                same(&read_all(&fs, f)[300..], &version(k), name);
            }
        }
        let atomic = rec.log().len();
        if attribute {
            fs.set_data_journaling(f, false).unwrap();
            fs.write(f, 300, &version(12), false).unwrap();
            fs.fsync(f).unwrap();
            rec.mark(12);
            let g = fs.create(ROOT_INO, b"g", &NewInode::new(0o100644, 0, 0)).unwrap();
            fs.fsync(g).unwrap();
        }
        drop(fs);
        let log = rec.log();
        let first = log.iter().position(|e| matches!(e, Event::Mark(0))).unwrap();
        for n in first + 1..=log.len() {
            for (image, mark) in [cut(&blank, &log, n), cut_reordered(&blank, &log, n, n as u64)] {
                let fs = open_ro(Arc::new(MemStore::new(image)));
                let data = read_all(&fs, resolve(&fs, "f"));
                if n > atomic && mark < 12 {
                    // Being overwritten in place.
                    continue;
                }
                let k = usize::from(data[300]);
                assert!(k == mark || k == mark + 1, "{name}, event {n}: {k} after {mark}");
                same(&data[300..], &version(k), &format!("{name}, event {n}: parts of two writes"));
            }
        }
    }
}
