//! Random operations on one file against a vector of bytes.

mod common;

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{World, world};
use proptest::prelude::*;
use uml_mm::{MapAccess, Mappable};
use uml_pagecache::{Change, Mapping, PAGE, Readahead};

#[derive(Clone, Debug)]
enum Op {
    Write { at: u64, len: u64, byte: u8 },
    Append { len: u64, byte: u8 },
    Direct { at: u64, len: u64, byte: u8 },
    Read { at: u64, len: u64 },
    ReadDirect { at: u64, len: u64 },
    Truncate { size: u64 },
    Punch { at: u64, len: u64 },
    Shift { page: u64, pages: u64, insert: bool },
    Map { page: u64, pages: u64 },
    Unmap,
    Store { at: u64, len: u64, byte: u8 },
    WriteBack,
    WriteBackRange { at: u64, len: u64 },
    Evict,
}

/// Largest file.
const MAX: u64 = 24 * PAGE;

fn op() -> impl Strategy<Value = Op> {
    let at = || 0..MAX;
    let len = || prop_oneof![1u64..200, 1u64..3 * PAGE, Just(PAGE)];
    prop_oneof![
        6 => (at(), len(), any::<u8>()).prop_map(|(at, len, byte)| Op::Write { at, len, byte }),
        2 => (len(), any::<u8>()).prop_map(|(len, byte)| Op::Append { len, byte }),
        2 => (at(), len(), any::<u8>()).prop_map(|(at, len, byte)| Op::Direct { at, len, byte }),
        4 => (at(), len()).prop_map(|(at, len)| Op::Read { at, len }),
        1 => (at(), len()).prop_map(|(at, len)| Op::ReadDirect { at, len }),
        2 => (0..=MAX).prop_map(|size| Op::Truncate { size }),
        2 => (at(), len()).prop_map(|(at, len)| Op::Punch { at, len }),
        1 => (0..20u64, 1..4u64, any::<bool>())
            .prop_map(|(page, pages, insert)| Op::Shift { page, pages, insert }),
        1 => (0..24u64, 1..12u64).prop_map(|(page, pages)| Op::Map { page, pages }),
        1 => Just(Op::Unmap),
        4 => (at(), len(), any::<u8>()).prop_map(|(at, len, byte)| Op::Store { at, len, byte }),
        2 => Just(Op::WriteBack),
        1 => (at(), len()).prop_map(|(at, len)| Op::WriteBackRange { at, len }),
        3 => Just(Op::Evict),
    ]
}

/// The mapping of a test: a descriptor of its own for what a guest would have mapped.
struct Map {
    file: std::fs::File,
    _mapping: Arc<Mapping>,
    start: u64,
    end: u64,
}

struct Check {
    w: World,
    bytes: Vec<u8>,
    map: Option<Map>,
}

impl Check {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn put(&mut self, at: u64, data: &[u8]) {
        let end = at as usize + data.len();
        if data.is_empty() {
            return;
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[at as usize..end].copy_from_slice(data);
    }

    fn apply(&mut self, op: &Op) {
        let f = self.w.file.clone();
        let fake = self.w.fake.clone();
        match *op {
            Op::Write { at, len, byte } => {
                let data = vec![byte; len.min(MAX - at) as usize];
                assert_eq!(f.write(at, &data, false).unwrap(), data.len());
                self.put(at, &data);
            }
            Op::Append { len, byte } => {
                let data = vec![byte; len.min(MAX - self.size().min(MAX)) as usize];
                let at = f.size();
                f.write(at, &data, false).unwrap();
                self.put(at, &data);
            }
            Op::Direct { at, len, byte } => {
                let data = vec![byte; len.min(MAX - at) as usize];
                f.write_direct(at, &data, false).unwrap();
                self.put(at, &data);
            }
            Op::Read { at, len } | Op::ReadDirect { at, len } => {
                let mut buf = vec![0xa5; len as usize];
                let n = match op {
                    Op::Read { .. } => f.read(at, &mut buf, &Readahead::new()).unwrap(),
                    _ => f.read_direct(at, &mut buf, len % 2 == 1).unwrap(),
                };
                let s = at.min(self.size());
                let e = (at + len).min(self.size());
                assert_eq!(&buf[..n], &self.bytes[s as usize..e as usize]);
            }
            Op::Truncate { size } => {
                f.set_size(size, || {
                    fake.truncate(size);
                    Ok(())
                })
                .unwrap();
                self.bytes.resize(size as usize, 0);
            }
            Op::Punch { at, len } => {
                let size = self.size();
                f.change(Change::Zero { off: at, len }, size, || {
                    fake.punch(at, len);
                    Ok(())
                })
                .unwrap();
                let (s, e) = (at.min(size), (at + len).min(size));
                self.bytes[s as usize..e as usize].fill(0);
            }
            Op::Shift { page, pages, insert } => {
                let (off, len) = (page * PAGE, pages * PAGE);
                let ok = if insert {
                    off < self.size() && self.size() + len <= MAX
                } else {
                    off + len < self.size()
                };
                if !ok {
                    return;
                }
                let size = if insert { self.size() + len } else { self.size() - len };
                f.change(Change::From(off), size, || {
                    fake.shift(off, len, insert);
                    Ok(())
                })
                .unwrap();
                let (o, l) = (off as usize, len as usize);
                if insert {
                    self.bytes.splice(o..o, vec![0; l]);
                } else {
                    self.bytes.drain(o..o + l);
                }
            }
            Op::Map { page, pages } if self.map.is_none() => {
                let mapping = f.map();
                let access = MapAccess { shared: true, may_write: true };
                let fd = mapping.host_fd(page * PAGE, pages * PAGE, access).unwrap();
                let file = std::fs::OpenOptions::new()
                    .write(true)
                    .open(format!("/proc/self/fd/{fd}"))
                    .unwrap();
                self.map = Some(Map {
                    file,
                    _mapping: mapping,
                    start: page * PAGE,
                    end: (page + pages) * PAGE,
                });
            }
            Op::Unmap if self.map.is_some() => {
                self.map = None;
            }
            Op::Store { at, len, byte } => {
                let Some(m) = &self.map else { return };
                // Stores reach whole pages of the file, its last one too.
                let e = (at + len).min(m.end).min(self.size().next_multiple_of(PAGE));
                let s = at.max(m.start);
                if s >= e {
                    return;
                }
                let data = vec![byte; (e - s) as usize];
                m.file.write_all_at(&data, s).unwrap();
                let kept = self.size().saturating_sub(s).min(e - s);
                self.put(s, &data[..kept as usize]);
            }
            Op::WriteBack => f.write_back_all().unwrap(),
            Op::WriteBackRange { at, len } => f.write_back_range(at, len).unwrap(),
            Op::Evict => {
                self.w.pool.shrink(u64::MAX);
                self.w.pool.shrink(u64::MAX);
            }
            Op::Map { .. } | Op::Unmap => {}
        }
        assert_eq!(f.size(), self.size());
    }

    fn finish(mut self) {
        let mut all = vec![0; self.bytes.len()];
        let n = self.w.file.read(0, &mut all, &Readahead::new()).unwrap();
        assert_eq!(n, self.bytes.len());
        assert!(all == self.bytes, "contents through the cache");
        self.apply(&Op::Unmap);
        self.w.file.write_back_all().unwrap();
        assert_eq!(self.w.volume.dirty_files(), 0, "a clean file is on no list");
        assert_eq!(self.w.file.delayed_pages(), 0);
        assert_eq!(self.w.fake.reserved.load(Ordering::Relaxed), 0, "promises given back");
        assert_eq!(self.w.pool.stats().dirty, 0);
        let mut disk = self.w.fake.disk.lock().unwrap().data.clone();
        disk.resize(self.bytes.len(), 0);
        assert!(disk == self.bytes, "contents below");
        self.w.pool.shrink(u64::MAX);
        assert!(self.w.file.is_empty());
        let World { pool, file, .. } = self.w;
        drop(file);
        assert_eq!(pool.stats().used, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_cache_is_a_vector_of_bytes(ops in prop::collection::vec(op(), 1..60)) {
        let mut c = Check { w: world(64 << 20, 1 << 20), bytes: Vec::new(), map: None };
        for o in &ops {
            c.apply(o);
        }
        c.finish();
    }
}
