use std::fs;
use std::path::{Path as HostPath, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;
use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::file::File;
use uml_core::io::{BufSink, BufSource};
use uml_core::kernel::Kernel;
use uml_core::registry::{BlockDevice, BlockDriver, BlockStats, NodeOpen};
use uml_core::task::Task;
use uml_core::vfs::Dev;
use uml_core::vfs::anon::{self, AnonKind};

use super::*;
use crate::testing;

struct Machine {
    kernel: Arc<Kernel>,
    task: Arc<Task>,
    ubd: Arc<Ubd>,
}

fn machine(options: &[String]) -> Machine {
    let kernel = Kernel::new(64 << 20, 2);
    let ubd = Ubd::install(&kernel, options).expect("driver");
    let task = testing::task(&kernel);
    Machine { kernel, task, ubd }
}

impl Machine {
    fn open(&self, minor: u32, flags: i32) -> Result<Arc<File>> {
        let dev = Dev::new(98, minor);
        let path = anon::path(AnonKind::Other("ubd"), &self.task.cred());
        let req = NodeOpen { task: &self.task, dev, path: &path, flags: flags as u32 };
        let opened = self.kernel.vfs.registry.block_driver(98)?.open(&req)?;
        Ok(File::new(opened.ops, path, flags as u32, self.task.cred()))
    }

    fn read(&self, f: &File, off: u64, n: usize) -> Result<Vec<u8>> {
        let mut buf = vec![0xee; n];
        let got = f.read_at(&self.task, off, &mut BufSink::new(&mut buf))?;
        buf.truncate(got);
        Ok(buf)
    }

    fn write(&self, f: &File, off: u64, data: &[u8]) -> Result<usize> {
        f.write_at(&self.task, off, &mut BufSource::new(data))
    }

    fn device(&self, minor: u32) -> Result<Arc<dyn BlockDevice>> {
        self.kernel.vfs.registry.block_device(Dev::new(98, minor))
    }
}

#[test]
fn a_missing_default_root_takes_one_line() {
    machine(&[]);
    let log = uml_base::klog::snapshot();
    let has = |text: &str| log.iter().any(|r| uml_base::klog::format(r).contains(text));
    assert!(has("Failed to initialize ubd device 0 :Couldn't determine size of device's file"));
    assert!(!has("root_fs"));
}

fn image(dir: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let p = dir.path().join(name);
    fs::write(&p, bytes).expect("image");
    p
}

fn text(p: &HostPath) -> String {
    p.display().to_string()
}

#[test]
fn a_raw_image_is_read_and_written_at_any_offset() {
    let dir = tempfile::tempdir().expect("dir");
    let p = image(&dir, "disk", &[7; 10_000]);
    let m = machine(&[format!("0={},,S123", text(&p))]);
    // Rounded up to sectors; beyond the file there are zeros.
    let d = m.device(0).expect("ubda");
    assert_eq!((d.size(), d.block_size(), d.name()), (10_240, 512, "ubda".into()));
    assert_eq!(d.serial().as_deref(), Some("S123"));
    let f = m.open(0, libc::O_RDWR).expect("opens");
    assert_eq!(m.write(&f, 1000, b"hello"), Ok(5));
    assert_eq!(m.read(&f, 998, 9), Ok(b"\x07\x07hello\x07\x07".to_vec()));
    let tail = m.read(&f, 9_990, 1000).expect("read");
    assert_eq!((tail.len(), &tail[..10], &tail[10..]), (250, &[7; 10][..], &[0; 240][..]));
    assert_eq!(m.read(&f, 10_240, 1), Ok(vec![]));
    assert_eq!(m.write(&f, 10_239, b"xy"), Ok(1));
    assert_eq!(m.write(&f, 10_240, b"x"), Err(ENOSPC));
    assert_eq!(&fs::read(&p).expect("image")[1000..1005], b"hello");
    assert_eq!(f.seek(0, libc::SEEK_END), Ok(10_240));
    assert_eq!(d.read(1, &mut [0; 512]), Err(EINVAL));
    assert_eq!(d.read(10_240, &mut [0; 512]), Err(EIO));
    assert_eq!(d.flush(), Ok(()));
    let direct = m.open(0, libc::O_RDWR | libc::O_DIRECT).expect("opens");
    assert_eq!(m.read(&direct, 1, 512), Err(EINVAL));
    assert_eq!(m.read(&direct, 512, 512).map(|b| b.len()), Ok(512));
}

#[test]
fn a_cow_pair_leaves_the_backing_file_alone() {
    let dir = tempfile::tempdir().expect("dir");
    let back = image(&dir, "back", &[1; 8192]);
    let cow = dir.path().join("cow");
    let option = format!("b={},{}", text(&cow), text(&back));
    {
        let m = machine(&[option]);
        let f = m.open(16, libc::O_RDWR).expect("ubdb");
        m.write(&f, 700, b"changed").expect("write");
        assert_eq!(m.read(&f, 699, 9), Ok(b"\x01changed\x01".to_vec()));
        assert_eq!(m.ubd.query("b"), Ok(format!("{},{}", text(&cow), text(&back))));
        // Everything is written when the disk goes away.
    }
    assert_eq!(fs::read(&back).expect("backing"), [1; 8192]);
    // The COW file alone is recognised, and names its backing file.
    let m = machine(&[format!("1={}", text(&cow))]);
    let f = m.open(16, libc::O_RDONLY).expect("ubdb");
    assert_eq!(m.read(&f, 699, 9), Ok(b"\x01changed\x01".to_vec()));
    assert_eq!(m.ubd.query("1"), Ok(format!("{},{}", text(&cow), text(&back))));
}

#[test]
fn discard_and_zeroing() {
    let dir = tempfile::tempdir().expect("dir");
    let p = image(&dir, "disk", &[9; 65_536]);
    let q = image(&dir, "other", &[9; 65_536]);
    let m = machine(&[format!("0={}", text(&p)), format!("1t={}", text(&q))]);
    let d = m.device(0).expect("ubda");
    match d.discard(4096, 8192) {
        Ok(()) => {
            let mut b = [1; 8192];
            d.read(4096, &mut b).expect("read");
            assert_eq!(b, [0; 8192]);
        }
        // The host's filesystem cannot punch holes: then it is not offered any more.
        Err(e) => assert_eq!((e, d.can_discard()), (EOPNOTSUPP, false)),
    }
    d.write_zeroes(32_768, 1024).expect("zeroes");
    let all = fs::read(&p).expect("image");
    assert_eq!((all.len(), &all[32_768..33_792], all[33_792]), (65_536, &[0; 1024][..], 9));
    let other = m.device(16).expect("ubdb");
    assert_eq!(other.discard(0, 512), Err(EOPNOTSUPP));
    let f = m.open(0, libc::O_RDWR).expect("opens");
    let zero = libc::FALLOC_FL_ZERO_RANGE as u32;
    assert_eq!(f.ops.fallocate(&m.task, zero, 0, 512), Ok(()));
    assert_eq!(f.ops.fallocate(&m.task, zero, 1, 512), Err(EINVAL));
    assert_eq!(f.ops.fallocate(&m.task, 0, 0, 512), Err(EOPNOTSUPP));
    assert_eq!(m.read(&f, 0, 513), Ok([&[0; 512][..], &[9]].concat()));
}

#[test]
fn read_only_disks_refuse_writers() {
    let dir = tempfile::tempdir().expect("dir");
    let p = image(&dir, "disk", &[0; 4096]);
    let m = machine(&[format!("0r={}", text(&p))]);
    let d = m.device(0).expect("ubda");
    assert!(d.read_only());
    assert_eq!(d.write(0, &[1; 512]), Err(EROFS));
    assert_eq!(m.open(0, libc::O_RDWR).err(), Some(EROFS));
    assert!(m.open(0, libc::O_RDONLY).is_ok());
    let disk = d.as_any().downcast_ref::<UbdDevice>().expect("ubd").disk().clone();
    assert_eq!(disk.set_read_only(false), Err(EACCES));
}

/// A disk of 64 sectors, of which sectors 8 to 23 are its only partition.
fn one_partition() -> Vec<u8> {
    let mut bytes = vec![0u8; 512 * 64];
    bytes[446 + 4] = 0x83;
    bytes[446 + 8] = 8;
    bytes[446 + 12] = 16;
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

#[test]
fn partitions_are_devices_of_their_own() {
    let dir = tempfile::tempdir().expect("dir");
    let mut bytes = one_partition();
    bytes[8 * 512] = 42;
    let p = image(&dir, "disk", &bytes);
    let m = machine(&[format!("0={}", text(&p))]);
    let names = |m: &Machine| -> Vec<String> {
        m.kernel.vfs.registry.nodes().into_iter().map(|n| n.name).collect()
    };
    assert_eq!(names(&m), ["ubda", "ubd0", "ubda1"]);
    let all: Vec<(String, u64)> = m.ubd.list().iter().map(|d| (d.name(), d.size())).collect();
    assert_eq!(all, [("ubda".into(), 64 * 512), ("ubda1".into(), 16 * 512)]);
    let part = m.device(1).expect("ubda1");
    assert_eq!(part.partition(), Some((1, 8 * 512)));
    let f = m.open(1, libc::O_RDWR).expect("opens");
    assert_eq!(m.read(&f, 0, 1), Ok(vec![42]));
    // It ends where the partition ends.
    assert_eq!(m.write(&f, 16 * 512 - 1, b"xy"), Ok(1));
    assert_eq!(part.write(16 * 512, &[0; 512]), Err(EIO));
    assert_eq!(m.device(2).err(), Some(ENXIO));
    drop((f, part));
    // A new table is seen when it is asked for.
    let disk = m.open(0, libc::O_RDWR).expect("opens");
    m.write(&disk, 446 + 16 + 4, &[0x83, 0, 0, 0, 40, 0, 0, 0, 8]).expect("write");
    let device = m.device(0).expect("ubda");
    let inner = device.as_any().downcast_ref::<UbdDevice>().expect("ubd").disk().clone();
    assert_eq!(m.ubd.reread(&inner), Err(EBUSY));
    drop((disk, device));
    assert_eq!(m.ubd.reread(&inner), Ok(()));
    assert_eq!(names(&m), ["ubda", "ubd0", "ubda1", "ubda2"]);
}

#[test]
fn requests_are_counted_for_the_disk_and_its_partition() {
    let dir = tempfile::tempdir().expect("dir");
    let m = machine(&[format!("0={}", text(&image(&dir, "disk", &one_partition())))]);
    let (disk, part) = (m.device(0).expect("ubda"), m.device(1).expect("ubda1"));
    // What looking for partitions took.
    let before = disk.stats();
    assert!(before.reads.requests > 0 && before.reads.bytes > 0);
    assert_eq!(part.stats(), BlockStats::default());
    part.read(512, &mut [0; 1024]).expect("read");
    part.write(0, &[1; 512]).expect("write");
    part.flush().expect("flush");
    part.write_zeroes(0, 4096).expect("zeroes");
    disk.write(512, &[2; 512]).expect("write");
    // What the device refuses is no request.
    assert_eq!(part.write(16 * 512, &[0; 512]), Err(EIO));
    assert_eq!(part.read(1, &mut [0; 512]), Err(EINVAL));
    let (all, own) = (disk.stats(), part.stats());
    assert_eq!((own.reads.requests, own.reads.bytes), (1, 1024));
    assert_eq!((own.writes.requests, own.writes.bytes), (2, 512 + 4096));
    assert_eq!(
        (all.reads.requests, all.reads.bytes),
        (before.reads.requests + 1, before.reads.bytes + 1024)
    );
    assert_eq!((all.writes.requests, all.writes.bytes), (3, 1024 + 4096));
    assert_eq!((own.flushes.requests, all.flushes.requests), (0, 1));
    assert_eq!((all.in_flight, own.in_flight), ([0, 0], [0, 0]));
    assert!(all.flushes.nanos > 0 && all.busy_nanos >= all.flushes.nanos);
    // What is not in the host's memory is asked for twice and counts once; what is there, once.
    while disk.read_at_once(0, &mut [0; 512]) == Err(EAGAIN) {
        disk.read(0, &mut [0; 512]).expect("read");
    }
    let again = disk.stats().reads.requests - all.reads.requests;
    assert!((1..=2).contains(&again), "{again}");
    let fields = part.stats().fields();
    assert_eq!((fields[0], fields[2], fields[4], fields[6], fields[8]), (1, 2, 2, 9, 0));
}

#[test]
fn configuration_at_run_time() {
    let dir = tempfile::tempdir().expect("dir");
    let p = text(&image(&dir, "disk", &[0; 4096]));
    let m = machine(&[]);
    let err = |r: std::result::Result<(), crate::console::ConfigError>| match r {
        Err(e) => (e.err, e.text),
        Ok(()) => panic!("accepted"),
    };
    assert_eq!(m.ubd.query("3").as_deref(), Ok(""));
    assert_eq!(m.ubd.query("16").err().map(|e| e.err), Some(1));
    assert_eq!(err(m.ubd.config("")), (-22, "Couldn't parse device number".into()));
    assert_eq!(err(m.ubd.config("16=x")), (1, "Device number out of range".into()));
    assert_eq!(
        err(m.ubd.config("3=/nonexistent/x")),
        (-2, "Couldn't determine size of device's file".into())
    );
    assert_eq!(m.ubd.config(&format!("3={p}")), Ok(()));
    assert_eq!(m.ubd.query("d").as_deref(), Ok(p.as_str()));
    assert_eq!(err(m.ubd.config(&format!("3x={p}"))), (-16, "Device is already configured".into()));
    let f = m.open(48, libc::O_RDONLY).expect("opens");
    assert_eq!(err(m.ubd.remove("3")), (-16, "Device is currently open".into()));
    drop(f);
    assert_eq!(m.ubd.remove("3xyz"), Ok(()));
    assert_eq!(err(m.ubd.remove("3")), (-19, "Device doesn't exist".into()));
    assert_eq!(m.open(48, libc::O_RDONLY).err(), Some(ENXIO));
    assert!(m.kernel.vfs.registry.nodes().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn any_mix_of_accesses_matches_a_plain_file(
        cow in any::<bool>(),
        ops in prop::collection::vec((any::<bool>(), 0u64..9000, 0usize..3000, any::<u8>()), 1..40),
    ) {
        let dir = tempfile::tempdir().expect("dir");
        let start: Vec<u8> = (0..8192u32).map(|i| i as u8).collect();
        let p = image(&dir, "disk", &start);
        let option = match cow {
            true => format!("0={},{}", text(&dir.path().join("cow")), text(&p)),
            false => format!("0={}", text(&p)),
        };
        let m = machine(&[option]);
        let f = m.open(0, libc::O_RDWR).expect("opens");
        let mut want = start;
        for (is_write, off, len, byte) in ops {
            let at = (off as usize).min(want.len());
            let end = (at + len).min(want.len());
            if is_write {
                let done = m.write(&f, off, &vec![byte; len]);
                let expected = match (len, off as usize >= want.len()) {
                    (0, _) => Ok(0),
                    (_, true) => Err(ENOSPC),
                    _ => Ok(end - at),
                };
                prop_assert_eq!(done, expected);
                want[at..end].fill(byte);
            } else {
                prop_assert_eq!(m.read(&f, off, len), Ok(want[at..end].to_vec()));
            }
        }
    }
}
