//! `storage-measure DIRECTORY PHASE [MIB]`: times storage from inside, the same program on the host and in every guest.
//!
//! Says `figure NAME VALUE UNIT` for every metric. Phases: `write` (leaves `big` for the next one), `cold` (with nothing
//! cached: whoever starts it sees to that), `tree TARBALL`, `find`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

const BLOCK: usize = 1 << 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    let r = match words.as_slice() {
        [dir, "write", mib] => mib
            .parse()
            .map_err(|_| io::ErrorKind::InvalidInput.into())
            .and_then(|n| write(Path::new(dir), n)),
        [dir, "cold"] => cold(Path::new(dir)),
        [dir, "tree", tar] => tree(Path::new(dir), tar),
        [dir, "find"] => find(Path::new(dir)),
        _ => {
            eprintln!("usage: storage-measure DIRECTORY write MIB | cold | tree TARBALL | find");
            return ExitCode::from(2);
        }
    };
    match r {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            println!("failed {words:?}: {e}");
            ExitCode::FAILURE
        }
    }
}

fn figure(name: &str, value: f64, unit: &str) {
    println!("figure {name} {value:.3} {unit}");
}

fn rate(name: &str, bytes: usize, t: Instant) {
    figure(name, bytes as f64 / 1e6 / t.elapsed().as_secs_f64(), "MB/s");
}

fn write(dir: &Path, mib: usize) -> io::Result<()> {
    let big = dir.join("big");
    let block: Vec<u8> = (0..BLOCK).map(|i| (i * 7 + i / 251) as u8).collect();
    let t = Instant::now();
    let mut f = File::create(&big)?;
    for _ in 0..mib {
        f.write_all(&block)?;
    }
    f.sync_all()?;
    rate("seq_write_fsync", mib * BLOCK, t);
    // A part that surely stays in memory; read once before.
    let hot = dir.join("hot");
    let mut f = File::create(&hot)?;
    let n = mib.min(256);
    for _ in 0..n {
        f.write_all(&block)?;
    }
    drop(f);
    read(&hot)?;
    let t = Instant::now();
    for _ in 0..4 {
        read(&hot)?;
    }
    rate("hot_read", 4 * n * BLOCK, t);
    fs::remove_file(&hot)?;
    small(dir)?;
    let f = OpenOptions::new().write(true).create(true).truncate(true).open(dir.join("sync"))?;
    f.write_all_at(&block[..65536], 0)?;
    f.sync_all()?;
    let (t, n) = (Instant::now(), 300);
    for i in 0..n {
        f.write_all_at(&block[..4096], i % 16 * 4096)?;
        f.sync_all()?;
    }
    figure("write_4k_fsync", t.elapsed().as_secs_f64() * 1e6 / n as f64, "us");
    Ok(())
}

fn read(p: &Path) -> io::Result<()> {
    let mut f = File::open(p)?;
    let mut buf = vec![0; 256 << 10];
    while f.read(&mut buf)? > 0 {}
    Ok(())
}

/// Create, write, close, unlink of small files, in groups as programs make them.
fn small(dir: &Path) -> io::Result<()> {
    let d = dir.join("small");
    fs::create_dir(&d)?;
    let (t, n) = (Instant::now(), 5000);
    for group in 0..n / 100 {
        for i in 0..100 {
            fs::write(d.join(format!("f{group}-{i}")), [7; 2000])?;
        }
        for i in 0..100 {
            fs::remove_file(d.join(format!("f{group}-{i}")))?;
        }
    }
    figure("small_files", t.elapsed().as_secs_f64() * 1e6 / n as f64, "us");
    fs::remove_dir(&d)
}

fn cold(dir: &Path) -> io::Result<()> {
    let big = dir.join("big");
    let size = fs::metadata(&big)?.len() as usize;
    let t = Instant::now();
    read(&big)?;
    rate("cold_read", size, t);
    Ok(())
}

fn run(c: &mut Command) -> io::Result<()> {
    let s = c.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    if s.success() { Ok(()) } else { Err(io::Error::other(format!("{c:?} ended with {s}"))) }
}

fn tree(dir: &Path, tar: &str) -> io::Result<()> {
    let d = dir.join("tree");
    fs::create_dir(&d)?;
    let t = Instant::now();
    run(Command::new("tar").args(["xf", tar, "-C"]).arg(&d))?;
    figure("tar_x", t.elapsed().as_secs_f64(), "s");
    rustix::fs::sync();
    Ok(())
}

fn find(dir: &Path) -> io::Result<()> {
    let t = Instant::now();
    run(Command::new("find").arg(dir.join("tree")).args(["-newer", "/proc/version"]))?;
    figure("find_cold", t.elapsed().as_secs_f64(), "s");
    Ok(())
}
