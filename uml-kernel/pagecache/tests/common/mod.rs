//! A filesystem of one file in memory, which counts what it is asked.
#![allow(dead_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_pagecache::{
    Backing, CachedFile, Identity, PAGE, PageSet, Pool, Space, Volume, VolumeConfig, VolumeOps,
};

#[derive(Default)]
pub struct Disk {
    pub data: Vec<u8>,
    pub blocks: PageSet,
}

/// What lies below; shared with the test.
pub struct Fake {
    pub disk: Mutex<Disk>,
    /// Pages of space altogether.
    pub space: u64,
    pub reserved: AtomicU64,
    pub reads: AtomicU64,
    pub writes: AtomicU64,
    pub written: AtomicU64,
    pub commits: AtomicU64,
    /// Fail writes with this.
    pub broken: Mutex<Option<uml_abi::Errno>>,
    /// Reads of this byte and those after it fail.
    pub unreadable: AtomicU64,
}

impl Fake {
    pub fn new(space: u64) -> Arc<Fake> {
        Arc::new(Fake {
            disk: Mutex::default(),
            space,
            reserved: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            written: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            broken: Mutex::new(None),
            unreadable: AtomicU64::new(u64::MAX),
        })
    }

    /// truncate(2) below.
    pub fn truncate(&self, size: u64) {
        let mut d = self.disk.lock().unwrap();
        d.data.resize(size as usize, 0);
        d.blocks.remove(size.div_ceil(PAGE), u64::MAX);
    }

    /// Zeroes a range and frees its whole pages.
    pub fn punch(&self, off: u64, len: u64) {
        let mut d = self.disk.lock().unwrap();
        let size = d.data.len() as u64;
        let (s, e) = (off.min(size), (off + len).min(size));
        d.data[s as usize..e as usize].fill(0);
        d.blocks.remove(off.div_ceil(PAGE), (off + len) / PAGE);
    }

    /// Removes or inserts whole pages.
    pub fn shift(&self, off: u64, len: u64, insert: bool) {
        let mut d = self.disk.lock().unwrap();
        let (o, l) = (off as usize, len as usize);
        if insert {
            d.data.splice(o..o, vec![0; l]);
        } else {
            d.data.drain(o..o + l);
        }
        let top = (d.data.len() as u64).div_ceil(PAGE);
        d.blocks = PageSet::default();
        // Which pages have space does not matter to the cache afterwards.
        d.blocks.add(0, top);
    }
}

/// The file on the fake, as the cache sees it.
pub struct Under(pub Arc<Fake>);

impl Backing for Under {
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        let d = self.0.disk.lock().unwrap();
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        if off + buf.len() as u64 > self.0.unreadable.load(Ordering::Relaxed) {
            return Err(EIO);
        }
        let start = (off as usize).min(d.data.len());
        let n = (d.data.len() - start).min(buf.len());
        buf[..n].copy_from_slice(&d.data[start..start + n]);
        buf[n..].fill(0);
        Ok(())
    }

    fn write(&self, off: u64, data: &[u8], space: Space) -> Result<()> {
        if let Some(e) = *self.0.broken.lock().unwrap() {
            return Err(e);
        }
        let mut d = self.0.disk.lock().unwrap();
        self.0.writes.fetch_add(1, Ordering::Relaxed);
        self.0.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        let end = off as usize + data.len();
        if d.data.len() < end {
            d.data.resize(end, 0);
        }
        d.data[off as usize..end].copy_from_slice(data);
        let new = d.blocks.add(off / PAGE, (end as u64).div_ceil(PAGE));
        let promised = self.0.reserved.load(Ordering::Relaxed);
        if space == Space::Promised {
            assert!(new <= promised, "{new} pages allocated, {promised} promised");
        }
        assert!(d.blocks.count() <= self.0.space, "more space used than there is");
        Ok(())
    }

    fn holes(&self, first: u64, end: u64) -> Result<Vec<(u64, u64)>> {
        Ok(self.0.disk.lock().unwrap().blocks.gaps(first, end))
    }

    fn reserve(&self, pages: u64, _: bool) -> Result<()> {
        let d = self.0.disk.lock().unwrap();
        let r = self.0.reserved.load(Ordering::Relaxed) + pages;
        if d.blocks.count() + r > self.0.space {
            return Err(ENOSPC);
        }
        self.0.reserved.store(r, Ordering::Relaxed);
        Ok(())
    }

    fn unreserve(&self, pages: u64) {
        let _d = self.0.disk.lock().unwrap();
        let r = self.0.reserved.load(Ordering::Relaxed);
        assert!(r >= pages, "{pages} given back of {r} promised");
        self.0.reserved.store(r - pages, Ordering::Relaxed);
    }

    fn commit(&self, _: bool) -> Result<()> {
        self.0.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

pub struct Ops(pub AtomicU64);

impl VolumeOps for Ops {
    fn commit(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

pub struct World {
    pub fake: Arc<Fake>,
    pub pool: Arc<Pool>,
    pub volume: Arc<Volume>,
    pub file: Arc<CachedFile>,
}

/// A machine of `mem` bytes with one file on a disk of `space` pages.
pub fn world(mem: u64, space: u64) -> World {
    let fake = Fake::new(space);
    let pool = Pool::new(mem);
    let volume = Volume::new(&pool, VolumeConfig::default(), Weak::<Ops>::new());
    let id = Identity { dev: 1, ino: 2, key: 3 };
    let file = CachedFile::new(&volume, Box::new(Under(fake.clone())), id, 0);
    World { fake, pool, volume, file }
}
