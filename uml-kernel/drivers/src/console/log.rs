//! Kernel messages on consoles.

use std::io::Write;
use std::sync::{Arc, Weak};

use uml_base::klog::{self, Console, Record};
use uml_base::{Mutex, Rank};
use uml_core::kernel::Kernel;

use crate::console::line::HostLine;

/// True when the console level lets the record through (syslog(2), SYSLOG_ACTION_CONSOLE_LEVEL).
fn shown(kernel: &Weak<Kernel>, record: &Record) -> bool {
    kernel.upgrade().is_none_or(|k| record.prio & 7 < u32::from(k.console_level()))
}

/// A line as kernel console. Kernel messages go straight to the channel; what it does not take is
/// dropped, so that no reader can block the kernel.
pub struct LineConsole {
    line: Arc<HostLine>,
    kernel: Weak<Kernel>,
    /// First record to print: registration prints the older ones.
    next: Mutex<u64>,
}

impl LineConsole {
    /// Opens the line's channels, prints the log so far, and prints what comes from now on.
    pub fn register(line: &Arc<HostLine>, kernel: &Arc<Kernel>) -> uml_abi::Result<()> {
        line.connect_log()?;
        let console = Arc::new(LineConsole {
            line: line.clone(),
            kernel: Arc::downgrade(kernel),
            next: Mutex::new(Rank::LEAF, u64::MAX),
        });
        klog::add_console(console.clone());
        // Records that arrive meanwhile wait for the older ones.
        let mut next = console.next.lock();
        let end = klog::next_seq();
        let mut seq = 0;
        while let Some(r) = klog::read_from(seq).filter(|r| r.seq < end) {
            seq = r.seq + 1;
            console.write(std::slice::from_ref(&r));
        }
        *next = end;
        Ok(())
    }

    fn write(&self, records: &[Record]) {
        let text = text_of(&self.kernel, records);
        if !text.is_empty()
            && let Some(c) = self.line.log_channel()
        {
            c.print(&text);
        }
    }
}

/// The lines of the records that are shown.
fn text_of(kernel: &Weak<Kernel>, records: &[Record]) -> String {
    let mut text = String::new();
    for r in records.iter().filter(|r| shown(kernel, r)) {
        text.push_str(&klog::format(r));
        text.push('\n');
    }
    text
}

impl Console for LineConsole {
    fn print(&self, records: &[Record]) {
        let next = self.next.lock();
        let old = records.partition_point(|r| r.seq < *next);
        self.write(&records[old..]);
    }
}

/// `stderr=1` and `earlyprintk`: messages on the standard error output of the kernel process.
pub struct StderrConsole {
    kernel: Weak<Kernel>,
}

impl StderrConsole {
    /// Prints what comes from now on.
    pub fn register(kernel: &Arc<Kernel>) {
        klog::add_console(Arc::new(StderrConsole { kernel: Arc::downgrade(kernel) }));
    }
}

impl Console for StderrConsole {
    fn print(&self, records: &[Record]) {
        // Nobody is left to tell when this fails.
        let text = text_of(&self.kernel, records);
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}

/// Writes the whole log to `out`, after a line `kmsg_dump:`, with `<level>` prefixes: what a panic does when no
/// console shows the log.
pub fn dump_log(out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "kmsg_dump:")?;
    for r in klog::snapshot() {
        writeln!(out, "<{}>{}", r.prio, klog::format(&r))?;
    }
    out.flush()
}
