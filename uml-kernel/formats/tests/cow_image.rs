//! The image engine against a model, and its promises after a crash.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;

use proptest::prelude::*;
use uml_formats::cow::{
    BitmapPolicy, ByteOrder, Header, Image, Segment, Segments, Source, Version, changed_runs,
    read_header,
};
use uml_formats::store::{MemStore, Store, write_all};

const SECTORS: u64 = 700;
const SIZE: u64 = SECTORS * 512 - 100;

fn header(version: Version) -> Header {
    Header {
        version,
        order: ByteOrder::Big,
        mtime: 1,
        size: SIZE,
        sector_size: 512,
        alignment: if version == Version::V3 { 4096 } else { 512 },
        backing: PathBuf::from("/b"),
    }
}

fn backing() -> Vec<u8> {
    // Every sector different, some zero.
    (0..SIZE).map(|at| if at / 512 % 7 == 0 { 0 } else { (at / 512 % 251) as u8 + 1 }).collect()
}

fn new_cow(header: &Header) -> Vec<u8> {
    let mut bytes = header.encode().expect("header");
    bytes.resize(header.layout().expect("layout").file_size() as usize, 0);
    bytes
}

#[derive(Clone, Debug)]
enum Op {
    Write { first: u64, count: u64, byte: u8 },
    Discard { first: u64, count: u64 },
    Zero { first: u64, count: u64 },
    Flush,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let range = || (0..SECTORS, 1u64..80).prop_map(|(first, n)| (first, n.min(SECTORS - first)));
    prop_oneof![
        4 => (range(), any::<u8>()).prop_map(|((first, count), byte)| Op::Write { first, count, byte }),
        1 => range().prop_map(|(first, count)| Op::Discard { first, count }),
        1 => range().prop_map(|(first, count)| Op::Zero { first, count }),
        1 => Just(Op::Flush),
        1 => Just(Op::Reopen),
    ]
}

fn sectors(range: Range<u64>) -> Range<usize> {
    range.start as usize * 512..range.end as usize * 512
}

fn run(ops: &[Op], version: Version, policy: BitmapPolicy) {
    let header = header(version);
    let cow = MemStore::new(new_cow(&header));
    let below = MemStore::new(backing());
    let open =
        || Image::new(header.clone(), &cow, &below, policy).expect("image").with_chunk_limit(1);
    let mut image = open();
    let mapped = image.layout().mapped_sectors();
    let mut model = backing();
    model.resize(SECTORS as usize * 512, 0);
    for op in ops {
        let (first, count, byte, result) = match *op {
            Op::Write { first, count, byte } => {
                let data = vec![byte; count as usize * 512];
                (first, count, byte, image.write_at(&data, first * 512))
            }
            Op::Discard { first, count } => (first, count, 0, image.discard(first, count)),
            Op::Zero { first, count } => (first, count, 0, image.write_zeroes(first, count)),
            Op::Flush => {
                image.flush().expect("flush");
                continue;
            }
            Op::Reopen => {
                image.flush().expect("flush");
                image = open();
                continue;
            }
        };
        if first + count <= mapped {
            result.expect("operation");
            model[sectors(first..first + count)].fill(byte);
        } else {
            assert_eq!(result.expect_err("no bit").kind(), io::ErrorKind::InvalidInput);
        }
    }
    let mut seen = vec![1; model.len()];
    image.read_at(&mut seen, 0).expect("read");
    assert!(seen == model, "image differs from model");
    image.flush().expect("flush");
    assert_eq!(below.snapshot(), backing(), "the backing file was touched");
    check_views(&image, &cow, &below, &model);
}

/// Runs and segments must describe the same disk.
fn check_views(
    image: &Image<&MemStore, &MemStore>,
    cow: &MemStore,
    below: &MemStore,
    model: &[u8],
) {
    let runs = image.runs(0, SECTORS).expect("runs");
    let in_cow: Vec<Range<u64>> = runs
        .iter()
        .filter(|run| run.source == Source::Cow)
        .map(|run| run.first..run.first + run.count)
        .collect();
    let changed: io::Result<Vec<_>> = changed_runs(cow, image.layout()).collect();
    assert_eq!(changed.expect("scan"), in_cow);
    let mut at = 0;
    for segment in Segments::new(cow, below, image.layout(), image.disk_size()) {
        let segment = segment.expect("segment");
        let range = segment.range();
        assert_eq!(range.start, at);
        let mut part = vec![0; (range.end - range.start) as usize];
        match segment {
            Segment::Cow { offset, .. } => cow.read_at(&mut part, offset).map(drop),
            Segment::Backing { start, .. } => below.read_at(&mut part, start).map(drop),
            Segment::Zero { .. } => Ok(()),
        }
        .expect("read");
        assert!(part == model[range.start as usize..range.end as usize]);
        at = range.end;
    }
    assert_eq!(at, image.disk_size());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn an_image_behaves_like_a_disk(ops in proptest::collection::vec(op(), 1..40), kind in 0..4) {
        let (version, policy) = match kind {
            0 => (Version::V1, BitmapPolicy::WriteThrough),
            1 => (Version::V2, BitmapPolicy::OnFlush),
            2 => (Version::V3, BitmapPolicy::WriteThrough),
            _ => (Version::V3, BitmapPolicy::OnFlush),
        };
        run(&ops, version, policy);
    }
}

/// A store whose unsynced writes can be lost one by one, as at a power cut.
struct Volatile {
    durable: Mutex<Vec<u8>>,
    current: MemStore,
    pending: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl Volatile {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            durable: Mutex::new(bytes.clone()),
            current: MemStore::new(bytes),
            pending: Mutex::new(Vec::new()),
        }
    }

    /// The disk after a power cut that let the writes selected by `keep` through.
    fn after_cut(&self, keep: u64) -> Vec<u8> {
        let disk = MemStore::new(self.durable.lock().expect("lock").clone());
        for (index, (offset, bytes)) in self.pending.lock().expect("lock").iter().enumerate() {
            if keep >> (index % 64) & 1 == 1 {
                write_all(&disk, bytes, *offset).expect("replay");
            }
        }
        disk.snapshot()
    }
}

impl Store for Volatile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.current.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.pending.lock().expect("lock").push((offset, buf.to_vec()));
        self.current.write_at(buf, offset)
    }
    fn size(&self) -> io::Result<u64> {
        self.current.size()
    }
    fn set_size(&self, size: u64) -> io::Result<()> {
        self.current.set_size(size)
    }
    fn sync_data(&self) -> io::Result<()> {
        *self.durable.lock().expect("lock") = self.current.snapshot();
        self.pending.lock().expect("lock").clear();
        Ok(())
    }
    fn punch_hole(&self, _: Range<u64>) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(95))
    }
    fn zero_range(&self, _: Range<u64>) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(95))
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.current.next_data(offset)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// With the bitmap written on flush, any subset of unflushed writes may
    /// reach the disk: each sector then reads as flushed or as written later.
    #[test]
    fn a_power_cut_leaves_each_sector_old_or_new(
        before in proptest::collection::vec((0..SECTORS, 1u8..), 0..12),
        after in proptest::collection::vec((0..SECTORS, 1u8..), 0..12),
        keep in any::<u64>(),
    ) {
        let header = header(Version::V3);
        let cow = Volatile::new(new_cow(&header));
        let below = MemStore::new(backing());
        let image =
            Image::new(header.clone(), &cow, &below, BitmapPolicy::OnFlush).expect("image");
        let mut flushed = backing();
        flushed.resize(SECTORS as usize * 512, 0);
        for (sector, byte) in before {
            image.write_at(&[byte; 512], sector * 512).expect("write");
            flushed[sectors(sector..sector + 1)].fill(byte);
        }
        image.flush().expect("flush");
        for (sector, byte) in &after {
            image.write_at(&[*byte; 512], sector * 512).expect("write");
        }
        let disk = MemStore::new(cow.after_cut(keep));
        let again = read_header(&disk).expect("read").expect("header");
        let image = Image::new(again, &disk, &below, BitmapPolicy::OnFlush).expect("image");
        for sector in 0..SECTORS {
            let mut seen = [0; 512];
            image.read_at(&mut seen, sector * 512).expect("read");
            let old = &flushed[sectors(sector..sector + 1)];
            let new = after.iter().any(|(at, byte)| *at == sector && seen == [*byte; 512]);
            prop_assert!(new || seen == old, "sector {} is neither old nor new", sector);
        }
    }
}

#[test]
fn a_full_disk_is_an_error_and_changes_nothing() {
    let header = header(Version::V3);
    let data = header.layout().expect("layout").data_offset;
    // Room for the first ten sectors of data only.
    let bytes = new_cow(&header)[..data as usize].to_vec();
    let cow = MemStore::with_capacity(bytes, data + 10 * 512);
    let below = MemStore::new(backing());
    let image = Image::new(header, &cow, &below, BitmapPolicy::WriteThrough).expect("image");
    image.write_at(&[9; 512], 9 * 512).expect("fits");
    let error = image.write_at(&[9; 1024], 20 * 512).expect_err("no space");
    assert_eq!(error.raw_os_error(), Some(28));
    let mut seen = [0; 512];
    image.read_at(&mut seen, 20 * 512).expect("read");
    assert_eq!(seen, [21; 512], "the sector must still come from the backing file");
}

#[test]
fn requests_beyond_the_disk_or_unaligned_are_refused() {
    let header = header(Version::V3);
    let image = Image::new(
        header.clone(),
        MemStore::new(new_cow(&header)),
        MemStore::new(backing()),
        BitmapPolicy::WriteThrough,
    )
    .expect("image");
    for (offset, len) in [(SECTORS * 512, 512), (1, 512), (0, 100), (u64::MAX - 511, 512)] {
        let mut buf = vec![0; len];
        assert!(image.read_at(&mut buf, offset).is_err(), "{offset}+{len}");
        assert!(image.write_at(&buf, offset).is_err(), "{offset}+{len}");
    }
    assert!(image.discard(u64::MAX, 2).is_err());
}

/// A file of which nothing is in memory.
struct Slow(MemStore);

impl Store for Slow {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn read_at_once(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(buf, offset)
    }
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn set_size(&self, size: u64) -> io::Result<()> {
        self.0.set_size(size)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        self.0.punch_hole(range)
    }
    fn zero_range(&self, range: Range<u64>) -> io::Result<()> {
        self.0.zero_range(range)
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.0.next_data(offset)
    }
}

#[test]
fn what_is_not_in_memory_is_not_waited_for() {
    let header = header(Version::V3);
    let cow = MemStore::new(new_cow(&header));
    let image = Image::new(header, cow, Slow(MemStore::new(backing())), BitmapPolicy::OnFlush)
        .expect("image");
    image.write_at(&[9; 1024], 5 * 512).expect("write");
    let mut buf = [0; 1024];
    image.read_at_once(&mut buf, 5 * 512).expect("the COW file has it");
    assert_eq!(buf, [9; 1024]);
    let missing = image.read_at_once(&mut buf, 6 * 512).expect_err("half is in the backing file");
    assert_eq!(missing.kind(), io::ErrorKind::WouldBlock);
    image.read_at(&mut buf, 6 * 512).expect("read");
    assert_eq!((buf[0], buf[512]), (9, 0));
    // The same bytes of a real file, if the host has them in memory.
    let host = std::fs::File::open("/proc/self/exe").expect("this program");
    let (mut once, mut whole) = ([0; 64], [1; 64]);
    if uml_formats::store::read_zero_filled_at_once(&host, &mut once, 0).is_ok() {
        uml_formats::store::read_zero_filled(&host, &mut whole, 0).expect("read");
        assert_eq!(once, whole);
    }
}
