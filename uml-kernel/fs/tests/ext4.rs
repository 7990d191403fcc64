//! ext4 through the VFS, on images made by mke2fs and checked by e2fsck (package e2fsprogs).

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::disk::Image;
use common::*;
use uml_abi::errno::*;
use uml_core::io::BufSource;
use uml_core::task::Cred;
use uml_core::vfs::SuperBlock;
use uml_fs::ext4::Ext4Fs;
use uml_mm::MapAccess;

fn tool(name: &str, args: &[&str]) -> std::process::Output {
    let r = Command::new(name).args(args).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").output();
    match r {
        Ok(o) => o,
        Err(e) => panic!("{name} is needed by this test (package e2fsprogs): {e}"),
    }
}

/// True when e2fsprogs is there; says so otherwise.
fn installed() -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let dirs = format!("{path}:/usr/sbin:/sbin");
    let ok = dirs.split(':').any(|d| std::path::Path::new(d).join("mke2fs").exists());
    if !ok {
        eprintln!("SKIPPED: e2fsprogs (mke2fs, e2fsck) is not installed");
    }
    ok
}

fn image(kind: &str) -> tempfile::NamedTempFile {
    let f = tempfile::NamedTempFile::new().unwrap();
    f.as_file().set_len(32 << 20).unwrap();
    let path = f.path().to_str().unwrap();
    let o = tool("mke2fs", &["-q", "-F", "-t", kind, path]);
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    f
}

fn open(f: &tempfile::NamedTempFile, ro: bool) -> Arc<Ext4Fs> {
    open_on(Image::of(f.reopen().unwrap()), ro)
}

fn open_on(image: Arc<Image>, ro: bool) -> Arc<Ext4Fs> {
    Ext4Fs::open(
        image,
        ro,
        b"errors=remount-ro",
        &uml_pagecache::Pool::new(64 << 20),
        std::sync::Weak::new(),
        None,
    )
    .unwrap()
}

#[test]
fn files_survive_an_unmount() {
    if !installed() {
        return;
    }
    for kind in ["ext2", "ext3", "ext4"] {
        let f = image(kind);
        let k = kernel();
        {
            let fs = open(&f, false);
            assert_eq!(fs.fs_type(), kind);
            let t = task_on(&k, fs.clone(), Cred::root());
            let sh = Sh(&t);
            sh.mkdir("/d").unwrap();
            for i in 0..50 {
                sh.write(&format!("/d/f{i}"), &"x".repeat(i * 700)).unwrap();
            }
            sh.append("/d/f3", "end").unwrap();
            sh.symlink("d/f3", "/l").unwrap();
            sh.link("/d/f4", "/hard").unwrap();
            sh.mv("/d/f5", "/moved").unwrap();
            sh.unlink("/d/f6").unwrap();
            assert_eq!(sh.rmdir("/d").err(), Some(ENOTEMPTY));
            let open = sh.open("/d/f7", libc::O_RDWR).unwrap();
            sh.unlink("/d/f7").unwrap();
            assert_eq!(sh.read_file(&open).unwrap().len(), 4900);
            drop(open);
            for (name, ino) in sh.ls_ino("/d").unwrap() {
                assert_eq!(sh.lstat(&format!("/d/{name}")).unwrap().ino, ino);
            }
            let x = sh.look("/moved", 0).unwrap();
            x.inode().xattr().unwrap().set(b"user.k", b"v", 0).unwrap();
            drop(x);
            drop(t);
            fs.unmount();
        }
        let o = tool("e2fsck", &["-fn", f.path().to_str().unwrap()]);
        assert!(o.status.success(), "{kind}: {}", String::from_utf8_lossy(&o.stdout));
        let t = task_on(&k, open(&f, true), Cred::root());
        let sh = Sh(&t);
        assert_eq!(sh.read("/l").unwrap(), format!("{}end", "x".repeat(2100)));
        assert_eq!(sh.stat("/hard").unwrap().nlink, 2);
        assert_eq!(sh.read("/moved").unwrap().len(), 3500);
        assert_eq!(sh.ls("/d").unwrap().len(), 47);
        let x = sh.look("/moved", 0).unwrap();
        assert_eq!(x.inode().xattr().unwrap().get(b"user.k").unwrap(), b"v");
        assert_eq!(sh.write("/new", "").err(), Some(EROFS));
    }
}

/// Times are as fine as somebody looks at them, and an fsync(2) that has no new time to write does not commit one.
#[test]
fn stamps_are_new_for_those_who_look() {
    if !installed() {
        return;
    }
    let f = image("ext4");
    let k = kernel();
    let disk = Image::of(f.reopen().unwrap());
    let fs = open_on(disk.clone(), false);
    let t = task_on(&k, fs.clone(), Cred::root());
    let sh = Sh(&t);
    sh.write("/other", "").unwrap();
    sh.write("/f", "a").unwrap();
    let file = sh.open("/f", libc::O_RDWR).unwrap();
    let other = sh.open("/other", libc::O_RDWR).unwrap();
    let times = || {
        let m = sh.stat("/f").unwrap();
        assert_eq!((m.mtime.sec, m.mtime.nsec), (m.ctime.sec, m.ctime.nsec));
        (m.mtime.sec, m.mtime.nsec)
    };
    for _ in 0..100 {
        let before = times();
        file.write_at(&t, 0, &mut BufSource::new(b"x")).unwrap();
        let after = times();
        assert!(after > before, "a write after a look: {after:?} is not after {before:?}");
        other.write_at(&t, 0, &mut BufSource::new(b"x")).unwrap();
        let o = sh.stat("/other").unwrap().mtime;
        assert!((o.sec, o.nsec) >= after, "a later write to another file has an earlier time");
    }
    file.ops.fsync(&t, false).unwrap();
    let (start, flushes) = (std::time::Instant::now(), disk.flushes.load(Ordering::SeqCst));
    for _ in 0..100 {
        file.write_at(&t, 0, &mut BufSource::new(b"y")).unwrap();
        file.ops.fsync(&t, false).unwrap();
    }
    // A tick of the host is a millisecond at least; a commit flushes twice, a write without one once. The flusher
    // commits now and then, too.
    let ticks = start.elapsed().as_millis() as u64;
    let flushes = disk.flushes.load(Ordering::SeqCst) - flushes;
    assert!(flushes >= 100, "an fsync did not flush");
    assert!(flushes <= 100 + 2 * ticks + 20, "{flushes} flushes for 100 fsyncs in {ticks} ms");
}

#[test]
fn mappings_and_file_calls_see_the_same_bytes() {
    if !installed() {
        return;
    }
    let f = image("ext4");
    let k = kernel();
    let fs = open(&f, false);
    let t = task_on(&k, fs.clone(), Cred::root());
    let sh = Sh(&t);
    sh.write("/m", &"a".repeat(10_000)).unwrap();
    let file = sh.open("/m", libc::O_RDWR).unwrap();
    let map = file.ops.mappable().unwrap();
    let access = MapAccess { shared: true, may_write: true };
    let fd = map.host_fd(0, 12288, access).unwrap();
    // The mapping's view of the bytes, through the descriptor the host would map.
    let host = File::open(format!("/proc/self/fd/{fd}")).unwrap();
    let host_w = File::options().write(true).open(format!("/proc/self/fd/{fd}")).unwrap();
    let mut b = [0; 4];
    file.write_at(&t, 5000, &mut BufSource::new(b"BCDE")).unwrap();
    host.read_exact_at(&mut b, 5000).unwrap();
    assert_eq!(&b, b"BCDE");
    host_w.write_all_at(b"WXYZ", 7000).unwrap();
    assert_eq!(&sh.read_file(&file).unwrap()[6999..7005], "aWXYZa");
    // Truncation shows on both sides, and what comes back is zeros.
    uml_core::vfs::attr::set_size(&t, &file.path, 6000).unwrap();
    uml_core::vfs::attr::set_size(&t, &file.path, 8000).unwrap();
    host.read_exact_at(&mut b, 7000).unwrap();
    assert_eq!(b, [0; 4]);
    host_w.write_all_at(b"last", 7996).unwrap();
    drop((host, host_w, map));
    drop(file);
    drop(t);
    fs.unmount();
    let t = task_on(&k, open(&f, true), Cred::root());
    let text = Sh(&t).read("/m").unwrap();
    assert_eq!((text.len(), &text[5000..5004], &text[7996..]), (8000, "BCDE", "last"));
}

#[test]
fn groups_and_options_show_below_proc() {
    if !installed() {
        return;
    }
    let f = image("ext4");
    let k = kernel();
    let fs = open(&f, false);
    assert_eq!(fs.proc_files(), Some(("ext4", &["mb_groups", "options"][..])));
    assert_eq!(fs.proc_text("else"), Err(ENOENT));
    let t = task_on(&k, fs.clone(), Cred::root());
    let sh = Sh(&t);
    for i in 0..20 {
        sh.write(&format!("/f{i}"), &"x".repeat(9000)).unwrap();
    }
    for i in (0..20).step_by(2) {
        sh.unlink(&format!("/f{i}")).unwrap();
    }
    fs.sync().unwrap();
    let text = fs.proc_text("mb_groups").unwrap();
    assert!(text.starts_with("#group: free  frags first [ 2^0   2^1   2^2  "), "{text}");
    let info = fs.statfs().unwrap();
    let mut free = 0;
    for line in text.lines().skip(1) {
        let n: Vec<u64> = line[8..].split_whitespace().filter_map(|w| w.parse().ok()).collect();
        let pieces: u64 = n[3..].iter().enumerate().map(|(i, c)| c << i).sum();
        assert_eq!(n.len(), 17, "{line}");
        assert_eq!(pieces, n[0], "{line}");
        assert!(n[1] <= n[0], "{line}");
        free += n[0];
    }
    assert_eq!(free, info.blocks_free);
    let options = fs.proc_text("options").unwrap();
    assert!(options.starts_with("rw\nbsddf\nnogrpid\n"), "{options}");
    assert!(options.contains("\nerrors=remount-ro\ncommit=5\ndata=ordered\n"), "{options}");
    fs.unmount();
}
