//! Our tools against the classic ones: same results, same messages, same
//! exit statuses. Skipped, saying so, where the classic tools are not installed.

mod common;

use std::fs::{self, File};
use std::time::SystemTime;

use common::{Bench, OUR_MKCOW, OUR_MOO, Run, backing, merged, some_changes, stock};
use uml_formats::cow::Version;

const SECTORS: u64 = 4096;

const KINDS: [(Version, u32); 5] = [
    (Version::V1, 512),
    (Version::V2, 512),
    (Version::V3, 4096),
    (Version::V3, 512),
    (Version::V3Broken, 4096),
];

#[test]
fn all_versions_merge_to_the_same_bytes() {
    let Some(stock_moo) = stock("uml_moo") else { return };
    for (version, align) in KINDS {
        let below = backing(SECTORS as usize);
        let bench = Bench::new(&below);
        let changes = some_changes(SECTORS);
        bench.cow("c", version, align, &changes);
        bench.run(OUR_MOO, &["c", "ours"]).ok();
        bench.run(&stock_moo, &["c", "theirs"]).ok();
        let ours = bench.read("ours");
        assert!(ours == bench.read("theirs"), "version {version} align {align}");
        assert!(ours == merged(&below, &changes), "version {version} align {align}");
        fs::copy(bench.path("b"), bench.path("b2")).expect("copy");
        let time = fs::metadata(bench.path("b")).and_then(|meta| meta.modified()).expect("mtime");
        set_time(&bench, "b2", time);
        bench.run(OUR_MOO, &["-d", "-b", "b2", "c"]).ok();
        bench.run(&stock_moo, &["-d", "c"]).ok();
        assert!(bench.read("b2") == ours && bench.read("b") == ours, "in place, {version}");
    }
}

fn set_time(bench: &Bench, name: &str, time: SystemTime) {
    let file = File::options().write(true).open(bench.path(name)).expect("open");
    file.set_modified(time).expect("utimes");
}

#[test]
fn odd_sizes_and_empty_files_merge_alike() {
    let Some(stock_moo) = stock("uml_moo") else { return };
    for size in [0usize, 511, 512, 1300, 4096 * 9 + 100, 1 << 20] {
        let bench = Bench::new(&vec![3; size]);
        bench.run(OUR_MKCOW, &["c", "b"]).ok();
        bench.run(OUR_MOO, &["c", "ours"]).ok();
        bench.run(&stock_moo, &["c", "theirs"]).ok();
        assert!(bench.read("ours") == bench.read("theirs"), "{size}");
    }
}

#[test]
fn new_cow_files_are_alike() {
    let Some(stock_mkcow) = stock("uml_mkcow") else { return };
    for size in [0usize, 100, 1300, 1 << 20, (1 << 20) + 513] {
        let bench = Bench::new(&vec![1; size]);
        fs::create_dir(bench.path("sub")).expect("mkdir");
        std::os::unix::fs::symlink("sub", bench.path("link")).expect("symlink");
        std::os::unix::fs::symlink("../b", bench.path("sub/alias")).expect("symlink");
        for name in ["b", "./b", "sub/../b", "link/alias", &bench.text("b")] {
            let ours = bench.run(OUR_MKCOW, &["-f", "ours", name]);
            let theirs = bench.run(&stock_mkcow, &["-f", "theirs", name]);
            assert_eq!(ours, theirs, "{name}");
            let (ours, theirs) = (bench.read("ours"), bench.read("theirs"));
            assert_eq!(ours.len(), theirs.len());
            // Bytes between the path's NUL and the end of its field are undefined.
            let path = theirs[32..].iter().position(|byte| *byte == 0).expect("NUL") + 33;
            assert_eq!(ours[..path], theirs[..path]);
            assert!(ours[4128..] == theirs[4128..]);
        }
    }
}

/// Exit status, stdout and the classic first line on stderr.
fn classic(run: &Run) -> (Option<i32>, &str, &str) {
    (run.status, &run.stdout, run.first_line())
}

#[test]
fn failures_look_alike() {
    let (Some(stock_moo), Some(stock_mkcow)) = (stock("uml_moo"), stock("uml_mkcow")) else {
        return;
    };
    let bench = Bench::new(&backing(64));
    bench.cow("c", Version::V3, 4096, &[]);
    fs::write(bench.path("plain"), [b'x'; 8192]).expect("plain");
    fs::write(bench.path("tiny"), "x").expect("tiny");
    let header = bench.read("c");
    fs::write(bench.path("cut"), &header[..100]).expect("cut");
    let patch = |name: &str, at: usize, byte: u8| {
        let mut bytes = header.clone();
        bytes[at] = byte;
        fs::write(bench.path(name), bytes).expect("patched");
    };
    patch("v4", 7, 4);
    patch("size", 17, 0x77);
    patch("mtime", 11, header[11] ^ 1);
    fs::create_dir(bench.path("dir")).expect("mkdir");
    let moo_cases: [&[&str]; 14] = [
        &["missing", "out"],
        &["plain", "out"],
        &["tiny", "out"],
        &["cut", "out"],
        &["v4", "out"],
        &["size", "out"],
        &["mtime", "out"],
        &["-d", "size"],
        &["-d", "mtime"],
        &["-b", "missing", "c", "out"],
        &["-b", "plain", "c", "out"],
        &["c", "missing/out"],
        &["c", "dir"],
        &["c"],
    ];
    for case in moo_cases {
        let (ours, theirs) = (bench.run(OUR_MOO, case), bench.run(&stock_moo, case));
        assert_eq!(classic(&ours), classic(&theirs), "uml_moo {case:?}");
        assert!(!bench.path("out").exists());
    }
    let mkcow_cases: [&[&str]; 5] =
        [&["c", "b"], &["new", "missing"], &["new", "missing/x"], &["c"], &["missing/c", "b"]];
    for case in mkcow_cases {
        let ours = bench.run(OUR_MKCOW, case);
        assert!(!bench.path("new").exists(), "no empty file may stay behind");
        let theirs = bench.run(&stock_mkcow, case);
        let _ = fs::remove_file(bench.path("new"));
        assert_eq!(classic(&ours), classic(&theirs), "uml_mkcow {case:?}");
    }
    for (ours, theirs) in [(OUR_MOO, &stock_moo), (OUR_MKCOW, &stock_mkcow)] {
        assert_eq!(bench.run(ours, &[]), bench.run(theirs, &[]), "usage");
    }
}

#[test]
fn forcing_keeps_old_changes_like_the_classic_tool() {
    let Some(stock_mkcow) = stock("uml_mkcow") else { return };
    let bench = Bench::new(&backing(512));
    for name in ["ours", "theirs"] {
        bench.cow(name, Version::V3, 4096, &[(7, Some(1))]);
    }
    let run = bench.run(OUR_MKCOW, &["-f", "ours", "b"]).ok();
    assert!(run.stderr.contains("still has the changes made before"), "{run:?}");
    bench.run(&stock_mkcow, &["-f", "theirs", "b"]).ok();
    assert!(bench.read("ours")[4128..] == bench.read("theirs")[4128..]);
}
