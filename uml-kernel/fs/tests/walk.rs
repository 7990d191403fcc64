//! Path walks, permissions and mounts over a tmpfs root.

mod common;

use std::sync::Arc;

use common::*;
use uml_abi::errno::*;
use uml_core::task::Cred;
use uml_core::vfs::mounting::PropagationType;
use uml_core::vfs::{DirFd, NodeKind, OpenHow, modify, mount, open, walk};

#[test]
fn links_dots_and_slashes() {
    let k = kernel();
    let t = root_task(&k);
    let sh = Sh(&t);
    sh.mkdir("/a").unwrap();
    sh.mkdir("/a/b").unwrap();
    sh.write("/a/b/f", "hello").unwrap();
    sh.symlink("a/b", "/l").unwrap();
    sh.symlink("/a/b/f", "/abs").unwrap();
    sh.symlink("loop", "/loop").unwrap();
    assert_eq!(sh.read("/l/f").unwrap(), "hello");
    assert_eq!(sh.read("//l//.././b/f").unwrap(), "hello");
    assert_eq!(sh.read("/../../abs").unwrap(), "hello");
    assert_eq!(sh.lstat("/l").unwrap().kind(), libc::S_IFLNK);
    assert_eq!(sh.lstat("/l/").unwrap().kind(), libc::S_IFDIR);
    assert_eq!(sh.stat("/abs/").err(), Some(ENOTDIR));
    assert_eq!(sh.stat("/a/b/f/").err(), Some(ENOTDIR));
    assert_eq!(sh.stat("/a/b/f/x").err(), Some(ENOTDIR));
    assert_eq!(sh.stat("/loop").err(), Some(ELOOP));
    assert_eq!(sh.stat("").err(), Some(ENOENT));
    assert_eq!(sh.stat(&"x".repeat(256)).err(), Some(ENAMETOOLONG));
    assert_eq!(sh.stat(&"x/".repeat(3000)).err(), Some(ENAMETOOLONG));
    sh.chdir("/l").unwrap();
    assert_eq!(sh.cwd(), "/a/b");
    sh.mv("/a", "/c").unwrap();
    assert_eq!(sh.cwd(), "/c/b");
    // 40 links are followed, 41 are not.
    sh.write("/t", "end").unwrap();
    sh.symlink("/t", "/s1").unwrap();
    for i in 2..=41 {
        sh.symlink(&format!("/s{}", i - 1), &format!("/s{i}")).unwrap();
    }
    assert_eq!(sh.read("/s40").unwrap(), "end");
    assert_eq!(sh.read("/s41").err(), Some(ELOOP));
}

#[test]
fn resolve_flags_confine() {
    let k = kernel();
    let t = root_task(&k);
    let sh = Sh(&t);
    sh.mkdir("/jail").unwrap();
    sh.mkdir("/jail/d").unwrap();
    sh.write("/secret", "s").unwrap();
    sh.write("/jail/secret", "inner").unwrap();
    sh.symlink("/secret", "/jail/abs").unwrap();
    sh.symlink("../secret", "/jail/up").unwrap();
    sh.symlink("d/../secret", "/jail/ok").unwrap();
    let jail = DirFd::At(sh.look("/jail", 0).unwrap());
    let get = |p: &str, f| {
        walk::lookup(&t, &jail, p.as_bytes(), f | walk::FOLLOW).map(|p| p.dentry.name())
    };
    for p in ["abs", "up", "../secret", "/secret", "d/../../secret"] {
        assert_eq!(get(p, walk::BENEATH).err(), Some(EXDEV), "{p}");
    }
    assert_eq!(get("ok", walk::BENEATH).unwrap(), b"secret");
    for p in ["abs", "up", "../secret", "/secret", "ok"] {
        let found = walk::lookup(&t, &jail, p.as_bytes(), walk::IN_ROOT | walk::FOLLOW).unwrap();
        assert_eq!(found.dentry.parent().unwrap().name(), b"jail", "{p}");
    }
    assert_eq!(get("ok", walk::NO_SYMLINKS).err(), Some(ELOOP));
    sh.mount(tmpfs(&k), "/jail/d").unwrap();
    assert_eq!(get("d", walk::NO_XDEV).err(), Some(EXDEV));
}

#[test]
fn open_flags() {
    let k = kernel();
    let t = root_task(&k);
    let sh = Sh(&t);
    let (creat, excl) = (libc::O_CREAT, libc::O_EXCL);
    sh.symlink("/target", "/dangling").unwrap();
    assert_eq!(sh.open("/dangling", creat | excl | libc::O_WRONLY).err(), Some(EEXIST));
    sh.write("/dangling", "made").unwrap();
    assert_eq!(sh.read("/target").unwrap(), "made");
    assert_eq!(sh.open("/dangling", libc::O_NOFOLLOW).err(), Some(ELOOP));
    let p = sh.open("/dangling", libc::O_NOFOLLOW | libc::O_PATH).unwrap();
    assert_eq!(p.inode().file_type(), libc::S_IFLNK);
    assert_eq!(sh.read_file(&p).err(), Some(EBADF));
    assert_eq!(sh.open("/", libc::O_WRONLY).err(), Some(EISDIR));
    assert_eq!(sh.open("/new/", creat | libc::O_WRONLY).err(), Some(EISDIR));
    assert_eq!(sh.open("/target", libc::O_DIRECTORY).err(), Some(ENOTDIR));
    assert_eq!(sh.open("/target", creat | libc::O_DIRECTORY).err(), Some(EINVAL));
    let tmp = sh.open("/", libc::O_TMPFILE | libc::O_RDWR).unwrap();
    assert_eq!(tmp.inode().metadata().unwrap().nlink, 0);
    modify::link(&t, &tmp.path, &DirFd::Cwd, b"/named").unwrap();
    assert_eq!(sh.stat("/named").unwrap().nlink, 1);
    assert_eq!(sh.open("/", libc::O_TMPFILE | libc::O_RDONLY).err(), Some(EINVAL));
    sh.make("/sock", NodeKind::Socket, 0o666).unwrap();
    assert_eq!(sh.open("/sock", libc::O_RDWR).err(), Some(ENXIO));
    // What is executed cannot be written and the other way round.
    let guard = open::ExecGuard::new(sh.look("/target", 0).unwrap().inode());
    assert_eq!(sh.open("/target", libc::O_WRONLY).err(), Some(ETXTBSY));
    drop(guard);
    let w = sh.open("/target", libc::O_WRONLY).unwrap();
    sh.chmod("/target", 0o755).unwrap();
    assert_eq!(uml_core::vfs::open_exec(&t, b"/target").err(), Some(ETXTBSY));
    drop(w);
    assert!(uml_core::vfs::open_exec(&t, b"/target").is_ok());
    sh.chmod("/target", 0o644).unwrap();
    assert_eq!(uml_core::vfs::open_exec(&t, b"/target").err(), Some(EACCES));
}

#[test]
fn mode_bits_decide_for_users() {
    let k = kernel();
    let sb = tmpfs(&k);
    let t = task_on(&k, sb, Cred::root());
    let sh = Sh(&t);
    let u = task_in(&k, t.fs().duplicate(), user(7));
    let ush = Sh(&u);
    sh.mkdir("/closed").unwrap();
    sh.write("/closed/f", "x").unwrap();
    sh.chmod("/closed", 0o700).unwrap();
    assert_eq!(ush.read("/closed/f").err(), Some(EACCES));
    assert_eq!(ush.write("/mine", "x").err(), Some(EACCES));
    sh.make("/tmp", NodeKind::Directory, 0o777).unwrap();
    sh.chmod("/tmp", 0o1777).unwrap();
    ush.write("/tmp/mine", "x").unwrap();
    sh.write("/tmp/roots", "x").unwrap();
    // Sticky directory: only owners remove or rename.
    assert_eq!(ush.unlink("/tmp/roots").err(), Some(EPERM));
    assert_eq!(ush.mv("/tmp/roots", "/tmp/r").err(), Some(EPERM));
    ush.mv("/tmp/mine", "/tmp/m2").unwrap();
    ush.unlink("/tmp/m2").unwrap();
    sh.write("/f", "x").unwrap();
    assert_eq!(ush.chmod("/f", 0o777).err(), Some(EPERM));
    assert_eq!(ush.open("/f", libc::O_WRONLY).err(), Some(EACCES));
    assert_eq!(ush.open("/f", libc::O_NOATIME).err(), Some(EPERM));
    assert_eq!(
        ush.make("/tmp/null", NodeKind::CharDevice(uml_core::vfs::Dev::new(1, 3)), 0o666).err(),
        Some(EPERM)
    );
    // Set-group-ID directories hand their group down.
    sh.make("/tmp/g", NodeKind::Directory, 0o755).unwrap();
    uml_core::vfs::attr::chown(&t, &sh.look("/tmp/g", 0).unwrap(), None, Some(55)).unwrap();
    sh.chmod("/tmp/g", 0o2777).unwrap();
    ush.mkdir("/tmp/g/sub").unwrap();
    let m = ush.stat("/tmp/g/sub").unwrap();
    assert_eq!((m.gid, m.mode & 0o7777), (55, 0o2755));
}

#[test]
fn names_that_cannot_be_changed() {
    let k = kernel();
    let t = root_task(&k);
    let sh = Sh(&t);
    sh.mkdir("/d").unwrap();
    sh.mkdir("/d/e").unwrap();
    sh.write("/f", "x").unwrap();
    for (r, e) in [
        (sh.mkdir("/d"), EEXIST),
        (sh.mkdir("/"), EEXIST),
        (sh.mkdir("/x/y"), ENOENT),
        (sh.unlink("/d"), EISDIR),
        (sh.unlink("/f/"), ENOTDIR),
        (sh.unlink("/nope"), ENOENT),
        (sh.rmdir("/f"), ENOTDIR),
        (sh.rmdir("/d"), ENOTEMPTY),
        (sh.rmdir("/d/."), EINVAL),
        (sh.rmdir("/d/e/.."), ENOTEMPTY),
        (sh.rmdir("/"), EBUSY),
        (sh.mv("/d", "/d/e/x"), EINVAL),
        (sh.mv("/d/e", "/d"), ENOTEMPTY),
        (sh.mv("/f", "/d"), EISDIR),
        (sh.mv("/d", "/f"), ENOTDIR),
        (sh.mv("/f/", "/g"), ENOTDIR),
        (sh.mv("/d/.", "/g"), EBUSY),
        (sh.rename("/f", "/d", modify::RENAME_NOREPLACE), EEXIST),
        (sh.rename("/f", "/no", modify::RENAME_EXCHANGE), ENOENT),
        (sh.link("/d", "/hard"), EPERM),
        (sh.link("/f", "/d"), EEXIST),
    ] {
        assert_eq!(r, Err(e));
    }
    sh.rename("/f", "/d", modify::RENAME_EXCHANGE).unwrap();
    assert_eq!(sh.ls("/f").unwrap(), ["e"]);
    assert_eq!(sh.read("/d").unwrap(), "x");
    sh.link("/d", "/hard").unwrap();
    assert_eq!(sh.stat("/hard").unwrap().nlink, 2);
    // Renaming one name of a file to another does nothing.
    sh.mv("/d", "/hard").unwrap();
    assert_eq!(sh.stat("/d").unwrap().nlink, 2);
    // A removed directory is empty and stays so.
    sh.chdir("/f/e").unwrap();
    sh.rmdir("/f/e").unwrap();
    assert_eq!(sh.write("x", "").err(), Some(ENOENT));
    assert_eq!(sh.stat("..").unwrap().ino, sh.stat("/f").unwrap().ino);
}

#[test]
fn mounts_bind_move_and_unmount() {
    let k = kernel();
    let t = root_task(&k);
    let sh = Sh(&t);
    for d in ["/m", "/b", "/c"] {
        sh.mkdir(d).unwrap();
    }
    sh.write("/m/under", "").unwrap();
    let m = sh.mount(tmpfs(&k), "/m").unwrap();
    sh.mkdir("/m/sub").unwrap();
    assert_eq!(sh.ls("/m").unwrap(), ["sub"]);
    sh.chdir("/m/sub").unwrap();
    assert_eq!(sh.cwd(), "/m/sub");
    assert_eq!(sh.umount("/m", false).err(), Some(EBUSY));
    assert_eq!(sh.rmdir("/m").err(), Some(EBUSY));
    assert_eq!(sh.mv("/m", "/n").err(), Some(EBUSY));
    assert_eq!(sh.mv("/m/sub", "/x").err(), Some(EXDEV));
    assert_eq!(sh.stat("../..").unwrap().ino, sh.stat("/").unwrap().ino);
    sh.chdir("/").unwrap();
    sh.bind("/m/sub", "/b", false).unwrap();
    sh.write("/b/f", "bound").unwrap();
    assert_eq!(sh.read("/m/sub/f").unwrap(), "bound");
    // Read-only is a matter of the mount, not of the filesystem.
    sh.look("/b", 0).unwrap().mnt.set_flags(mount::MNT_RDONLY);
    assert_eq!(sh.write("/b/g", "").err(), Some(EROFS));
    sh.write("/m/sub/g", "").unwrap();
    assert_eq!(sh.unlink("/b/g").err(), Some(EROFS));
    sh.umount("/b", false).unwrap();
    assert_eq!(sh.ls("/b").unwrap(), Vec::<String>::new());
    drop(m);
    let ns = t.fs().mounts();
    let (from, to) = (sh.look("/m", 0).unwrap(), sh.look("/c", 0).unwrap());
    k.vfs.move_mount(&ns, &from, &to).unwrap();
    drop((from, to));
    assert_eq!(sh.ls("/c").unwrap(), ["sub"]);
    assert_eq!(sh.ls("/m").unwrap(), ["under"]);
    let open = sh.open("/c/sub/f", libc::O_RDONLY).unwrap();
    assert_eq!(sh.umount("/c", false).err(), Some(EBUSY));
    sh.umount("/c", true).unwrap();
    assert_eq!(sh.read_file(&open).unwrap(), "bound");
    assert_eq!(ns.mounts().len(), 1);
}

#[test]
fn copies_of_namespaces_and_shared_mounts() {
    let k = kernel();
    let t = root_task(&k);
    let sh = Sh(&t);
    for d in ["/s", "/p"] {
        sh.mkdir(d).unwrap();
    }
    sh.mount(tmpfs(&k), "/s").unwrap();
    sh.mkdir("/s/x").unwrap();
    k.vfs.set_propagation(&t.fs().root().mnt, PropagationType::Shared, true);
    // A namespace whose copy is a slave sees new mounts, but its own stay its own.
    let fs2 = t.fs().duplicate();
    let owner = uml_core::ns::UserNs::initial();
    k.vfs.copy_namespace(&t.fs().mounts(), &fs2, &owner).unwrap();
    let t2 = task_in(&k, fs2, Cred::root());
    let sh2 = Sh(&t2);
    k.vfs.set_propagation(&t2.fs().root().mnt, PropagationType::Slave, true);
    sh.mount(tmpfs(&k), "/s/x").unwrap();
    sh.write("/s/x/f", "seen").unwrap();
    assert_eq!(sh2.read("/s/x/f").unwrap(), "seen");
    sh2.mount(tmpfs(&k), "/p").unwrap();
    sh2.write("/p/own", "").unwrap();
    assert_eq!(sh.ls("/p").unwrap(), Vec::<String>::new());
    sh.umount("/s/x", false).unwrap();
    assert_eq!(sh2.ls("/s/x").unwrap(), Vec::<String>::new());
    // Private afterwards: nothing goes either way.
    k.vfs.set_propagation(&t2.fs().root().mnt, PropagationType::Private, true);
    sh.mount(tmpfs(&k), "/s/x").unwrap();
    sh.write("/s/x/f", "").unwrap();
    assert_eq!(sh2.ls("/s/x").unwrap(), Vec::<String>::new());
}

#[test]
fn pivot_root_exchanges_the_root() {
    let k = kernel();
    let t = root_task(&k);
    let sh = Sh(&t);
    sh.write("/old", "").unwrap();
    sh.mkdir("/new").unwrap();
    sh.mount(tmpfs(&k), "/new").unwrap();
    sh.mkdir("/new/put").unwrap();
    let (new, put) = (sh.look("/new", 0).unwrap(), sh.look("/new/put", 0).unwrap());
    k.vfs.pivot_root(&t, &new, &put).unwrap();
    drop((new, put));
    assert_eq!(sh.ls("/").unwrap(), ["put"]);
    assert_eq!(sh.ls("/put").unwrap(), ["new", "old"]);
    sh.umount("/put", true).unwrap();
    assert_eq!(sh.ls("/put").unwrap(), Vec::<String>::new());
}

#[test]
fn the_dentry_cache_is_bounded_and_forgets_nothing_in_use() {
    let cache = uml_core::vfs::DentryCache::new(64);
    let k = kernel();
    let t = root_task(&k);
    let sh = Sh(&t);
    for i in 0..500 {
        sh.write(&format!("/f{i}"), "").unwrap();
    }
    let root = sh.look("/", 0).unwrap();
    let held = cache.lookup(&root.dentry, b"f0").unwrap().unwrap();
    for round in 0..3 {
        for i in 1..500 {
            assert!(cache.lookup(&root.dentry, format!("f{i}").as_bytes()).unwrap().is_some());
            let none = cache.lookup(&root.dentry, format!("no{round}{i}").as_bytes());
            assert!(none.unwrap().is_none());
        }
    }
    assert!(cache.len() <= 80, "{}", cache.len());
    let again = cache.lookup(&root.dentry, b"f0").unwrap().unwrap();
    assert!(Arc::ptr_eq(&held, &again));
    let _ = OpenHow::default();
}
