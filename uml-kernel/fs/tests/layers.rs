//! hostfs over a directory of the host, overlay over hostfs and tmpfs.

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

use common::*;
use uml_abi::errno::*;
use uml_core::kernel::Kernel;
use uml_core::task::{Cred, Task};
use uml_core::vfs::modify::RENAME_EXCHANGE;
use uml_core::vfs::{NodeKind, SuperBlock, walk};
use uml_fs::hostfs::{Config, HostFs};
use uml_fs::overlay::{Layers, OverlayFs};

fn host_task(k: &Arc<Kernel>, dir: &tempfile::TempDir) -> Arc<Task> {
    let config = Config { root: dir.path().as_os_str().as_encoded_bytes().to_vec(), append: false };
    let fs = HostFs::open(k, &config, b"/", false).unwrap();
    task_on(k, fs, Cred::root())
}

#[test]
fn hostfs_shows_and_changes_the_host() {
    let k = kernel();
    let dir = tempfile::tempdir().unwrap();
    let p = dir.path();
    std::fs::write(p.join("f"), "from the host").unwrap();
    let t = host_task(&k, &dir);
    let sh = Sh(&t);
    assert_eq!(sh.read("/f").unwrap(), "from the host");
    sh.write("/g", "from the guest").unwrap();
    assert_eq!(std::fs::read_to_string(p.join("g")).unwrap(), "from the guest");
    // What the host changes shows at once.
    std::fs::write(p.join("f"), "changed").unwrap();
    assert_eq!(sh.read("/f").unwrap(), "changed");
    std::fs::remove_file(p.join("f")).unwrap();
    assert_eq!(sh.read("/f").err(), Some(ENOENT));
    std::fs::write(p.join("f"), "another").unwrap();
    assert_eq!(sh.read("/f").unwrap(), "another");
    let before = sh.stat("/g").unwrap();
    assert_eq!(before.ino, std::fs::metadata(p.join("g")).unwrap().ino());
    sh.mkdir("/d").unwrap();
    sh.mv("/g", "/d/h").unwrap();
    assert_eq!(sh.stat("/d/h").unwrap().ino, before.ino);
    sh.chmod("/d/h", 0o640).unwrap();
    assert_eq!(std::fs::metadata(p.join("d/h")).unwrap().permissions().mode() & 0o777, 0o640);
    sh.link("/d/h", "/l").unwrap();
    assert_eq!(sh.stat("/l").unwrap().nlink, 2);
    sh.append("/l", "!").unwrap();
    assert_eq!(sh.read("/d/h").unwrap(), "from the guest!");
    // An open file survives its name.
    let f = sh.open("/l", libc::O_RDWR).unwrap();
    sh.unlink("/l").unwrap();
    sh.unlink("/d/h").unwrap();
    assert_eq!(sh.read_file(&f).unwrap(), "from the guest!");
    assert_eq!(f.inode().metadata().unwrap().nlink, 0);
    assert_eq!(sh.rmdir("/d"), Ok(()));
    assert_eq!(sh.ls("/").unwrap(), ["f"]);
    uml_core::vfs::attr::truncate(&t, &sh.look("/f", 0).unwrap(), 3).unwrap();
    assert_eq!(sh.read("/f").unwrap(), "ano");
    assert_eq!(sh.stat("/f").unwrap().size, 3);
}

#[test]
fn nothing_leads_out_of_hostfs() {
    let k = kernel();
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join("in");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(outer.path().join("secret"), "s").unwrap();
    std::os::unix::fs::symlink("../secret", inner.join("up")).unwrap();
    std::os::unix::fs::symlink(outer.path().join("secret"), inner.join("abs")).unwrap();
    std::os::unix::fs::symlink(outer.path(), inner.join("dir")).unwrap();
    let config = Config { root: inner.as_os_str().as_encoded_bytes().to_vec(), append: false };
    let t = task_on(&k, HostFs::open(&k, &config, b"", false).unwrap(), Cred::root());
    let sh = Sh(&t);
    for p in ["/up", "/abs", "/dir/secret", "/../secret", "/dir"] {
        assert_eq!(sh.stat(p).err(), Some(ENOENT), "{p}");
    }
    for p in [&b"/.."[..], b"dir", b"../", b"x/../.."] {
        assert!(HostFs::open(&k, &config, p, false).is_err());
    }
    // A directory swapped for a link between two uses is not followed.
    std::fs::create_dir(inner.join("d")).unwrap();
    std::fs::write(inner.join("d/secret"), "mine").unwrap();
    sh.chdir("/d").unwrap();
    assert_eq!(sh.read("secret").unwrap(), "mine");
    std::fs::rename(inner.join("d"), inner.join("e")).unwrap();
    std::os::unix::fs::symlink(outer.path(), inner.join("d")).unwrap();
    assert_eq!(sh.read("secret").unwrap(), "mine");
    assert_eq!(sh.read("/d/secret").err(), Some(ENOENT));
}

#[test]
fn hostfs_uses_few_descriptors_and_finds_files_again() {
    let k = kernel();
    let dir = tempfile::tempdir().unwrap();
    let t = host_task(&k, &dir);
    let sh = Sh(&t);
    for d in 0..40 {
        sh.mkdir(&format!("/d{d}")).unwrap();
        for f in 0..60 {
            sh.write(&format!("/d{d}/f{f}"), &format!("{d}.{f}")).unwrap();
        }
    }
    let fds = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    for _ in 0..2 {
        for d in 0..40 {
            for f in 0..60 {
                assert_eq!(sh.read(&format!("/d{d}/f{f}")).unwrap(), format!("{d}.{f}"));
            }
        }
    }
    // Other tests of this program run beside this one and hold some too.
    assert!(fds() < 2500, "{}", fds());
    assert_eq!(sh.ls("/d7").unwrap().len(), 60);
}

/// Lower: a trusted host directory; upper: tmpfs.
fn overlay(k: &Arc<Kernel>, dir: &tempfile::TempDir) -> Arc<OverlayFs> {
    let config = Config { root: dir.path().as_os_str().as_encoded_bytes().to_vec(), append: false };
    let lower: Arc<dyn SuperBlock> = HostFs::open(k, &config, b"/", true).unwrap();
    OverlayFs::over(k, &lower, &tmpfs(k)).unwrap()
}

fn lower_tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let p = dir.path();
    std::fs::create_dir_all(p.join("etc/deep/er")).unwrap();
    std::fs::write(p.join("etc/passwd"), "root").unwrap();
    std::fs::write(p.join("etc/group"), "wheel").unwrap();
    std::fs::write(p.join("etc/deep/er/file"), "bottom").unwrap();
    std::os::unix::fs::symlink("passwd", p.join("etc/link")).unwrap();
    std::fs::set_permissions(p.join("etc/group"), PermissionsExt::from_mode(0o640)).unwrap();
    dir
}

/// The lower tree as text, to show that nothing touched it.
fn snapshot(dir: &tempfile::TempDir) -> Vec<(String, u64, i64, u32, String)> {
    fn walk(p: &std::path::Path, out: &mut Vec<(String, u64, i64, u32, String)>) {
        let mut v: Vec<_> = std::fs::read_dir(p).unwrap().map(|e| e.unwrap().path()).collect();
        v.sort();
        for p in v {
            let m = std::fs::symlink_metadata(&p).unwrap();
            let text =
                if m.is_file() { std::fs::read_to_string(&p).unwrap() } else { String::new() };
            out.push((p.display().to_string(), m.ino(), m.mtime_nsec(), m.mode(), text));
            if m.is_dir() {
                walk(&p, out);
            }
        }
    }
    let mut out = Vec::new();
    walk(dir.path(), &mut out);
    out
}

#[test]
fn overlay_changes_only_the_upper_layer() {
    let k = kernel();
    let dir = lower_tree();
    let before = snapshot(&dir);
    let t = task_on(&k, overlay(&k, &dir), Cred::root());
    let sh = Sh(&t);
    assert_eq!(sh.read("/etc/link").unwrap(), "root");
    let (ino, mtime) = (sh.stat("/etc/passwd").unwrap().ino, sh.stat("/etc/group").unwrap().mtime);
    let dir_ino = sh.stat("/etc").unwrap().ino;
    let reader = sh.open("/etc/passwd", libc::O_RDONLY).unwrap();
    sh.append("/etc/passwd", ":x").unwrap();
    assert_eq!(sh.read("/etc/passwd").unwrap(), "root:x");
    // The number stays, and a reader goes on with the new contents.
    assert_eq!(sh.stat("/etc/passwd").unwrap().ino, ino);
    assert_eq!(sh.read_file(&reader).unwrap(), "root:x");
    sh.chmod("/etc/group", 0o600).unwrap();
    let g = sh.stat("/etc/group").unwrap();
    assert_eq!((g.mode & 0o7777, g.mtime, g.size), (0o600, mtime, 5));
    sh.write("/etc/deep/er/new", "made").unwrap();
    assert_eq!(sh.ls("/etc/deep/er").unwrap(), ["file", "new"]);
    assert_eq!(sh.stat("/etc").unwrap().ino, dir_ino);
    for (name, ino) in sh.ls_ino("/etc").unwrap() {
        assert_eq!(sh.lstat(&format!("/etc/{name}")).unwrap().ino, ino, "{name}");
    }
    sh.write("/etc/passwd", "").unwrap();
    assert_eq!(sh.stat("/etc/passwd").unwrap().size, 0);
    assert_eq!(snapshot(&dir), before);
}

#[test]
fn overlay_hides_what_was_removed() {
    let k = kernel();
    let dir = lower_tree();
    let before = snapshot(&dir);
    let t = task_on(&k, overlay(&k, &dir), Cred::root());
    let sh = Sh(&t);
    let open = sh.open("/etc/passwd", libc::O_RDONLY).unwrap();
    sh.unlink("/etc/passwd").unwrap();
    assert_eq!(sh.read("/etc/passwd").err(), Some(ENOENT));
    assert_eq!(sh.read_file(&open).unwrap(), "root");
    assert_eq!(open.inode().metadata().unwrap().nlink, 0);
    assert_eq!(sh.ls("/etc").unwrap(), ["deep", "group", "link"]);
    sh.write("/etc/passwd", "new").unwrap();
    assert_eq!(sh.read("/etc/passwd").unwrap(), "new");
    assert_eq!(sh.rmdir("/etc/deep").err(), Some(ENOTEMPTY));
    sh.unlink("/etc/deep/er/file").unwrap();
    sh.rmdir("/etc/deep/er").unwrap();
    sh.rmdir("/etc/deep").unwrap();
    assert_eq!(sh.ls("/etc").unwrap(), ["group", "link", "passwd"]);
    // A new directory of the same name is empty.
    sh.mkdir("/etc/deep").unwrap();
    assert_eq!(sh.ls("/etc/deep").unwrap(), Vec::<String>::new());
    sh.write("/etc/deep/x", "").unwrap();
    assert_eq!(sh.ls("/etc/deep").unwrap(), ["x"]);
    // A file can take a directory's name and the other way round.
    sh.unlink("/etc/deep/x").unwrap();
    sh.rmdir("/etc/deep").unwrap();
    sh.write("/etc/deep", "file").unwrap();
    assert_eq!(sh.read("/etc/deep").unwrap(), "file");
    sh.unlink("/etc/group").unwrap();
    sh.mkdir("/etc/group").unwrap();
    assert_eq!(sh.ls("/etc/group").unwrap(), Vec::<String>::new());
    assert_eq!(snapshot(&dir), before);
}

#[test]
fn overlay_renames() {
    let k = kernel();
    let dir = lower_tree();
    let before = snapshot(&dir);
    let t = task_on(&k, overlay(&k, &dir), Cred::root());
    let sh = Sh(&t);
    let ino = sh.stat("/etc/passwd").unwrap().ino;
    sh.mv("/etc/passwd", "/moved").unwrap();
    assert_eq!(sh.stat("/moved").unwrap().ino, ino);
    assert_eq!(sh.read("/moved").unwrap(), "root");
    assert_eq!(sh.stat("/etc/passwd").err(), Some(ENOENT));
    // Lower directories are moved by copying, as mv(1) does on EXDEV.
    assert_eq!(sh.mv("/etc/deep", "/deep").err(), Some(EXDEV));
    sh.mkdir("/own").unwrap();
    sh.write("/own/f", "f").unwrap();
    sh.mv("/own", "/etc/own").unwrap();
    assert_eq!(sh.read("/etc/own/f").unwrap(), "f");
    // Over a removed lower directory: what it had does not show.
    sh.unlink("/etc/deep/er/file").unwrap();
    sh.rmdir("/etc/deep/er").unwrap();
    sh.mv("/etc/own", "/etc/deep/er").unwrap();
    assert_eq!(sh.ls("/etc/deep/er").unwrap(), ["f"]);
    sh.mv("/etc/deep/er", "/er2").unwrap();
    assert_eq!(sh.ls("/etc/deep").unwrap(), Vec::<String>::new());
    // Over an empty lower directory.
    sh.mkdir("/n").unwrap();
    sh.write("/n/g", "").unwrap();
    sh.mv("/n", "/etc/deep").unwrap();
    assert_eq!(sh.ls("/etc/deep").unwrap(), ["g"]);
    sh.write("/a", "A").unwrap();
    sh.rename("/a", "/etc/group", RENAME_EXCHANGE).unwrap();
    assert_eq!(
        (sh.read("/a").unwrap(), sh.read("/etc/group").unwrap()),
        ("wheel".into(), "A".into())
    );
    sh.link("/etc/link", "/hard").unwrap();
    assert_eq!(sh.lstat("/hard").unwrap().nlink, 2);
    assert_eq!(snapshot(&dir), before);
}

#[test]
fn overlay_of_several_lower_layers_is_read_only() {
    let k = kernel();
    let (a, b) = (tmpfs(&k), tmpfs(&k));
    for (fs, text) in [(&a, "a"), (&b, "b")] {
        let t = task_on(&k, fs.clone(), Cred::root());
        let sh = Sh(&t);
        sh.mkdir("/d").unwrap();
        sh.write("/d/both", text).unwrap();
        sh.write(&format!("/d/{text}"), text).unwrap();
        if text == "a" {
            sh.make("/d/b2", NodeKind::CharDevice(Default::default()), 0).unwrap();
        } else {
            sh.write("/d/b2", "hidden").unwrap();
        }
    }
    let layers = Layers { lower: vec![a.root(), b.root()], upper: None };
    let o = OverlayFs::new(&k, layers, String::new()).unwrap();
    let t = task_on(&k, o, Cred::root());
    let sh = Sh(&t);
    assert_eq!(sh.ls("/d").unwrap(), ["a", "b", "both"]);
    assert_eq!(sh.read("/d/both").unwrap(), "a");
    assert_eq!(sh.read("/d/b2").err(), Some(ENOENT));
    assert_eq!(sh.write("/d/x", "").err(), Some(EROFS));
    assert_eq!(sh.unlink("/d/a").err(), Some(EROFS));
}

#[test]
fn an_overlay_can_be_mounted_again() {
    let k = kernel();
    let dir = lower_tree();
    let config = Config { root: dir.path().as_os_str().as_encoded_bytes().to_vec(), append: false };
    let upper = tmpfs(&k);
    let ino;
    {
        let lower: Arc<dyn SuperBlock> = HostFs::open(&k, &config, b"/", true).unwrap();
        let t = task_on(&k, OverlayFs::over(&k, &lower, &upper).unwrap(), Cred::root());
        let sh = Sh(&t);
        ino = sh.stat("/etc/passwd").unwrap().ino;
        sh.append("/etc/passwd", "!").unwrap();
        sh.mv("/etc/passwd", "/etc/p2").unwrap();
        sh.unlink("/etc/deep/er/file").unwrap();
        sh.rmdir("/etc/deep/er").unwrap();
        sh.mkdir("/etc/deep/er").unwrap();
    }
    let lower: Arc<dyn SuperBlock> = HostFs::open(&k, &config, b"/", true).unwrap();
    let t = task_on(&k, OverlayFs::over(&k, &lower, &upper).unwrap(), Cred::root());
    let sh = Sh(&t);
    assert_eq!(sh.read("/etc/p2").unwrap(), "root!");
    assert_eq!(sh.stat("/etc/p2").unwrap().ino, ino);
    assert_eq!(sh.ls("/etc/deep/er").unwrap(), Vec::<String>::new());
    assert_eq!(sh.stat("/etc/passwd").err(), Some(ENOENT));
    let x = sh.look("/etc/p2", walk::FOLLOW).unwrap();
    assert_eq!(x.inode().xattr().unwrap().list().unwrap(), Vec::<Vec<u8>>::new());
}
