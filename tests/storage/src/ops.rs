//! The load: a sequence of file operations, the same for everybody with the same seed.
//!
//! A worker has its own directory and makes its operations one after the other; each is durable when it returns.
//! After a crash a directory is thus in the state after the last operation that was reported, or the next one has
//! happened in part, in ways that [`Progress`] allows.

use std::collections::BTreeMap;

/// Files of a worker.
pub const FILES: usize = 10;
/// Largest file an operation makes, in bytes.
const MAX: u64 = 300_000;
/// What a disk writes whole.
const SECTOR: usize = 512;

/// Small numbers that look random.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for every seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        // splitmix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.number() % n.max(1)
    }
}

/// `len` bytes that nobody else writes.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut r = Random::new(seed);
    let mut v = Vec::with_capacity(len + 8);
    while v.len() < len {
        v.extend_from_slice(&r.number().to_le_bytes());
    }
    v.truncate(len);
    v
}

/// How new bytes get into a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// pwrite(2), then fdatasync(2).
    Write,
    /// A shared mapping, then msync(2).
    Mapping,
    /// O_SYNC.
    Sync,
}

/// One operation on files of a worker, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A temporary file is written, synced and renamed to the file's name; the directory is synced.
    Replace { file: usize, len: usize },
    /// Bytes inside a file change.
    Overwrite { file: usize, at: u64, len: usize, how: How },
    /// Bytes are added at the end.
    Append { file: usize, len: usize },
    /// The size changes; fsync(2).
    Truncate { file: usize, len: u64 },
    /// A range becomes a hole; fsync(2).
    Punch { file: usize, at: u64, len: u64 },
    /// The name goes; the directory is synced.
    Unlink { file: usize },
    /// The file takes another one's name; the directory is synced.
    Rename { file: usize, to: usize },
}

/// A worker's files and their contents.
pub type Files = BTreeMap<usize, Vec<u8>>;

/// The operations of one worker and what they lead to.
pub struct Sequence {
    random: Random,
    seed: u64,
    count: u64,
    /// Contents after the operations so far.
    pub files: Files,
}

impl Sequence {
    /// The sequence of worker `worker` of the load `seed`.
    pub fn new(seed: u64, worker: u64) -> Sequence {
        let seed = seed.wrapping_mul(1000).wrapping_add(worker);
        Sequence { random: Random::new(seed), seed, count: 0, files: Files::new() }
    }

    /// The next operation with the new bytes it takes; [`Sequence::apply`] carries it out on `files`.
    pub fn draw(&mut self) -> (Op, Vec<u8>) {
        self.count += 1;
        let r = &mut self.random;
        let file = r.below(FILES as u64) as usize;
        let size = self.files.get(&file).map(|f| f.len() as u64);
        let op = match (size, r.below(10)) {
            (None, _) | (_, 0 | 1) => {
                let cap = if r.below(3) == 0 { MAX } else { 9000 };
                Op::Replace { file, len: r.below(cap) as usize }
            }
            (Some(0), _) => Op::Append { file, len: 1 + r.below(5000) as usize },
            (Some(s), 2..=4) => {
                let at = r.below(s);
                let len = (1 + r.below(s - at).min(r.below(40_000))) as usize;
                let how = [How::Write, How::Mapping, How::Sync][r.below(3) as usize];
                Op::Overwrite { file, at, len, how }
            }
            (Some(s), 5 | 6) if s < MAX => Op::Append { file, len: 1 + r.below(20_000) as usize },
            (Some(s), 7) => Op::Truncate { file, len: r.below(s * 3 / 2 + 1).min(MAX) },
            (Some(s), 8) => {
                let at = r.below(s);
                Op::Punch { file, at, len: (1 + r.below(50_000)).min(s - at) }
            }
            _ if r.below(2) == 0 => Op::Unlink { file },
            _ => Op::Rename { file, to: (file + 1 + r.below(FILES as u64 - 1) as usize) % FILES },
        };
        let new = match op {
            Op::Replace { len, .. } | Op::Overwrite { len, .. } | Op::Append { len, .. } => len,
            _ => 0,
        };
        (op, bytes(self.seed.wrapping_mul(77_777).wrapping_add(self.count), new))
    }

    /// Contents after `op` on top of the present ones.
    pub fn after(&self, op: &Op, new: &[u8]) -> Files {
        let mut f = self.files.clone();
        let zero = |c: &mut Vec<u8>, a: u64, n: u64| {
            let end = ((a + n) as usize).min(c.len());
            c[(a as usize).min(end)..end].fill(0);
        };
        match *op {
            Op::Replace { file, .. } => {
                f.insert(file, new.to_vec());
            }
            Op::Overwrite { file, at, .. } => {
                if let Some(c) = f.get_mut(&file) {
                    c[at as usize..at as usize + new.len()].copy_from_slice(new);
                }
            }
            Op::Append { file, .. } => f.entry(file).or_default().extend_from_slice(new),
            Op::Truncate { file, len } => f.entry(file).or_default().resize(len as usize, 0),
            Op::Punch { file, at, len } => zero(f.entry(file).or_default(), at, len),
            Op::Unlink { file } => {
                f.remove(&file);
            }
            Op::Rename { file, to } => {
                if let Some(c) = f.remove(&file) {
                    f.insert(to, c);
                }
            }
        }
        f
    }

    /// Takes the operation's result over.
    pub fn apply(&mut self, op: &Op, new: &[u8]) {
        self.files = self.after(op, new);
    }
}

/// What may be found of a worker's files: everything before an operation, and that operation perhaps in part.
pub struct Progress {
    before: Files,
    after: Files,
    op: Op,
}

impl Progress {
    /// After `done` operations of a worker were reported durable.
    pub fn new(seed: u64, worker: u64, done: u64) -> Progress {
        let mut s = Sequence::new(seed, worker);
        for _ in 0..done {
            let (op, new) = s.draw();
            s.apply(&op, &new);
        }
        let (op, new) = s.draw();
        let after = s.after(&op, &new);
        Progress { before: s.files, after, op }
    }

    /// Compares with what is on the disk; the text says what is wrong.
    pub fn check(&self, found: &Files) -> Result<(), String> {
        let touched: Vec<usize> = match self.op {
            Op::Replace { file, .. }
            | Op::Overwrite { file, .. }
            | Op::Append { file, .. }
            | Op::Truncate { file, .. }
            | Op::Punch { file, .. }
            | Op::Unlink { file } => vec![file],
            Op::Rename { file, to } => vec![file, to],
        };
        for n in 0..FILES {
            if !touched.contains(&n) && found.get(&n) != self.before.get(&n) {
                return Err(describe(n, self.before.get(&n), found.get(&n)));
            }
        }
        let whole = |want: &Files| touched.iter().all(|n| found.get(n) == want.get(n));
        if whole(&self.before) || whole(&self.after) {
            return Ok(());
        }
        let n = touched[0];
        let partly = || -> Option<bool> {
            let (old, new, now) = (self.before.get(&n)?, self.after.get(&n)?, found.get(&n)?);
            Some(match self.op {
                // In place, sector by sector.
                Op::Overwrite { .. } | Op::Punch { .. } => {
                    now.len() == old.len() && sectors_of(now, old, new)
                }
                // The size says how much is there.
                Op::Append { .. } => {
                    now.len() >= old.len() && now.len() <= new.len() && *now == new[..now.len()]
                }
                // The rest of the last block is zeroed before the size changes, as on Linux.
                Op::Truncate { len, .. } if now.len() == old.len() => {
                    let mut cut = old.clone();
                    let end = (len as usize).min(old.len());
                    cut[end..].fill(0);
                    sectors_of(now, old, &cut)
                }
                _ => false,
            })
        };
        if partly() == Some(true) {
            return Ok(());
        }
        let why = describe(n, self.before.get(&n), found.get(&n));
        Err(format!("{why}; {:?} was under way", self.op))
    }
}

/// Every sector is one of two.
fn sectors_of(now: &[u8], old: &[u8], new: &[u8]) -> bool {
    (0..now.len()).step_by(SECTOR).all(|a| {
        let b = (a + SECTOR).min(now.len());
        let s = &now[a..b];
        // Filesystem blocks need not begin where the file's sectors do, but they are multiples of them.
        Some(s) == old.get(a..b) || Some(s) == new.get(a..b)
    })
}

fn describe(n: usize, want: Option<&Vec<u8>>, now: Option<&Vec<u8>>) -> String {
    match (want, now) {
        (None, Some(f)) => format!("f{n} exists with {} bytes, but should not", f.len()),
        (Some(w), None) => format!("f{n} is gone; it had {} bytes", w.len()),
        (Some(w), Some(f)) => {
            let at = w.iter().zip(f).position(|(a, b)| a != b);
            format!("f{n} has {} bytes instead of {}, first difference at {at:?}", f.len(), w.len())
        }
        (None, None) => format!("f{n} is as it should be"),
    }
}
