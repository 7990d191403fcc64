//! Interface files whose writing depends on the namespace they were opened in.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::file::{FileOps, Io};
use uml_core::io::{Sink, Source, take_vec};
use uml_core::ns::CgroupNs;
use uml_core::task::Task;

use super::{Subject, members};
use crate::synth::{Part, Regular, Row, Spec, TextFile, WRITE_MAX};

/// Files at the root of a namespace that its inhabitants may write (/sys/kernel/cgroup/delegate).
pub const DELEGATED: [&str; 5] = [
    "cgroup.procs",
    "cgroup.threads",
    "cgroup.subtree_control",
    "memory.oom.group",
    "memory.reclaim",
];

/// Who opened a file: the credentials come with each call, the namespace is kept.
#[derive(Default)]
pub struct OpenedIn(OnceLock<Arc<CgroupNs>>);

impl OpenedIn {
    /// Keeps the namespace of `task`.
    pub fn set(&self, task: &Task) {
        let _ = self.0.set(task.ns().cgroup.clone());
    }

    /// The namespace, where it is a border of delegation for `s`.
    pub fn border(&self, s: &Subject) -> Option<&Arc<CgroupNs>> {
        self.0.get().filter(|ns| ns.root.parent.is_some() && s.control.delegates_namespaces())
    }

    /// Whether `s` itself is such a border: what a group may have is for those outside to say.
    pub fn is_border(&self, s: &Subject) -> bool {
        self.border(s).is_some_and(|ns| Arc::ptr_eq(&ns.root, &s.group))
    }
}

/// A file of text as a row describes it.
struct GroupFile {
    subject: Subject,
    row: &'static Row<Subject>,
}

/// The file of `row`, with its permission bits.
pub fn spec(subject: &Subject, row: &'static Row<Subject>) -> Spec {
    let mode = row.mode & 0o7777;
    match row.part {
        Part::Node(make) => make(subject).mode(mode),
        _ => Spec::file(mode, GroupFile { subject: subject.clone(), row }),
    }
}

impl Regular for GroupFile {
    fn open(&self, _: u32) -> Result<Box<dyn FileOps>> {
        let (s, row) = (self.subject.clone(), self.row);
        let text = TextFile::new(move |task, out| match row.part {
            Part::Text(show) | Part::Setting { show, .. } => show(&s, task, out),
            _ => Err(EIO),
        });
        let subject = self.subject.clone();
        Ok(Box::new(OpenGroupFile { subject, row, text, opened: OpenedIn::default() }))
    }
}

struct OpenGroupFile {
    subject: Subject,
    row: &'static Row<Subject>,
    text: TextFile,
    opened: OpenedIn,
}

impl FileOps for OpenGroupFile {
    fn opened_by(&self, task: &Task) {
        self.opened.set(task);
    }

    fn read(&self, io: &Io<'_>, off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        if self.subject.group.is_removed() {
            return Err(ENODEV);
        }
        self.text.read(io, off, dst)
    }

    fn write(&self, io: &Io<'_>, off: &mut u64, src: &mut dyn Source) -> Result<usize> {
        let s = &self.subject;
        if src.remaining() == 0 {
            return Ok(0);
        }
        if s.group.is_removed() {
            return Err(ENODEV);
        }
        let border = self.opened.border(s);
        if self.opened.is_border(s) && !DELEGATED.contains(&self.row.name) {
            return Err(EPERM);
        }
        let data = take_vec(src, WRITE_MAX)?;
        match self.row.part {
            Part::Setting { store, .. } | Part::Command(store) => store(s, io.task, &data)?,
            _ => members::store(self.row.name, s, io, border, &data)?,
        }
        *off += data.len() as u64;
        Ok(data.len())
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
