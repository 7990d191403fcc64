//! Images made by genisoimage.

mod common;

use common::*;
use uml_rofs::iso9660::{NameMap, Options};
use uml_rofs::{Iso9660, Tree, iso9660};

fn make(src: &std::path::Path, img: &std::path::Path, args: &[&str]) {
    let mut all = vec!["-quiet", "-o", text(img), "-input-charset", "utf-8"];
    all.extend(args);
    all.push(text(src));
    run("genisoimage", &all);
}

fn open(img: &std::path::Path, o: Options) -> Iso9660 {
    Iso9660::open(store(img), o).unwrap()
}

#[test]
fn rock_ridge() {
    if !installed(&["genisoimage"]) {
        return;
    }
    let (_tmp, src, img) = place();
    posix_tree(&src);
    // Genisoimage writes device numbers in an encoding of its own.
    let _ = std::fs::remove_file(src.join("disk"));
    // It damages targets that need more than two entries.
    std::fs::remove_file(src.join("long link")).unwrap();
    std::os::unix::fs::symlink("x/".repeat(40) + "y", src.join("long link")).unwrap();
    for args in [&["-R"][..], &["-R", "-J"], &["-R", "-J", "-D"]] {
        make(&src, &img, args);
        let fs = open(&img, Options::default());
        assert!(fs.has_rock_ridge() && !fs.has_joliet());
        compare_all(&fs, &src);
        assert_eq!(fs.statfs().unwrap().magic, iso9660::MAGIC);
    }
}

/// As `compare`, without the directory to which genisoimage moves deep ones.
fn compare_all(fs: &Iso9660, src: &std::path::Path) {
    let inside = list(fs, fs.root());
    let moved = inside.contains_key(&b"rr_moved"[..]);
    if moved {
        assert!(list(fs, find(fs, "rr_moved")).is_empty(), "what was moved is in its place");
    }
    for e in std::fs::read_dir(src).unwrap() {
        let e = e.unwrap();
        let name = e.file_name();
        let node = fs.lookup(fs.root(), name.as_encoded_bytes()).unwrap();
        compare(fs, node, &e.path(), Keeps::Everything);
    }
    let expected = std::fs::read_dir(src).unwrap().count() + usize::from(moved);
    assert_eq!(inside.len(), expected);
}

#[test]
fn joliet() {
    if !installed(&["genisoimage"]) {
        return;
    }
    let (_tmp, src, img) = place();
    plain_tree(&src);
    make(&src, &img, &["-J", "-joliet-long", "-D"]);
    let fs = open(&img, Options::default());
    assert!(fs.has_joliet());
    compare(&fs, fs.root(), &src, Keeps::Contents);
    assert!(fs.lookup(fs.root(), "GRÜSSE AUS KÖLN.TXT".as_bytes()).is_err(), "ß has no upper case");
    assert!(fs.lookup(fs.root(), "a LONG name, with blanks & more than 8.3".as_bytes()).is_ok());
    let strict = open(&img, Options { relaxed: Some(false), ..Options::default() });
    assert!(strict.lookup(strict.root(), b"SMALL.TXT").is_err());
}

#[test]
fn plain_names_and_options() {
    if !installed(&["genisoimage"]) {
        return;
    }
    let (_tmp, src, img) = place();
    std::fs::write(src.join("readme.txt"), "r").unwrap();
    std::fs::create_dir(src.join("sub")).unwrap();
    std::fs::write(src.join("sub/noext"), noise(2, 5000)).unwrap();
    make(&src, &img, &["-R", "-J"]);
    let both = Options { no_rock: true, no_joliet: true, ..Options::default() };
    let fs = open(&img, both.clone());
    assert!(!fs.has_rock_ridge() && !fs.has_joliet());
    compare(&fs, fs.root(), &src, Keeps::Contents);
    let fs = open(&img, Options { map: NameMap::Off, ..both.clone() });
    let names: Vec<_> = list(&fs, fs.root()).into_keys().collect();
    assert_eq!(names, [b"README.TXT;1".to_vec(), b"SUB".to_vec()]);
    let o =
        Options { uid: Some(7), gid: Some(8), mode: Some(0o400), dir_mode: Some(0o500), ..both };
    let fs = open(&img, o);
    let a = fs.attr(find(&fs, "readme.txt")).unwrap();
    assert_eq!((a.mode, a.uid, a.gid), (0o100400, 7, 8));
    assert_eq!(fs.attr(find(&fs, "sub")).unwrap().mode, 0o040500);
    // Rock Ridge's permissions stay, unless they are to be overridden.
    let mut o = Options { mode: Some(0o400), ..Options::default() };
    let fs = open(&img, o.clone());
    assert_ne!(fs.attr(find(&fs, "readme.txt")).unwrap().mode, 0o100400);
    o.override_permissions = true;
    let fs = open(&img, o);
    assert_eq!(fs.attr(find(&fs, "readme.txt")).unwrap().mode, 0o100400);
}

#[test]
fn files_of_several_parts() {
    if !installed(&["genisoimage"]) {
        return;
    }
    // Level 3 cuts files above 4 GiB; a small image with a file in two records stands for them.
    let (_tmp, src, img) = place();
    std::fs::write(src.join("aaa"), noise(4, 2048)).unwrap();
    std::fs::write(src.join("aab"), noise(6, 100)).unwrap();
    std::fs::write(src.join("z"), "z").unwrap();
    make(&src, &img, &[]);
    let mut v = std::fs::read(&img).unwrap();
    // The second gets the first one's name, and the first one says that it goes on.
    let at = |v: &[u8], name: &[u8]| v.windows(name.len()).position(|w| w == name).unwrap() - 33;
    let (a, b) = (at(&v, b"AAA.;1"), at(&v, b"AAB.;1"));
    v[a + 25] |= 0x80;
    v[b + 33 + 2] = b'A';
    let fs = Iso9660::open(std::sync::Arc::new(uml_store::MemStore::new(v)), Options::default())
        .unwrap();
    let names: Vec<_> = list(&fs, fs.root()).into_keys().collect();
    assert_eq!(names, [b"aaa".to_vec(), b"z".to_vec()]);
    let whole = contents(&fs, find(&fs, "aaa"), 1000);
    assert!(whole == [noise(4, 2048), noise(6, 100)].concat());
}

#[test]
fn no_image_is_refused() {
    let open = |v| {
        let s = std::sync::Arc::new(uml_store::MemStore::new(v));
        Iso9660::open(s, Options::default()).err().unwrap()
    };
    assert!(open(vec![0; 100_000]).why.contains("no iso9660"));
    assert_eq!(open(Vec::new()).errno, uml_abi::errno::EINVAL);
}
