//! `/proc/pressure`: pressure stall information and its triggers (Documentation/accounting/psi.rst).

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::pressure::{self, Group, Resource, Trigger};
use uml_base::{Events, PollRegistrar};
use uml_core::file::{FileOps, Io};
use uml_core::io::{Sink, Source};
use uml_core::task::{Cap, Task};

use super::fs::Subject;
use crate::synth::{Regular, Row, Spec, Text, TextFile};

pub static ROWS: &[Row<Subject>] = &[
    Row::file("cpu", 0o666, |_| Spec::file(0, Pressure(Resource::Cpu))),
    Row::file("io", 0o666, |_| Spec::file(0, Pressure(Resource::Io))),
    Row::file("memory", 0o666, |_| Spec::file(0, Pressure(Resource::Memory))),
];

/// The longest window of a trigger, in microseconds, and what the windows of those without CAP_SYS_RESOURCE are multiples of.
const LONGEST: u32 = 10_000_000;
const STEP: u32 = 2_000_000;
/// Longest description of a trigger, with the byte that ends it.
const DESCRIPTION: usize = 32;

fn show(group: &Group, resource: Resource, out: &mut Text) {
    for (name, line) in ["some", "full"].into_iter().zip(group.lines(resource)) {
        let [ten, minute, five] = line.averages;
        write!(out, "{name} avg10={ten:.2} avg60={minute:.2} avg300={five:.2} ");
        writeln!(out, "total={}", line.total.as_micros());
    }
}

/// A decimal number at the start of `text`, after blanks, and what follows.
fn number(text: &str) -> Option<(u32, &str)> {
    let text = text.trim_ascii_start();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    // What does not fit wraps, as where programs are used to it.
    let value = text[..end].bytes().fold(0u64, |v, b| v.wrapping_mul(10) + u64::from(b - b'0'));
    (end != 0).then(|| (value as u32, &text[end..]))
}

/// `some|full THRESHOLD WINDOW`: whether it is of full stalls, and the two times in microseconds.
fn parse(data: &[u8]) -> Option<(bool, u32, u32)> {
    let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    let text = str::from_utf8(&data[..end]).ok()?;
    let (full, rest) = match text.strip_prefix("some") {
        Some(rest) => (false, rest),
        None => (true, text.strip_prefix("full")?),
    };
    let (threshold, rest) = number(rest)?;
    let (window, _) = number(rest)?;
    Some((full, threshold, window))
}

struct Pressure(Resource);

impl Regular for Pressure {
    fn open(&self, _: u32) -> Result<Box<dyn FileOps>> {
        Ok(Box::new(OpenPressure::new(pressure::machine().clone(), self.0)))
    }
}

/// An open file with the stalls of a group, the machine or a control group.
pub struct OpenPressure {
    group: Arc<Group>,
    resource: Resource,
    text: TextFile,
    /// At most one.
    trigger: OnceLock<Arc<Trigger>>,
    /// Who opened the file may have any window; it can be handed on.
    privileged: AtomicBool,
}

impl OpenPressure {
    /// Of `group` and `resource`, without a trigger yet.
    pub fn new(group: Arc<Group>, resource: Resource) -> OpenPressure {
        let shown = group.clone();
        let text = TextFile::new(move |_, out| {
            show(&shown, resource, out);
            Ok(())
        });
        let (trigger, privileged) = (OnceLock::new(), AtomicBool::new(false));
        OpenPressure { group, resource, text, trigger, privileged }
    }

    /// Makes the trigger that `data` describes.
    pub fn set_trigger(&self, data: &[u8]) -> Result<()> {
        if self.trigger.get().is_some() {
            return Err(EBUSY);
        }
        let (full, threshold, window) = parse(data).ok_or(EINVAL)?;
        let any_window = self.privileged.load(Ordering::Relaxed);
        if window == 0
            || window > LONGEST
            || !any_window && window % STEP != 0
            || threshold == 0
            || threshold > window
        {
            return Err(EINVAL);
        }
        let time = |us: u32| Duration::from_micros(us.into());
        let made = Trigger::new(&self.group, self.resource, full, time(threshold), time(window))?;
        self.trigger.set(made).map_err(|_| EBUSY)
    }
}

impl FileOps for OpenPressure {
    fn opened_by(&self, task: &Task) {
        let privileged = task.cred().capable(Cap::SysResource);
        self.privileged.store(privileged, Ordering::Relaxed);
    }

    fn read(&self, io: &Io<'_>, off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        self.text.read(io, off, dst)
    }

    fn write(&self, _: &Io<'_>, _: &mut u64, src: &mut dyn Source) -> Result<usize> {
        let len = src.remaining();
        if len == 0 {
            return Err(EINVAL);
        }
        let mut data = vec![0; len.min(DESCRIPTION)];
        let got = src.take(&mut data)?;
        data.truncate(got);
        // The last byte is where the text ends, whatever it was.
        data.pop();
        self.set_trigger(&data)?;
        Ok(len)
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        let ready = Events::READABLE | Events::WRITABLE;
        let Some(t) = self.trigger.get() else { return ready | Events::ERR | Events::PRI };
        if let Some(r) = reg {
            r.register(t.queue());
        }
        ready | Events::PRI.when(t.take())
    }

    fn pollable(&self) -> bool {
        true
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, cur: u64, off: i64, whence: i32) -> Result<u64> {
        self.text.seek(cur, off, whence)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn triggers_are_read_as_by_scanf() {
        assert_eq!(parse(b"some 150000 1000000"), Some((false, 150_000, 1_000_000)));
        assert_eq!(parse(b"full  5\t6 and more"), Some((true, 5, 6)));
        assert_eq!(parse(b"some 1 2\0x"), Some((false, 1, 2)));
        for bad in ["", "some", "some 1", "none 1 2", " some 1 2", "some x 2", "some -1 2"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
