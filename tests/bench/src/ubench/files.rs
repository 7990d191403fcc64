//! Files in the directory given with `--dir`.

use crate::measure::{Bench, fail};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::time::Instant;

const BLOCK: usize = 64 << 10;
const SIZE: usize = 64 << 20;

fn path(b: &Bench) -> String {
    format!("{}/ubench-{}", b.dir, std::process::id())
}

fn fill(f: &mut File) -> std::io::Result<()> {
    let buf = vec![7u8; BLOCK];
    for _ in 0..SIZE / BLOCK {
        f.write_all(&buf)?;
    }
    Ok(())
}

fn timed(f: impl FnOnce() -> std::io::Result<()>) -> Result<f64, String> {
    let t = Instant::now();
    f().map_err(|e| e.to_string())?;
    Ok(SIZE as f64 / 1e6 / t.elapsed().as_secs_f64())
}

/// Overwrites a file of 64 MiB that is in the cache.
pub fn write(b: &Bench) {
    let p = path(b);
    b.rounds("file_write", "MB/s", || {
        let mut f = File::create(&p).map_err(|e| format!("{p}: {e}"))?;
        timed(|| fill(&mut f))
    });
    let _ = std::fs::remove_file(&p);
}

pub fn write_fsync(b: &Bench) {
    let p = path(b);
    b.rounds("file_write_fsync", "MB/s", || {
        let mut f = File::create(&p).map_err(|e| format!("{p}: {e}"))?;
        timed(|| {
            fill(&mut f)?;
            f.sync_all()
        })
    });
    let _ = std::fs::remove_file(&p);
}

pub fn read_hot(b: &Bench) {
    let p = path(b);
    match File::create(&p)
        .map_err(|e| e.to_string())
        .and_then(|mut f| fill(&mut f).map_err(|e| e.to_string()))
    {
        Ok(()) => b.rounds("file_read_hot", "MB/s", || {
            let mut f = File::open(&p).map_err(|e| e.to_string())?;
            let mut buf = vec![0u8; BLOCK];
            timed(|| {
                while f.read(&mut buf)? > 0 {}
                Ok(())
            })
        }),
        Err(e) => fail("file_read_hot", &e),
    }
    let _ = std::fs::remove_file(&p);
}

pub fn create_write_unlink(b: &Bench) {
    let p = path(b);
    let mut bad = None;
    b.per_op("create_write_unlink", |n| {
        for _ in 0..n {
            let r = File::create(&p)
                .and_then(|mut f| f.write_all(b"hello"))
                .and_then(|()| std::fs::remove_file(&p));
            if let Err(e) = r {
                bad = Some(e);
            }
        }
    });
    if let Some(e) = bad {
        fail("create_write_unlink", &format!("{p}: {e}"));
    }
}

pub fn write4k_fsync(b: &Bench) {
    let p = path(b);
    let f = OpenOptions::new().create(true).truncate(false).write(true).open(&p);
    match f {
        Ok(mut f) => {
            use std::io::Seek;
            let buf = [3u8; 4096];
            let mut bad = None;
            b.per_op("write4k_fsync", |n| {
                for _ in 0..n {
                    let r = f.rewind().and_then(|()| f.write_all(&buf)).and_then(|()| f.sync_all());
                    if let Err(e) = r {
                        bad = Some(e);
                    }
                }
            });
            if let Some(e) = bad {
                fail("write4k_fsync", &e.to_string());
            }
        }
        Err(e) => fail("write4k_fsync", &format!("{p}: {e}")),
    }
    let _ = std::fs::remove_file(&p);
}
