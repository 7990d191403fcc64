//! kill -9 of the kernel at random moments under a load that syncs: what was reported durable is there, and the
//! filesystem is whole, whoever replays the journal.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::image;
use crate::machine::{Machine, Start};
use crate::ops::{Progress, Random};
use crate::suite::program;

/// Workers of the load.
const WORKERS: u64 = 3;

/// Filesystems and ways to keep them; runs go through the list.
const KINDS: [(&str, &[&str], &str, bool); 9] = [
    ("ext4 raw", &["-t", "ext4", "-b", "4096"], "defaults", false),
    ("ext4 in a COW file", &["-t", "ext4", "-b", "4096"], "defaults", true),
    ("ext4 with 1 KiB blocks", &["-t", "ext4", "-b", "1024"], "defaults", false),
    (
        "ext4 with orphan file and seed",
        &["-t", "ext4", "-O", "metadata_csum_seed,orphan_file"],
        "defaults",
        false,
    ),
    ("ext3 in a COW file", &["-t", "ext3", "-b", "4096"], "defaults", true),
    (
        "ext4 with inline data",
        &["-t", "ext4", "-b", "4096", "-O", "inline_data"],
        "defaults",
        false,
    ),
    ("ext4 without delayed allocation", &["-t", "ext4", "-b", "4096"], "nodelalloc", true),
    ("ext4, discard, writeback", &["-t", "ext4", "-b", "4096"], "discard,data=writeback", false),
    ("ext4, data journaled", &["-t", "ext4", "-b", "4096"], "data=journal", false),
];

/// Name of the kind of run `n`.
pub fn kind(n: u64) -> &'static str {
    KINDS[(n % KINDS.len() as u64) as usize].0
}

/// One run: everything that varies follows from `seed`.
pub fn once(dir: &Path, n: u64, seed: u64) -> Result<(), String> {
    let (_, mkfs, options, cow) = KINDS[(n % KINDS.len() as u64) as usize];
    let mut r = Random::new(seed);
    let base = dir.join("base.img");
    image::make(&base, 192, mkfs)?;
    let (disk, raw) = if cow {
        let c = dir.join("disk.cow");
        let _ = std::fs::remove_file(&c);
        (format!("ubd1={},{}", c.display(), base.display()), dir.join("merged.img"))
    } else {
        (format!("ubd1={}", base.display()), base.clone())
    };
    let load = program("storage-load").ok_or("storage-load is not built")?;
    let script = format!(
        "mkdir /mnt/disk && mount -o {options} /dev/ubdb /mnt/disk && exec {} /mnt/disk {seed} {WORKERS}",
        load.display()
    );
    let memory = if r.below(2) == 0 { 64 } else { 256 };
    let disks = [disk];
    let mut machine = Machine::start(&Start { dir, disks: &disks, memory, script: &script })?;
    let mut done = [0; WORKERS as usize];
    let mut lines = Vec::new();
    match machine.line(Instant::now() + Duration::from_secs(60)) {
        Some(l) => lines.push(l),
        None => {
            return Err(format!(
                "the load did not start: {:?}",
                machine.finish(Duration::from_secs(1))
            ));
        }
    }
    // Not a wait for something: the moment of the kill.
    let moment = Instant::now() + Duration::from_millis(r.below(3000));
    while let Some(l) = machine.line(moment) {
        lines.push(l);
    }
    if !machine.running() {
        return Err(format!(
            "the kernel ended by itself: {:?}; {lines:?}",
            machine.finish(Duration::from_secs(1))
        ));
    }
    // A line that is cut off is not a report.
    lines.extend(machine.kill());
    for l in &lines {
        match l.split(' ').collect::<Vec<_>>()[..] {
            ["done", w, n] => {
                if let (Ok(w), Ok(n)) = (w.parse::<usize>(), n.parse::<u64>())
                    && let Some(d) = done.get_mut(w)
                    && n == *d + 1
                {
                    *d = n;
                }
            }
            ["failed", ..] => return Err(format!("in the guest: {l}")),
            _ => {}
        }
    }
    if cow {
        let c = dir.join("disk.cow");
        let _ = std::fs::remove_file(&raw);
        image::tool("uml_moo", &[image::text(&c), image::text(&raw)], &[0])?;
    }
    let result = judge(dir, &raw, seed, &done);
    result.map_err(|e| format!("after {done:?} operations, memory {memory} MB: {e}"))
}

/// Both ways to replay the journal lead to a filesystem that is whole and has what it must have.
fn judge(dir: &Path, raw: &Path, seed: u64, done: &[u64]) -> Result<(), String> {
    let ours = dir.join("ours.img");
    let theirs = dir.join("theirs.img");
    image::copy(raw, &ours)?;
    image::copy(raw, &theirs)?;
    image::preen(&theirs).map_err(|e| format!("e2fsck: {e}"))?;
    found(&theirs, seed, done).map_err(|e| format!("after e2fsck: {e}"))?;
    image::replay(&ours).map_err(|e| format!("own replay: {e}"))?;
    found(&ours, seed, done).map_err(|e| format!("after own replay: {e}"))
}

fn found(img: &Path, seed: u64, done: &[u64]) -> Result<(), String> {
    let fs = image::open(img, true)?;
    for (w, &n) in done.iter().enumerate() {
        let name = format!("w{w}");
        match image::worker_files(&fs, &name)? {
            Some(files) => Progress::new(seed, w as u64, n)
                .check(&files)
                .map_err(|e| format!("{name} after {n} operations: {e}"))?,
            None if n == 0 => {}
            None => return Err(format!("{name} is gone after {n} operations")),
        }
    }
    Ok(())
}
