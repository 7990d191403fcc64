//! Datagrams that no good client sends.

use storage_tests::ops::Random;
use uml_formats::mconsole::MAGIC;

use crate::request;

/// What a request may be made of.
const PIECES: &[&[u8]] = &[
    b"version",
    b"help",
    b"config",
    b"remove",
    b"sysrq",
    b"log",
    b"proc",
    b"stack",
    b"ps",
    b"mem",
    b"net",
    b"strace",
    b"stop",
    b"go",
    b"halt",
    b"reboot",
    b"cad",
    b" ",
    b"\t",
    b"=",
    b",",
    b":",
    b"/",
    b"..",
    b"-",
    b"+",
    b"\n",
    b"\xff\xfe",
    b"ubd",
    b"con",
    b"ssl",
    b"vec",
    b"mem",
    b"1",
    b"99999999999999999999",
    b"0x7fffffffffffffff",
    b"null",
    b"none",
    b"pts",
    b"fd:",
    b"port:",
    b"transport=tap",
    b"self/",
    b"1/task/1/",
    b"../../etc/passwd",
    b"on",
    b"off",
    b"-c",
    b"m",
    b"t",
    b"%s%n",
    b"a",
];

/// A request of a few pieces, and often wrong in its form too.
pub fn request(r: &mut Random) -> Vec<u8> {
    let mut text = Vec::new();
    for _ in 0..r.below(9) {
        text.extend_from_slice(PIECES[r.below(PIECES.len() as u64) as usize]);
    }
    match r.below(8) {
        // Noise of any length, with and without the magic number.
        0 => (0..r.below(700)).map(|_| r.number() as u8).collect(),
        1 => {
            let (version, len) = (r.number() as u32, r.number() as u32);
            let mut d = request::raw(MAGIC, version, len, &text);
            d.truncate(r.below(d.len() as u64 + 1) as usize);
            d
        }
        2 => request::raw(MAGIC, 2, r.below(600) as u32, &text),
        3 => {
            let mut d = request::of(&text);
            let at = r.below(d.len() as u64) as usize;
            d[at] ^= 1 << r.below(8);
            d
        }
        _ => request::of(&text),
    }
}

/// Changes some bits, or the length.
pub fn damage(d: &mut Vec<u8>, r: &mut Random) {
    for _ in 0..=r.below(4) {
        if d.is_empty() {
            return;
        }
        let at = r.below(d.len() as u64) as usize;
        match r.below(4) {
            0 => d.truncate(at),
            1 => d[at] = 0xff,
            2 => d.resize(d.len() + at, 0),
            _ => d[at] ^= 1 << r.below(8),
        }
    }
}
