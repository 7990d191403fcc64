//! What the cache promises besides the right bytes.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{Ops, Under, world};
use uml_abi::errno::*;
use uml_mm::{MapAccess, Mappable};
use uml_pagecache::{CachedFile, Identity, PAGE, Pool, Readahead, Volume, VolumeConfig};

const MIB: u64 = 1 << 20;

#[test]
fn a_file_larger_than_memory_streams_through() {
    let w = world(64 * MIB, 1 << 20);
    let data = vec![7u8; MIB as usize];
    for i in 0..300u64 {
        assert_eq!(w.file.write(i * MIB, &data, false).unwrap(), data.len());
        let s = w.pool.stats();
        assert!(s.used <= s.limit + 2 * MIB, "{s:?} after {i} MiB");
        assert!(s.dirty <= 64 * MIB / 5 + 2 * MIB, "{s:?}: writers outrun writeback");
    }
    let ahead = Readahead::new();
    let mut buf = vec![0; 128 << 10];
    let mut at = 0;
    while at < 300 * MIB {
        let n = w.file.read(at, &mut buf, &ahead).unwrap();
        assert!(n == buf.len() && buf.iter().all(|b| *b == 7));
        at += n as u64;
        let s = w.pool.stats();
        // The pieces read ahead come on top of the reader's own.
        assert!(s.used <= s.limit + 4 * MIB, "{s:?}");
    }
}

#[test]
fn sequential_reading_asks_in_large_pieces() {
    let w = world(256 * MIB, 1 << 20);
    w.fake.truncate(64 * MIB);
    w.file.set_size(64 * MIB, || Ok(())).unwrap();
    let ahead = Readahead::new();
    let mut buf = vec![0; 4096];
    for i in 0..64 * MIB / 4096 {
        w.file.read(i * 4096, &mut buf, &ahead).unwrap();
    }
    let reads = w.fake.reads.load(Ordering::Relaxed);
    assert!((64..=128).contains(&reads), "{reads} requests for 64 MiB");
    // A second reader finds everything there.
    let again = Readahead::new();
    w.file.read(5 * MIB, &mut buf, &again).unwrap();
    assert_eq!(w.fake.reads.load(Ordering::Relaxed), reads);
}

#[test]
fn changed_data_goes_back_in_large_pieces() {
    let w = world(1024 * MIB, 1 << 20);
    for i in 0..32 * MIB / 4096 {
        w.file.write(i * 4096, &[3; 4096], false).unwrap();
    }
    assert_eq!(w.fake.writes.load(Ordering::Relaxed), 0, "nothing before it is due");
    w.file.write_back_all().unwrap();
    assert_eq!(w.fake.writes.load(Ordering::Relaxed), 8);
    assert_eq!(w.fake.written.load(Ordering::Relaxed), 32 * MIB);
    // Clean again: a second pass has nothing to do.
    w.file.write_back_all().unwrap();
    assert_eq!(w.fake.writes.load(Ordering::Relaxed), 8);
}

#[test]
fn space_runs_out_at_write_and_not_later() {
    let w = world(64 * MIB, 10);
    assert_eq!(w.file.write(0, &[1; 8 * PAGE as usize], false).unwrap(), 8 * PAGE as usize);
    assert_eq!(w.file.write(8 * PAGE, &[1; 4 * PAGE as usize], false).unwrap(), PAGE as usize);
    assert_eq!(w.file.write(9 * PAGE, &[1; 100], false).unwrap(), 100);
    assert_eq!(w.file.write(10 * PAGE, &[1; 100], false), Err(ENOSPC));
    // Overwriting needs no space.
    assert_eq!(w.file.write(0, &[2; 8 * PAGE as usize], false).unwrap(), 8 * PAGE as usize);
    w.file.write_back_all().unwrap();
    assert_eq!(w.file.write(0, &[3; 8 * PAGE as usize], false).unwrap(), 8 * PAGE as usize);
    w.file
        .set_size(0, || {
            w.fake.truncate(0);
            Ok(())
        })
        .unwrap();
    assert_eq!(w.file.write(0, &[4; 9 * PAGE as usize], false).unwrap(), 9 * PAGE as usize);
}

#[test]
fn write_errors_are_reported_once_to_every_open_file() {
    let w = world(64 * MIB, 1000);
    let (a, b) = (AtomicU64::new(w.file.error_count()), AtomicU64::new(w.file.error_count()));
    w.file.write(0, &[1; 5000], false).unwrap();
    *w.fake.broken.lock().unwrap() = Some(EIO);
    assert_eq!(w.file.sync_range(0, u64::MAX, false), Err(EIO));
    *w.fake.broken.lock().unwrap() = None;
    assert_eq!(w.file.check_error(&a), Err(EIO));
    assert_eq!(w.file.check_error(&a), Ok(()));
    assert_eq!(w.file.check_error(&b), Err(EIO));
    assert_eq!(w.fake.reserved.load(Ordering::Relaxed), 0);
    let late = AtomicU64::new(w.file.error_count());
    assert_eq!(w.file.check_error(&late), Ok(()));
}

#[test]
fn mapped_pages_are_written_only_when_they_changed() {
    use std::os::unix::fs::FileExt;
    let w = world(64 * MIB, 1000);
    w.file.write(0, &[1; 64 * PAGE as usize], false).unwrap();
    w.file.write_back_all().unwrap();
    let before = w.fake.written.load(Ordering::Relaxed);
    let mapping = w.file.map();
    let access = MapAccess { shared: true, may_write: true };
    let fd = mapping.host_fd(0, 64 * PAGE, access).unwrap();
    let map = std::fs::File::options().write(true).open(format!("/proc/self/fd/{fd}")).unwrap();
    mapping.sync(0, 64 * PAGE).unwrap();
    assert_eq!(w.fake.written.load(Ordering::Relaxed), before, "nothing was stored yet");
    map.write_all_at(b"x", 5 * PAGE + 7).unwrap();
    mapping.sync(0, 64 * PAGE).unwrap();
    assert_eq!(w.fake.written.load(Ordering::Relaxed), before + PAGE);
    // Changed behind our back, changed back through write(2), and changed again.
    map.write_all_at(b"y", 5 * PAGE + 7).unwrap();
    w.file.write(5 * PAGE + 7, b"z", false).unwrap();
    w.file.write_back_all().unwrap();
    map.write_all_at(b"x", 5 * PAGE + 7).unwrap();
    drop(mapping);
    w.file.write_back_all().unwrap();
    assert_eq!(w.fake.disk.lock().unwrap().data[5 * PAGE as usize + 7], b'x');
    assert_eq!(w.volume.dirty_files(), 0);
    assert!(w.fake.commits.load(Ordering::Relaxed) >= 2, "msync makes it durable");
}

#[test]
fn mapped_pages_stay_in_memory_and_others_do_not() {
    let w = world(64 * MIB, 10000);
    w.file.write(0, &vec![1; 8 * MIB as usize], false).unwrap();
    let mapping = w.file.map();
    let access = MapAccess { shared: false, may_write: false };
    mapping.host_fd(2 * MIB, MIB, access).unwrap();
    for _ in 0..3 {
        w.pool.shrink(u64::MAX);
    }
    assert_eq!(w.pool.stats().used, MIB);
    drop(mapping);
    w.pool.shrink(u64::MAX);
    assert_eq!(w.pool.stats().used, 0);
}

#[test]
fn a_deleted_file_is_not_written() {
    let w = world(64 * MIB, 1000);
    w.file.write(0, &[1; 100_000], false).unwrap();
    w.file.discard();
    w.volume.write_back().unwrap();
    assert_eq!(w.fake.writes.load(Ordering::Relaxed), 0);
    assert_eq!(w.fake.reserved.load(Ordering::Relaxed), 0);
    let s = w.pool.stats();
    assert_eq!((s.used, s.dirty), (0, 0));
    assert_eq!(w.volume.dirty_files(), 0);
}

#[test]
fn the_flusher_writes_back_and_commits_when_it_is_time() {
    let fake = common::Fake::new(1000);
    let pool = Pool::new(64 * MIB);
    let ops = Arc::new(Ops(AtomicU64::new(0)));
    let weak: std::sync::Weak<Ops> = Arc::downgrade(&ops);
    let times =
        VolumeConfig { interval: Duration::from_millis(5), expire: Duration::from_millis(20) };
    let volume = Volume::new(&pool, times, weak);
    volume.start().unwrap();
    let id = Identity::default();
    let file = CachedFile::new(&volume, Box::new(Under(fake.clone())), id, 0);
    file.write(0, b"hello", false).unwrap();
    volume.touch();
    let give_up = std::time::Instant::now() + Duration::from_secs(20);
    while fake.written.load(Ordering::Relaxed) == 0 || ops.0.load(Ordering::Relaxed) == 0 {
        assert!(std::time::Instant::now() < give_up, "the flusher does nothing");
        std::thread::yield_now();
    }
    assert_eq!(fake.disk.lock().unwrap().data, b"hello");
    // It rests and is waken, or is about to rest, or waits for its moment.
    for round in 0..300u64 {
        let before = ops.0.load(Ordering::Relaxed);
        if round % 3 == 0 {
            std::thread::sleep(Duration::from_micros(round * 40));
        }
        volume.touch();
        let give_up = std::time::Instant::now() + Duration::from_secs(20);
        while ops.0.load(Ordering::Relaxed) == before {
            assert!(std::time::Instant::now() < give_up, "nothing is committed in round {round}");
            std::thread::yield_now();
        }
    }
    // A shorter time counts at once.
    let hour = Duration::from_secs(3600);
    volume.set_config(VolumeConfig { interval: hour, expire: hour });
    // The first is done by the time that counted when the wait began.
    for _ in 0..2 {
        let before = ops.0.load(Ordering::Relaxed);
        volume.touch();
        let give_up = std::time::Instant::now() + Duration::from_secs(20);
        while ops.0.load(Ordering::Relaxed) == before {
            assert!(std::time::Instant::now() < give_up, "the old time goes on");
            volume.set_config(times);
            std::thread::yield_now();
        }
    }
    volume.stop();
}

#[test]
fn many_files_do_not_exhaust_descriptors() {
    let fake = common::Fake::new(1 << 30);
    let pool = Pool::new(1 << 40);
    let volume = Volume::new(&pool, VolumeConfig::default(), std::sync::Weak::<Ops>::new());
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let most = uml_host::fs::max_open_files() / 4;
    if most > 20_000 {
        // The limit is beyond what a test should make files for.
        return;
    }
    let mut files = Vec::new();
    for i in 0..most + 200 {
        let id = Identity { ino: i, ..Identity::default() };
        let f = CachedFile::new(&volume, Box::new(Under(fake.clone())), id, 0);
        f.write(0, &[1; 40_000], false).unwrap();
        files.push(f);
        if i % 512 == 0 || i == most + 199 {
            assert!(count() <= most + 64, "{} descriptors for {i} files", count());
        }
    }
}

#[test]
fn threads_see_their_own_writes_under_eviction() {
    let w = world(64 * MIB, 1 << 20);
    const REGION: u64 = 3 * MIB + 1000;
    let stop = AtomicBool::new(false);
    let rounds = 300;
    std::thread::scope(|scope| {
        let mut users = Vec::new();
        for t in 0..3u64 {
            let w = &w;
            users.push(scope.spawn(move || {
                let base = t * REGION;
                let mut model = vec![0u8; REGION as usize];
                w.file.write(base, &model, false).unwrap();
                let mut x = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(t + 1);
                let mut next = move || {
                    x ^= x << 13;
                    x ^= x >> 7;
                    x ^= x << 17;
                    x
                };
                for _ in 0..rounds {
                    let at = next() % REGION;
                    let len = (next() % 100_000 + 1).min(REGION - at);
                    if next() % 2 == 0 {
                        let data: Vec<u8> = (0..len).map(|_| next() as u8).collect();
                        w.file.write(base + at, &data, false).unwrap();
                        model[at as usize..(at + len) as usize].copy_from_slice(&data);
                    } else {
                        let mut buf = vec![0; len as usize];
                        w.file.read(base + at, &mut buf, &Readahead::new()).unwrap();
                        assert!(buf == model[at as usize..(at + len) as usize]);
                    }
                }
            }));
        }
        let (w, stop) = (&w, &stop);
        let evictor = scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                w.pool.shrink(u64::MAX);
                w.volume.write_back().unwrap();
            }
        });
        for u in users {
            u.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        evictor.join().unwrap();
    });
    w.file.write_back_all().unwrap();
    assert_eq!(w.fake.reserved.load(Ordering::Relaxed), 0);
}

/// A disk whose every word says where it is.
fn numbered(w: &common::World, size: u64) {
    w.fake.truncate(size);
    let words = w.fake.disk.lock().unwrap().data.len() / 8;
    for i in 0..words {
        w.fake.disk.lock().unwrap().data[i * 8..i * 8 + 8]
            .copy_from_slice(&(i as u64).to_ne_bytes());
    }
    w.file.set_size(size, || Ok(())).unwrap();
}

/// Panics when `buf` is not what [`numbered`] put at `off`.
fn check_numbers(off: u64, buf: &[u8]) {
    for (i, word) in buf.chunks_exact(8).enumerate() {
        let want = off / 8 + i as u64;
        assert_eq!(u64::from_ne_bytes(word.try_into().unwrap()), want, "at byte {}", want * 8);
    }
}

#[test]
fn what_is_read_ahead_is_read_once() {
    let w = world(256 * MIB, 1 << 20);
    let size = 24 * MIB + 4096 * 3;
    numbered(&w, size);
    let ahead = Readahead::new();
    let mut buf = vec![0; 64 << 10];
    let mut at = 0;
    while at < size {
        let n = w.file.read(at, &mut buf, &ahead).unwrap();
        check_numbers(at, &buf[..n]);
        at += n as u64;
    }
    w.volume.stop();
    let reads = w.fake.reads.load(Ordering::Relaxed);
    assert!((24..=60).contains(&reads), "{reads} requests for 24 MiB");
    assert_eq!(w.file.read(size, &mut buf, &ahead).unwrap(), 0);
}

#[test]
fn readers_ahead_see_the_file_under_eviction() {
    let w = world(64 * MIB, 1 << 20);
    let size = 5 * MIB + 4096;
    numbered(&w, size);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (w, stop) = (&w, &stop);
        let readers: Vec<_> = (1..4usize)
            .map(|t| {
                scope.spawn(move || {
                    for _ in 0..10 {
                        let ahead = Readahead::new();
                        let mut buf = vec![0; t * 24_576];
                        let mut at = 0;
                        while at < size {
                            let n = w.file.read(at, &mut buf, &ahead).unwrap();
                            assert_eq!(n as u64, (size - at).min(buf.len() as u64));
                            check_numbers(at, &buf[..n]);
                            at += n as u64;
                        }
                    }
                })
            })
            .collect();
        let evictor = scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                w.pool.shrink(u64::MAX);
            }
        });
        for r in readers {
            r.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        evictor.join().unwrap();
    });
    w.volume.stop();
}

#[test]
fn a_bad_spot_fails_those_who_come_to_it() {
    let w = world(64 * MIB, 1 << 20);
    numbered(&w, 8 * MIB);
    let bad = 3 * MIB + 8192;
    w.fake.unreadable.store(bad, Ordering::Relaxed);
    let ahead = Readahead::new();
    let mut buf = vec![0; 32 << 10];
    let mut at = 0;
    let e = loop {
        match w.file.read(at, &mut buf, &ahead) {
            Ok(n) => {
                check_numbers(at, &buf[..n]);
                at += n as u64;
            }
            Err(e) => break e,
        }
    };
    assert_eq!(e, EIO);
    assert!(at <= bad && bad - at < 32 << 10, "failed at {at}, the bad spot is {bad}");
}
