//! What the host's /proc says about the processes that carry guest programs (proc(5)).
//!
//! Numbers are samples: a process may be gone by the time it is asked about, which reads as `None` or zero.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;

use uml_abi::Result;

/// Page counts of `/proc/<pid>/statm`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statm {
    pub size: u64,
    pub resident: u64,
    pub shared: u64,
}

/// Fields of `/proc/<pid>/stat` of a process or thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    pub minflt: u64,
    pub majflt: u64,
    /// Clock ticks.
    pub utime: u64,
    pub stime: u64,
    pub processor: u32,
}

/// `Name: value` lines, values in the unit of the line (kB mostly).
pub type Fields = BTreeMap<String, u64>;

/// The start of a file of one short line, in one read.
fn read_line<const N: usize>(path: &str) -> Option<([u8; N], usize)> {
    let mut buf = [0; N];
    let n = fs::File::open(path).and_then(|mut f| f.read(&mut buf)).ok()?;
    Some((buf, n))
}

fn read(path: &str) -> Option<String> {
    // Names of mapped files need not be UTF-8.
    fs::read(path).ok().map(|b| String::from_utf8_lossy(&b).into_owned())
}

/// Sizes of the process `pid` in pages.
pub fn statm(pid: i32) -> Option<Statm> {
    let text = read(&format!("/proc/{pid}/statm"))?;
    let mut it = text.split_ascii_whitespace().map(|w| w.parse().unwrap_or(0));
    Some(Statm { size: it.next()?, resident: it.next()?, shared: it.next()? })
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name in parentheses may contain anything.
    let rest = &text[text.rfind(')')? + 1..];
    let f: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Field 3 (state) is f[0].
    let num = |n: usize| f.get(n - 3).and_then(|w| w.parse::<u64>().ok());
    Some(Stat {
        minflt: num(10)?,
        majflt: num(12)?,
        utime: num(14)?,
        stime: num(15)?,
        processor: num(39)? as u32,
    })
}

/// Counters of the whole process `pid`.
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&read(&format!("/proc/{pid}/stat"))?)
}

/// Counters of the thread `tid`.
pub fn thread_stat(tid: i32) -> Option<Stat> {
    parse_stat(&read(&format!("/proc/{tid}/task/{tid}/stat"))?)
}

fn parse_fields(text: &str) -> Fields {
    let mut out = Fields::new();
    for line in text.lines() {
        if let Some((name, rest)) = line.split_once(':')
            && let Some(v) = rest.split_ascii_whitespace().next().and_then(|w| w.parse().ok())
        {
            out.insert(name.to_string(), v);
        }
    }
    out
}

/// Stack pointer and program counter of the thread `tid` if it waits in a call of the host; `None` while it
/// runs.
pub fn stopped_at(tid: i32) -> Option<(u64, u64)> {
    parse_stopped_at(&syscall_line(tid)?)
}

/// Arguments, stack pointer and program counter of the thread `tid` if it waits, in a call of the host or outside, where the
/// arguments are zeros.
pub fn waits_in(tid: i32) -> Option<([u64; 6], u64, u64)> {
    parse_waits_in(&syscall_line(tid)?)
}

fn syscall_line(tid: i32) -> Option<String> {
    if tid == 0 {
        return None;
    }
    let (line, n) = read_line::<256>(&format!("/proc/{tid}/task/{tid}/syscall"))?;
    Some(str::from_utf8(line.get(..n)?).ok()?.to_owned())
}

fn parse_waits_in(text: &str) -> Option<([u64; 6], u64, u64)> {
    let mut words = text.split_ascii_whitespace();
    let outside = words.next()? == "-1";
    let mut hex = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    let mut args = [0; 6];
    for a in args.iter_mut().filter(|_| !outside) {
        *a = hex()?;
    }
    Some((args, hex()?, hex()?))
}

fn parse_stopped_at(text: &str) -> Option<(u64, u64)> {
    parse_waits_in(text).map(|(_, sp, pc)| (sp, pc))
}

/// Numeric lines of `/proc/<pid>/status` (`VmRSS`, `RssAnon`, ...).
pub fn status(pid: i32) -> Fields {
    read(&format!("/proc/{pid}/status")).map_or_else(Fields::new, |t| parse_fields(&t))
}

/// Sums of `/proc/<pid>/smaps_rollup`, in kB.
pub fn smaps_rollup(pid: i32) -> Fields {
    read(&format!("/proc/{pid}/smaps_rollup")).map_or_else(Fields::new, |t| parse_fields(&t))
}

/// Numeric lines of `/proc/meminfo`, in kB.
pub fn meminfo() -> Fields {
    read("/proc/meminfo").map_or_else(Fields::new, |t| parse_fields(&t))
}

/// One mapping of `/proc/<pid>/smaps`.
#[derive(Clone, Debug)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    /// Sizes in kB.
    pub fields: Fields,
}

fn parse_smaps(text: &str) -> Vec<Mapping> {
    let mut out: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let head = line.split_ascii_whitespace().next().unwrap_or_default();
        let range = head.split_once('-').and_then(|(a, b)| {
            Some((u64::from_str_radix(a, 16).ok()?, u64::from_str_radix(b, 16).ok()?))
        });
        if let Some((start, end)) = range {
            out.push(Mapping { start, end, fields: Fields::new() });
        } else if let (Some(m), Some((name, rest))) = (out.last_mut(), line.split_once(':'))
            && let Some(v) = rest.split_ascii_whitespace().next().and_then(|w| w.parse().ok())
        {
            m.fields.insert(name.to_string(), v);
        }
    }
    out
}

/// The mappings of the process `pid` with their resident sizes, by address.
pub fn smaps(pid: i32) -> Vec<Mapping> {
    read(&format!("/proc/{pid}/smaps")).map_or_else(Vec::new, |t| parse_smaps(&t))
}

/// What the host says of its first processor: lines of /proc/cpuinfo (`flags`, `clflush size`, `bogomips`...).
pub fn cpuinfo() -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for line in read("/proc/cpuinfo").unwrap_or_default().lines() {
        match line.split_once(':') {
            Some((k, v)) => {
                out.insert(k.trim().to_string(), v.trim().to_string());
            }
            None => break,
        }
    }
    out
}

/// uname(2) of the host: system name, node, release, version, machine.
pub fn uname() -> [String; 5] {
    match nix::sys::utsname::uname() {
        Ok(u) => [u.sysname(), u.nodename(), u.release(), u.version(), u.machine()]
            .map(|s| s.to_string_lossy().into_owned()),
        Err(_) => Default::default(),
    }
}

/// Nanoseconds on a CPU, nanoseconds waiting for one and number of time slices of the thread `tid`.
pub fn schedstat(tid: i32) -> [u64; 3] {
    let path = format!("/proc/{tid}/task/{tid}/schedstat");
    let (buf, n) = read_line::<80>(&path).unwrap_or(([0; 80], 0));
    let text = str::from_utf8(&buf[..n]).unwrap_or_default();
    let mut it = text.split_ascii_whitespace().map(|w| w.parse().unwrap_or(0));
    [(); 3].map(|()| it.next().unwrap_or(0))
}

/// Resets referenced bits and the like of the process `pid` (proc_pid_clear_refs(5)).
pub fn clear_refs(pid: i32, what: u8) -> Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), what.to_string())?)
}

/// Entries of the pages from number `first` on of the process `pid` (proc_pid_pagemap(5)), without what needs privilege:
/// page frame numbers and places in swap are 0. Ends where the host's file does.
pub fn pagemap(pid: i32, first: u64, count: usize) -> Result<Vec<u64>> {
    use std::os::unix::fs::FileExt;
    const FLAGS: u64 = !((1 << 55) - 1);
    let file = fs::File::open(format!("/proc/{pid}/pagemap"))?;
    let mut bytes = vec![0; count * 8];
    let mut got = 0;
    while got < bytes.len() {
        match file.read_at(&mut bytes[got..], first * 8 + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    let entry = |b: &[u8; 8]| u64::from_le_bytes(*b) & FLAGS;
    Ok(bytes[..got].as_chunks().0.iter().map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_thread_waits_is_one_of_three_lines() {
        let call = "0 0x3 0x10 0x20 0x0 0xffffffffffffffff 0x0 0x7ffe10 0x401000\n";
        let args = [3, 0x10, 0x20, 0, u64::MAX, 0];
        assert_eq!(parse_waits_in(call), Some((args, 0x7f_fe10, 0x40_1000)));
        assert_eq!(parse_waits_in("-1 0x7ffe10 0x401000\n"), Some(([0; 6], 0x7f_fe10, 0x40_1000)));
        assert_eq!(parse_waits_in("running\n"), None);
        assert_eq!(parse_waits_in(""), None);
        assert_eq!(parse_stopped_at(call), Some((0x7f_fe10, 0x40_1000)));
    }

    #[test]
    fn own_process_is_described() {
        let me = std::process::id() as i32;
        let s = statm(me).unwrap_or_default();
        assert!(s.size >= s.resident && s.resident > 0);
        assert!(stat(me).is_some_and(|s| s.minflt > 0));
        assert!(status(me).contains_key("VmRSS"));
        let maps = smaps(me);
        assert!(maps.iter().all(|m| m.fields.contains_key("Rss")));
        let rss: u64 = maps.iter().filter_map(|m| m.fields.get("Rss")).sum();
        assert!(rss > 0);
        assert!(cpuinfo().contains_key("flags"));
    }

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let line =
            format!("7 (a) b) R {}", (4..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" "));
        let s = parse_stat(&line).unwrap_or_default();
        assert_eq!((s.minflt, s.majflt, s.utime, s.processor), (10, 12, 14, 39));
    }
}
