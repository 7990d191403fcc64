//! Images made by mkfs.vfat and filled by mcopy (packages dosfstools and mtools).

mod common;

use std::path::Path;

use common::*;
use uml_rofs::vfat::{Options, ShortNames, Width};
use uml_rofs::{Charset, Tree, Vfat, vfat};

fn make(img: &Path, kib: u64, args: &[&str]) {
    let _ = std::fs::remove_file(img);
    std::fs::File::create(img).unwrap().set_len(kib << 10).unwrap();
    let mut all = args.to_vec();
    all.push(text(img));
    run("mkfs.vfat", &all);
}

fn fill(img: &Path, src: &Path) {
    let names: Vec<_> =
        std::fs::read_dir(src).unwrap().map(|e| text(&e.unwrap().path()).to_owned()).collect();
    let mut all = vec!["TZ=UTC", "mcopy", "-i", text(img), "-s", "-m"];
    all.extend(names.iter().map(String::as_str));
    all.push("::/");
    // Times in UTC.
    run("env", &all);
}

fn open(img: &Path, o: Options) -> Vfat {
    Vfat::open(store(img), o).unwrap()
}

fn ready() -> bool {
    installed(&["mkfs.vfat", "mcopy"])
}

#[test]
fn every_width() {
    if !ready() {
        return;
    }
    let (_tmp, src, img) = place();
    plain_tree(&src);
    for (kib, args, width) in [
        (4096, &["-F", "12", "-s", "4"][..], Width::Fat12),
        (16 << 10, &["-F", "16", "-s", "2"], Width::Fat16),
        (40 << 10, &["-F", "32", "-s", "1"], Width::Fat32),
        (20 << 10, &["-F", "16", "-S", "1024", "-s", "1"], Width::Fat16),
    ] {
        eprintln!("{width:?}");
        make(&img, kib, args);
        fill(&img, &src);
        let fs = open(&img, Options::default());
        assert_eq!(fs.width(), width);
        compare(&fs, fs.root(), &src, Keeps::Contents);
        let s = fs.statfs().unwrap();
        assert_eq!(s.magic, vfat::MAGIC);
        assert!(s.free > 0 && s.free < s.blocks);
        let a = fs.attr(find(&fs, "many")).unwrap();
        assert_eq!(a.links, 2);
        let long = find(&fs, "A LONG name, with blanks & MORE than 8.3");
        assert_eq!(contents(&fs, long, 10), b"long", "case does not count");
        assert_eq!(find(&fs, "ALONGN~1.3"), long, "by the short name");
        assert_eq!(find(&fs, "small.txt..."), find(&fs, "small.txt"), "points do not count");
    }
}

#[test]
fn scattered_files() {
    if !ready() {
        return;
    }
    let (_tmp, src, img) = place();
    make(&img, 16 << 10, &["-F", "16", "-s", "1"]);
    // Files are written and every second one goes, so that the last has to take the gaps.
    let one = src.join("one");
    std::fs::write(&one, noise(1, 512 * 3)).unwrap();
    let names: Vec<_> = (0..200).map(|i| format!("::/F{i}")).collect();
    for n in &names {
        run("mcopy", &["-i", text(&img), text(&one), n]);
    }
    for n in names.iter().step_by(2) {
        run("mdel", &["-i", text(&img), n]);
    }
    // What is free behind is filled up first, but for a little.
    let fs = open(&img, Options::default());
    let free = fs.statfs().unwrap().free as usize * 512;
    let data = noise(2, free - 512);
    std::fs::write(src.join("big"), &data).unwrap();
    run("mcopy", &["-i", text(&img), text(&src.join("big")), "::/BIG"]);
    let fs = open(&img, Options::default());
    let big = find(&fs, "BIG");
    for off in (0..data.len()).step_by(100_003).rev() {
        let mut b = vec![0; 40_000];
        let n = fs.read(big, off as u64, &mut b).unwrap();
        assert!(b[..n] == data[off..][..n], "at {off}");
    }
    assert!(contents(&fs, big, 65_536) == data);
    assert!(contents(&fs, find(&fs, "F101"), 1000) == noise(1, 512 * 3));
    assert_eq!(fs.statfs().unwrap().free, 1);
}

#[test]
fn attributes_and_options() {
    if !ready() {
        return;
    }
    let (_tmp, src, img) = place();
    for n in ["run.exe", "notes.txt"] {
        std::fs::write(src.join(n), "x").unwrap();
    }
    std::fs::create_dir(src.join("Sub")).unwrap();
    std::fs::write(src.join("grün"), "g").unwrap();
    run("touch", &["-d", "2020-05-06T07:08:10Z", text(&src.join("notes.txt"))]);
    make(&img, 1440, &[]);
    fill(&img, &src);
    run("mattrib", &["-i", text(&img), "+r", "::/run.exe"]);
    let o = Options { uid: 5, gid: 6, file_mask: 0o133, dir_mask: 0o022, ..Options::default() };
    let fs = open(&img, o.clone());
    let a = fs.attr(find(&fs, "notes.txt")).unwrap();
    assert_eq!((a.mode, a.uid, a.gid, a.links), (0o100644, 5, 6, 1));
    assert_eq!(a.mtime.sec, 1_588_748_890);
    assert_eq!(a.ctime, a.mtime);
    assert_eq!(fs.attr(find(&fs, "run.exe")).unwrap().mode, 0o100444, "read-only");
    assert_eq!(fs.attr(fs.root()).unwrap().mode, 0o040755);
    assert_eq!(fs.attr(fs.root()).unwrap().links, 3);
    let west = open(&img, Options { minutes_east: -60, ..o });
    assert_eq!(west.attr(find(&west, "notes.txt")).unwrap().mtime.sec, 1_588_748_890 + 3600);
    let exec = open(&img, Options { show_exec: true, ..Options::default() });
    assert_eq!(exec.attr(find(&exec, "run.exe")).unwrap().mode, 0o100555);
    assert_eq!(exec.attr(find(&exec, "notes.txt")).unwrap().mode, 0o100666);
    let latin = open(&img, Options { charset: Charset::Latin1, ..Options::default() });
    assert!(latin.lookup(latin.root(), b"GR\xdcN").is_ok());
    let shown = |short_names| {
        let fs = open(&img, Options { short_names, ..Options::default() });
        list(&fs, fs.root()).into_keys().map(|n| String::from_utf8(n).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(shown(ShortNames::Mixed), ["Sub", "grün", "notes.txt", "run.exe"]);
    // Names with case flags have no long name.
    assert_eq!(shown(ShortNames::Win95)[..], ["GRÜN", "NOTES.TXT", "RUN.EXE", "Sub"]);
    let strict = open(&img, Options { strict: true, ..Options::default() });
    assert!(strict.lookup(strict.root(), b"sub").is_err());
}

#[test]
fn no_image_is_refused() {
    let open = |v| {
        let s = std::sync::Arc::new(uml_store::MemStore::new(v));
        Vfat::open(s, Options::default()).err().unwrap()
    };
    assert!(open(vec![0; 100_000]).why.contains("reserved sectors"));
    assert_eq!(open(Vec::new()).errno, uml_abi::errno::EINVAL);
}
