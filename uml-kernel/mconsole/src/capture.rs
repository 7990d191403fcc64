//! Console output of a command, for the client that asked for it.

use std::sync::{Arc, OnceLock};
use std::thread::{self, ThreadId};

use uml_base::klog::{self, Console, Record};
use uml_base::{Mutex, Rank};

/// Most text kept for one command.
const LIMIT: usize = 16 << 20;

struct Running {
    thread: ThreadId,
    text: Vec<u8>,
}

/// Collects what the capturing threads log. Lines of other threads are no part of a command's output, and
/// the console's log level does not hide what was asked for.
struct Collector(Mutex<Vec<Running>>);

impl Console for Collector {
    fn print(&self, records: &[Record]) {
        let me = thread::current().id();
        let mut running = self.0.lock();
        let Some(r) = running.iter_mut().find(|r| r.thread == me) else { return };
        for record in records {
            if r.text.len() < LIMIT {
                r.text.extend_from_slice(klog::format(record).as_bytes());
                r.text.push(b'\n');
            }
        }
    }
}

fn collector() -> &'static Arc<Collector> {
    static COLLECTOR: OnceLock<Arc<Collector>> = OnceLock::new();
    COLLECTOR.get_or_init(|| {
        let c = Arc::new(Collector(Mutex::new(Rank::LEAF, Vec::new())));
        klog::add_console(c.clone());
        c
    })
}

/// Runs `f` and returns what it logged, as consoles show it.
pub fn capture(f: impl FnOnce()) -> Vec<u8> {
    let c = collector();
    let thread = thread::current().id();
    c.0.lock().push(Running { thread, text: Vec::new() });
    f();
    let mut running = c.0.lock();
    match running.iter().position(|r| r.thread == thread) {
        Some(i) => running.swap_remove(i).text,
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uml_base::pr_info;

    #[test]
    fn only_the_commands_own_lines_are_captured() {
        let text = capture(|| {
            pr_info!("mine: one\nmine: two");
            let other = thread::spawn(|| pr_info!("a stranger's"));
            other.join().expect("no panic");
        });
        pr_info!("mine, but later");
        let text = String::from_utf8(text).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text:?}");
        assert!(lines[0].starts_with('[') && lines[0].ends_with("] mine: one"), "{text:?}");
        assert!(lines[1].ends_with("] mine: two"), "{text:?}");
    }
}
