//! `storage-load DIRECTORY SEED WORKERS`: carries out the load of `ops` until it is killed, and says `done WORKER N`
//! whenever operation N of a worker is durable. One more thread makes noise: changes that nobody waits for.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use storage_tests::ops::{How, Op, Random, Sequence, bytes};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, dir, seed, workers] = args.as_slice() else {
        eprintln!("usage: storage-load DIRECTORY SEED WORKERS");
        std::process::exit(2);
    };
    let (Ok(seed), Ok(workers)) = (seed.parse::<u64>(), workers.parse::<u64>()) else {
        eprintln!("storage-load: SEED and WORKERS are numbers");
        std::process::exit(2);
    };
    let out = Mutex::new(io::stdout());
    std::thread::scope(|s| {
        for w in 0..workers {
            let (dir, out) = (Path::new(dir).join(format!("w{w}")), &out);
            s.spawn(move || {
                if let Err(e) = work(&dir, seed, w, out) {
                    say(out, &format!("failed {w} {e}"));
                }
            });
        }
        let noise_dir = Path::new(dir).join("noise");
        s.spawn(move || noise(&noise_dir, seed));
    });
}

/// One line in one write, so that it arrives whole.
fn say(out: &Mutex<io::Stdout>, line: &str) {
    let mut o = out.lock().unwrap_or_else(|e| e.into_inner());
    let _ = o.write_all(format!("{line}\n").as_bytes()).and_then(|()| o.flush());
}

fn work(dir: &Path, seed: u64, worker: u64, out: &Mutex<io::Stdout>) -> io::Result<()> {
    fs::create_dir(dir)?;
    File::open(dir)?.sync_all()?;
    if let Some(up) = dir.parent() {
        File::open(up)?.sync_all()?;
    }
    let mut seq = Sequence::new(seed, worker);
    for n in 1.. {
        let (op, new) = seq.draw();
        carry_out(dir, &op, &new)?;
        seq.apply(&op, &new);
        say(out, &format!("done {worker} {n}"));
    }
    Ok(())
}

fn carry_out(dir: &Path, op: &Op, new: &[u8]) -> io::Result<()> {
    let name = |n: usize| dir.join(format!("f{n}"));
    let open = |n: usize| OpenOptions::new().read(true).write(true).open(name(n));
    match *op {
        Op::Replace { file, .. } => {
            let tmp = dir.join("tmp");
            let mut f = File::create(&tmp)?;
            f.write_all(new)?;
            f.sync_all()?;
            fs::rename(&tmp, name(file))?;
            File::open(dir)?.sync_all()
        }
        Op::Overwrite { file, at, how: How::Write, .. } => {
            let f = open(file)?;
            f.write_all_at(new, at)?;
            f.sync_data()
        }
        Op::Overwrite { file, at, how: How::Sync, .. } => {
            let f = OpenOptions::new()
                .write(true)
                .custom_flags(OFlags::SYNC.bits() as i32)
                .open(name(file))?;
            f.write_all_at(new, at)
        }
        Op::Overwrite { file, at, how: How::Mapping, .. } => {
            let f = open(file)?;
            let at = at as usize;
            // SAFETY: nobody else changes or truncates this file; it is this thread's own.
            let mut map = unsafe { memmap2::MmapMut::map_mut(&f)? };
            map[at..at + new.len()].copy_from_slice(new);
            map.flush()
        }
        Op::Append { file, .. } => {
            let mut f = OpenOptions::new()
                .append(true)
                .create(true)
                .custom_flags(OFlags::DSYNC.bits() as i32)
                .open(name(file))?;
            f.write_all(new)
        }
        Op::Truncate { file, len } => {
            let f = open(file)?;
            f.set_len(len)?;
            f.sync_all()
        }
        Op::Punch { file, at, len } => {
            let f = open(file)?;
            let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(f.as_fd(), how, at, len)?;
            f.sync_all()
        }
        Op::Unlink { file } => {
            fs::remove_file(name(file))?;
            File::open(dir)?.sync_all()
        }
        Op::Rename { file, to } => {
            fs::rename(name(file), name(to))?;
            File::open(dir)?.sync_all()
        }
    }
}

/// Changes of every kind, none of them waited for. Errors (a full disk) are part of it.
fn noise(dir: &Path, seed: u64) {
    let _ = fs::create_dir(dir);
    let mut r = Random::new(seed ^ 0x1234_5678);
    for n in 0u64.. {
        let (a, b) = (r.below(40), r.below(40));
        let path = dir.join(format!("n{a}"));
        let sub = dir.join(format!("d{}", a % 8));
        let _ = match r.below(14) {
            0..=3 => fs::write(&path, bytes(n, r.below(600_000) as usize)),
            4 => fs::rename(&path, dir.join(format!("n{b}"))),
            5 | 6 => fs::remove_file(&path),
            7 => fs::create_dir_all(sub.join(format!("e{b}"))),
            8 => fs::remove_dir_all(&sub),
            9 => fs::hard_link(&path, sub.join(format!("l{b}"))),
            10 => std::os::unix::fs::symlink(
                "x".repeat(1 + 5 * b as usize),
                sub.join(format!("s{b}")),
            ),
            11 => rustix::fs::setxattr(
                &path,
                "user.note",
                &bytes(n, r.below(200) as usize),
                rustix::fs::XattrFlags::empty(),
            )
            .map_err(io::Error::from),
            12 => shape(&path, &mut r),
            _ => {
                if r.below(6) == 0 {
                    rustix::fs::sync();
                }
                fs::write(sub.join(format!("{}{b}", "long-name-".repeat(12))), b"small")
            }
        };
    }
}

/// Every mode of fallocate(2).
fn shape(path: &Path, r: &mut Random) -> io::Result<()> {
    let f = OpenOptions::new().read(true).write(true).open(path)?;
    let how = [
        FallocateFlags::empty(),
        FallocateFlags::KEEP_SIZE,
        FallocateFlags::ZERO_RANGE,
        FallocateFlags::COLLAPSE_RANGE,
        FallocateFlags::INSERT_RANGE,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
    ][r.below(6) as usize];
    Ok(fallocate(f.as_fd(), how, r.below(40) * 4096, (1 + r.below(60)) * 4096)?)
}
