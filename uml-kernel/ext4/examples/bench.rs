//! Figures of the engine on a host file: sequential I/O, small files, fsync.
//! Usage: bench IMAGE (made by mke2fs, at least 1 GiB; its contents change).

use std::sync::Arc;
use std::time::Instant;

use uml_ext4::{Ext4, FileStore, NewInode, Options, ROOT_INO};

fn line(metric: &str, value: f64, unit: &str) {
    println!("{{\"metric\":\"ext4.{metric}\",\"value\":{value:.1},\"unit\":\"{unit}\"}}");
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: bench IMAGE")?;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path)?;
    let store = Arc::new(FileStore::new(file, true)?);
    let fs = Ext4::open(store, Options::default())?;
    let new = NewInode::new(0o100644, 0, 0);

    let mib = 512usize;
    let data = vec![0x5a; 1 << 20];
    let f = fs.create(ROOT_INO, b"sequential", &new)?;
    let t = Instant::now();
    for i in 0..mib {
        fs.write(f, (i as u64) << 20, &data, false)?;
    }
    line("write", mib as f64 / t.elapsed().as_secs_f64(), "MiB/s");
    fs.fsync(f)?;
    line("write_fsync", mib as f64 / t.elapsed().as_secs_f64(), "MiB/s");
    let mut extents = 0;
    let mut at = 0;
    while at < (mib as u64) << 8 {
        at += fs.map(f, at, u64::MAX)?.len;
        extents += 1;
    }
    line("extents_of_512MiB", f64::from(extents), "extents");
    let mut buf = vec![0; 1 << 20];
    let t = Instant::now();
    for i in 0..mib {
        fs.read(f, (i as u64) << 20, &mut buf)?;
    }
    line("read", mib as f64 / t.elapsed().as_secs_f64(), "MiB/s");

    let n = 20_000u32;
    let d = fs.mkdir(ROOT_INO, b"small", &new)?;
    let t = Instant::now();
    for i in 0..n {
        let f = fs.create(d, format!("file-{i}").as_bytes(), &new)?;
        fs.write(f, 0, &data[..3000], false)?;
    }
    line("create_write", f64::from(n) / t.elapsed().as_secs_f64(), "files/s");
    let t = Instant::now();
    for i in 0..n {
        let ino = fs.lookup(d, format!("file-{i}").as_bytes())?;
        std::hint::black_box(fs.attr(ino)?);
    }
    line("lookup_stat", f64::from(n) / t.elapsed().as_secs_f64(), "files/s");
    let t = Instant::now();
    for i in 0..n {
        let u = fs.unlink(d, format!("file-{i}").as_bytes())?;
        fs.forget(u.ino)?;
    }
    line("unlink", f64::from(n) / t.elapsed().as_secs_f64(), "files/s");

    let f = fs.create(ROOT_INO, b"synced", &new)?;
    let t = Instant::now();
    for i in 0..200u64 {
        fs.write(f, i * 4096, &data[..4096], false)?;
        fs.fsync(f)?;
    }
    line("append_4k_fsync", t.elapsed().as_secs_f64() * 1e6 / 200.0, "us");
    let t = Instant::now();
    for i in 0..200u64 {
        fs.write(f, i * 4096, &data[..4096], false)?;
        fs.fdatasync(f)?;
    }
    line("overwrite_4k_fdatasync", t.elapsed().as_secs_f64() * 1e6 / 200.0, "us");
    fs.unmount()?;
    Ok(())
}
