//! Reading images that e2fsprogs made, over the whole fixture matrix.

mod common;

use common::*;
use uml_ext4::{Ext4, MountError};

#[test]
fn reads_every_feature_set() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let src = tmp.path().join("src");
    std::fs::create_dir(&src).unwrap();
    sample_tree(&src, 600);
    for (name, args) in MATRIX {
        let img = mkfs(tmp.path(), name, args, 16, Some(&src));
        eprintln!("{name}");
        let fs = open_ro(mem(&img));
        compare_tree(&fs, uml_ext4::ROOT_INO, &src);
        // With indexes.
        let (code, text) = {
            let out = std::process::Command::new("/usr/sbin/e2fsck")
                .args(["-fyD"])
                .arg(&img)
                .output()
                .unwrap();
            (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
        };
        assert!(matches!(code, Some(0 | 1)), "{name}: {text}");
        let fs = open_ro(mem(&img));
        compare_tree(&fs, uml_ext4::ROOT_INO, &src);
        let wide = fs.attr(resolve(&fs, "wide")).unwrap();
        let indexed = wide.flags & uml_ext4::flags::INDEX != 0;
        assert!(indexed, "{name}: the fixture has an index");
        assert!(fs.statfs().unwrap().free > 0);
    }
}

#[test]
fn all_hash_versions() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let src = tmp.path().join("src");
    std::fs::create_dir(&src).unwrap();
    for i in 0..400 {
        std::fs::write(src.join(format!("näme-{i}-{}", "é".repeat(i % 20))), b"").unwrap();
    }
    for hash in ["legacy", "half_md4", "tea"] {
        for sign in ["signed", "unsigned"] {
            let args = ["-t", "ext4", "-b", "1024", "-E", "hash_seed=random"];
            let name = format!("{hash}-{sign}");
            let img = mkfs(tmp.path(), &name, &args[..4], 8, Some(&src));
            let flag = if sign == "signed" { 1 } else { 2 };
            debugfs(&img, &format!("set_super_value def_hash_version {hash}"));
            debugfs(&img, &format!("set_super_value flags {flag}"));
            let st = std::process::Command::new("/usr/sbin/e2fsck")
                .args(["-fyD"])
                .arg(&img)
                .output()
                .unwrap();
            assert!(st.status.code().unwrap() <= 1);
            let fs = open_ro(mem(&img));
            assert!(fs.attr(2).unwrap().flags & uml_ext4::flags::INDEX != 0, "{name}");
            compare_tree(&fs, uml_ext4::ROOT_INO, &src);
        }
    }
}

#[test]
fn refuses_by_name() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    for (feature, args) in [
        ("bigalloc", &["-t", "ext4", "-b", "4096", "-O", "bigalloc"][..]),
        ("encrypt", &["-t", "ext4", "-b", "4096", "-O", "encrypt"]),
        ("casefold", &["-t", "ext4", "-b", "4096", "-O", "casefold"]),
    ] {
        let img = mkfs(tmp.path(), feature, args, 16, None);
        match Ext4::open(mem(&img), uml_ext4::Options { read_only: true, ..options() }) {
            Err(MountError::Unreadable(names)) => assert_eq!(names, [feature]),
            Err(e) => panic!("{feature}: {e}"),
            Ok(_) => panic!("{feature} was accepted"),
        }
    }
    // Features that allow only reading are named for a writable mount.
    let img = mkfs(tmp.path(), "quota", &["-t", "ext4", "-b", "4096", "-O", "quota"], 16, None);
    match Ext4::open(mem(&img), options()) {
        Err(MountError::Unwritable(names)) => assert_eq!(names, ["quota"]),
        _ => panic!("quota must be refused for writing"),
    }
    open_ro(mem(&img));
}

#[test]
fn xattrs_made_by_debugfs() {
    if !have_tools() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let src = tmp.path().join("src");
    std::fs::create_dir(&src).unwrap();
    std::fs::write(src.join("f"), b"x").unwrap();
    let img = mkfs(tmp.path(), "xattr", MATRIX[9].1, 16, Some(&src));
    let value = tmp.path().join("value");
    for (name, len) in [("user.small", 10usize), ("user.block", 200), ("user.huge", 1000)] {
        std::fs::write(&value, vec![b'v'; len]).unwrap();
        debugfs(&img, &format!("ea_set -f {} /f {name}", value.display()));
    }
    let fs = open_ro(mem(&img));
    let f = resolve(&fs, "f");
    let mut names = fs.listxattr(f).unwrap();
    names.sort();
    assert_eq!(names, [&b"user.block"[..], b"user.huge", b"user.small"]);
    same(&fs.getxattr(f, b"user.small").unwrap(), &[b'v'; 10], "value");
    same(&fs.getxattr(f, b"user.block").unwrap(), &[b'v'; 200], "value");
    same(&fs.getxattr(f, b"user.huge").unwrap(), &[b'v'; 1000], "value");
    assert_eq!(fs.getxattr(f, b"user.none"), Err(uml_abi::errno::ENODATA));
}
