//! Journals that e2fsprogs wrote, in every checksum format.

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::recorder::{Event, Recorder, cut, cut_reordered};
use common::*;
use uml_ext4::{Ext4, MemStore, MountError};

/// Writes a journal with debugfs: `commands` run between open and close.
fn write_journal(img: &Path, dir: &Path, open: &str, commands: &[String]) {
    let script = dir.join("script");
    let text = format!("journal_open {open}\n{}\njournal_close\n", commands.join("\n"));
    std::fs::write(&script, text).unwrap();
    let out = Command::new("/usr/sbin/debugfs")
        .arg("-w")
        .arg("-f")
        .arg(&script)
        .arg(img)
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && err.lines().count() <= 1, "{err}");
}

#[test]
fn replays_every_checksum_format_with_revokes() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let block = tmp.path().join("block");
    for (name, args, open) in [
        ("plain", MATRIX[3].1, ""),
        ("plain-64", &["-t", "ext4", "-b", "1024", "-O", "64bit,^metadata_csum"][..], ""),
        ("v2", MATRIX[0].1, "-c -v 2"),
        ("v3", MATRIX[0].1, "-c -v 3"),
        ("v3-1k", MATRIX[1].1, "-c -v 3"),
    ] {
        let img = mkfs(tmp.path(), name, args, 16, None);
        let fs = open_ro(mem(&img));
        let bs = fs.info().block_size as usize;
        drop(fs);
        // Blocks at the end are free, so their contents show what was
        // replayed. One looks like a log block and must be escaped.
        let last = (16 << 20) / bs as u64;
        let (a, b, c) = (last - 5, last - 6, last - 7);
        let mut escaped = vec![0x11u8; bs];
        escaped[..4].copy_from_slice(&0xc03b_3998u32.to_be_bytes());
        std::fs::write(&block, [&escaped[..], &vec![0x22; bs], &vec![0x33; bs]].concat()).unwrap();
        write_journal(
            &img,
            tmp.path(),
            open,
            &[
                format!("journal_write -b {a},{b},{c} {}", block.display()),
                format!("journal_write -r {b}"),
            ],
        );
        let image = std::fs::read(&img).unwrap();
        let store = Arc::new(MemStore::new(image.clone()));
        let fs = open_ro(store.clone());
        let r = fs.replay_report();
        assert_eq!((r.transactions, r.blocks, r.revoked), (2, 2, 1), "{name}");
        assert!(store.snapshot() == image, "{name}: a read-only mount wrote");
        drop(fs);
        let fs = common::open(store.clone());
        fs.unmount().unwrap();
        let after = store.snapshot();
        let at = |n: u64| &after[n as usize * bs..][..bs];
        same(at(a), &escaped, name);
        same(at(b), &image[b as usize * bs..][..bs], "a revoked block");
        same(at(c), &vec![0x33; bs], name);
        assert_clean_bytes(tmp.path(), &after, name);

        // A data block of the log is damaged: with checksums the mount is
        // refused rather than the damage spread.
        let mut bad = image.clone();
        let copy = (0..bad.len() / bs)
            .find(|n| bad[n * bs..][..bs].iter().all(|x| *x == 0x33))
            .expect("the copy in the log");
        bad[copy * bs + 100] ^= 1;
        let refused = Ext4::open(Arc::new(MemStore::new(bad)), options());
        match (open.is_empty(), refused) {
            (true, Ok(_)) | (false, Err(MountError::Journal(_))) => {}
            (_, Ok(_)) => panic!("{name}: damage was replayed"),
            (_, Err(e)) => panic!("{name}: {e}"),
        }
    }
}

#[test]
fn noload_reads_without_replay_and_never_writes() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let img = mkfs(tmp.path(), "noload", MATRIX[0].1, 16, None);
    let block = tmp.path().join("block");
    std::fs::write(&block, vec![7; 4096]).unwrap();
    write_journal(&img, tmp.path(), "-c", &[format!("journal_write -b 4000 {}", block.display())]);
    let opts = |read_only| uml_ext4::Options { noload: true, read_only, ..options() };
    let fs = Ext4::open(mem(&img), opts(true)).unwrap();
    assert_eq!(fs.replay_report().transactions, 0);
    assert!(fs.remount_writable().is_err());
    assert!(matches!(Ext4::open(mem(&img), opts(false)), Err(MountError::Journal(_))));
}

#[test]
fn journaled_data_needs_a_journal() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let opts = uml_ext4::Options { journal_data: true, ..options() };
    let store = mem(&mkfs(tmp.path(), "none", MATRIX[11].1, 16, None));
    assert!(matches!(Ext4::open(store, opts), Err(MountError::Journal(_))));
}

/// Blocks whose contents went through the log are used again by a file whose contents do not: no replay puts the old
/// contents back.
#[test]
fn journaled_contents_do_not_come_back() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let img = mkfs(tmp.path(), "again", MATRIX[0].1, 16, None);
    let store = mem(&img);
    let new = uml_ext4::NewInode::new(0o100644, 0, 0);
    let fs = common::open_journaled(store.clone());
    let old = fs.create(2, b"old", &new).unwrap();
    fs.write(old, 0, &vec![1; 400_000], false).unwrap();
    fs.commit().unwrap();
    let at = fs.map(old, 0, 1).unwrap().physical;
    fs.unlink(2, b"old").unwrap();
    fs.forget(old).unwrap();
    fs.commit().unwrap();
    let replayed = open_ro(Arc::new(MemStore::new(store.snapshot()))).replay_report();
    assert!(replayed.revoked >= 97, "freed contents would be replayed: {replayed:?}");
    // Directory blocks now, then files.
    let dir = fs.mkdir(2, b"d", &uml_ext4::NewInode::new(0o755, 0, 0)).unwrap();
    let mut reused = fs.map(dir, 0, 1).unwrap().physical == at;
    for i in 0..60u8 {
        let f = fs.create(dir, format!("{i}").as_bytes(), &new).unwrap();
        fs.write(f, 0, &vec![100 + i; 8192], false).unwrap();
        reused |= fs.map(f, 0, 1).unwrap().physical == at;
    }
    assert!(reused, "the test needs the freed blocks to be used again");
    fs.commit().unwrap();
    drop(fs);
    std::fs::write(&img, store.snapshot()).unwrap();
    let (code, text) = fsck(&img, "-p");
    assert!(matches!(code, 0 | 1), "{text}");
    for fs in [open_ro(store.clone()), open_ro(mem(&img))] {
        for i in 0..60u8 {
            let f = resolve(&fs, &format!("d/{i}"));
            same(&read_all(&fs, f), &vec![100 + i; 8192], "a new file");
        }
    }
}

/// Many small commits use the same part of the log again and again, and what is replayed is the newest.
#[test]
fn a_worn_log_is_used_from_its_start() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let img = mkfs(tmp.path(), "worn", &["-t", "ext4", "-b", "4096", "-J", "size=16"], 64, None);
    let blank = std::fs::read(&img).unwrap();
    let rec = Recorder::new(blank.clone());
    let fs = common::open(rec.clone());
    let new = uml_ext4::NewInode::new(0o100644, 0, 0);
    let f = fs.create(2, b"f", &new).unwrap();
    for i in 0..700u32 {
        fs.write(f, 0, &i.to_le_bytes(), false).unwrap();
        let t = uml_ext4::Timestamp { sec: i64::from(i), nsec: 0 };
        fs.setattr(f, &uml_ext4::SetAttr { mtime: Some(t), ..Default::default() }).unwrap();
        fs.fsync(f).unwrap();
        rec.mark(i as usize);
    }
    drop(fs);
    let log = rec.log();
    let places: std::collections::BTreeSet<u64> = log
        .iter()
        .filter_map(|e| match e {
            Event::Write(at, data) if data.starts_with(&[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 2]) => {
                Some(*at)
            }
            _ => None,
        })
        .collect();
    assert!(places.len() < 200, "700 commits at {} places", places.len());
    for n in (log.len() - 900..=log.len()).step_by(7) {
        for (image, mark) in [cut(&blank, &log, n), cut_reordered(&blank, &log, n, n as u64 * 3)] {
            let fs = open_ro(Arc::new(MemStore::new(image)));
            let sec = fs.attr(resolve(&fs, "f")).unwrap().mtime.sec as usize;
            assert!(sec == mark || sec == mark + 1, "event {n}: {sec} after {mark}");
        }
    }
    for n in (log.len() - 900..=log.len()).step_by(97) {
        let (image, _) = cut_reordered(&blank, &log, n, n as u64 * 5);
        std::fs::write(&img, image).unwrap();
        let (code, text) = fsck(&img, "-p");
        assert!(matches!(code, 0 | 1), "event {n}: {text}");
        assert_clean(&img, "after -p");
    }
}

#[test]
fn orphans_in_list_and_file_are_finished() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    for i in [0, 2, 3] {
        let (name, args) = MATRIX[i];
        let store = mem(&mkfs(tmp.path(), name, args, 16, None));
        let fs = common::open(store.clone());
        let new = uml_ext4::NewInode::new(0o100644, 0, 0);
        let mut inos = Vec::new();
        for k in 0..20u32 {
            let n = format!("{k}");
            let f = fs.create(2, n.as_bytes(), &new).unwrap();
            fs.write(f, 0, &[1; 20_000], false).unwrap();
            fs.unlink(2, n.as_bytes()).unwrap();
            inos.push(f);
        }
        // Some go in the middle of the list, before the crash.
        for f in inos.iter().step_by(3) {
            fs.forget(*f).unwrap();
        }
        let unnamed = fs.create_unnamed(2, &new).unwrap();
        fs.link(unnamed, 2, b"named after all").unwrap();
        fs.create_unnamed(2, &new).unwrap();
        fs.commit().unwrap();
        drop(fs);
        // e2fsck agrees with what is on the disk now.
        let img = tmp.path().join("orphans.img");
        std::fs::write(&img, store.snapshot()).unwrap();
        let (code, text) = fsck(&img, "-p");
        assert!(matches!(code, 0 | 1), "{name}: {text}");
        let fs = common::open(store.clone());
        assert_eq!(list(&fs, 2).len(), 2, "lost+found and the named file");
        fs.unmount().unwrap();
        assert_clean_bytes(tmp.path(), &store.snapshot(), name);
    }
}
