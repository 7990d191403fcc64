//! Merging, inspecting and checking with our own tools.

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use common::{Bench, OUR_MKCOW, OUR_MOO, backing, merged, some_changes};
use uml_formats::cow::Version;

const SECTORS: u64 = 5000;

fn bench() -> (Bench, Vec<u8>) {
    let backing = backing(SECTORS as usize);
    let bench = Bench::new(&backing);
    let changes = some_changes(SECTORS);
    bench.cow("c", Version::V3, 4096, &changes);
    (bench, merged(&backing, &changes))
}

#[test]
fn a_copy_is_complete_sparse_and_leaves_nothing_else() {
    let (bench, expected) = bench();
    let run = bench.run(OUR_MOO, &["--verify", "c", "out"]).ok();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
    assert_eq!(bench.read("out"), expected);
    assert_eq!(bench.names(), ["b", "c", "out"]);
    assert_eq!(bench.read("b"), backing(SECTORS as usize));
}

#[test]
fn holes_stay_holes() {
    let bench = Bench::new(&[]);
    let size = 64 << 20;
    File::options().write(true).open(bench.path("b")).expect("b").set_len(size).expect("size");
    bench.run(OUR_MKCOW, &["c", "b"]).ok();
    bench.run(OUR_MOO, &["c", "out"]).ok();
    let meta = fs::metadata(bench.path("out")).expect("out");
    assert_eq!(meta.len(), size);
    assert!(meta.blocks() < 64, "{} blocks", meta.blocks());
}

#[test]
fn an_existing_target_is_replaced_only_when_the_new_one_is_complete() {
    let (bench, expected) = bench();
    fs::write(bench.path("out"), "old").expect("old");
    std::os::unix::fs::symlink("out", bench.path("link")).expect("link");
    // Killed by SIGXFSZ somewhere in the middle: the old file is untouched.
    let output = bench.run_limited(OUR_MOO, 1000, "c out");
    assert!(output.status.signal().is_some(), "{output:?}");
    assert_eq!(bench.read("out"), b"old");
    assert_eq!(bench.names(), ["b", "c", "link", "out"]);
    bench.run(OUR_MOO, &["c", "link"]).ok();
    assert_eq!(bench.read("out"), expected);
    assert!(bench.path("link").symlink_metadata().expect("link").is_symlink());
}

#[test]
fn the_sources_are_never_the_target() {
    let (bench, _) = bench();
    let (cow, below) = (bench.read("c"), bench.read("b"));
    fs::hard_link(bench.path("b"), bench.path("b2")).expect("link");
    for target in ["c", "b", "b2", "./b"] {
        let run = bench.run(OUR_MOO, &["c", target]);
        assert_eq!(run.status, Some(1), "{run:?}");
        assert!(run.stderr.contains("name another file"), "{run:?}");
    }
    assert!(bench.read("c") == cow && bench.read("b") == below);
}

#[test]
fn an_in_place_merge_killed_anywhere_completes_when_run_again() {
    let mut killed = 0;
    for blocks in (1..SECTORS + 200).step_by(250) {
        let (bench, expected) = bench();
        let output = bench.run_limited(OUR_MOO, blocks, "-d c");
        killed += usize::from(output.status.signal().is_some());
        if output.status.signal().is_some() {
            // Until it is completed nobody else may use the pair.
            let past = SystemTime::now() - Duration::from_secs(60);
            let file = File::options().write(true).open(bench.path("b")).expect("b");
            file.set_modified(past).expect("utimes");
            let run = bench.run(OUR_MOO, &["c", "out"]);
            assert_eq!(run.status, Some(1));
            assert!(run.stderr.contains("interrupted; complete it with uml_moo -d"), "{run:?}");
            assert_eq!(bench.run(OUR_MOO, &["--check", "c"]).status, Some(1));
            let run = bench.run(OUR_MOO, &["-d", "c"]).ok();
            assert!(run.stderr.contains("continuing the interrupted merge"), "{run:?}");
        }
        assert!(bench.read("b") == expected, "killed at block {blocks}");
        assert_eq!(bench.names(), ["b", "c"]);
    }
    assert!(killed > 5, "the limit was meant to kill most runs, it killed {killed}");
}

#[test]
fn an_in_place_merge_cannot_be_repeated() {
    let (bench, expected) = bench();
    let past = SystemTime::now() - Duration::from_secs(60);
    let file = File::options().write(true).open(bench.path("b")).expect("b");
    file.set_modified(past).expect("utimes");
    bench.cow("c", Version::V3, 4096, &some_changes(SECTORS));
    let cow = bench.read("c");
    bench.run(OUR_MOO, &["--verify", "-d", "c"]).ok();
    assert!(bench.read("b") == expected && bench.read("c") == cow);
    let run = bench.run(OUR_MOO, &["-d", "c"]);
    assert_eq!(run.status, Some(1));
    assert!(run.first_line().starts_with("mtime mismatch ("), "{run:?}");
    let end = format!(") of COW header vs backing file \"{}\"", bench.text("b"));
    assert!(run.first_line().ends_with(&end), "{run:?}");
}

#[test]
fn a_directory_without_room_for_the_note_stops_an_in_place_merge() {
    let (bench, _) = bench();
    fs::create_dir(bench.path("c.merging")).expect("in the way");
    let below = bench.read("b");
    let run = bench.run(OUR_MOO, &["-d", "c"]);
    assert_eq!(run.status, Some(1));
    assert!(run.stderr.contains("nothing was changed"), "{run:?}");
    assert!(bench.read("b") == below);
}

#[test]
fn truncated_cow_files_are_refused_before_anything_is_written() {
    let (bench, _) = bench();
    let bytes = bench.read("c");
    for len in [8500, 12288, bytes.len() - 512, bytes.len() - 1] {
        fs::write(bench.path("short"), &bytes[..len]).expect("short");
        let run = bench.run(OUR_MOO, &["short", "out"]);
        let what = if len < 8192 + 625 { "Reading COW bitmap" } else { "Reading data" };
        assert_eq!(run.first_line(), format!("{what}: file is truncated"), "{len}");
        assert_eq!(bench.run(OUR_MOO, &["-d", "short"]).status, Some(1));
        assert_eq!(bench.run(OUR_MOO, &["--check", "short"]).status, Some(1));
        assert_eq!(bench.names(), ["b", "c", "short"]);
    }
    assert!(bench.read("b") == backing(SECTORS as usize));
}

#[test]
fn a_header_that_names_a_fifo_does_not_hang_the_tool() {
    let (bench, _) = bench();
    Command::new("mkfifo").arg(bench.path("fifo")).status().expect("mkfifo(1)");
    let run = bench.run(OUR_MOO, &["--info", "-b", "fifo", "c"]).ok();
    assert!(run.stdout.contains("Size mismatch"), "{run:?}");
    let run = bench.run(OUR_MOO, &["fifo", "out"]);
    assert_eq!(run.first_line(), "COW file open: Invalid argument");
}

#[test]
fn info_and_check_describe_the_pair() {
    let (bench, _) = bench();
    let run = bench.run(OUR_MOO, &["--info", "--json", "c"]).ok();
    let info: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    let changed: std::collections::BTreeSet<u64> =
        some_changes(SECTORS).iter().map(|(sector, _)| *sector).collect();
    assert_eq!(info["version"], 3);
    assert_eq!(info["layout"], "v3");
    assert_eq!(info["backing_file"], bench.text("b"));
    assert_eq!(info["changed_sectors"], changed.len());
    assert_eq!(info["data_offset"], 12288);
    assert_eq!(info["backing_matches"], true);
    assert_eq!(info["locked_by_pid"], serde_json::Value::Null);
    let run = bench.run(OUR_MOO, &["--info", "c"]).ok();
    assert!(run.stdout.contains("backing file fits:  yes"), "{run:?}");
    assert_eq!(bench.run(OUR_MOO, &["--check", "c"]).ok().stdout, "c: ok\n");

    fs::write(bench.path("b"), "other").expect("b");
    let run = bench.run(OUR_MOO, &["--check", "--json", "c"]);
    assert_eq!(run.status, Some(1));
    let check: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(check["ok"], false);
    let expected = format!("Size mismatch ({} vs 5) of COW header vs backing file", SECTORS * 512);
    assert_eq!(check["problems"][0], expected);
}

#[test]
fn a_lone_verify_prints_the_checksum_of_the_merged_contents() {
    let (bench, expected) = bench();
    let run = bench.run(OUR_MOO, &["--verify", "--json", "c"]).ok();
    let value: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(value["crc32"], format!("{:08x}", crc32fast::hash(&expected)));
    assert_eq!(value["bytes"], expected.len());
}

#[test]
fn progress_lines_end_with_everything_done() {
    let (bench, _) = bench();
    let run = bench.run(OUR_MOO, &["--progress=json", "c", "out"]).ok();
    let last: serde_json::Value =
        serde_json::from_str(run.stderr.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["event"], "finished");
    assert_eq!(last["done_bytes"], last["total_bytes"]);
    assert_eq!(last["total_bytes"], SECTORS * 512);
    let run = bench.run(OUR_MOO, &["--progress=plain", "c", "out2"]).ok();
    assert!(run.stderr.starts_with("merge: 100% ("), "{run:?}");
}

/// Not a test of its own: holds a lock for `files_in_use_are_refused`, which
/// runs this program again with this function selected.
#[test]
fn lock_holder_process() {
    use std::io::Write;
    use uml_formats::host_lock::{LockKind, lock_file};
    let Some(path) = std::env::var_os("HOLD_LOCK_ON") else { return };
    let file = File::options().read(true).write(true).open(path).expect("open");
    lock_file(&file, LockKind::Exclusive).expect("lock");
    std::io::stderr().write_all(b"L").expect("tell");
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn files_in_use_are_refused() {
    let (bench, _) = bench();
    fs::write(bench.path("out"), "old").expect("out");
    for (locked, arguments) in
        [("c", vec!["c", "out"]), ("b", vec!["-d", "c"]), ("out", vec!["c", "out"])]
    {
        let mut holder = Command::new(std::env::current_exe().expect("exe"))
            .args(["--exact", "lock_holder_process", "--nocapture"])
            .env("HOLD_LOCK_ON", bench.path(locked))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("spawn");
        let mut ready = [0];
        holder.stderr.as_mut().expect("pipe").read_exact(&mut ready).expect("ready");
        let run = bench.run(OUR_MOO, &arguments);
        assert_eq!(run.status, Some(1), "{run:?}");
        let name = format!("locked by process {} (", holder.id());
        assert!(run.stderr.contains(&name) && run.stderr.contains(locked), "{run:?}");
        drop(holder.stdin.take());
        holder.wait().expect("holder ends");
    }
    bench.run(OUR_MOO, &["c", "out"]).ok();
}

#[test]
fn a_full_disk_leaves_no_half_file() {
    // A file system of 1 MiB; needs the right to mount, as in a root container.
    let bench = Bench::new(&backing(SECTORS as usize));
    bench.cow("c", Version::V3, 4096, &some_changes(SECTORS));
    fs::create_dir(bench.path("small")).expect("mkdir");
    let script = format!(
        "mount -t tmpfs -o size=1m none small && {{ {OUR_MOO} c small/out; echo $?; ls -A small; }}"
    );
    let run = bench.run("unshare", &["-rm", "sh", "-c", &script]);
    if run.stderr.contains("unshare") || run.stderr.contains("mount") {
        eprintln!("SKIPPED: no private mounts here: {}", run.stderr.trim());
        return;
    }
    assert_eq!(run.stdout, "1\n", "{run:?}");
    assert_eq!(run.first_line(), "Writing data: No space left on device");
}
