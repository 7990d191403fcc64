//! The kernel log: a ring of records that `dmesg` reads (syslog(2), /dev/kmsg) and that consoles
//! print.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::lock::{Mutex, Rank};
use crate::poll::Events;
use crate::wait::WaitQueue;

/// Severity, as in syslog(2): lower is more severe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    Emerg = 0,
    Alert = 1,
    Crit = 2,
    Err = 3,
    Warning = 4,
    Notice = 5,
    Info = 6,
    Debug = 7,
}

/// One log record.
#[derive(Clone, Debug)]
pub struct Record {
    /// Sequence number since boot.
    pub seq: u64,
    /// Severity (0..=7) plus facility * 8.
    pub prio: u32,
    /// Microseconds since boot.
    pub micros: u64,
    /// One line, without the newline.
    pub text: Arc<str>,
}

/// Something that prints records as they come.
pub trait Console: Send + Sync {
    /// Writes records, the lines of one message. Must not block for ever and must not log.
    fn print(&self, records: &[Record]);
}

struct Ring {
    records: VecDeque<Record>,
    bytes: usize,
    next_seq: u64,
    /// First record that SYSLOG_ACTION_CLEAR leaves visible to READ_ALL.
    clear_seq: u64,
}

/// Bytes of text kept, as with CONFIG_LOG_BUF_SHIFT=18.
const CAPACITY: usize = 256 * 1024;
/// Records printed at a time when all are printed again: a console takes a write whole or not at all.
const REPLAYED: usize = 16;

static RING: Mutex<Ring> =
    Mutex::new(Rank::LEAF, Ring { records: VecDeque::new(), bytes: 0, next_seq: 0, clear_seq: 0 });
static CONSOLES: Mutex<Vec<Arc<dyn Console>>> = Mutex::new(Rank::LEAF, Vec::new());
static STAMPS: AtomicBool = AtomicBool::new(true);
static BOOT: OnceLock<Instant> = OnceLock::new();
static QUEUE: OnceLock<Arc<WaitQueue>> = OnceLock::new();

/// The moment the log's time stamps count from; the first call sets it.
pub fn boot_instant() -> Instant {
    *BOOT.get_or_init(Instant::now)
}

/// Woken when a record arrives.
pub fn queue() -> &'static Arc<WaitQueue> {
    QUEUE.get_or_init(WaitQueue::shared)
}

/// Adds a console; it sees records from now on.
pub fn add_console(c: Arc<dyn Console>) {
    CONSOLES.lock().push(c);
}

/// Logs `text` at `level`, facility kernel; each line becomes a record.
pub fn log(level: Level, text: fmt::Arguments<'_>) {
    log_prio(level as u32, &text.to_string());
}

/// Logs with an explicit priority (facility * 8 + severity), as a write to /dev/kmsg does.
pub fn log_prio(prio: u32, text: &str) {
    let micros = boot_instant().elapsed().as_micros() as u64;
    let lines = text.split('\n').filter(|l| !l.is_empty()).map(Arc::from);
    let mut records: Vec<Record> =
        lines.map(|text| Record { seq: 0, prio, micros, text }).collect();
    if records.is_empty() {
        return;
    }
    {
        let mut ring = RING.lock();
        for record in &mut records {
            record.seq = ring.next_seq;
            ring.next_seq += 1;
            ring.bytes += record.text.len();
            ring.records.push_back(record.clone());
        }
        while ring.bytes > CAPACITY {
            match ring.records.pop_front() {
                Some(old) => ring.bytes -= old.text.len(),
                None => break,
            }
        }
    }
    // Consoles are called outside the ring's lock: one may be slow.
    let consoles = CONSOLES.lock().clone();
    for c in consoles {
        c.print(&records);
    }
    queue().wake_all(Events::READABLE);
}

/// The first record with a sequence number of at least `seq`.
pub fn read_from(seq: u64) -> Option<Record> {
    let ring = RING.lock();
    let first = ring.records.front()?.seq;
    let index = seq.saturating_sub(first) as usize;
    ring.records.get(index).cloned()
}

/// Sequence number the next record will get.
pub fn next_seq() -> u64 {
    RING.lock().next_seq
}

/// Sequence number of the first record after the last [`clear`].
pub fn clear_seq() -> u64 {
    RING.lock().clear_seq
}

/// Every record since the last [`clear`].
pub fn snapshot() -> Vec<Record> {
    let ring = RING.lock();
    ring.records.iter().filter(|r| r.seq >= ring.clear_seq).cloned().collect()
}

/// Prints every record that is kept on every console once more.
pub fn replay() {
    let records: Vec<Record> = RING.lock().records.iter().cloned().collect();
    let consoles = CONSOLES.lock().clone();
    for records in records.chunks(REPLAYED) {
        for c in &consoles {
            c.print(records);
        }
    }
}

/// Hides what has been logged so far from [`snapshot`] (SYSLOG_ACTION_CLEAR).
pub fn clear() {
    let mut ring = RING.lock();
    ring.clear_seq = ring.next_seq;
}

/// Whether [`format`] begins with the time (`printk.time=`).
pub fn show_stamps(on: bool) {
    STAMPS.store(on, Ordering::Relaxed);
}

/// `[    0.000000] text`, the form consoles and syslog(2) have; the text alone when [`show_stamps`] says so.
pub fn format(record: &Record) -> String {
    if !STAMPS.load(Ordering::Relaxed) {
        return record.text.to_string();
    }
    format!("[{:5}.{:06}] {}", record.micros / 1_000_000, record.micros % 1_000_000, record.text)
}

/// Logs at [`Level::Info`].
#[macro_export]
macro_rules! pr_info { ($($t:tt)*) => { $crate::klog::log($crate::klog::Level::Info, format_args!($($t)*)) } }
/// Logs at [`Level::Warning`].
#[macro_export]
macro_rules! pr_warn { ($($t:tt)*) => { $crate::klog::log($crate::klog::Level::Warning, format_args!($($t)*)) } }
/// Logs at [`Level::Err`].
#[macro_export]
macro_rules! pr_err { ($($t:tt)*) => { $crate::klog::log($crate::klog::Level::Err, format_args!($($t)*)) } }
/// Logs at [`Level::Debug`].
#[macro_export]
macro_rules! pr_debug { ($($t:tt)*) => { $crate::klog::log($crate::klog::Level::Debug, format_args!($($t)*)) } }

#[cfg(test)]
mod tests {
    use super::*;

    struct Pages(Mutex<Vec<Vec<String>>>);
    impl Console for Pages {
        fn print(&self, records: &[Record]) {
            self.0.lock().push(records.iter().map(|r| r.text.to_string()).collect());
        }
    }

    #[test]
    fn a_console_gets_a_message_at_once() {
        let pages = Arc::new(Pages(Mutex::new(Rank::LEAF, Vec::new())));
        add_console(pages.clone());
        log(Level::Info, format_args!("first of three\nsecond\n\nthird"));
        log(Level::Info, format_args!("\n"));
        // Other tests log too.
        let pages = pages.0.lock();
        let mine = pages.iter().find(|p| p.iter().any(|l| l == "first of three"));
        assert_eq!(
            mine.map(Vec::as_slice),
            Some(&["first of three", "second", "third"].map(String::from)[..])
        );
        assert!(pages.iter().all(|p| !p.is_empty()));
    }

    #[test]
    fn lines_become_records_in_order() {
        let start = next_seq();
        log(Level::Info, format_args!("one\ntwo\n"));
        let one = read_from(start).map(|r| r.text.to_string());
        assert_eq!(one.as_deref(), Some("one"));
        assert!(snapshot().iter().any(|r| &*r.text == "two"));
    }
}
