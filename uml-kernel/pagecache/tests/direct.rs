//! Direct writes of one file beside each other and beside readers.

mod common;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

use common::{Fake, Ops, Under};
use uml_abi::Result;
use uml_abi::errno::EIO;
use uml_mm::{MapAccess, Mappable};
use uml_pagecache::{
    Backing, CachedFile, Identity, PAGE, Pool, Readahead, Space, Volume, VolumeConfig,
};

const PAGES: u64 = 16;

/// What happens in the middle of reading and writing below; the lock that the fake has is not held then.
type Hook = Box<dyn Fn() -> Result<()> + Send + Sync>;

struct Hooked {
    under: Under,
    after_read: Hook,
    before_write: Hook,
}

impl Backing for Hooked {
    fn read(&self, off: u64, buf: &mut [u8]) -> Result<()> {
        self.under.read(off, buf)?;
        (self.after_read)()
    }
    fn write(&self, off: u64, data: &[u8], space: Space) -> Result<()> {
        (self.before_write)()?;
        self.under.write(off, data, space)
    }
    fn holes(&self, first: u64, end: u64) -> Result<Vec<(u64, u64)>> {
        self.under.holes(first, end)
    }
    fn reserve(&self, pages: u64, privileged: bool) -> Result<()> {
        self.under.reserve(pages, privileged)
    }
    fn unreserve(&self, pages: u64) {
        self.under.unreserve(pages);
    }
    fn commit(&self, data_only: bool) -> Result<()> {
        self.under.commit(data_only)
    }
}

fn nothing() -> Hook {
    Box::new(|| Ok(()))
}

/// A file of ones.
fn file(after_read: Hook, before_write: Hook) -> (Arc<CachedFile>, Arc<Fake>) {
    let fake = Fake::new(1 << 20);
    fake.truncate(PAGES * PAGE);
    fake.disk.lock().unwrap().data.fill(1);
    let volume = Volume::new(&Pool::new(64 << 20), VolumeConfig::default(), Weak::<Ops>::new());
    let backing = Hooked { under: Under(fake.clone()), after_read, before_write };
    let id = Identity { dev: 1, ino: 2, key: 3 };
    (CachedFile::new(&volume, Box::new(backing), id, PAGES * PAGE), fake)
}

fn page(f: &CachedFile, n: u64) -> Vec<u8> {
    let mut buf = vec![0; PAGE as usize];
    assert_eq!(f.read(n * PAGE, &mut buf, &Readahead::new()), Ok(buf.len()));
    buf
}

const WHOLE: usize = PAGE as usize;

#[test]
fn writes_of_different_pages_overlap() {
    // Each write goes on when another one has come, too.
    let met = (Mutex::new(0), Condvar::new());
    let meet = move || {
        let mut n = met.0.lock().unwrap();
        *n += 1;
        met.1.notify_all();
        let wait = Duration::from_secs(20);
        let (n, _) = met.1.wait_timeout_while(n, wait, |n| *n < 2).unwrap();
        if *n < 2 { Err(EIO) } else { Ok(()) }
    };
    let (f, fake) = file(nothing(), Box::new(meet));
    // One of them is in memory.
    assert_eq!(page(&f, 3)[0], 1);
    std::thread::scope(|s| {
        for n in [3, 5] {
            let f = &f;
            s.spawn(move || {
                let data = [n as u8; WHOLE];
                assert_eq!(f.write_direct_beside(n * PAGE, &data, false), Some(Ok(WHOLE)));
            });
        }
    });
    for n in [3, 5] {
        assert_eq!(page(&f, n), [n as u8; WHOLE]);
        let below = fake.disk.lock().unwrap().data[(n * PAGE) as usize];
        assert_eq!(below, n as u8);
    }
    assert_eq!(page(&f, 4), [1; WHOLE]);
}

#[test]
fn what_was_read_before_a_write_is_not_entered_after_it() {
    let (read, was_read): (Sender<()>, Receiver<()>) = channel();
    let (go, may_go): (Sender<()>, Receiver<()>) = channel();
    let may_go = Mutex::new(may_go);
    let pause = move || {
        let _ = read.send(());
        // Later readings find nobody to wait for.
        let _ = may_go.lock().unwrap().recv();
        Ok(())
    };
    let (f, _) = file(Box::new(pause), nothing());
    std::thread::scope(|s| {
        let reader = s.spawn(|| page(&f, 7));
        was_read.recv().unwrap();
        let (wrote, written) = channel();
        let f = &f;
        s.spawn(move || {
            let data = [9; WHOLE];
            assert_eq!(f.write_direct_beside(7 * PAGE, &data, false), Some(Ok(WHOLE)));
            let _ = wrote.send(());
        });
        // It has to wait for the reader; if it did not, it would be through by then.
        let _ = written.recv_timeout(Duration::from_millis(300));
        drop(go);
        reader.join().unwrap();
    });
    assert_eq!(page(&f, 7), [9; WHOLE]);
}

#[test]
fn many_at_once_leave_memory_and_disk_the_same() {
    let (f, fake) = file(nothing(), nothing());
    std::thread::scope(|s| {
        for t in 0..4u64 {
            let f = &f;
            s.spawn(move || {
                let mut x = t + 1;
                for i in 0..400u64 {
                    x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let (n, len) = ((x >> 33) % (PAGES - 2), 1 + (x >> 50) % 2);
                    if t == 0 {
                        page(f, n);
                        f.drop_cached(n * PAGE, PAGE);
                        continue;
                    }
                    let data = vec![(t * 60 + i % 60) as u8; (len * PAGE) as usize];
                    let r = f.write_direct_beside(n * PAGE, &data, false);
                    assert_eq!(r, Some(Ok(data.len())));
                }
            });
        }
    });
    let below = fake.disk.lock().unwrap().data.clone();
    for n in 0..PAGES {
        let mine = page(&f, n);
        assert_eq!(mine, below[(n * PAGE) as usize..][..WHOLE], "page {n}");
        assert!(mine.iter().all(|b| *b == mine[0]), "page {n} has parts of two writes");
    }
}

#[test]
fn growing_and_mapped_files_are_for_one_writer_alone() {
    let (f, _) = file(nothing(), nothing());
    let data = [2; WHOLE];
    assert_eq!(f.write_direct_beside(PAGES * PAGE, &data, false), None);
    assert_eq!(f.write_direct_beside((PAGES - 1) * PAGE + 512, &data, false), None);
    let m = f.map();
    m.host_fd(0, PAGE, MapAccess { shared: true, may_write: true }).unwrap();
    assert_eq!(f.write_direct_beside(0, &data, false), None);
    assert_eq!(f.write_direct(0, &data, false), Ok(WHOLE));
    drop(m);
    f.write_back_all().unwrap();
    assert_eq!(f.write_direct_beside(0, &data, false), Some(Ok(WHOLE)));
    assert_eq!(page(&f, 0), data);
}
