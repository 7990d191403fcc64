//! Pressure stall information of groups (Documentation/accounting/psi.rst, "Cgroup2 interface"). `cpu.pressure` is the machine's only:
//! who of several groups has no processor is the host's to know.

use std::any::Any;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::pressure::Resource;
use uml_base::{Events, PollRegistrar};
use uml_core::file::{FileOps, Io};
use uml_core::io::{Sink, Source, take_vec};
use uml_core::task::Task;

use super::Subject;
use super::file::OpenedIn;
use crate::proc::pressure::OpenPressure;
use crate::synth::{Part, Regular, Row, Spec, Text, WRITE_MAX, parse_i64, words};

/// Whether stalls are counted.
pub static SWITCH: &[Row<Subject>] = &[Row::setting("cgroup.pressure", 0o644, show, store)];

/// Files of every group that counts them.
pub static ROWS: &[Row<Subject>] = &[
    file("io.pressure", |s| Spec::file(0, Pressure(s.clone(), Resource::Io))),
    file("memory.pressure", |s| Spec::file(0, Pressure(s.clone(), Resource::Memory))),
];

/// Files of the root.
pub static ROOT: &[Row<Subject>] =
    &[file("cpu.pressure", |s| Spec::file(0, Pressure(s.clone(), Resource::Cpu)))];

const fn file(name: &'static str, make: fn(&Subject) -> Spec) -> Row<Subject> {
    Row { name, mode: libc::S_IFREG | 0o644, part: Part::Node(make) }
}

fn show(s: &Subject, _: &Task, out: &mut Text) -> Result<()> {
    writeln!(out, "{}", u8::from(s.group.pressure.is_enabled()));
    Ok(())
}

fn store(s: &Subject, _: &Task, data: &[u8]) -> Result<()> {
    let w = words(data)?;
    let [word] = w[..] else { return Err(EINVAL) };
    match parse_i64(word)? {
        on @ (0 | 1) => s.group.pressure.enable(on == 1),
        _ => return Err(ERANGE),
    }
    Ok(())
}

struct Pressure(Subject, Resource);

impl Regular for Pressure {
    fn open(&self, _: u32) -> Result<Box<dyn FileOps>> {
        let inner = OpenPressure::new(self.0.group.pressure.clone(), self.1);
        Ok(Box::new(Open { subject: self.0.clone(), inner, opened: OpenedIn::default() }))
    }
}

struct Open {
    subject: Subject,
    inner: OpenPressure,
    opened: OpenedIn,
}

impl FileOps for Open {
    fn opened_by(&self, task: &Task) {
        self.opened.set(task);
        self.inner.opened_by(task);
    }

    fn read(&self, io: &Io<'_>, off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        self.inner.read(io, off, dst)
    }

    fn write(&self, _: &Io<'_>, off: &mut u64, src: &mut dyn Source) -> Result<usize> {
        if src.remaining() == 0 {
            return Ok(0);
        }
        if self.opened.is_border(&self.subject) {
            return Err(EPERM);
        }
        let data = take_vec(src, WRITE_MAX)?;
        if self.subject.group.is_removed() {
            return Err(ENODEV);
        }
        self.inner.set_trigger(&data)?;
        *off += data.len() as u64;
        Ok(data.len())
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        self.inner.poll(reg)
    }

    fn pollable(&self) -> bool {
        true
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, cur: u64, off: i64, whence: i32) -> Result<u64> {
        self.inner.seek(cur, off, whence)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
