//! A store that remembers every write, to cut the power anywhere.

use std::sync::{Arc, Mutex};

use uml_abi::Result;
use uml_ext4::{BlockStore, MemStore};

#[derive(Clone)]
pub enum Event {
    Write(u64, Vec<u8>),
    Flush,
    /// Set by the test: everything before this was promised to be durable.
    Mark(usize),
}

/// Passes everything on and keeps a log.
pub struct Recorder {
    below: MemStore,
    log: Mutex<Vec<Event>>,
}

impl Recorder {
    pub fn new(image: Vec<u8>) -> Arc<Recorder> {
        Arc::new(Recorder { below: MemStore::new(image), log: Mutex::new(Vec::new()) })
    }

    pub fn mark(&self, n: usize) {
        self.log.lock().unwrap().push(Event::Mark(n));
    }

    pub fn log(&self) -> Vec<Event> {
        self.log.lock().unwrap().clone()
    }
}

impl BlockStore for Recorder {
    fn size(&self) -> u64 {
        self.below.size()
    }
    fn read_at(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.below.read_at(off, buf)
    }
    fn write_at(&self, off: u64, buf: &[u8]) -> Result<()> {
        self.log.lock().unwrap().push(Event::Write(off, buf.to_vec()));
        self.below.write_at(off, buf)
    }
    fn flush(&self) -> Result<()> {
        self.log.lock().unwrap().push(Event::Flush);
        Ok(())
    }
}

fn put(image: &mut [u8], off: u64, data: &[u8]) {
    image[off as usize..off as usize + data.len()].copy_from_slice(data);
}

/// The disk after a power cut that loses every write from event `n` on.
/// Returns it with the last mark whose promise holds.
pub fn cut(blank: &[u8], log: &[Event], n: usize) -> (Vec<u8>, usize) {
    let mut image = blank.to_vec();
    let mut mark = 0;
    for e in &log[..n] {
        match e {
            Event::Write(off, data) => put(&mut image, *off, data),
            Event::Flush => {}
            Event::Mark(m) => mark = *m,
        }
    }
    (image, mark)
}

/// Smallest piece of a write that is lost or kept as a whole. A superblock is
/// 1024 bytes, and ext4 has no defence against half of one.
const UNIT: usize = 1024;

/// Like [`cut`], but of the writes since the last flush only a random part
/// (unit by unit) reaches the disk.
pub fn cut_reordered(blank: &[u8], log: &[Event], n: usize, seed: u64) -> (Vec<u8>, usize) {
    let flushed = log[..n].iter().rposition(|e| matches!(e, Event::Flush)).map_or(0, |i| i + 1);
    let (mut image, mut mark) = cut(blank, log, flushed);
    let mut x = seed | 1;
    for e in &log[flushed..n] {
        match e {
            Event::Write(off, data) => {
                for (i, sector) in data.chunks(UNIT).enumerate() {
                    x ^= x << 13;
                    x ^= x >> 7;
                    x ^= x << 17;
                    if x % 2 == 0 {
                        put(&mut image, off + (i * UNIT) as u64, sector);
                    }
                }
            }
            Event::Mark(m) => mark = *m,
            Event::Flush => {}
        }
    }
    (image, mark)
}
