//! The opening sequence on real files: modes, messages, locks.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use uml_formats::cow::{
    self, BitmapPolicy, Device, DeviceError, DeviceSpec, Version, open_device, read_header,
};

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("tempdir") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().expect("dir").join(name)
    }

    fn image(&self, name: &str, size: usize) -> PathBuf {
        fs::write(self.path(name), vec![7; size]).expect("image");
        self.path(name)
    }

    fn spec(&self, file: &str, backing: Option<&str>) -> DeviceSpec {
        DeviceSpec {
            file: self.path(file),
            backing: backing.map(|name| self.path(name)),
            read_only: false,
            sync: false,
            shared: false,
            plain: false,
            policy: BitmapPolicy::WriteThrough,
        }
    }
}

fn open(spec: &DeviceSpec) -> (Result<Device, DeviceError>, Vec<String>) {
    let mut lines = Vec::new();
    let result = open_device(spec, &mut |note| lines.push(note.text));
    (result, lines)
}

fn touch(path: &Path, seconds_ago: u64) {
    let time = SystemTime::now() - Duration::from_secs(seconds_ago);
    File::options().write(true).open(path).expect("open").set_modified(time).expect("utimes");
}

#[test]
fn a_missing_cow_is_created_and_then_detected_by_itself() {
    let bench = Bench::new();
    let backing = bench.image("b", 10_000);
    let (device, lines) = open(&bench.spec("c", Some("b")));
    let Ok(Device::Cow { image, read_only: false }) = device else { panic!("{device:?}") };
    assert_eq!(image.disk_size(), 10_240);
    assert_eq!(image.layout().file_size(), fs::metadata(bench.path("c")).expect("stat").len());
    let expected = format!(
        "Creating \"{}\" as COW file for \"{}\"",
        bench.path("c").display(),
        backing.display()
    );
    assert_eq!(lines, [expected]);
    image.write_at(&[1; 512], 0).expect("write");
    drop(image);
    let (device, lines) = open(&bench.spec("c", None));
    let Ok(Device::Cow { image, .. }) = device else { panic!("{device:?}") };
    let mut sector = [0; 512];
    image.read_at(&mut sector, 0).expect("read");
    assert_eq!((sector, lines.len()), ([1; 512], 0));
    assert_eq!(fs::read(&backing).expect("backing"), vec![7; 10_000]);
}

#[test]
fn flag_d_and_ordinary_files_give_plain_devices() {
    let bench = Bench::new();
    bench.image("b", 1000);
    let (device, _) = open(&bench.spec("b", None));
    assert!(matches!(device, Ok(Device::Plain { size: 1024, read_only: false, .. })));
    drop(open(&bench.spec("c", Some("b"))));
    let (device, _) = open(&DeviceSpec { plain: true, ..bench.spec("c", None) });
    assert!(matches!(device, Ok(Device::Plain { .. })));
    let (device, _) = open(&DeviceSpec { plain: true, ..bench.spec("c", Some("b")) });
    assert_eq!(device.expect_err("d and cow").text, "Can't specify both 'd' and a cow file");
}

#[test]
fn failures_carry_the_stock_lines() {
    let bench = Bench::new();
    let backing = bench.image("b", 1024);
    let name = |file: &str| bench.path(file).display().to_string();

    let (device, lines) = open(&bench.spec("c", Some("missing")));
    assert_eq!(lines, [format!("Couldn't stat \"{}\" : err = 2", name("missing"))]);
    let error = device.expect_err("no backing");
    assert_eq!((error.errno, error.text.as_str()), (2, "Couldn't determine size of device's file"));
    assert!(!bench.path("c").exists());

    let (device, lines) = open(&bench.spec("no/c", Some("b")));
    assert_eq!(device.expect_err("no directory").errno, 2);
    assert_eq!(lines, [format!("Open of COW file '{}' failed, errno = 2", name("no/c"))]);

    bench.image("plain", 1024);
    let (device, lines) = open(&bench.spec("plain", Some("b")));
    assert_eq!(device.expect_err("not a COW").errno, 22);
    let expected =
        format!("Failed to read COW header from COW file \"{}\", errno = 22", name("plain"));
    assert_eq!(lines, [expected]);

    drop(open(&bench.spec("c", Some("b"))));
    let header = read_header(&File::open(bench.path("c")).expect("cow")).expect("read");
    let mtime = header.expect("header").mtime;
    touch(&backing, 3600);
    let now = fs::metadata(&backing).expect("stat").mtime();
    let (device, lines) = open(&bench.spec("c", None));
    assert_eq!(device.expect_err("touched").errno, 22);
    let expected = format!("mtime mismatch ({mtime} vs {now}) of COW header vs backing file");
    assert_eq!(lines, [expected]);
    fs::write(&backing, [0; 2048]).expect("grow");
    let (_, lines) = open(&bench.spec("c", None));
    assert_eq!(lines, ["Size mismatch (1024 vs 2048) of COW header vs backing file"]);
}

#[test]
fn a_damaged_cow_is_not_used_as_a_plain_image() {
    let bench = Bench::new();
    fs::write(bench.path("c"), b"OOOM\0\0\0\x03 cut short").expect("file");
    let (device, lines) = open(&bench.spec("c", None));
    assert_eq!(device.expect_err("damaged").errno, 22);
    assert_eq!(lines[0], "read_cow_header - failed to read V3 header");
}

#[test]
fn the_backing_file_can_be_switched_when_it_fits() {
    let bench = Bench::new();
    let first = bench.image("b", 4096);
    drop(open(&bench.spec("c", Some("b"))));
    // Another file, same size, other time: header's file is used after all.
    let second = bench.image("b2", 4096);
    touch(&second, 100);
    let (device, lines) = open(&bench.spec("c", Some("b2")));
    let Ok(Device::Cow { image, .. }) = device else { panic!("{device:?}") };
    assert_eq!(image.header().backing, first);
    drop(image);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("Backing file mismatch - "));
    assert!(lines[1].starts_with("mtime mismatch ("));
    // Same size and time: switched, and the header says so.
    let time = fs::metadata(&first).expect("stat").modified().expect("mtime");
    File::options().write(true).open(&second).expect("open").set_modified(time).expect("utimes");
    let (device, lines) = open(&bench.spec("c", Some("b2")));
    drop(device.expect("switched"));
    assert_eq!(lines[1], format!("Switching backing file to '{}'", second.display()));
    let header = read_header(&File::open(bench.path("c")).expect("cow")).expect("read");
    let header = header.expect("still valid");
    assert_eq!((header.backing, header.version), (second, Version::V3));
    // A hard link is the same file: no messages.
    fs::hard_link(bench.path("b2"), bench.path("b3")).expect("link");
    let (device, lines) = open(&bench.spec("c", Some("b3")));
    assert!(device.is_ok() && lines.is_empty(), "{lines:?}");
}

#[test]
fn switching_keeps_the_layout_of_an_old_version() {
    let bench = Bench::new();
    let first = bench.image("b", 8192);
    let stat = cow::stat_backing(&first).expect("stat");
    let mut header = cow::new_header(&first, &stat);
    header.version = Version::V2;
    header.alignment = 512;
    let mut bytes = header.encode().expect("header");
    bytes.resize(header.layout().expect("layout").file_size() as usize, 0);
    fs::write(bench.path("c"), bytes).expect("cow");
    fs::rename(&first, bench.path("moved")).expect("rename");
    let (device, lines) = open(&bench.spec("c", Some("moved")));
    drop(device.expect("switched"));
    assert_eq!(lines[0], format!("Couldn't stat '{}', err = 2", first.display()));
    let header = read_header(&File::open(bench.path("c")).expect("cow")).expect("read");
    let header = header.expect("valid");
    assert_eq!((header.version, header.backing), (Version::V2, bench.path("moved")));
}

/// Not a test of its own: holds a lock for `locks_name_the_holder`, which runs
/// this program again with this function selected.
#[test]
fn lock_holder_process() {
    use std::io::{Read, Write};
    let Some(path) = std::env::var_os("HOLD_LOCK_ON") else { return };
    let file = File::options().read(true).write(true).open(path).expect("open");
    uml_formats::host_lock::lock_file(&file, uml_formats::host_lock::LockKind::Exclusive)
        .expect("lock");
    std::io::stderr().write_all(b"L").expect("tell");
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn locks_name_the_holder() {
    use std::io::Read;
    use std::process::{Command, Stdio};
    let bench = Bench::new();
    let image = bench.image("b", 1024);
    let mut holder = Command::new(std::env::current_exe().expect("exe"))
        .args(["--exact", "lock_holder_process", "--nocapture"])
        .env("HOLD_LOCK_ON", &image)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("spawn");
    let mut ready = [0];
    holder.stderr.as_mut().expect("pipe").read_exact(&mut ready).expect("ready");
    let (device, lines) = open(&bench.spec("b", None));
    assert_eq!(device.expect_err("locked").errno, 11);
    let expected = [
        format!("F_SETLK failed, file already locked by pid {}", holder.id()),
        format!("Failed to lock '{}', err = 11", image.display()),
    ];
    assert_eq!(lines, expected);
    let (device, lines) = open(&DeviceSpec { shared: true, ..bench.spec("b", None) });
    assert!(device.is_ok());
    assert_eq!(lines, [format!("Not locking \"{}\" on the host", image.display())]);
    drop(holder.stdin.take());
    holder.wait().expect("holder ends");
}
