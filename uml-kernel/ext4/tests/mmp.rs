//! Multi-mount protection: e2fsprogs made the block, and says what is in it.

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use uml_abi::errno::{EBUSY, ETIMEDOUT};
use uml_ext4::{Ext4, FileStore, MountError, NewInode, Options, ROOT_INO};

/// What is done while a mount watches the block; its number of times before counts from 0.
type Meanwhile = Box<dyn Fn(usize) -> bool + Send + Sync>;

fn store(img: &Path) -> Arc<FileStore> {
    let f = std::fs::File::options().read(true).write(true).open(img).unwrap();
    Arc::new(FileStore::new(f, true).unwrap())
}

/// Mounts; returns also how long was waited, in seconds.
fn mount(img: &Path, meanwhile: Meanwhile) -> (Result<Ext4, MountError>, Vec<u64>) {
    let waits: Arc<Mutex<Vec<u64>>> = Arc::default();
    let told = waits.clone();
    let wait = move |t: Duration| {
        let n = {
            let mut w = told.lock().unwrap();
            w.push(t.as_secs());
            w.len() - 1
        };
        meanwhile(n)
    };
    let opts = Options {
        wait: Arc::new(wait),
        node: b"here".to_vec(),
        device: b"ubdb".to_vec(),
        ..options()
    };
    let r = Ext4::open(store(img), opts);
    let w = waits.lock().unwrap().clone();
    (r, w)
}

fn alone() -> Meanwhile {
    Box::new(|_| true)
}

/// What debugfs(8) says of the block, without taking the filesystem itself.
fn block(img: &Path) -> String {
    let out = std::process::Command::new("/usr/sbin/debugfs")
        .args(["-R", "dump_mmp"])
        .arg(img)
        .output()
        .unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Changes a word of the block of a filesystem without checksums.
fn change(img: &Path, at: u64, value: u32) {
    use std::os::unix::fs::FileExt;
    let f = std::fs::File::options().read(true).write(true).open(img).unwrap();
    let word = |at: u64| {
        let mut b = [0; 4];
        f.read_exact_at(&mut b, at).unwrap();
        u32::from_le_bytes(b)
    };
    let (size, block) = (1024u64 << word(1024 + 0x18), u64::from(word(1024 + 0x168)));
    f.write_all_at(&value.to_le_bytes(), block * size + at).unwrap();
}

/// Features of the images that [`change`] changes.
const PLAIN: &[&str] = &["-t", "ext4", "-O", "mmp,^metadata_csum"];
/// Offsets in the block.
const MAGIC: u64 = 0;
const SEQ: u64 = 4;

#[test]
fn a_mount_counts_and_keeps_others_out() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    for (name, args) in [
        ("sums", &["-t", "ext4", "-O", "mmp"][..]),
        (
            "without",
            &[
                "-t",
                "ext4",
                "-b",
                "1024",
                "-O",
                "mmp,^metadata_csum",
                "-E",
                "mmp_update_interval=7",
            ],
        ),
    ] {
        let img = mkfs(tmp.path(), name, args, 16, None);
        let interval = if name == "sums" { 5 } else { 7 };
        let (fs, waits) = mount(&img, alone());
        let fs = fs.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(waits, [], "{name}: a clean filesystem is taken at once");
        assert_eq!(fs.heartbeat_interval(), Some(Duration::from_secs(interval)));
        let text = block(&img);
        assert!(text.contains("here") && text.contains("ubdb"), "{name}: debugfs says {text}");
        let f = fs.create(ROOT_INO, b"f", &NewInode::new(0o100644, 0, 0)).unwrap();
        fs.write(f, 0, b"contents", false).unwrap();
        fs.fsync(f).unwrap();
        fs.heartbeat().unwrap();
        assert_ne!(block(&img), text, "{name}: nothing was counted");
        // Another machine sees it count.
        let fs = Arc::new(fs);
        let alive = fs.clone();
        let (second, waits) = mount(&img, Box::new(move |_| alive.heartbeat().is_ok()));
        let e = second.err().expect("two mounts");
        assert_eq!(e.errno(), EBUSY);
        assert!(e.to_string().contains("here has it mounted from ubdb"), "{name}: {e}");
        assert_eq!(waits, [interval * 2 + 1], "{name}");
        // Reading only is allowed, as on Linux.
        let (reading, waits) = {
            let opts = Options { read_only: true, ..options() };
            (Ext4::open(store(&img), opts), Vec::<u64>::new())
        };
        assert!(reading.is_ok() && waits.is_empty());
        fs.unmount().unwrap();
        assert!(block(&img).to_lowercase().contains("ff4d4d50"), "{name}: {}", block(&img));
        assert_clean(&img, name);
    }
}

#[test]
fn what_a_dead_machine_left_is_taken_after_a_while() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let img = mkfs(tmp.path(), "dead", &["-t", "ext4", "-O", "mmp"], 16, None);
    drop(mount(&img, alone()).0.unwrap());
    let (fs, waits) = mount(&img, alone());
    let fs = fs.unwrap();
    assert_eq!(waits, [11, 11], "before it is taken, and whether somebody else took it, too");
    fs.unmount().unwrap();
    drop(mount(&img, alone()).0.unwrap());
    let (r, _) = mount(&img, Box::new(|_| false));
    assert_eq!(r.err().unwrap().errno(), ETIMEDOUT, "a signal ends the watch");
    // Two that take it at the same time: the one that wrote last has it.
    let other = img.clone();
    let taken = Arc::new(Mutex::new(None));
    let keep = taken.clone();
    let (r, waits) = mount(
        &img,
        Box::new(move |n| {
            if n == 1 {
                *keep.lock().unwrap() = mount(&other, alone()).0.ok();
            }
            true
        }),
    );
    assert_eq!((r.err().unwrap().errno(), waits.len()), (EBUSY, 2));
    let fs = taken.lock().unwrap().take().expect("the other one has it");
    fs.unmount().unwrap();
    assert_clean(&img, "dead");
}

#[test]
fn a_foreign_count_stops_writing() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let img = mkfs(tmp.path(), "foreign", PLAIN, 16, None);
    let (fs, _) = mount(&img, alone());
    let fs = fs.unwrap();
    // A machine that did not look.
    change(&img, SEQ, 77);
    assert_eq!(fs.heartbeat(), Err(EBUSY));
    assert!(fs.is_read_only());
    let made = fs.create(ROOT_INO, b"f", &NewInode::new(0o100644, 0, 0));
    assert!(made.is_err(), "written to another machine's filesystem");
    let _ = fs.unmount();
    assert!(!block(&img).to_lowercase().contains("ff4d4d50"), "it is not ours to call clean");
}

#[test]
fn damaged_blocks_and_a_running_e2fsck_refuse_the_mount() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let img = mkfs(tmp.path(), "damaged", PLAIN, 16, None);
    change(&img, SEQ, 0xe24d_4d50);
    assert_eq!(mount(&img, alone()).0.err().unwrap().errno(), EBUSY);
    change(&img, SEQ, 0xff4d_4d50);
    let (fs, waits) = mount(&img, alone());
    assert!(waits.is_empty());
    fs.unwrap().unmount().unwrap();
    change(&img, MAGIC, 0x1234);
    assert!(mount(&img, alone()).0.is_err());
}
