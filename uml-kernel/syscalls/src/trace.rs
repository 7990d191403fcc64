//! Looking at the system calls of processes: printed one line a call, from the table's argument kinds, or counted.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use uml_abi::{Errno, Result};
use uml_base::{Mutex, Rank};
use uml_core::ctx::Ctx;
use uml_core::user;

use crate::table::{Arg, Entry, lookup};

/// Somebody is watched: what every call looks at.
static ANY: AtomicBool = AtomicBool::new(false);
/// The calls of everybody are printed.
static ALL: AtomicBool = AtomicBool::new(false);
/// Processes that are watched.
static CHOSEN: Mutex<BTreeMap<i32, Watch>> = Mutex::new(Rank::LEAF, BTreeMap::new());

/// Calls that the trace buffer holds.
const REMEMBERED: usize = 512;
/// The trace buffer: the latest calls of those who are watched, printed or not.
static LATEST: Mutex<VecDeque<String>> = Mutex::new(Rank::LEAF, VecDeque::new());

/// What is done with the calls of a process.
#[derive(Default)]
struct Watch {
    print: bool,
    counts: Option<Counts>,
}

/// Calls of a process by number.
type Counts = BTreeMap<u64, Count>;

#[derive(Clone, Copy, Default)]
struct Count {
    calls: u64,
    errors: u64,
    time: Duration,
}

/// Before a call: the time it begins, when somebody is watched at all.
pub fn begin() -> Option<Instant> {
    ANY.load(Ordering::Relaxed).then(uml_base::clock::now)
}

/// After a call that [`begin`] saw.
pub fn finish(
    cx: &Ctx<'_>,
    began: Instant,
    nr: u64,
    entry: &Entry,
    args: &[u64; 6],
    value: &Result<u64, Errno>,
) {
    let time = uml_base::clock::now().saturating_duration_since(began);
    let mut print_it = ALL.load(Ordering::Relaxed);
    let mut watched = print_it;
    if let Some(w) = CHOSEN.lock().get_mut(&cx.task.process.pid) {
        watched = true;
        print_it |= w.print;
        if let Some(counts) = &mut w.counts {
            let c = counts.entry(nr).or_default();
            c.calls += 1;
            c.errors += u64::from(value.is_err());
            c.time = c.time.saturating_add(time);
        }
    }
    if watched {
        let line = describe(cx, entry, args, value);
        if print_it {
            uml_base::klog::log(uml_base::Level::Info, format_args!("{line}"));
        }
        remember(line);
    }
}

fn remember(line: String) {
    let mut latest = LATEST.lock();
    if latest.len() == REMEMBERED {
        latest.pop_front();
    }
    latest.push_back(line);
}

/// Empties the trace buffer: the latest calls of those who are or were watched, oldest first (SysRq `z`).
pub fn take_latest() -> Vec<String> {
    std::mem::take(&mut *LATEST.lock()).into()
}

/// Switches printing of every call on or off (`strace` on the kernel command line).
pub fn enable(on: bool) {
    ALL.store(on, Ordering::Relaxed);
    refresh(&CHOSEN.lock());
}

/// Prints the calls of process `pid` from now on; false when that is so already. Pids may be reused: whoever
/// gets the number is watched then.
pub fn print_process(pid: i32) -> bool {
    let mut chosen = CHOSEN.lock();
    let w = chosen.entry(pid).or_default();
    let changed = !std::mem::replace(&mut w.print, true);
    refresh(&chosen);
    changed
}

/// Counts the calls of process `pid` from now on.
pub fn count_process(pid: i32) {
    let mut chosen = CHOSEN.lock();
    chosen.entry(pid).or_default().counts.get_or_insert_with(Counts::new);
    refresh(&chosen);
}

/// The table of what was counted for process `pid`, if it is being counted.
pub fn counted(pid: i32) -> Option<String> {
    CHOSEN.lock().get(&pid).and_then(|w| w.counts.as_ref()).map(table)
}

/// Leaves process `pid` alone. `None` when it was not watched; else the table of what was counted, empty
/// when nothing was to be counted.
pub fn forget_process(pid: i32) -> Option<String> {
    let mut chosen = CHOSEN.lock();
    let w = chosen.remove(&pid)?;
    refresh(&chosen);
    Some(w.counts.as_ref().map(table).unwrap_or_default())
}

fn refresh(chosen: &BTreeMap<i32, Watch>) {
    ANY.store(ALL.load(Ordering::Relaxed) || !chosen.is_empty(), Ordering::Relaxed);
}

/// The table of strace(1) with `-c -w`: what takes longest first.
fn table(counts: &Counts) -> String {
    const RULE: &str = "------ ----------- ----------- --------- --------- ----------------\n";
    let mut rows: Vec<(u64, Count)> = counts.iter().map(|(nr, c)| (*nr, *c)).collect();
    rows.sort_by_key(|(nr, c)| (std::cmp::Reverse(c.time), *nr));
    let sum = rows.iter().fold(Count::default(), |s, (_, c)| Count {
        calls: s.calls + c.calls,
        errors: s.errors + c.errors,
        time: s.time.saturating_add(c.time),
    });
    let mut out = String::from("% time     seconds  usecs/call     calls    errors syscall\n");
    out.push_str(RULE);
    let mut row = |c: &Count, name: &str| {
        let share = match sum.time.as_secs_f64() {
            0.0 => 0.0,
            all => 100.0 * c.time.as_secs_f64() / all,
        };
        let each = c.time.as_micros() / u128::from(c.calls.max(1));
        let errors = if c.errors == 0 { String::new() } else { c.errors.to_string() };
        let seconds = c.time.as_secs_f64();
        // A string takes whatever is written to it.
        let _ = writeln!(
            out,
            "{share:>6.2} {seconds:>11.6} {each:>11} {:>9} {errors:>9} {name}",
            c.calls
        );
    };
    for (nr, c) in &rows {
        row(c, lookup(*nr).map_or("?", |e| e.name));
    }
    row(&sum, "total");
    let at = out.trim_end().rfind('\n').map_or(0, |n| n + 1);
    out.insert_str(at, RULE);
    out
}

/// A finished call as one line.
fn describe(cx: &Ctx<'_>, entry: &Entry, args: &[u64; 6], value: &Result<u64, Errno>) -> String {
    let mut line = format!("[{}] {}(", cx.task.tid, entry.name);
    for (i, kind) in entry.args.iter().enumerate() {
        if i > 0 {
            line.push_str(", ");
        }
        line.push_str(&argument(cx, *kind, args[i]));
    }
    match value {
        Ok(v) if *v > 0xffff => line.push_str(&format!(") = {v:#x}")),
        Ok(v) => line.push_str(&format!(") = {v}")),
        Err(e) => line.push_str(&format!(") = -1 {}", e.name())),
    }
    line
}

fn argument(cx: &Ctx<'_>, kind: Arg, raw: u64) -> String {
    match kind {
        Arg::Fd | Arg::Int | Arg::Pid | Arg::Sig => (raw as i32).to_string(),
        Arg::DirFd if raw as i32 == libc::AT_FDCWD => "AT_FDCWD".into(),
        Arg::DirFd => (raw as i32).to_string(),
        Arg::Path | Arg::Str => match user::read_path(&cx.task, raw) {
            Ok(p) => format!("{:?}", String::from_utf8_lossy(&p)),
            Err(_) => format!("{raw:#x}"),
        },
        Arg::Flags | Arg::Addr | Arg::Ptr | Arg::In | Arg::Out => format!("{raw:#x}"),
        Arg::Mode => format!("0{:o}", raw as u32),
        Arg::Size => raw.to_string(),
        Arg::Off => (raw as i64).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_buffer_keeps_the_latest() {
        for n in 0..REMEMBERED + 2 {
            remember(n.to_string());
        }
        let lines = take_latest();
        assert_eq!((lines.len(), &*lines[0]), (REMEMBERED, "2"));
        assert_eq!(lines.last(), Some(&(REMEMBERED + 1).to_string()));
        assert!(take_latest().is_empty());
    }

    #[test]
    fn counts_are_shown_as_strace_does() {
        assert_eq!(counted(-7), None);
        count_process(-7);
        let mut counts = Counts::new();
        counts.insert(0, Count { calls: 4, errors: 0, time: Duration::from_millis(1) });
        counts.insert(257, Count { calls: 2, errors: 1, time: Duration::from_millis(3) });
        CHOSEN.lock().insert(-7, Watch { print: false, counts: Some(counts) });
        let text = forget_process(-7).expect("watched");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "% time     seconds  usecs/call     calls    errors syscall");
        assert_eq!(lines[2], " 75.00    0.003000        1500         2         1 openat");
        assert_eq!(lines[3], " 25.00    0.001000         250         4           read");
        assert_eq!(lines[5], "100.00    0.004000         666         6         1 total");
        assert_eq!(lines[1], lines[4]);
        assert_eq!((lines.len(), forget_process(-7)), (6, None));
    }
}
